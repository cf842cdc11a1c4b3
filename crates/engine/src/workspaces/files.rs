//! What [`Engine`] does with workspaces and the files in them by themselves.

use std::{sync::Arc, time::Duration};

use caisson_core::{AboutBlob, Blob, BlobError, BlobKey, Digest, Error, NewBlob, OnlyIf, Page, Result};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::{
    Workspaces, blob_error,
    incoming::AT_ONCE,
    media::media_type,
    quota::{NotWritten, over},
    request::{Tree, shown},
};
use crate::{Engine, engine::MAX_PAGE, request::ByteStream};

/// The largest file that is taken.
const MAX_FILE: u64 = 48 << 30;
/// Files removed at one time with their workspace.
const REMOVED: usize = 1000;

/// A file of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceFile {
    pub path: String,
    pub size: u64,
    pub etag: String,
    pub modified_at: Timestamp,
    pub media_type: String,
    /// What lists do not tell, and what others have put there may not have.
    pub mode: Option<u32>,
    pub digest: Option<Digest>,
}

/// What a file that is written has beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewWorkspaceFile {
    /// Permission bits; 0644 when absent.
    pub mode: Option<u32>,
    /// What its name says, when absent.
    pub media_type: Option<String>,
}

impl Engine {
    fn workspaces_here(&self) -> Result<Arc<Workspaces>> {
        Self::workspaces_of(&self.core)
    }

    /// The names of the tenant's workspaces that have files, behind the one that is called `after` in the order of storage.
    pub async fn workspaces(&self, limit: u32, after: Option<&str>) -> Result<Page<String>> {
        let here = self.workspaces_here()?;
        let all = Tree::all(&self.tenant);
        // The first text behind everything in that workspace: a slash is followed by a zero.
        let after = match after {
            Some(name) => Tree::named(&self.tenant, name)?.prefix().strip_suffix('/').map(|folder| format!("{folder}0")),
            None => None,
        };
        let limit = limit.clamp(1, MAX_PAGE);
        let page = here.blobs.list(&all, after.as_deref(), limit as usize, true).await.map_err(blob_error)?;
        let names: Vec<String> =
            page.folders.iter().filter_map(|folder| folder.strip_prefix(&all)?.strip_suffix('/')).map(Tree::decode).collect();
        let next_cursor = page.next.and(names.last().cloned());
        Ok(Page { data: names, next_cursor })
    }

