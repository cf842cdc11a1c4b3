//! Searching in contents.

use serde::{Deserialize, Serialize};

/// The body of `POST /grep`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grep {
    /// A file, or a directory with everything in it. Percent-encoded.
    pub path: String,
    /// A regular expression over bytes.
    pub pattern: String,
    /// Whether the pattern is text to be found as it is.
    pub literal: bool,
    /// For ASCII letters.
    pub ignore_case: bool,
    /// Globs, percent-encoded: only files that one of these is about, if there are any, and none that one of those is about.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// Lines told before and behind each match.
    pub context: u32,
    pub max_matches: u32,
    pub max_bytes: u64,
    pub max_ms: u64,
}

/// Why a search ended before everything was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrepLimit {
    /// [`Grep::max_matches`].
    Matches,
    /// [`Grep::max_bytes`].
    Bytes,
    /// [`Grep::max_ms`].
    Time,
    /// The answer is as long as answers may be.
    Answer,
}

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrepLine {
    /// From 1.
    pub number: u64,
    /// Without its line break, percent-encoded.
    pub text: String,
    /// Where in the line the text begins.
    pub begin: u64,
    /// Whether there is more of the line than is told, in front or behind.
    pub cut: bool,
}

/// A line with a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrepMatch {
    /// Absolute, percent-encoded.
    pub path: String,
    pub line: GrepLine,
    /// Where in the text, first and behind the last byte; only those that are in what is told of the line.
    pub spans: Vec<(u32, u32)>,
    pub before: Vec<GrepLine>,
    pub after: Vec<GrepLine>,
}

/// Answer to `POST /grep`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grepped {
    pub matches: Vec<GrepMatch>,
    /// Files that were searched.
    pub files: u64,
    pub bytes: u64,
    /// Files that were passed over because they are not text.
    pub binary: u64,
    /// Files and directories that could not be read.
    pub unreadable: u64,
    /// Lines so long that only their begin was searched.
    pub long_lines: u64,
    pub stopped_by: Option<GrepLimit>,
}
