//! Where bundles are: below `/run`, in a directory for each server, which the server has locked for as long as it lives. Whoever starts takes
//! away what others have left who are gone.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use futures::{StreamExt, stream};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};

use crate::container;

/// Of all servers of the host, where root of a container can go through.
const ALL: &str = "/run/caisson/oci";
/// Locked by its server.
const LOCK: &str = "lock";
/// The agent, which is lent to every container.
const AGENT: &str = "agent";

/// So many containers are taken away at once.
pub(crate) const AT_ONCE: usize = 16;

/// The directory of this server.
#[derive(Debug)]
pub(crate) struct Places {
    directory: PathBuf,
    _lock: OwnedFd,
}

/// The directory of one that is gone. Whoever holds its lock takes it away.
#[derive(Debug)]
pub(crate) struct Left {
    directory: PathBuf,
    _lock: OwnedFd,
}

impl Places {
    /// Those that are left, where nobody takes a new one.
    pub(crate) fn left() -> io::Result<Vec<Left>> {
        match open_all() {
            Ok((_lock, left)) => Ok(left),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Takes a new one, with the agent in it, and finds those that are left.
    pub(crate) fn take(agent: &[u8]) -> io::Result<(Self, Vec<Left>)> {
        // Who may not read it cannot lock it either.
        for directory in Path::new(ALL).ancestors().take(2).collect::<Vec<_>>().into_iter().rev() {
            match container::make_passable(directory, 0o711) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        let (_lock, left) = open_all()?;
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let directory = Path::new(ALL).join(format!("{:016x}", u64::from_ne_bytes(random)));
        container::make_passable(&directory, 0o711)?;
        let lock = lock(&directory)?;
        container::write_new(&directory.join(AGENT), 0o555, agent)?;
        Ok((Self { directory, _lock: lock }, left))
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.directory.join(AGENT)
    }

    /// Where the container of this name is.
    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        // What is left of a container stays for whoever comes next.
        for name in [AGENT, LOCK] {
            fs::remove_file(self.directory.join(name)).ok();
        }
        fs::remove_dir(&self.directory).ok();
    }
}

/// Locks the directory of all, so that one that is made is locked before anybody else looks, and finds those that are left.
fn open_all() -> io::Result<(OwnedFd, Vec<Left>)> {
    let all = open(ALL, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| flock(&all, FlockOperation::LockExclusive))?;
    let left = fs::read_dir(ALL)?.flatten().filter_map(|entry| left(entry.path())).collect();
    Ok((all, left))
}

/// Those whose lock can be had are nobody's.
fn left(directory: PathBuf) -> Option<Left> {
    let lock = lock(&directory).ok()?;
    Some(Left { directory, _lock: lock })
}

fn lock(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(directory.join(LOCK), flags, Mode::from_raw_mode(0o600))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
        locked => locked.map(|()| file).map_err(io::Error::from),
    }
}

impl Left {
    /// Takes away its containers and the directory. Says how many there were.
    pub(crate) async fn remove(self, hierarchies: &[String]) -> usize {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let containers: Vec<PathBuf> =
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
        let removed = stream::iter(&containers).map(|container| container::remove(container, hierarchies)).buffer_unordered(AT_ONCE);
        let failed: Vec<String> = removed.filter_map(async |removed| removed.err()).collect().await;
        for error in &failed {
            tracing::error!("Something of a container is left: {error}");
        }
        // The next start tries again what is left.
        if failed.is_empty()
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            tracing::warn!("Cannot remove {}: {error}", self.directory.display());
        }
        containers.len()
    }
}
