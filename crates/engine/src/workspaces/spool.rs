//! What is to be written into workspaces and is not there yet, on the server's own disk.
//!
//! ```text
//! spool/<execution>/pack        small files, one behind the other
//! spool/<execution>/<number>    a large file each
//! spool/<execution>/manifest    JSON; last, so that a directory without one is half of something and goes
//! spool/upload-<number>         a file on its way through the server
//! ```

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use caisson_core::{BlobStream, Digest, ExecutionId};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    task::spawn_blocking,
};

use super::request::{NotSynced, SyncedIn, Tree};
use crate::request::ByteStream;

const MANIFEST: &str = "manifest";
const PACK: &str = "pack";
const UPLOAD: &str = "upload-";
/// Files up to this size share one, which is one file to be made and flushed for all of them.
const SMALL: u64 = 256 << 10;
/// A piece of a file on its way out.
const PIECE: usize = 256 << 10;
/// So much of the disk stays free: a twentieth, and at most this.
const RESERVE: u64 = 1 << 30;

/// The directory.
#[derive(Debug)]
pub(super) struct Spool {
    directory: PathBuf,
    uploads: AtomicU64,
}

/// A file that is whole and on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    /// Its name in the workspace.
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) mode: u32,
    /// As [`Digest`] writes itself.
    pub(super) digest: String,
    /// The version that was brought in, if it was.
    pub(super) seen: Option<String>,
    /// Where its bytes are.
    file: String,
    offset: u64,
}

/// What one execution has to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) execution: String,
    pub(super) tenant: String,
    pub(super) tree: Tree,
    /// Files that are written at one time, where the request has said so.
    #[serde(default)]
    pub(super) at_once: Option<usize>,
    pub(super) made_at: String,
    pub(super) synced_in: Vec<SyncedIn>,
    pub(super) failed: Vec<NotSynced>,
    pub(super) items: Vec<Item>,
}

impl Manifest {
    pub(super) fn execution(&self) -> Option<ExecutionId> {
        self.execution.parse().ok()
    }

    pub(super) fn made_at(&self) -> Timestamp {
        self.made_at.parse().unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

impl Spool {
    /// Makes the directory where it is missing, removes what is half there, and returns what is still to be done.
    pub(super) async fn open(directory: PathBuf) -> io::Result<(Self, Vec<Manifest>)> {
        let at = directory.clone();
        let found = spawn_blocking(move || left_over(&at)).await.map_err(io::Error::other)??;
        Ok((Self { directory, uploads: AtomicU64::new(0) }, found))
    }

    /// Room for what an execution leaves.
    pub(super) async fn begin(&self, id: ExecutionId) -> io::Result<Batch> {
        let directory = self.directory.join(id.to_string());
        let made = directory.clone();
        let make = move || {
            fs::DirBuilder::new().mode(0o700).create(&made)?;
            create(&made.join(PACK))
        };
        let pack = spawn_blocking(make).await.map_err(io::Error::other)??;
        Ok(Batch { directory, pack: Arc::new(pack), packed: AtomicU64::new(0), numbered: AtomicU64::new(0) })
    }

    /// Puts a stream on disk as it comes, at most `limit` bytes of it. The file goes with what is returned.
    pub(super) async fn upload(&self, limit: u64, content: ByteStream) -> io::Result<Upload> {
        let path = self.directory.join(format!("{UPLOAD}{}", self.uploads.fetch_add(1, Ordering::Relaxed)));
        // From here on, whatever happens takes the file away again.
        let mut upload = Upload { path: Removed(path.clone()), size: 0, digest: Digest::from_bytes([0; 32]) };
        (upload.size, upload.digest) = receive(&path, limit, content).await?;
        Ok(upload)
    }

    /// The bytes of an item.
    pub(super) async fn read(&self, execution: ExecutionId, item: &Item) -> io::Result<BlobStream> {
        // It is our own word, and still nothing that leads elsewhere is opened.
        if item.file != PACK && !item.file.bytes().all(|c| c.is_ascii_digit()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        pieces(&self.directory.join(execution.to_string()).join(&item.file), item.offset, item.size).await
    }

    /// Everything of an execution is where it belongs.
    pub(super) async fn remove(&self, id: ExecutionId) -> io::Result<()> {
        let directory = self.directory.join(id.to_string());
        let remove = move || match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        spawn_blocking(remove).await.map_err(io::Error::other)?
    }

    /// Fails when so many bytes more would leave too little of the disk to everything else.
    pub(super) fn has_room(&self, bytes: u64) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.directory)?;
        let reserve = (disk.f_blocks.saturating_mul(disk.f_frsize) / 20).min(RESERVE);
        if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes.saturating_add(reserve) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the server's disk is nearly full"));
        }
        Ok(())
    }
}

