//! Whole trees: what a copy or an archive has made.

use caisson_core::{FileStat, LeftOut, Unpacked};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{FileBody, field::text_and_bytes};

/// Something that was not taken along, or not as it was.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = LeftOut)]
pub struct LeftOutBody {
    /// Below the directory that it was about. What is not UTF-8 in it is replaced, and `path_base64` has the bytes.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Why.
    pub reason: String,
}

impl From<&LeftOut> for LeftOutBody {
    fn from(left: &LeftOut) -> Self {
        let (path, path_base64) = text_and_bytes(&left.path);
        Self { path, path_base64, reason: left.why.clone() }
    }
}

/// What was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Unpacked)]
pub struct UnpackedBody {
    pub files: u64,
    pub directories: u64,
    /// Symbolic and hard ones.
    pub links: u64,
    /// Of the files' contents.
    pub bytes: u64,
    /// What was left out, the first hundred of it.
    pub left_out: Vec<LeftOutBody>,
    /// How much that is in all.
    pub left_out_total: u64,
}

impl From<&Unpacked> for UnpackedBody {
    fn from(made: &Unpacked) -> Self {
        Self {
            files: made.files,
            directories: made.directories,
            links: made.links,
            bytes: made.bytes,
            left_out: made.left_out.iter().map(LeftOutBody::from).collect(),
            left_out_total: made.left_out_total,
        }
    }
}

/// A copy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Copied)]
pub struct CopiedBody {
    /// What stands at the destination now.
    pub file: FileBody,
    #[serde(flatten)]
    pub made: UnpackedBody,
}

impl From<&(FileStat, Unpacked)> for CopiedBody {
    fn from((stat, made): &(FileStat, Unpacked)) -> Self {
        Self { file: FileBody::from(stat), made: UnpackedBody::from(made) }
    }
}