    /// Files whose names begin with `prefix`, in the order of the names' bytes, behind the one that is called `after`.
    pub async fn workspace_files(&self, tree: &Tree, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page<WorkspaceFile>> {
        let here = self.workspaces_here()?;
        for (field, text) in [("prefix", Some(prefix)), ("cursor", after)] {
            let text = text.unwrap_or_default();
            if text.len() > BlobKey::MAX_BYTES || text.chars().any(char::is_control) {
                return Err(Error::invalid("invalid_file_name", format!("parameter `{field}` is the begin of no file name")));
            }
        }
        let limit = limit.clamp(1, MAX_PAGE);
        let whole = format!("{}{prefix}", tree.prefix());
        let after = after.map(|name| format!("{}{name}", tree.prefix()));
        let page = here.blobs.list(&whole, after.as_deref(), limit as usize, false).await.map_err(blob_error)?;
        let data: Vec<WorkspaceFile> = page.blobs.into_iter().filter_map(|blob| file(tree, blob)).collect();
        let next_cursor = page.next.and(data.last().map(|file| file.path.clone()));
        Ok(Page { data, next_cursor })
    }

    /// What is known of a file.
    pub async fn workspace_file(&self, tree: &Tree, name: &str) -> Result<WorkspaceFile> {
        let here = self.workspaces_here()?;
        let blob = here.blobs.head(&tree.key(name)?).await.map_err(|error| about(name, error))?;
        file(tree, blob).ok_or_else(|| Error::not_found("file", shown(name)))
    }

    /// The same, and `length` bytes of it from `offset` on, which is within it.
    pub async fn read_workspace_file(
        &self,
        tree: &Tree,
        name: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<(WorkspaceFile, ByteStream)> {
        let here = self.workspaces_here()?;
        let (blob, content) = here.blobs.get(&tree.key(name)?, offset, length).await.map_err(|error| about(name, error))?;
        let file = file(tree, blob).ok_or_else(|| Error::not_found("file", shown(name)))?;
        Ok((file, content))
    }

    /// Writes a file, which appears whole or not at all. It is on the server's disk before storage gets it, so that however slowly it comes,
    /// nothing of it waits in memory.
    pub async fn write_workspace_file(
        &self,
        tree: &Tree,
        name: &str,
        new: NewWorkspaceFile,
        content: ByteStream,
        only_if: OnlyIf,
    ) -> Result<WorkspaceFile> {
        crate::validate::mode(new.mode)?;
        let here = self.workspaces_here()?;
        let key = tree.key(name)?;
        let full = |error| Error::internal("the server's disk takes nothing more", error);
        here.spool.has_room(0).map_err(full)?;
        // Whether it may be written at all is said before it is sent.
        if only_if != OnlyIf::Always {
            allowed(&here, &key, &only_if).await.map_err(|error| about(name, error))?;
        }
        let allowance = self.core.allowance(&self.tenant);
        // What has no room is not taken to the disk first.
        let room = here.room_left(&allowance, tree, &key).await.map_err(NotWritten::into_error)?;
        let upload = here.spool.upload(room.unwrap_or(MAX_FILE).min(MAX_FILE), content).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::FileTooLarge if room.is_some_and(|room| room < MAX_FILE) => {
                let (limit, room) = (allowance.limit.unwrap_or_default(), room.unwrap_or_default());
                Error::OverQuota(over(limit, limit.saturating_sub(room), room.saturating_add(1)))
            }
            std::io::ErrorKind::FileTooLarge => {
                Error::TooLarge { message: format!("the file has more than {MAX_FILE} bytes, which is the most") }
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => full(error),
            _ => blob_error(BlobError::Content(error)),
        })?;
        let media_type = new.media_type.unwrap_or_else(|| media_type(name).to_owned());
        let noted = AboutBlob {
            mode: Some(new.mode.unwrap_or(super::incoming::MODE)),
            digest: Some(upload.digest),
            media_type: Some(media_type.clone()),
        };
        let blob = NewBlob { size: upload.size, about: noted.clone() };
        let bytes = upload.read().await.map_err(|error| blob_error(BlobError::Content(error)))?;
        let _permit = here.writes.acquire().await.map_err(|error| Error::internal("the server is stopping", error))?;
        let room = here.room(&allowance, tree, &key, upload.size).await.map_err(NotWritten::into_error)?;
        let etag = here.blobs.put(&key, &blob, bytes, &only_if).await.map_err(|error| about(name, error))?;
        room.use_up();
        let (path, size, digest) = (name.to_owned(), upload.size, Some(upload.digest));
        Ok(WorkspaceFile { path, size, etag, modified_at: crate::core::now(), media_type, mode: noted.mode, digest })
    }

    /// Removes a file.
    pub async fn delete_workspace_file(&self, tree: &Tree, name: &str, only_if: OnlyIf) -> Result<()> {
        let here = self.workspaces_here()?;
        let gone = here.blobs.delete(&tree.key(name)?, &only_if).await;
        here.meter.doubt(&self.tenant);
        match gone.map_err(|error| about(name, error))? {
            true => Ok(()),
            false => Err(Error::not_found("file", shown(name))),
        }
    }

    /// Removes all files of a workspace, and says how many that were. One without files is none.
    pub async fn delete_workspace(&self, tree: &Tree) -> Result<u64> {
        let here = self.workspaces_here()?;
        let mut removed = 0;
        let mut after = None;
        loop {
            let page = here.blobs.list(tree.prefix(), after.as_deref(), REMOVED, false).await.map_err(blob_error)?;
            after = page.blobs.last().map(|blob| blob.key.to_string());
            let removing = page.blobs.into_iter().map(|blob| {
                let here = &here;
                async move { here.blobs.delete(&blob.key, &OnlyIf::Always).await.map_err(blob_error) }
            });
            let gone: Vec<bool> = stream::iter(removing).buffer_unordered(AT_ONCE).try_collect().await?;
            removed += gone.into_iter().filter(|gone| *gone).count() as u64;
            if page.next.is_none() || after.is_none() {
                here.meter.doubt(&self.tenant);
                return Ok(removed);
            }
        }
    }

    /// An address at which a file can be read without this server for some time, where storage has that. The file is there at the moment.
    pub async fn workspace_link(&self, tree: &Tree, name: &str, lasts: Duration) -> Result<Option<String>> {
        let here = self.workspaces_here()?;
        let key = tree.key(name)?;
        here.blobs.head(&key).await.map_err(|error| about(name, error))?;
        here.blobs.signed_url(&key, lasts).await.map_err(|error| about(name, error))
    }
}

async fn allowed(here: &Workspaces, key: &BlobKey, only_if: &OnlyIf) -> Result<(), BlobError> {
    let there = match here.blobs.head(key).await {
        Ok(blob) => Some(blob),
        Err(BlobError::NotFound) => None,
        Err(error) => return Err(error),
    };
    if only_if.holds(there.as_ref().map(|blob| blob.etag.as_str())) { Ok(()) } else { Err(BlobError::Changed) }
}

fn about(name: &str, error: BlobError) -> Error {
    match error {
        BlobError::NotFound => Error::not_found("file", shown(name)),
        other => blob_error(other),
    }
}

fn file(tree: &Tree, blob: Blob) -> Option<WorkspaceFile> {
    let path = tree.name(blob.key.as_str())?.to_owned();
    let AboutBlob { mode, digest, media_type: noted } = blob.about;
    let media_type = noted.unwrap_or_else(|| media_type(&path).to_owned());
    Some(WorkspaceFile { path, size: blob.size, etag: blob.etag, modified_at: blob.modified_at, media_type, mode, digest })
}
