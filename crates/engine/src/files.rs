//! What [`Engine`] does with files beyond reading and writing one.

use caisson_core::{FileStat, Listing, Result, SandboxId, Unpacked};
use futures::StreamExt;

use crate::{
    Engine,
    request::{ByteStream, FileEvents},
    search::{GrepRequest, Grepped},
    validate,
};

impl Engine {
    /// Makes a directory, with `parents` also those it is in; says whether it was there before, which is refused without `parents`.
    pub async fn make_directory(&self, id: SandboxId, path: &[u8], parents: bool, mode: Option<u32>) -> Result<(FileStat, bool)> {
        validate::mode(mode)?;
        let (living, agent, path, _begun) = self.file(id, path).await?;
        match agent.make_directory(&path, parents, mode).await {
            Ok(made) => Ok(made),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// Gives a file, link or directory another path. Without `replace`, nothing must be there; with it, no directory that has something in it.
    pub async fn move_file(&self, id: SandboxId, from: &[u8], to: &[u8], replace: bool) -> Result<FileStat> {
        validate::path("to", to)?;
        let (living, agent, from, _begun) = self.file(id, from).await?;
        let to = validate::absolute_path(&living.work_dir, to)?;
        match agent.move_entry(&from, &to, replace).await {
            Ok(stat) => Ok(stat),
            Err(error) => Err(living.failed_at(&from, error).await),
        }
    }

    /// The same for a copy, which is a whole tree if that is what is copied. Permission bits, times and links are kept.
    pub async fn copy_file(&self, id: SandboxId, from: &[u8], to: &[u8], replace: bool) -> Result<(FileStat, Unpacked)> {
        validate::path("to", to)?;
        let (living, agent, from, _begun) = self.file(id, from).await?;
        let to = validate::absolute_path(&living.work_dir, to)?;
        match agent.copy(&from, &to, replace).await {
            Ok(copied) => Ok(copied),
            Err(error) => Err(living.failed_at(&from, error).await),
        }
    }

    /// A directory with everything in it, or a file, as a tar stream. One that breaks off ends with an error. The sandbox is in use until
    /// the stream is read or dropped. With `owners`, which takes root inside, it tells owners and set-id bits.
    pub async fn pack_files(&self, id: SandboxId, path: &[u8], owners: bool) -> Result<ByteStream> {
        let (living, agent, path, begun) = self.file(id, path).await?;
        match agent.pack(&path, owners).await {
            Ok(content) => Ok(Box::pin(content.map(move |chunk| {
                let _in_use = &begun;
                chunk
            }))),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// Unpacks a tar stream into a directory, which is made if it is not there. What was unpacked before an error stays. An error of
    /// the stream of the kind `InvalidData` means that it is no archive. With `owners`, which takes root inside, owners and set-id bits are taken too.
    pub async fn unpack_files(&self, id: SandboxId, path: &[u8], owners: bool, archive: ByteStream) -> Result<Unpacked> {
        let (living, agent, path, _begun) = self.file(id, path).await?;
        match agent.unpack(&path, owners, archive).await {
            Ok(unpacked) => Ok(unpacked),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// What of a directory's content, however deep, a pattern is about: at most `limit` entries, behind the one that is called `after` below
    /// it. There may be more although fewer came: `next` says.
    pub async fn glob_files(&self, id: SandboxId, path: &[u8], pattern: &[u8], limit: u32, after: Option<&[u8]>) -> Result<Listing> {
        validate::entries(limit)?;
        validate::pattern(pattern.len())?;
        let (living, agent, path, _begun) = self.file(id, path).await?;
        match agent.glob(&path, pattern, limit, after).await {
            Ok(listing) => Ok(listing),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// Searches a file, or all files in a directory, line by line.
    pub async fn grep_files(&self, id: SandboxId, path: &[u8], request: &GrepRequest) -> Result<Grepped> {
        validate::grep(request)?;
        let (living, agent, path, _begun) = self.file(id, path).await?;
        match agent.grep(&path, request).await {
            Ok(grepped) => Ok(grepped),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// Tells what happens to a file or in a directory, with `recursive` also in those below it. The sandbox is in use as long as the
    /// stream is there; that it ends is the stream's last item, an error.
    pub async fn watch_files(&self, id: SandboxId, path: &[u8], recursive: bool) -> Result<FileEvents> {
        let (living, agent, path, begun) = self.file(id, path).await?;
        let events = match agent.watch(&path, recursive).await {
            Ok(events) => events,
            Err(error) => return Err(living.failed_at(&path, error).await),
        };
        Ok(Box::pin(events.then(move |event| {
            let _in_use = &begun;
            let living = living.clone();
            async move {
                match event {
                    Ok(event) => Ok(event),
                    Err(error) => Err(living.failed(error).await),
                }
            }
        })))
    }
}
