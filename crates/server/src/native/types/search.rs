//! What a search has found.

use caisson_engine::{GrepLimit, GrepLine, GrepMatch, Grepped};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field::text_and_bytes;

/// One line of a file.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = GrepLine)]
pub struct GrepLineBody {
    /// The line's number, from 1.
    pub line: u64,
    /// Without its line break; of a long line, a part around the first match. What is not UTF-8 in it is replaced, and `text_base64` has
    /// the bytes.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_base64: Option<String>,
    /// Where in the line the text begins, in bytes; only where that is not its begin.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub begin: u64,
    /// Whether there is more of the line than the text.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl From<&GrepLine> for GrepLineBody {
    fn from(line: &GrepLine) -> Self {
        let (text, text_base64) = text_and_bytes(&line.text);
        Self { line: line.number, text, text_base64, begin: line.begin, cut: line.cut }
    }
}

/// A line in which something was found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = GrepMatch)]
pub struct GrepMatchBody {
    /// Absolute path inside the sandbox. What is not UTF-8 in it is replaced, and `path_base64` has the bytes.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    #[serde(flatten)]
    pub line: GrepLineBody,
    /// Where in the text, as bytes: the first and the one behind the last.
    pub spans: Vec<(u32, u32)>,
    /// The lines before and behind it, as many as were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<GrepLineBody>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<GrepLineBody>,
}

impl From<&GrepMatch> for GrepMatchBody {
    fn from(found: &GrepMatch) -> Self {
        let (path, path_base64) = text_and_bytes(&found.path);
        Self {
            path,
            path_base64,
            line: GrepLineBody::from(&found.line),
            spans: found.spans.clone(),
            before: found.before.iter().map(GrepLineBody::from).collect(),
            after: found.after.iter().map(GrepLineBody::from).collect(),
        }
    }
}

/// What was found, and what was searched for it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = GrepResult)]
pub struct GrepBody {
    /// In the order of the paths.
    pub data: Vec<GrepMatchBody>,
    /// Files that were searched.
    pub files: u64,
    pub bytes: u64,
    /// Files that were passed over because they are not text.
    pub binary_files: u64,
    /// Files and directories that the sandbox's user may not read.
    pub unreadable: u64,
    /// Lines of more than a MiB, of which only the first MiB was searched.
    pub long_lines: u64,
    /// Whether there may be more.
    pub truncated: bool,
    /// Which limit ended the search: `max_matches`, `max_bytes`, `max_seconds`, or `answer_size` (4 MiB of text).
    pub stopped_by: Option<String>,
}

impl From<&Grepped> for GrepBody {
    fn from(found: &Grepped) -> Self {
        Self {
            data: found.matches.iter().map(GrepMatchBody::from).collect(),
            files: found.files,
            bytes: found.bytes,
            binary_files: found.binary,
            unreadable: found.unreadable,
            long_lines: found.long_lines,
            truncated: found.stopped_by.is_some(),
            stopped_by: found.stopped_by.map(GrepLimit::as_str).map(str::to_owned),
        }
    }
}
