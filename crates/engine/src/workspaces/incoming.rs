//! Files on their way from a workspace into a sandbox.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use caisson_core::{Blob, BlobError, Digest, Error, Result};
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest as _, Sha256};

use super::{
    Workspaces, blob_error, directory, out_of_time,
    request::{Missing, Outputs, SyncedIn, Tree, WorkspaceUse, shown},
};
use crate::{
    agent_client::AgentClient,
    request::{ByteStream, FileAttributes},
    sandbox::Living,
    validate,
};

/// Files on their way out at one time, where nobody says how many; each holds a part of an upload.
pub(super) const AT_ONCE: usize = 8;
/// Files on their way in at one time, where nobody says how many. They hold little, and small ones are mostly waited for: 40 ms each
/// where a server's answer comes in two segments and the second one waits for an acknowledgement (Nagle's algorithm, RFC 9293 3.7.4).
pub(super) const IN_AT_ONCE: usize = 32;
/// Files that are asked for without their content at one time.
const LOOKS_AT_ONCE: usize = 64;
/// Permission bits of what nothing is noted about.
pub(super) const MODE: u32 = 0o644;
/// How long files may be on their way in, all together.
pub(super) const WITHIN: Duration = Duration::from_secs(15 * 60);

/// A workspace that an execution works with.
pub(crate) struct InUse {
    pub(super) workspaces: Arc<Workspaces>,
    pub(super) tree: Tree,
    /// Absolute, without a slash at its end.
    pub(super) directory: String,
    pub(super) outputs: Option<Outputs>,
    /// Files on their way out at one time.
    pub(super) at_once: usize,
    pub(super) synced_in: Vec<SyncedIn>,
    /// By name: what was brought in.
    pub(super) given: HashMap<String, Given>,
}

/// A file as it was brought in.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) digest: Digest,
    pub(super) mode: u32,
    pub(super) etag: String,
}

impl InUse {
    /// The directories to be looked at for new and changed files, and whether with everything below them.
    pub(crate) fn watched(&self) -> Vec<(String, bool)> {
        let Some(outputs) = &self.outputs else { return Vec::new() };
        let also = outputs.also.iter().map(|path| (path.trim_end_matches('/').to_owned(), false));
        std::iter::once((self.directory.clone(), true)).chain(also).collect()
    }

    /// What was brought in.
    pub(crate) fn synced_in(&self) -> &[SyncedIn] {
        &self.synced_in
    }
}

/// Fails where a file that nothing goes without is not there.
pub(crate) async fn find(workspaces: &Workspaces, wanted: &WorkspaceUse) -> Result<()> {
    match wanted.missing {
        Missing::Refuse => all_there(workspaces, &wanted.tree, &wanted.files).await,
        Missing::Skip => Ok(()),
    }
}

/// Fails where one of the files is not there.
pub(super) async fn all_there(workspaces: &Workspaces, tree: &Tree, files: &[String]) -> Result<()> {
    let looking = files.iter().map(|name| async move {
        match workspaces.blobs.head(&tree.key(name)?).await {
            Ok(_) => Ok(()),
            Err(BlobError::NotFound) => Err(Error::not_found("file", shown(name))),
            Err(error) => Err(blob_error(error)),
        }
    });
    // A list first, as borrows of names are not for the streams of tasks.
    let looking: Vec<_> = looking.collect();
    let looked = stream::iter(looking).buffer_unordered(LOOKS_AT_ONCE).try_collect();
    tokio::time::timeout(WITHIN, looked).await.map_err(|_| out_of_time(WITHIN))?
}

