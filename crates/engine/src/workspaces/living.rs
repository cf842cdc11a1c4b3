//! Files that are brought into a living sandbox and out of it on request, whatever runs in it.

use std::{collections::BTreeSet, io};

use caisson_core::{Error, FileKind, FileStat, Result, SandboxId};
use futures::{StreamExt, stream};

use super::{
    Workspaces, directory, few,
    incoming::{self, AT_ONCE, IN_AT_ONCE, all_there},
    out_of_time,
    outgoing::{self, beyond, budget, failed_to},
    quota::Allowance,
    request::{NotSynced, SyncedOut, Tree},
    upload::{Source, Whole, write_if_other},
};
use crate::{Engine, agent_client::AgentClient, figures, sandbox::Living, validate};

/// Which files are to be brought in or out.
#[derive(Debug, Clone)]
pub struct SyncRequest {
    pub tree: Tree,
    /// Their names in the workspace; several times the same counts once.
    pub files: Vec<String>,
    /// Below it they are inside: absolute, or relative to the work dir; the work dir itself when absent.
    pub directory: Option<String>,
}

/// What has been brought in. Lists are in the order of the names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    pub written: Vec<PulledFile>,
    pub failed: Vec<NotSynced>,
}

/// A file that was brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledFile {
    pub path: String,
    pub size: u64,
    pub etag: String,
    /// Whether there was something in its place.
    pub overwrote: bool,
}

/// What has been brought out. Lists are in the order of the names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pushed {
    pub written: Vec<SyncedOut>,
    /// What the workspace had already.
    pub unchanged: Vec<String>,
    pub failed: Vec<NotSynced>,
}

