//! What the server answers, as far as it is looked at.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Created {
    pub(super) sandbox_id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Executed {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) artifacts: Vec<Artifact>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Artifact {
    pub(super) path: String,
    pub(super) mime: String,
    pub(super) data_base64: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Sandboxes {
    pub(super) sandboxes: Vec<Sandbox>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) driver_type: String,
    pub(super) created_at: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    pub(super) files: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) last_modified: String,
}

/// A frame of the server.
#[derive(Debug, Deserialize)]
pub(super) struct Frame {
    pub(super) method: Option<String>,
    #[serde(default)]
    pub(super) params: Params,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Params {
    pub(super) chunk: String,
    pub(super) code: Option<i64>,
    pub(super) message: String,
}
