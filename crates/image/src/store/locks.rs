//! What keeps processes that share a store out of each other's way. The kernel gives locks back, whoever dies.
//!
//! ```text
//! lock         alone: whoever changes names, removes, or begins        shared: whoever takes a lease
//! pulls        alone: whoever removes layers and blobs that no name    shared: whoever is about to make an image of what is there
//!              stands for
//! leases/<id>  alone: whoever wants to know that nobody uses it        shared: whoever uses the image
//! ```

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use caisson_core::Digest;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::Error;

#[derive(Debug)]
pub(super) struct Locks {
    lock: PathBuf,
    pulls: PathBuf,
    leases: PathBuf,
}

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
}

/// Keeps an image where it is: nothing of it is removed while this lives.
#[derive(Debug)]
pub struct Lease {
    _held: Held,
}

impl Locks {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        Ok(Self { lock: root.join("lock"), pulls: root.join("pulls"), leases: root.join("leases") })
    }

    pub(super) fn alone(&self) -> Result<Held, Error> {
        hold(&self.lock, FlockOperation::LockExclusive)
    }

    pub(super) fn shared(&self) -> Result<Held, Error> {
        hold(&self.lock, FlockOperation::LockShared)
    }

    /// For as long as layers that are there are counted on.
    pub(super) fn pulling(&self) -> Result<Held, Error> {
        hold(&self.pulls, FlockOperation::LockShared)
    }

    /// None while anybody is at it.
    pub(super) fn nobody_pulls(&self) -> Result<Option<Held>, Error> {
        hold_now(&self.pulls)
    }

    /// Whoever calls holds `lock` shared.
    pub(super) fn lease(&self, id: Digest) -> Result<Lease, Error> {
        hold(&self.leases.join(id.hex()), FlockOperation::LockShared).map(|held| Lease { _held: held })
    }

    /// Whether anybody uses an image. Whoever calls holds `lock` alone, so that nobody begins to.
    pub(super) fn is_leased(&self, id: Digest) -> Result<bool, Error> {
        let path = self.leases.join(id.hex());
        if !path.exists() {
            return Ok(false);
        }
        if hold_now(&path)?.is_none() {
            return Ok(true);
        }
        std::fs::remove_file(&path).map_err(|cause| failed(&path, cause)).map(|()| false)
    }
}

fn hold(path: &Path, how: FlockOperation) -> Result<Held, Error> {
    let file = open(path)?;
    loop {
        match flock(&file, how) {
            Err(Errno::INTR) => {}
            result => return result.map_err(|cause| failed(path, cause.into())).map(|()| Held { _file: file }),
        }
    }
}

fn hold_now(path: &Path) -> Result<Option<Held>, Error> {
    let file = open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Held { _file: file })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(cause) => Err(failed(path, cause.into())),
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(|cause| failed(path, cause))
}

fn failed(path: &Path, cause: io::Error) -> Error {
    Error::Store { doing: "lock", path: path.display().to_string(), cause }
}
