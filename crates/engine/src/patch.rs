//! Checkpoints of directories in living sandboxes, and what has changed since, as a patch that `git apply` takes.

use std::time::Duration;

use bytes::Bytes;
use caisson_core::{Result, SandboxId};

use crate::{
    Engine,
    agent_client::{Ask, Found},
    layers,
};

/// The longest patch.
pub(crate) const MAX_PATCH: u64 = 64 << 20;
/// How long a checkpoint or a patch may take.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(120);

/// What a checkpoint is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointRequest {
    /// The directory, absolute or relative to the work dir, which it is when absent.
    pub path: Option<String>,
    /// Whether what its `.gitignore` files say is left out, as in a repository: not what the checkpoint before has.
    pub gitignore: bool,
    /// Whether texts that are not UTF-8 are binary in the patch, so that the patch is a text.
    pub utf8: bool,
    /// Whether the patch since the checkpoint before is wanted.
    pub patch: bool,
}

/// What a patch is made of; likewise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchRequest {
    pub path: Option<String>,
    pub gitignore: bool,
    pub utf8: bool,
}

/// A checkpoint that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Files and links in it.
    pub files: u64,
    /// Paths that are not as they were at the checkpoint before; without one, all of them.
    pub changed: u64,
    /// Files and directories that the sandbox's user may not read. They count as they were at the checkpoint before, and not at all without one.
    pub unreadable: u64,
    /// Absent when it was not asked for, there was no checkpoint before, or it has nothing in it.
    pub patch: Option<Bytes>,
}

impl Engine {
    /// Keeps the state of a directory. With `patch`, also says what has changed since it was kept before: what is written meanwhile is either
    /// in this patch or in the next one. After an error the checkpoint is the one that it was.
    pub async fn checkpoint(&self, id: SandboxId, request: &CheckpointRequest) -> Result<Checkpoint> {
        let CheckpointRequest { path, gitignore, utf8, patch } = request;
        let ask = Ask { gitignore: *gitignore, utf8: *utf8, patch: *patch, keep: true };
        let Found { files, changed, unreadable, patch } = self.look_at_tree(id, path.as_deref(), ask).await?;
        Ok(Checkpoint { files, changed, unreadable, patch: patch.filter(|patch| !patch.is_empty()) })
    }

    /// What has changed since the checkpoint, which stays as it is. Empty when nothing has.
    pub async fn patch(&self, id: SandboxId, request: &PatchRequest) -> Result<Bytes> {
        let ask = Ask { gitignore: request.gitignore, utf8: request.utf8, patch: true, keep: false };
        Ok(self.look_at_tree(id, request.path.as_deref(), ask).await?.patch.unwrap_or_default())
    }

    async fn look_at_tree(&self, id: SandboxId, path: Option<&str>, ask: Ask) -> Result<Found> {
        let (living, agent, path, _begun) = self.file(id, path.unwrap_or(".").as_bytes()).await?;
        if ask.keep {
            layers::prepare(&self.core, &living, &agent, &path).await?;
        }
        match agent.checkpoint(&path, ask).await {
            Ok(found) => Ok(found),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }
}
