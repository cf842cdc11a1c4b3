//! Where images are on disk.
//!
//! ```text
//! blobs/sha256/<hex>    manifests, configurations and layers, byte for byte as they came
//! layers/<hex>/         by diff id, unpacked: a lower directory of overlayfs
//! unpacked/<hex>.json   what unpacking that layer said
//! images.json           which names there are, and what is behind each
//! leases/<hex>          by id of an image, locked by whoever uses it
//! tmp/<random>/         what one process is about to make, locked by it
//! lock, pulls           see `locks`
//! ```
//!
//! Everything is made in `tmp`, brought to the disk, and renamed: under its final name it is whole. The order is such that a name comes last,
//! behind all that it stands for. Whoever dies leaves a directory in `tmp`, which nobody locks any more: the next start removes it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use caisson_core::Digest;
use caisson_tree::{Layer, discard, temporary};
use rustix::{
    fd::OwnedFd,
    fs::{FlockOperation, Mode, OFlags, flock, open, syncfs},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::locks::Locks;
use crate::{
    Error,
    error::is_full,
    manifest::{MAX_DOCUMENT, Text},
};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// See the module. Its functions block.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    layers: PathBuf,
    tmp: PathBuf,
    /// This process's part of it, and locked.
    own: Arc<OwnedFd>,
    own_name: String,
    pub(super) locks: Locks,
}

/// What unpacking a layer said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// How many entries were left out, and the first of them.
    pub(crate) left_out: u64,
    pub(crate) left_out_named: Vec<String>,
    /// The blobs that were seen to become this layer. What others say of theirs is not believed.
    pub(crate) blobs: Vec<Text>,
}

impl Disk {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let make = |path: &Path| {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|cause| failure("make", path, cause))
        };
        make(root)?;
        for name in ["blobs/sha256", "layers", "unpacked", "leases", "tmp"] {
            make(&root.join(name))?;
        }
        let (locks, tmp) = (Locks::open(root)?, root.join("tmp"));
        // So that nobody takes a new directory for one that was left behind.
        let _alone = locks.alone()?;
        sweep(&tmp)?;
        let own_name = String::from_utf8_lossy(&temporary()).into_owned();
        let own = tmp.join(&own_name);
        make(&own)?;
        let handle = open(&own, DIRECTORY, Mode::empty())
            .and_then(|own| flock(&own, FlockOperation::NonBlockingLockExclusive).map(|()| own))
            .map_err(|cause| failure("lock", &own, cause.into()))?;
        Ok(Self { layers: Self::layers_below(root), root: root.to_owned(), tmp, own: Arc::new(handle), own_name, locks })
    }

    pub(crate) fn layers_below(root: &Path) -> PathBuf {
        root.join("layers")
    }

    pub(crate) fn layers(&self) -> &Path {
        &self.layers
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// An error of this disk.
    pub(crate) fn failure(&self, doing: &'static str, path: &Path, cause: io::Error) -> Error {
        if is_full(&cause) { Error::DiskFull { place: self.root.display().to_string() } } else { failure(doing, path, cause) }
    }

    /// Whether layers can be unpacked here.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let scratch = self.temporary_directory()?;
        let tried = open(scratch.path(), DIRECTORY, Mode::empty()).and_then(Layer::possible);
        tried.map_err(|cause| {
            let why = match cause {
                Errno::PERM | Errno::ACCESS | Errno::INVAL => {
                    "it takes root, for owners, devices and trusted attributes of files".to_owned()
                }
                Errno::OPNOTSUPP => "its file system has no extended attributes; ext4, xfs and btrfs have them".to_owned(),
                other => return self.failure("unpack under", &self.root, other.into()),
            };
            Error::Impossible { place: self.root.display().to_string(), why }
        })
    }

    /// A name for something new.
    pub(crate) fn temporary(&self) -> Temporary {
        let name = String::from_utf8_lossy(&temporary()).into_owned();
        Temporary { path: self.tmp.join(&self.own_name).join(&name), own: Arc::clone(&self.own), name }
    }

    pub(crate) fn temporary_directory(&self) -> Result<Temporary, Error> {
        let temporary = self.temporary();
        let made = fs::DirBuilder::new().mode(0o755).create(temporary.path());
        made.map_err(|cause| self.failure("make", temporary.path(), cause)).map(|()| temporary)
    }

    /// A new file.
    pub(crate) fn temporary_file(&self) -> Result<(Temporary, File), Error> {
        let temporary = self.temporary();
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(temporary.path());
        file.map_err(|cause| self.failure("make", temporary.path(), cause)).map(|file| (temporary, file))
    }

    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob is there, with the size that it is said to have.
    pub(crate) fn has_blob(&self, digest: Digest, size: u64) -> bool {
        fs::symlink_metadata(self.blob_path(digest)).is_ok_and(|found| found.is_file() && found.len() == size)
    }

    pub(crate) fn open_blob(&self, digest: Digest) -> Result<File, Error> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|cause| self.failure("read", &path, cause))
    }

    /// A manifest, an index or a configuration.
    pub(crate) fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.open_blob(digest)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes);
        read.map_err(|cause| self.failure("read", &self.blob_path(digest), cause))?;
        verify(&format!("`{}`", self.blob_path(digest).display()), &bytes, digest)?;
        Ok(bytes)
    }

    pub(crate) fn keep_document(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = digest_of(bytes);
        if !self.has_blob(digest, bytes.len() as u64) {
            let (temporary, mut file) = self.temporary_file()?;
            file.write_all(bytes).map_err(|cause| self.failure("write", temporary.path(), cause))?;
            self.keep_blob(temporary, &file, digest)?;
        }
        Ok(digest)
    }

    /// Gives a file its place among the blobs. Whoever calls has seen that it has this digest.
    pub(crate) fn keep_blob(&self, temporary: Temporary, file: &File, digest: Digest) -> Result<(), Error> {
        file.sync_all().map_err(|cause| self.failure("write", temporary.path(), cause))?;
        self.rename(temporary, &self.blob_path(digest))
    }

    pub(crate) fn layer_path(&self, diff_id: Digest) -> PathBuf {
        self.layers.join(diff_id.hex())
    }

    fn facts_path(&self, diff_id: Digest) -> PathBuf {
        self.root.join("unpacked").join(format!("{}.json", diff_id.hex()))
    }

    /// What is known of a layer, if it is there.
    pub(crate) fn layer(&self, diff_id: Digest) -> Option<Facts> {
        if !self.layer_path(diff_id).is_dir() {
            return None;
        }
        serde_json::from_slice(&fs::read(self.facts_path(diff_id)).ok()?).ok()
    }

    /// Gives an unpacked layer its place. If another process was faster, that one stays.
    pub(crate) fn keep_layer(&self, temporary: Temporary, diff_id: Digest, facts: &Facts) -> Result<(), Error> {
        let written = open(temporary.path(), DIRECTORY, Mode::empty()).and_then(syncfs);
        written.map_err(|cause| self.failure("write", temporary.path(), cause.into()))?;
        self.write_facts(diff_id, facts)?;
        match self.rename(temporary, &self.layer_path(diff_id)) {
            Err(Error::Store { cause, .. }) if matches!(cause.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                Ok(())
            }
            result => result,
        }
    }

    pub(super) fn write_facts(&self, diff_id: Digest, facts: &Facts) -> Result<(), Error> {
        let bytes = serde_json::to_vec(facts).expect("there is nothing in it that JSON cannot say");
        self.replace(&self.facts_path(diff_id), &bytes)
    }

    /// Writes a small file, so that it is the old one or the new one, whole.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let (temporary, mut file) = self.temporary_file()?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|cause| self.failure("write", path, cause))?;
        self.rename(temporary, path)
    }

    fn rename(&self, temporary: Temporary, path: &Path) -> Result<(), Error> {
        let directory = path.parent().unwrap_or(path);
        let renamed = fs::rename(temporary.path(), path).and_then(|()| File::open(directory)?.sync_all());
        renamed.map_err(|cause| self.failure("write", path, cause))
    }

    /// Removes what has a final name: first out of sight, then for good. What is not there is removed already.
    pub(super) fn remove(&self, path: &Path) -> Result<(), Error> {
        let temporary = self.temporary();
        match fs::rename(path, temporary.path()) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(self.failure("remove", path, cause)),
            Ok(()) => temporary.discard().map_err(|cause| self.failure("remove", path, cause)),
        }
    }
}