impl SyncRequest {
    /// Each name once, all of which can be.
    fn names(&self) -> Result<Vec<String>> {
        if self.files.is_empty() {
            return Err(Error::invalid("invalid_request", "field `files` is empty; name the files that are wanted"));
        }
        few("files", &self.files)?;
        self.files.iter().try_for_each(|name| self.tree.key(name).map(drop))?;
        if let Some(given) = &self.directory {
            directory::check("directory", given)?;
        }
        Ok(self.files.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

impl Engine {
    /// Brings files of a workspace into a living sandbox, over what is in their places. Where one is not in the workspace, nothing is written.
    pub async fn pull_workspace(&self, id: SandboxId, request: &SyncRequest) -> Result<Pulled> {
        let names = request.names()?;
        let (here, living) = (Self::workspaces_of(&self.core)?, self.living(id).await?);
        let _begun = living.begin_inside().await?;
        let agent = living.ready_agent().await?;
        let directory = directory::absolute(&living.work_dir, request.directory.as_deref())?;
        paths(&directory, &names)?;
        all_there(&here, &request.tree, &names).await?;
        let deadline = tokio::time::Instant::now() + incoming::WITHIN;
        let pulling = names.into_iter().map(|name| {
            let (here, living, agent, tree, directory) = (&here, &living, &agent, &request.tree, &directory);
            async move {
                let pulled = tokio::time::timeout_at(deadline, pull(here, living, agent, tree, directory, &name)).await;
                (name, pulled.unwrap_or_else(|_| Err(out_of_time(incoming::WITHIN))))
            }
        });
        let mut pulling = stream::iter(pulling).buffered(IN_AT_ONCE);
        let mut pulled = Pulled::default();
        while let Some((name, result)) = pulling.next().await {
            match result {
                Ok(file) => pulled.written.push(file),
                Err(error @ Error::Gone { .. }) => return Err(error),
                Err(error) => pulled.failed.push(failed_to(name, None, &error.to_string())),
            }
        }
        Ok(pulled)
    }

    /// Brings files of a living sandbox out into a workspace, where they are others than those that are there. Where one is not in the
    /// sandbox, nothing is written. What could not be written is still in the sandbox alone.
    pub async fn push_workspace(&self, id: SandboxId, request: &SyncRequest) -> Result<Pushed> {
        let names = request.names()?;
        let (here, living) = (Self::workspaces_of(&self.core)?, self.living(id).await?);
        let _begun = living.begin_inside().await?;
        let agent = living.ready_agent().await?;
        let directory = directory::absolute(&living.work_dir, request.directory.as_deref())?;
        paths(&directory, &names)?;
        let mut pushed = Pushed::default();
        let mut found = Vec::with_capacity(names.len());
        let looking = names.into_iter().map(|name| {
            let (living, agent, directory) = (&living, &agent, &directory);
            async move {
                let path = path(directory, &name);
                match agent.stat(&path).await {
                    Ok(stat) => Ok((name, stat)),
                    Err(error) => Err(living.failed_at(&path, error).await),
                }
            }
        });
        let mut looking = stream::iter(looking).buffered(AT_ONCE);
        let budget = budget(&living);
        let mut left = budget;
        while let Some(looked) = looking.next().await {
            let (name, stat) = looked?;
            if stat.kind != FileKind::File {
                pushed.failed.push(failed_to(name, None, "it is no file; links, directories and devices are not brought out"));
            } else if stat.size > left {
                // A file of holes is larger than everything that its sandbox can hold.
                pushed.failed.push(failed_to(name, Some(stat.size), &beyond(budget)));
            } else {
                left -= stat.size;
                found.push((name, stat));
            }
        }
        drop(looking);
        let allowance = self.core.allowance(&self.tenant);
        let deadline = tokio::time::Instant::now() + outgoing::WITHIN;
        let pushing = found.into_iter().map(|(name, stat)| {
            let (here, allowance, living, agent, tree) = (&here, &allowance, &living, &agent, &request.tree);
            async move {
                let size = stat.size;
                let pushed = tokio::time::timeout_at(deadline, push(here, allowance, living, agent, tree, &name, stat)).await;
                (name, size, pushed.unwrap_or_else(|_| Err("there was no time left for it".to_owned())))
            }
        });
        let mut pushing = stream::iter(pushing).buffered(AT_ONCE);
        while let Some((name, size, result)) = pushing.next().await {
            match result {
                Ok(Some(file)) => pushed.written.push(file),
                Ok(None) => pushed.unchanged.push(name),
                Err(why) => pushed.failed.push(failed_to(name, Some(size), &why)),
            }
        }
        pushed.failed.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(pushed)
    }
}

fn path(directory: &str, name: &str) -> Vec<u8> {
    format!("{directory}/{name}").into_bytes()
}

fn paths(directory: &str, names: &[String]) -> Result<()> {
    names.iter().try_for_each(|name| validate::path("files", &path(directory, name)))
}

async fn pull(
    workspaces: &Workspaces,
    living: &Living,
    agent: &AgentClient,
    tree: &Tree,
    directory: &str,
    name: &str,
) -> Result<PulledFile> {
    // What goes wrong here goes wrong with the file itself, and is told then.
    let overwrote = agent.stat(&path(directory, name)).await.is_ok();
    let (size, given) = incoming::one(workspaces, living, agent, tree, directory, name).await?;
    Ok(PulledFile { path: name.to_owned(), size, etag: given.etag, overwrote })
}

/// Writes one file, unless the workspace has it.
async fn push(
    workspaces: &Workspaces,
    allowance: &Allowance,
    living: &Living,
    agent: &AgentClient,
    tree: &Tree,
    name: &str,
    stat: FileStat,
) -> Result<Option<SyncedOut>, String> {
    let on_disk = |error: io::Error| figures::tamed(&error.to_string(), 500);
    workspaces.spool.has_room(stat.size).map_err(on_disk)?;
    let (now, content) = match agent.get(&stat.path, 0, None).await {
        Ok(found) => found,
        Err(error) => return Err(living.failed_at(&stat.path, error).await.to_string()),
    };
    if now.kind != FileKind::File || now.size > stat.size {
        return Err("it changed while it was brought out".to_owned());
    }
    let upload = workspaces.spool.upload(now.size, content).await.map_err(on_disk)?;
    if upload.size != now.size {
        return Err("it became shorter while it was brought out".to_owned());
    }
    let file = Whole { name, size: upload.size, mode: now.mode & 0o777, digest: upload.digest };
    let written = write_if_other(workspaces, allowance, tree, &file, &Source::Uploaded(&upload)).await;
    written.map_err(|error| error.into_error().to_string())
}
