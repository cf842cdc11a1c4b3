//! What boxbox's clients find in their sandboxes: an image that is named, or one that is built while the server already serves.
//!
//! A build is a program of its own, `caisson image build`, as steps with this machine's network are nothing that a server does. It ends with
//! the server and stands back for it.

use std::{io, path::Path, process::Stdio};

use anyhow::{Context, Result, bail};
use caisson_core::Image;
use caisson_image::{ImageStore, Reference};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::watch,
};

use crate::{config::Config, printable};

/// What is built where nobody says anything else.
const DOCKERFILE: &str = include_str!("../../../image/Dockerfile");
/// What the image is called that is built.
const BUILT: &str = "localhost/caisson-boxbox:latest";
/// So much of what a build says at its end is logged.
const TOLD: usize = 4000;

/// The image that is there now, and others that take its place. To be called by a thread that lives as long as the server.
pub(crate) async fn image(config: &Config, images: &ImageStore) -> watch::Receiver<Image> {
    let boxbox = &config.boxbox;
    if let Some(name) = &boxbox.image {
        return watch::Sender::new(named(name, config, images).await).subscribe();
    }
    if !boxbox.is_meant {
        return watch::Sender::new(Image::Host).subscribe();
    }
    let there = match BUILT.parse::<Reference>() {
        Ok(name) => images.inspect(&name).await.is_ok(),
        Err(_) => false,
    };
    let built = Image::Named { name: BUILT.to_owned(), id: None };
    let sender = watch::Sender::new(if there { built.clone() } else { Image::Host });
    let receiver = sender.subscribe();
    let meanwhile = if there { "what was built before" } else { "`host`" };
    match begin(boxbox.dockerfile.as_deref(), &config.data_dir) {
        Ok(build) => {
            tracing::info!("The image of boxbox's clients is being built; sandboxes are made of {meanwhile} until then");
            tokio::spawn(async move {
                match build.end().await {
                    Ok(()) => {
                        tracing::info!("The image of boxbox's clients is built");
                        sender.send_replace(built);
                    }
                    Err(error) => {
                        tracing::error!("The image of boxbox's clients cannot be built, so sandboxes are made of {meanwhile}: {error:#}")
                    }
                }
            });
        }
        Err(error) => tracing::error!("The image of boxbox's clients cannot be built, so sandboxes are made of {meanwhile}: {error:#}"),
    }
    receiver
}

/// One that has a name. Where it is missing it is pulled behind the server's start; until then there is none.
async fn named(name: &str, config: &Config, images: &ImageStore) -> Image {
    if let Some(image) = config.image_aliases.get(name) {
        return image.clone();
    }
    if name == Image::Host.name() {
        return Image::Host;
    }
    if let Ok(reference) = name.parse::<Reference>()
        && images.inspect(&reference).await.is_err()
    {
        tracing::info!("The image {} of boxbox's clients is not here; it is being pulled", printable::text(name));
        let images = images.clone();
        tokio::spawn(async move {
            match pull(&images, &reference).await {
                Ok(()) => tracing::info!("The image {reference} of boxbox's clients is here"),
                Err(error) => tracing::error!(
                    "The image {reference} of boxbox's clients cannot be had, so they get no sandboxes: {error:#}; pull or build it, or name another"
                ),
            }
        });
    }
    Image::Named { name: name.to_owned(), id: None }
}

async fn pull(images: &ImageStore, name: &Reference) -> Result<()> {
    let logins = images.logins().await?;
    images.pull(name.clone(), logins).finish().await?;
    Ok(())
}

/// A build that has begun.
struct Build {
    child: Child,
    /// What goes to its standard input.
    dockerfile: Option<&'static str>,
    /// Where files may be copied from, when there are none.
    _context: Option<TempDir>,
}

fn begin(dockerfile: Option<&Path>, data_dir: &Path) -> Result<Build> {
    let mut command = Command::new(std::env::current_exe().context("this program cannot be found")?);
    command.args(["image", "build", "--in-background", "--quiet", "--network", "host", "--tag", BUILT, "--file"]);
    let context = match dockerfile {
        Some(path) => {
            let directory = path.parent().context("the Dockerfile is in no directory")?;
            command.arg(path).arg(directory);
            None
        }
        None => {
            let context = TempDir::new().context("cannot make a temporary directory")?;
            command.arg("-").arg(context.path());
            Some(context)
        }
    };
    command.env("CAISSON_DATA_DIR", data_dir).env_remove("CAISSON_SERVER");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().context("cannot start the build")?;
    Ok(Build { child, dockerfile: dockerfile.is_none().then_some(DOCKERFILE), _context: context })
}

impl Build {
    async fn end(mut self) -> Result<()> {
        if let (Some(mut input), Some(text)) = (self.child.stdin.take(), self.dockerfile) {
            // One that does not read says why at its end.
            input.write_all(text.as_bytes()).await.ok();
        }
        let said = match self.child.stderr.take() {
            Some(errors) => last(errors).await.context("cannot read what the build says")?,
            None => String::new(),
        };
        let status = self.child.wait().await.context("cannot wait for the build")?;
        if !status.success() {
            bail!("it ended with {status}: {}", printable::text(said.trim()));
        }
        Ok(())
    }
}

/// The last of what is said.
async fn last(mut from: impl AsyncReadExt + Unpin) -> io::Result<String> {
    let (mut all, mut piece) = (Vec::new(), [0; TOLD]);
    loop {
        match from.read(&mut piece).await? {
            0 => return Ok(String::from_utf8_lossy(&all[all.len().saturating_sub(TOLD)..]).into_owned()),
            count => {
                all.extend_from_slice(&piece[..count]);
                all.drain(..all.len().saturating_sub(2 * TOLD));
            }
        }
    }
}