/// The files of one execution as they come.
#[derive(Debug)]
pub(super) struct Batch {
    directory: PathBuf,
    pack: Arc<fs::File>,
    /// Bytes of it that belong to somebody.
    packed: AtomicU64,
    numbered: AtomicU64,
}

impl Batch {
    /// Puts a file of this size there. One that turns out to be of another is an error.
    pub(super) async fn add(&self, name: String, mode: u32, size: u64, content: ByteStream) -> io::Result<Item> {
        let (file, offset, digest) = if size <= SMALL {
            let (bytes, digest) = whole(size, content).await?;
            let (pack, offset) = (Arc::clone(&self.pack), self.packed.fetch_add(size, Ordering::Relaxed));
            spawn_blocking(move || pack.write_all_at(&bytes, offset)).await.map_err(io::Error::other)??;
            (PACK.to_owned(), offset, digest)
        } else {
            let file = self.numbered.fetch_add(1, Ordering::Relaxed).to_string();
            let path = self.directory.join(&file);
            match receive(&path, size, content).await {
                Ok((found, digest)) if found == size => (file, 0, digest),
                other => {
                    fs::remove_file(&path).ok();
                    other?;
                    return Err(shorter());
                }
            }
        };
        Ok(Item { name, size, mode, digest: digest.to_string(), seen: None, file, offset })
    }

    /// Nothing of it is lost from here on, whatever dies.
    pub(super) async fn seal(self, manifest: &Manifest) -> io::Result<()> {
        let text = serde_json::to_vec(manifest)?;
        let (directory, pack) = (self.directory, self.pack);
        let seal = move || {
            pack.sync_all()?;
            let new = directory.join("manifest.new");
            let mut file = create(&new)?;
            io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            fs::rename(&new, directory.join(MANIFEST))?;
            fs::File::open(&directory)?.sync_all()?;
            directory.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
        };
        spawn_blocking(seal).await.map_err(io::Error::other)?
    }
}

/// A file on its way through the server.
#[derive(Debug)]
pub(super) struct Upload {
    path: Removed,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

impl Upload {
    pub(super) async fn read(&self) -> io::Result<BlobStream> {
        pieces(&self.path.0, 0, self.size).await
    }
}

/// A file that goes with this.
#[derive(Debug)]
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It may never have been made.
        fs::remove_file(&self.0).ok();
    }
}

fn left_over(directory: &Path) -> io::Result<Vec<Manifest>> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            let manifest = fs::read(path.join(MANIFEST)).ok().and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
            let named = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            match manifest.filter(|manifest| Some(&manifest.execution) == named.as_ref() && manifest.execution().is_some()) {
                Some(manifest) => found.push(manifest),
                None => fs::remove_dir_all(path)?,
            }
        } else {
            fs::remove_file(path)?;
        }
    }
    found.sort_by(|a, b| a.made_at.cmp(&b.made_at));
    Ok(found)
}

fn create(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Writes a stream into a new file and flushes it to the disk. Returns its length and digest.
async fn receive(path: &Path, limit: u64, mut content: ByteStream) -> io::Result<(u64, Digest)> {
    let at = path.to_owned();
    let file = spawn_blocking(move || create(&at)).await.map_err(io::Error::other)??;
    let mut file = tokio::fs::File::from_std(file);
    let (mut size, mut hash) = (0, Sha256::new());
    while let Some(piece) = content.next().await {
        let piece = piece?;
        size += piece.len() as u64;
        if size > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
        }
        hash.update(&piece);
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    file.sync_all().await?;
    Ok((size, Digest::from_bytes(hash.finalize().into())))
}

/// A small file in memory.
async fn whole(size: u64, mut content: ByteStream) -> io::Result<(Vec<u8>, Digest)> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    while let Some(piece) = content.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() as u64 > size {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {size} bytes")));
        }
    }
    if bytes.len() as u64 != size {
        return Err(shorter());
    }
    let digest = Digest::from_bytes(Sha256::digest(&bytes).into());
    Ok((bytes, digest))
}