/// Brings in what is asked for. With [`Missing::Refuse`] all of it is there afterwards.
pub(crate) async fn bring_in(workspaces: &Arc<Workspaces>, living: &Living, agent: &AgentClient, wanted: WorkspaceUse) -> Result<InUse> {
    let WorkspaceUse { tree, mut files, missing, directory, outputs, at_once } = wanted;
    let in_at_once = at_once.unwrap_or(IN_AT_ONCE).max(1);
    let at_once = at_once.unwrap_or(AT_ONCE).max(1);
    let directory = directory::absolute(&living.work_dir, directory.as_deref())?;
    outputs.as_ref().map_or(Ok(()), |_| directory::has_outputs(&directory))?;
    files.sort_unstable();
    files.dedup();
    let bringing = files.into_iter().map(|name| {
        let (tree, directory) = (&tree, &directory);
        async move {
            match one(workspaces, living, agent, tree, directory, &name).await {
                Ok(given) => Ok(Some((name, given))),
                Err(error) if missing == Missing::Skip && !matches!(error, Error::Gone { .. }) => {
                    tracing::warn!(sandbox.id = %living.id, error = %error, "File `{}` is not brought in", shown(&name));
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        }
    });
    let bringing = stream::iter(bringing).buffer_unordered(in_at_once).try_filter_map(async |one| Ok(one)).try_collect();
    let brought: Vec<(String, (u64, Given))> = tokio::time::timeout(WITHIN, bringing).await.map_err(|_| out_of_time(WITHIN))??;
    let mut synced_in: Vec<SyncedIn> =
        brought.iter().map(|(name, (size, given))| SyncedIn { path: name.clone(), size: *size, etag: given.etag.clone() }).collect();
    synced_in.sort_by(|a, b| a.path.cmp(&b.path));
    let given = brought.into_iter().map(|(name, (_, given))| (name, given)).collect();
    Ok(InUse { workspaces: Arc::clone(workspaces), tree, directory, outputs, at_once, synced_in, given })
}

pub(super) async fn one(
    workspaces: &Workspaces,
    living: &Living,
    agent: &AgentClient,
    tree: &Tree,
    directory: &str,
    name: &str,
) -> Result<(u64, Given)> {
    let key = tree.key(name)?;
    let path = format!("{directory}/{name}").into_bytes();
    validate::path("workspace.files", &path)?;
    let (Blob { size, etag, about, .. }, content) = match workspaces.blobs.get(&key, 0, None).await {
        Ok(found) => found,
        Err(BlobError::NotFound) => return Err(Error::not_found("file", shown(name))),
        Err(error) => return Err(blob_error(error)),
    };
    let mode = about.mode.unwrap_or(MODE) & 0o777;
    let (content, seen) = watched(content);
    let attributes = FileAttributes { mode: Some(mode), modified_at: None };
    if let Err(error) = agent.put_stream(&path, attributes, content).await {
        return Err(match seen.broken() {
            // It is the storage that broke off, and no client.
            Some(why) => blob_error(BlobError::Unavailable(why.into())),
            None => living.failed_at(&path, error).await,
        });
    }
    let (came, digest) = seen.end();
    if came != size {
        return Err(blob_error(BlobError::Unavailable(format!("{came} bytes of {size} came").into())));
    }
    Ok((size, Given { digest, mode, etag }))
}

/// What has come of a content so far.
#[derive(Debug, Default)]
struct Came {
    bytes: u64,
    hash: Sha256,
    broken: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Came>>);

impl Seen {
    fn with<T>(&self, see: impl FnOnce(&mut Came) -> T) -> T {
        see(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn broken(&self) -> Option<String> {
        self.with(|came| came.broken.take())
    }

    fn end(&self) -> (u64, Digest) {
        self.with(|came| (came.bytes, Digest::from_bytes(came.hash.clone().finalize().into())))
    }
}

/// The same content, and what came of it.
fn watched(content: ByteStream) -> (ByteStream, Seen) {
    let seen = Seen::default();
    let note = seen.clone();
    let content = content.inspect(move |piece: &std::io::Result<Bytes>| {
        note.with(|came| match piece {
            Ok(piece) => {
                came.bytes += piece.len() as u64;
                came.hash.update(piece);
            }
            Err(error) => came.broken = Some(error.to_string()),
        });
    });
    (Box::pin(content), seen)
}
