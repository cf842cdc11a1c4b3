//! Searching in the contents of files: what is asked, and what is found.

use std::time::Duration;

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrepRequest {
    /// A regular expression over bytes, or with `literal` a text to be found as it is.
    pub pattern: String,
    pub literal: bool,
    /// For ASCII letters.
    pub ignore_case: bool,
    /// Globs: only files that one of these is about, if there are any, and nothing that one of those is about.
    pub include: Vec<Vec<u8>>,
    pub exclude: Vec<Vec<u8>>,
    /// Lines told before and behind each match.
    pub context: u32,
    pub max_matches: u32,
    pub max_bytes: u64,
    pub max_time: Duration,
}

impl GrepRequest {
    /// What is allowed at most.
    pub const MAX_CONTEXT: u32 = 20;
    pub const MAX_MATCHES: u32 = 10_000;
    pub const MAX_BYTES: u64 = 64 << 30;
    pub const MAX_TIME: Duration = Duration::from_secs(50);
    pub const MAX_GLOBS: usize = 32;
    pub const MAX_PATTERN: usize = 4096;
}

/// Why a search ended before everything was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrepLimit {
    Matches,
    Bytes,
    Time,
    /// The answer is as long as answers may be.
    Answer,
}

impl GrepLimit {
    /// The name in APIs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Matches => "max_matches",
            Self::Bytes => "max_bytes",
            Self::Time => "max_seconds",
            Self::Answer => "answer_size",
        }
    }
}

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrepLine {
    /// From 1.
    pub number: u64,
    /// Without its line break.
    pub text: Vec<u8>,
    /// Where in the line the text begins.
    pub begin: u64,
    /// Whether there is more of the line than is told.
    pub cut: bool,
}

/// A line in which something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrepMatch {
    /// Absolute path inside the sandbox.
    pub path: Vec<u8>,
    pub line: GrepLine,
    /// Where in the text, first and behind the last byte.
    pub spans: Vec<(u32, u32)>,
    pub before: Vec<GrepLine>,
    pub after: Vec<GrepLine>,
}

/// What was found, and what was searched for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grepped {
    pub matches: Vec<GrepMatch>,
    pub files: u64,
    pub bytes: u64,
    /// Files that are not text.
    pub binary: u64,
    /// Files and directories that could not be read.
    pub unreadable: u64,
    /// Lines so long that only their begin was searched.
    pub long_lines: u64,
    pub stopped_by: Option<GrepLimit>,
}
