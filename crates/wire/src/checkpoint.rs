//! States of a directory that are kept, and what has changed since.

use serde::{Deserialize, Serialize};

/// The body of `POST /layers`: one step in making a directory the lower layer of what is seen in its place. The steps are told to the agent one
/// after the other, in each case when what it says is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layering {
    /// A directory. Percent-encoded.
    pub path: String,
    pub step: LayeringStep,
    /// Whether the layers are to be found again at the same path when the sandbox is started again.
    pub again: bool,
}

/// See [`Layering`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayeringStep {
    /// Nothing has been done yet. From a ready answer to the last step on, nothing is touched.
    Begin,
    /// The empty upper directory is seen at the path.
    Upper,
    /// It is done, or will not be.
    End,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layered {
    /// Whether it goes on; at the end, whether there are layers now.
    pub ready: bool,
    /// The directory, without links on the way, and its device and inode. Percent-encoded.
    pub path: String,
    pub device: u64,
    pub inode: u64,
}

/// The body of `POST /checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// A directory. Percent-encoded.
    pub path: String,
    /// Whether what its `.gitignore` files say is left out, but for what the checkpoint has.
    pub gitignore: bool,
    /// Whether texts that are not UTF-8 are binary in the patch.
    pub utf8: bool,
    /// Whether the patch since the last checkpoint is wanted.
    pub patch: bool,
    /// Whether the state that was found is the new checkpoint.
    pub keep: bool,
    pub max_ms: u64,
    /// Bytes of the patch.
    pub max_patch: u64,
}

/// In the header [`CHECKPOINT_HEADER`](crate::CHECKPOINT_HEADER) of the answer, whose body is the patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpointed {
    /// Files and links in the state that was found.
    pub files: u64,
    /// Paths that are not as they were; without a checkpoint before, all of them.
    pub changed: u64,
    /// Files and directories that the sandbox's user may not read.
    pub unreadable: u64,
    /// Bytes of the patch; absent when none was asked for or there was nothing to compare with.
    pub patch: Option<u64>,
}
