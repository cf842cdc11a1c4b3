//! Checkpoints of directories.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use caisson_engine::{Checkpoint, CheckpointRequest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Of what a checkpoint is to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CheckpointRequest)]
pub struct CheckpointRequestBody {
    /// The directory, absolute or relative to the work dir, which it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether what its `.gitignore` files say is left out, as in a repository: not what the checkpoint before has.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub gitignore: bool,
    /// Whether the patch since the checkpoint before is wanted.
    #[serde(default)]
    #[schema(default = false)]
    pub patch: bool,
}

fn yes() -> bool {
    true
}

impl From<CheckpointRequestBody> for CheckpointRequest {
    fn from(body: CheckpointRequestBody) -> Self {
        let CheckpointRequestBody { path, gitignore, patch } = body;
        Self { path, gitignore, patch, utf8: false }
    }
}

/// A checkpoint that was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Checkpoint)]
pub struct CheckpointBody {
    /// Files and links in it.
    pub files: u64,
    /// Paths that are not as they were at the checkpoint before; without one, all of them.
    pub changed: u64,
    /// Files and directories that the sandbox's user may not read. They count as they were at the checkpoint before, and not at all without one.
    pub unreadable: u64,
    /// The patch in base64; `null` when it was not asked for, there was no checkpoint before, or nothing has changed.
    pub patch: Option<String>,
}

impl From<Checkpoint> for CheckpointBody {
    fn from(made: Checkpoint) -> Self {
        let Checkpoint { files, changed, unreadable, patch } = made;
        Self { files, changed, unreadable, patch: patch.map(|patch| BASE64.encode(patch)) }
    }
}
