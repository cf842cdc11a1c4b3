//! Whose containers and volumes are whose: each carries the mark of its server as a label, and a file of that name in the server's data directory is
//! locked for as long as the server lives. Whoever starts with that directory takes away what others have left who are gone.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};

use crate::{
    container,
    daemon::{Daemon, Failed},
    programs,
};

/// The label, on everything that is ours.
pub(crate) const LABEL: &str = "caisson.server";
/// Below the data directory.
const DIRECTORY: &str = "docker";
/// How often, and how long one after the other, something is tried to be taken away that is in use.
const TRIES: usize = 50;
const REST: Duration = Duration::from_millis(200);

/// The mark of this server, and what shows that it lives.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) name: String,
    file: PathBuf,
    _lock: OwnedFd,
}

impl Mark {
    /// Takes a new one, and finds those whose servers are gone.
    pub(crate) fn take(data_dir: &Path) -> io::Result<(Self, Vec<Self>)> {
        let directory = data_dir.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        // One that is made is locked before anybody else looks.
        let all = open(&directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::retry_on_intr(|| flock(&all, FlockOperation::LockExclusive))?;
        let left = fs::read_dir(&directory)?.flatten().filter_map(|entry| Self::of(entry.path()).ok()).collect();
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        Ok((Self::of(directory.join(format!("{:016x}", u64::from_ne_bytes(random))))?, left))
    }

    /// An error when somebody else has it.
    fn of(file: PathBuf) -> io::Result<Self> {
        let name = file.file_name().and_then(|name| name.to_str()).filter(|name| name.len() == 16).ok_or(io::ErrorKind::InvalidInput)?;
        let name = name.to_owned();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = open(&file, flags, Mode::from_raw_mode(0o600))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
            locked => locked.map(|()| Self { name, file, _lock: lock }).map_err(io::Error::from),
        }
    }

    /// The labels of what is this server's.
    pub(crate) fn labels(&self) -> HashMap<String, String> {
        HashMap::from([(LABEL.to_owned(), self.name.clone())])
    }

    /// What the daemon has to look for.
    pub(crate) fn filter(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("{LABEL}={}", self.name)])])
    }

    /// The containers that have it.
    pub(crate) async fn containers(&self, daemon: &Daemon) -> Result<Vec<String>, Failed> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&self.filter()).build();
        let found = daemon.call("list containers", daemon.docker.list_containers(Some(options))).await?;
        Ok(found.into_iter().filter_map(|container| container.id).collect())
    }

    /// Takes away all that has it, the containers first, and then itself. Says how many these were; what could not be taken away stays for whoever
    /// comes next.
    pub(crate) async fn clear(&self, daemon: &Daemon) -> usize {
        let mut count = 0;
        for tries_left in (0..TRIES).rev() {
            match self.try_to_clear(daemon, &mut count).await {
                Ok(()) => {
                    if let Err(error) = fs::remove_file(&self.file) {
                        tracing::warn!("Cannot remove {}: {error}", self.file.display());
                    }
                    break;
                }
                // The daemon is about to remove a container, and until then a volume is in use.
                Err(Failed::Conflict(_)) if tries_left > 0 => tokio::time::sleep(REST).await,
                Err(failed) => {
                    tracing::error!("Something of a server that is gone is left: {}", failed.text());
                    break;
                }
            }
        }
        count
    }

    async fn try_to_clear(&self, daemon: &Daemon, count: &mut usize) -> Result<(), Failed> {
        let containers = self.containers(daemon).await?;
        *count = containers.len().max(*count);
        for id in containers {
            container::remove(daemon, &id).await?;
        }
        let options = ListVolumesOptionsBuilder::new().filters(&self.filter()).build();
        let found = daemon.call("list volumes", daemon.docker.list_volumes(Some(options))).await?;
        for volume in found.volumes.unwrap_or_default() {
            programs::remove(daemon, &volume.name).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_that_of_servers_that_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (first, left) = Mark::take(directory.path()).unwrap();
        assert!(left.is_empty());
        let name = first.name.clone();
        let (second, left) = Mark::take(directory.path()).unwrap();
        assert!(left.is_empty(), "the first one lives");
        drop(first);
        let (_third, left) = Mark::take(directory.path()).unwrap();
        assert_eq!(left.iter().map(|mark| &mark.name).collect::<Vec<_>>(), [&name]);
        assert_ne!(second.name, name);
    }
}