impl Disk {
    /// Removes all about a layer. That it is not there any more comes first.
    pub(super) fn remove_layer(&self, diff_id: Digest) -> Result<(), Error> {
        self.remove(&self.layer_path(diff_id))?;
        self.remove(&self.facts_path(diff_id))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be removed now, the next start removes.
        _ = fs::remove_dir(self.tmp.join(&self.own_name));
    }
}

/// Something that has no final name yet. Unless it gets one, it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    own: Arc<OwnedFd>,
    name: String,
    path: PathBuf,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn discard(&self) -> io::Result<()> {
        discard(&self.own, self.name.as_bytes())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It was renamed, or it goes; if it cannot be removed now, the next start does it.
        _ = self.discard();
    }
}

/// Removes what processes that have gone had begun.
fn sweep(tmp: &Path) -> Result<(), Error> {
    let failed = |cause: io::Error| failure("clear", tmp, cause);
    let handle = open(tmp, DIRECTORY, Mode::empty()).map_err(|cause| failed(cause.into()))?;
    for entry in fs::read_dir(tmp).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let gone = match open(entry.path(), DIRECTORY, Mode::empty()) {
            Ok(own) => flock(&own, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(_) => true,
        };
        if gone {
            tracing::info!(path = %entry.path().display(), "Removed what a process that has gone had begun");
            discard(&handle, entry.file_name().as_encoded_bytes()).map_err(failed)?;
        }
    }
    Ok(())
}

fn failure(doing: &'static str, path: &Path, cause: io::Error) -> Error {
    if is_full(&cause) {
        return Error::DiskFull { place: path.display().to_string() };
    }
    Error::Store { doing, path: path.display().to_string(), cause }
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Whether bytes are what a digest says.
pub(crate) fn verify(what: &str, bytes: &[u8], expected: Digest) -> Result<(), Error> {
    let found = digest_of(bytes);
    if found == expected { Ok(()) } else { Err(Error::Digest { what: what.to_owned(), expected, found }) }
}
