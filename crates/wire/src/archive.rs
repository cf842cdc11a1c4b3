//! Whole trees.

use serde::{Deserialize, Serialize};

use crate::FileStat;

/// Something that was not taken along, or not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Below the directory it was about, percent-encoded.
    pub path: String,
    pub why: String,
}

/// Answer to `PUT /archive`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    pub files: u64,
    pub directories: u64,
    pub links: u64,
    /// Of the files' contents.
    pub bytes: u64,
    /// The first of what was left out.
    pub left_out: Vec<LeftOut>,
    /// All of it.
    pub left_out_total: u64,
}

/// Answer to `POST /copy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// The copy.
    pub stat: FileStat,
    /// What it is made of.
    pub made: Unpacked,
}
