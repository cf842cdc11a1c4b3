//! The files of one sandbox.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_server::native::types::{FileBody, ListingBody};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;

use crate::client::{Body, Client, Refusal, percent};

/// The server's largest listing.
const MAX_ENTRIES: usize = 10_000;

/// A sandbox as a place for files.
pub(super) struct Remote<'a> {
    client: &'a Client,
    /// Its path in the API.
    sandbox: String,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// Link, socket, fifo or device.
    Other,
}

/// An entry of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    /// As the sandbox has it; believe nothing of it.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
}

impl<'a> Remote<'a> {
    /// The sandbox of this id or name.
    pub(super) async fn find(client: &'a Client, name: &str) -> Result<Self> {
        Ok(Self { client, sandbox: client.sandbox(name).await? })
    }

    /// What is at a path, links not followed; `None` when there is nothing.
    pub(super) async fn kind(&self, path: &[u8]) -> Result<Option<Kind>> {
        let target = format!("{}/files/stat?path={}", self.sandbox, percent(path));
        match self.client.json::<FileBody>(Method::GET, &target, None::<&()>).await {
            Ok(stat) => Ok(Some(kind(&stat))),
            Err(error) if error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is in a directory.
    pub(super) async fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let target = format!("{}/files/list?path={}&limit={MAX_ENTRIES}", self.sandbox, percent(path));
        let listing: ListingBody = self.client.json(Method::GET, &target, None::<&()>).await?;
        if listing.truncated {
            let shown = String::from_utf8_lossy(path);
            bail!(
                "`{shown}` has more than {MAX_ENTRIES} entries, too many to copy one by one; make an archive of it in the sandbox and copy that"
            );
        }
        let entry = |stat: FileBody| {
            let path = match &stat.path_base64 {
                Some(bytes) => STANDARD.decode(bytes).context("the server sent a path that makes no sense")?,
                None => stat.path.clone().into_bytes(),
            };
            Ok(Entry { path, kind: kind(&stat) })
        };
        listing.data.into_iter().map(entry).collect()
    }

    /// A file's content.
    pub(super) async fn read(&self, path: &[u8]) -> Result<Response<Incoming>> {
        self.client.get(&format!("{}/files?path={}", self.sandbox, percent(path))).await
    }

    /// Makes or replaces a file; directories on the way are made.
    pub(super) async fn write(&self, path: &[u8], mode: Option<u32>, length: Option<u64>, content: Body) -> Result<()> {
        let mode = mode.map(|mode| format!("&mode={:04o}", mode & 0o777)).unwrap_or_default();
        self.client.put(&format!("{}/files?path={}{mode}", self.sandbox, percent(path)), length, content).await?;
        Ok(())
    }

    /// Removes a file.
    pub(super) async fn remove(&self, path: &[u8]) -> Result<()> {
        self.client.done(Method::DELETE, &format!("{}/files?path={}", self.sandbox, percent(path))).await
    }
}

fn kind(stat: &FileBody) -> Kind {
    match stat.kind.as_str() {
        "file" => Kind::File,
        "directory" => Kind::Directory,
        _ => Kind::Other,
    }
}

/// A path here for messages and for the other side.
pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
