//! The files of one sandbox.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use caisson_server::native::types::{FileBody, UnpackedBody};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::client::{Body, Client, Refusal, percent};

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

    /// A directory with everything in it, as an archive.
    pub(super) async fn pack(&self, path: &[u8]) -> Result<Response<Incoming>> {
        self.client.get(&format!("{}/files/archive?path={}", self.sandbox, percent(path))).await
    }

    /// Unpacks an archive into a directory, which is made if it is not there.
    pub(super) async fn unpack(&self, path: &[u8], archive: Body) -> Result<UnpackedBody> {
        let answer = self.client.put(&format!("{}/files/archive?path={}", self.sandbox, percent(path)), None, archive).await?;
        let body = answer.into_body().collect().await.context("the server's answer broke off")?;
        serde_json::from_slice(&body.to_bytes()).context("the server's answer makes no sense; is it a Caisson server of this version?")
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
