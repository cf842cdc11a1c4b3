//! What happens to files, as it happens.

use serde::{Deserialize, Serialize};

/// The longest line of the answer to `GET /watch`: two paths, each byte of which may take three.
pub const MAX_WATCH_LINE: usize = 32 << 10;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// From now on everything is told; always the first event.
    Ready,
    Created,
    /// Content, permission bits or times.
    Modified,
    Deleted,
    /// From `path` to `to`, both within what is watched.
    Moved,
    /// Something was missed: look at everything again.
    Overflow,
    /// What was watched is no more; always the last event.
    Gone,
}

/// One line of the answer to `GET /watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent {
    pub what: Watch,
    /// Absolute, percent-encoded.
    pub path: String,
    pub to: Option<String>,
    pub directory: bool,
}