fn shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read")
}

async fn pieces(path: &Path, offset: u64, size: u64) -> io::Result<BlobStream> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(io::SeekFrom::Start(offset)).await?;
    let pieces = stream::unfold((file, size), |(mut file, left)| async move {
        if left == 0 {
            return None;
        }
        let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
        match file.read(&mut piece).await {
            Ok(0) => Some((Err(io::ErrorKind::UnexpectedEof.into()), (file, 0))),
            Ok(count) => {
                piece.truncate(count);
                Some((Ok(Bytes::from(piece)), (file, left - count as u64)))
            }
            Err(error) => Some((Err(error), (file, 0))),
        }
    });
    Ok(Box::pin(pieces))
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    fn content(text: &[u8]) -> ByteStream {
        let pieces: Vec<io::Result<Bytes>> = text.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Box::pin(stream::iter(pieces))
    }

    async fn read(spool: &Spool, id: ExecutionId, item: &Item) -> Vec<u8> {
        let pieces: Vec<Bytes> = spool.read(id, item).await.unwrap().try_collect().await.unwrap();
        pieces.concat()
    }

    #[tokio::test]
    async fn what_is_sealed_is_found_again_and_half_of_something_goes() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("spool");
        let (spool, found) = Spool::open(directory.clone()).await.unwrap();
        assert!(found.is_empty());
        let (sealed, half) = (ExecutionId::random(), ExecutionId::random());
        let large = vec![7; SMALL as usize + 1];
        let batch = spool.begin(sealed).await.unwrap();
        let mut items = Vec::new();
        for (name, text) in [("a", &b"one"[..]), ("b", &large), ("c", b""), ("d", b"four")] {
            items.push(batch.add(name.to_owned(), 0o640, text.len() as u64, content(text)).await.unwrap());
        }
        let manifest = Manifest {
            execution: sealed.to_string(),
            tenant: "t".to_owned(),
            tree: Tree::at("u/c/").unwrap(),
            at_once: Some(3),
            made_at: "2026-01-01T00:00:00Z".to_owned(),
            synced_in: Vec::new(),
            failed: Vec::new(),
            items: items.clone(),
        };
        batch.seal(&manifest).await.unwrap();
        let unsealed = spool.begin(half).await.unwrap();
        unsealed.add("a".to_owned(), 0o644, 3, content(b"one")).await.unwrap();
        fs::write(directory.join("upload-9"), "x").unwrap();

        let (spool, found) = Spool::open(directory.clone()).await.unwrap();
        assert_eq!(found, [manifest]);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        for (item, text) in items.iter().zip([&b"one"[..], &large, b"", b"four"]) {
            assert_eq!(read(&spool, sealed, item).await, text, "{}", item.name);
        }
        spool.remove(sealed).await.unwrap();
        spool.remove(sealed).await.unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn files_that_change_their_size_are_errors() {
        let home = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(home.path().join("spool")).await.unwrap();
        let batch = spool.begin(ExecutionId::random()).await.unwrap();
        for size in [2, 4, SMALL + 1] {
            batch.add("a".to_owned(), 0o644, size, content(b"one")).await.unwrap_err();
        }
        let fine = batch.add("a".to_owned(), 0o644, 3, content(b"one")).await.unwrap();
        assert_eq!((fine.offset, fine.file.as_str()), (0, PACK));
    }

    #[tokio::test]
    async fn uploads_are_bounded_and_go_when_they_are_done() {
        let home = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(home.path().to_owned()).await.unwrap();
        assert!(spool.upload(2, content(b"one")).await.is_err());
        let upload = spool.upload(3, content(b"one")).await.unwrap();
        let pieces: Vec<Bytes> = upload.read().await.unwrap().try_collect().await.unwrap();
        assert_eq!((pieces.concat(), upload.size), (b"one".to_vec(), 3));
        drop(upload);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
