//! Launcher and agent, in a volume of the daemon: each server has its own, so that nobody ever finds one that is not whole. And the image that has
//! nothing in it, of which containers of image `host` are made.

use bollard::{
    body_full,
    models::{ContainerCreateBody, HostConfig, Mount, MountType, VolumeCreateRequest},
    query_parameters::{CreateContainerOptions, CreateImageOptionsBuilder, RemoveVolumeOptions, UploadToContainerOptionsBuilder},
};
use bytes::Bytes;
use caisson_core::BackendError;
use caisson_launcher::inside::{AGENT, LAUNCHER, PROGRAMS};
use caisson_native::parts;
use futures::TryStreamExt;

use crate::{
    container,
    daemon::{Daemon, Failed},
    places::Mark,
};

/// The name of the image with nothing in it.
const EMPTY: (&str, &str) = ("caisson/empty", "1");
/// Where the volume is in the container by which it is filled.
const FILLED_AT: &str = "/programs";
/// A block of a tar.
const BLOCK: usize = 512;

/// The id of the image with nothing in it, which is made where it is not there yet.
pub(crate) async fn empty_image(daemon: &Daemon) -> Result<String, BackendError> {
    let name = format!("{}:{}", EMPTY.0, EMPTY.1);
    if let Ok(image) = daemon.call("look up an image", daemon.docker.inspect_image(&name)).await
        && let Some(id) = image.id
    {
        return Ok(id);
    }
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(EMPTY.0).tag(EMPTY.1).build();
    let tar = tar(&[]);
    let made = daemon.docker.create_image(Some(options), Some(body_full(tar)), None).try_collect::<Vec<_>>();
    daemon.call("import an empty image", made).await?;
    let image = daemon.call("look up an image", daemon.docker.inspect_image(&name)).await?;
    image.id.ok_or_else(|| BackendError::Failed("the Docker daemon does not say the id of an image".to_owned()))
}

/// A volume with both programs, by its name.
pub(crate) async fn volume(daemon: &Daemon, mark: &Mark, image: &str) -> Result<String, BackendError> {
    let name = format!("caisson-{}", mark.name);
    let request = VolumeCreateRequest { name: Some(name.clone()), labels: Some(mark.labels()), ..VolumeCreateRequest::default() };
    daemon.call("make a volume", daemon.docker.create_volume(request)).await?;
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        labels: Some(mark.labels()),
        // It is never started.
        entrypoint: Some(vec![format!("{PROGRAMS}/{LAUNCHER}")]),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            mounts: Some(vec![Mount {
                target: Some(FILLED_AT.to_owned()),
                source: Some(name.clone()),
                typ: Some(MountType::VOLUME),
                ..Mount::default()
            }]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let made = daemon.call("make a container", daemon.docker.create_container(None::<CreateContainerOptions>, body)).await?;
    let options = UploadToContainerOptionsBuilder::new().path(FILLED_AT).build();
    let tar = tar(&[(LAUNCHER, parts::LAUNCHER), (AGENT, parts::AGENT)]);
    let filled = daemon.call("take launcher and agent", daemon.docker.upload_to_container(&made.id, Some(options), body_full(tar))).await;
    let removed = container::remove(daemon, &made.id).await;
    filled.and(removed)?;
    Ok(name)
}

/// One that is not there is fine.
pub(crate) async fn remove(daemon: &Daemon, name: &str) -> Result<(), Failed> {
    match daemon.call("remove a volume", daemon.docker.remove_volume(name, None::<RemoveVolumeOptions>)).await {
        Err(Failed::NotFound(_)) => Ok(()),
        removed => removed,
    }
}

/// Programs in a tar (`pax(1)`, the format `ustar`).
fn tar(programs: &[(&str, &[u8])]) -> Bytes {
    let mut tar = Vec::new();
    for (name, content) in programs {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000555");
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        // The sum is that of a head with spaces in its place.
        put(148, "        ");
        put(156, "0");
        put(257, "ustar");
        put(263, "00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend(header);
        tar.extend(*content);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tar_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tar");
        std::fs::write(&path, tar(&[("one", b"1"), ("two", &[2; 513])])).unwrap();
        let run = |arguments: &[&str]| {
            let output = std::process::Command::new("tar").args(arguments).arg("-f").arg(&path).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run(&["-t"]), "one\ntwo\n");
        assert!(run(&["-tv"]).lines().all(|line| line.starts_with("-r-xr-xr-x 0/0")));
    }
}
