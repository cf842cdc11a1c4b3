//! [`LocalBlobs`]: files in a directory, each under its own key with its own permission bits, so that an operator finds them as they are.
//!
//! ```text
//! <directory>/files/<key>          whole files; directories go with the last file in them
//! <directory>/new/<number>         what is being written; moved to its key when it is whole and flushed
//! ```

mod tree;

use std::{
    fmt,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use caisson_core::{AboutBlob, Blob, BlobError, BlobKey, BlobPage, BlobStream, Blobs, NewBlob, OnlyIf};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, MutexGuard},
    task::spawn_blocking,
};

use self::tree::Tree;

/// A piece of a file on its way out.
const PIECE: u64 = 256 << 10;
/// Keys are checked and changed by one at a time each; so many at once in all.
const LOCKS: usize = 64;

/// Files in a directory. It is this process's alone.
pub struct LocalBlobs {
    directory: PathBuf,
    tree: Arc<Tree>,
    locks: Vec<Mutex<()>>,
    numbers: AtomicU64,
}

impl fmt::Debug for LocalBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBlobs").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl LocalBlobs {
    /// Makes the directory (mode 0700) where it is missing, and removes what was being written when the last process died.
    pub async fn open(directory: &Path) -> io::Result<Self> {
        let at = directory.to_owned();
        let tree = spawn_blocking(move || Tree::open(&at)).await.map_err(io::Error::other)??;
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        Ok(Self { directory: directory.to_owned(), tree: Arc::new(tree), locks, numbers: AtomicU64::new(0) })
    }

    async fn lock(&self, key: &BlobKey) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.locks[usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or_default()].lock().await
    }

    /// Does something with the files, where waiting for a disk holds nobody up.
    async fn with<T: Send + 'static>(&self, work: impl FnOnce(&Tree) -> io::Result<T> + Send + 'static) -> Result<T, BlobError> {
        let tree = Arc::clone(&self.tree);
        spawn_blocking(move || work(&tree)).await.map_err(|error| BlobError::Unavailable(error.into()))?.map_err(blob_error)
    }

    async fn open_file(&self, key: &BlobKey) -> Result<(File, Blob), BlobError> {
        let wanted = key.clone();
        let (file, blob) = self
            .with(move |tree| {
                let file = tree.open_file(wanted.as_str())?;
                let blob = describe(wanted, &file)?;
                Ok((file, blob))
            })
            .await?;
        Ok((file, blob))
    }

    async fn etag(&self, key: &BlobKey) -> Result<Option<String>, BlobError> {
        match self.head(key).await {
            Ok(blob) => Ok(Some(blob.etag)),
            Err(BlobError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A new file with this content, flushed.
    async fn write(&self, number: u64, new: &NewBlob, mut content: BlobStream) -> Result<File, BlobError> {
        let mode = new.about.mode.unwrap_or(0o644);
        let file = self.with(move |tree| tree.create(number)).await?;
        let mut file = tokio::fs::File::from_std(file);
        let mut size = 0;
        while let Some(piece) = content.next().await {
            let piece = piece.map_err(BlobError::Content)?;
            size += piece.len() as u64;
            file.write_all(&piece).await.map_err(blob_error)?;
        }
        if size != new.size {
            let what = format!("{size} bytes came, announced were {}", new.size);
            return Err(BlobError::Content(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        file.flush().await.map_err(blob_error)?;
        let file = file.into_std().await;
        self.with(move |_| {
            // We have to be able to read it ourselves.
            rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode((mode & 0o777) | 0o400))?;
            file.sync_all()?;
            Ok(file)
        })
        .await
    }
}

/// Another one for every content: a file is never changed in its place.
fn describe(key: BlobKey, file: &File) -> io::Result<Blob> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let changed = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let etag = format!("{:x}-{changed:x}-{:x}", metadata.ino(), metadata.size());
    let modified_at = Timestamp::from_nanosecond(changed).unwrap_or(Timestamp::UNIX_EPOCH);
    let about = AboutBlob { mode: Some(metadata.mode() & 0o777), digest: None, media_type: None };
    Ok(Blob { key, size: metadata.size(), etag, modified_at, about })
}

fn blob_error(error: io::Error) -> BlobError {
    match error.kind() {
        io::ErrorKind::NotFound => BlobError::NotFound,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => BlobError::Refused(
            "a file has the name of a directory that others are in, or the other way round; in a directory one name is one of both"
                .to_owned(),
        ),
        io::ErrorKind::InvalidFilename => BlobError::Refused("the file system takes no such name".to_owned()),
        io::ErrorKind::PermissionDenied => BlobError::Denied(error.into()),
        _ => BlobError::Unavailable(error.into()),
    }
}

#[async_trait]
impl Blobs for LocalBlobs {
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize, folders: bool) -> Result<BlobPage, BlobError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.with(move |tree| {
            let mut page = BlobPage::default();
            let listed = tree.list(&prefix, after.as_deref().unwrap_or_default(), limit, folders)?;
            page.next = listed.next;
            page.folders = listed.folders;
            for key in listed.keys {
                // What has gone meanwhile is not there.
                let Some(file) = tree.open_file(&key).ok() else { continue };
                page.blobs.extend(key.parse().ok().and_then(|key| describe(key, &file).ok()));
            }
            Ok(page)
        })
        .await
    }

    async fn head(&self, key: &BlobKey) -> Result<Blob, BlobError> {
        Ok(self.open_file(key).await?.1)
    }

    async fn get(&self, key: &BlobKey, offset: u64, length: Option<u64>) -> Result<(Blob, BlobStream), BlobError> {
        let (file, blob) = self.open_file(key).await?;
        let end = length.map_or(blob.size, |length| offset.saturating_add(length).min(blob.size));
        let pieces = stream::unfold((Arc::new(file), offset), move |(file, at)| async move {
            let length = end.saturating_sub(at).min(PIECE);
            if length == 0 {
                return None;
            }
            let reading = Arc::clone(&file);
            let read = move || {
                let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
                reading.read_exact_at(&mut piece, at)?;
                Ok(Bytes::from(piece))
            };
            let piece = spawn_blocking(read).await.map_err(io::Error::other).and_then(|piece| piece);
            let next = if piece.is_ok() { at + length } else { u64::MAX };
            Some((piece, (file, next)))
        });
        Ok((blob, Box::pin(pieces)))
    }

    async fn put(&self, key: &BlobKey, new: &NewBlob, content: BlobStream, only_if: &OnlyIf) -> Result<String, BlobError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let file = match self.write(number, new, content).await {
            Ok(file) => file,
            Err(error) => {
                self.with(move |tree| tree.discard(number)).await?;
                return Err(error);
            }
        };
        let _lock = self.lock(key).await;
        if *only_if != OnlyIf::Always && !only_if.holds(self.etag(key).await?.as_deref()) {
            self.with(move |tree| tree.discard(number)).await?;
            return Err(BlobError::Changed);
        }
        let moved = key.clone();
        let etag = describe(key.clone(), &file).map_err(blob_error)?.etag;
        let publish = self.with(move |tree| tree.publish(number, moved.as_str())).await;
        if publish.is_err() {
            self.with(move |tree| tree.discard(number)).await?;
        }
        publish.map(|()| etag)
    }

    async fn delete(&self, key: &BlobKey, only_if: &OnlyIf) -> Result<bool, BlobError> {
        let _lock = self.lock(key).await;
        let there = self.etag(key).await?;
        if !only_if.holds(there.as_deref()) {
            return Err(BlobError::Changed);
        }
        if there.is_none() {
            return Ok(false);
        }
        let key = key.clone();
        self.with(move |tree| tree.remove(key.as_str())).await.map(|()| true)
    }

    async fn signed_url(&self, _: &BlobKey, _: Duration) -> Result<Option<String>, BlobError> {
        Ok(None)
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }
}
