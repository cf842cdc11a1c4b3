//! What happens to files.

use caisson_core::FileEvent;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field::text_and_bytes;

/// The data of one event of a watch; the event's name says what has happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = FileEvent)]
pub struct FileEventBody {
    /// Absolute path inside the sandbox. What is not UTF-8 in it is replaced, and `path_base64` has the bytes.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Where it was moved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_base64: Option<String>,
    /// Whether it is a directory.
    pub directory: bool,
}

impl From<&FileEvent> for FileEventBody {
    fn from(event: &FileEvent) -> Self {
        let (path, path_base64) = text_and_bytes(&event.path);
        let (to, to_base64) = event.to.as_deref().map(text_and_bytes).unzip();
        Self { path, path_base64, to, to_base64: to_base64.flatten(), directory: event.directory }
    }
}
