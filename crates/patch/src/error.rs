//! What can go wrong with a patch.

use std::{fmt, io};

/// How much of a path is shown.
const MAX_SHOWN: usize = 256;

/// See the variants. Paths are below the root.
#[derive(Debug)]
pub enum Error {
    /// Something in the tree could not be read.
    Read { path: Vec<u8>, cause: io::Error },
    /// What was read is not what the tree says.
    Changed { path: Vec<u8>, side: Side },
    /// A file is larger than is taken.
    FileTooLarge { path: Vec<u8>, size: u64, limit: u64 },
    /// A `.gitignore` is larger than is taken.
    IgnoreTooLarge { path: Vec<u8>, limit: u64 },
    /// The tree has more entries than are taken.
    TooManyEntries { limit: usize },
    /// The paths of the tree are longer than is taken, all of them together.
    PathsTooLong { limit: usize },
    /// Reading the tree takes longer than it may.
    TooSlow,
    /// A content could not be kept.
    Keep(io::Error),
    /// The patch would be longer than is taken.
    PatchTooLarge { limit: u64 },
    /// These are not the bytes of an index.
    Index(&'static str),
    /// A tree cannot have this path beside the others.
    Path { path: Vec<u8>, why: &'static str },
    /// The patch could not be written to where it goes.
    Write(io::Error),
}

/// Of which of two states something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Old,
    New,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read {}", shown(path)),
            Self::Changed { path, side: Side::New } => {
                write!(f, "{} changed while it was read; stop what writes it, or read the tree again", shown(path))
            }
            Self::Changed { path, side: Side::Old } => {
                write!(f, "the old content of {} is not the one that the old tree names; begin with a new one", shown(path))
            }
            Self::FileTooLarge { path, size, limit } => {
                write!(f, "{} has {size} bytes, more than the limit of {limit}; remove it or leave it out", shown(path))
            }
            Self::IgnoreTooLarge { path, limit } => write!(f, "{} is longer than the limit of {limit} bytes; shorten it", shown(path)),
            Self::TooManyEntries { limit } => write!(f, "the tree has more than {limit} entries; leave directories out"),
            Self::PathsTooLong { limit } => {
                write!(f, "the paths of the tree have more than {limit} bytes together; leave directories out")
            }
            Self::TooSlow => write!(f, "the tree could not be read in time; leave directories out"),
            Self::Keep(_) => write!(f, "cannot keep the contents of the tree"),
            Self::PatchTooLarge { limit } => write!(f, "the patch is longer than the limit of {limit} bytes; leave large files out"),
            Self::Index(why) => write!(f, "this is no index: {why}; scan without one"),
            Self::Path { path, why } => write!(f, "a tree cannot have {}: {why}", shown(path)),
            Self::Write(_) => write!(f, "cannot write the patch"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { cause, .. } | Self::Keep(cause) | Self::Write(cause) => Some(cause),
            _ => None,
        }
    }
}

impl Error {
    pub(crate) fn read(path: &[u8], cause: impl Into<io::Error>) -> Self {
        Self::Read { path: path.to_vec(), cause: cause.into() }
    }

    pub(crate) fn changed(path: &[u8], side: Side) -> Self {
        Self::Changed { path: path.to_vec(), side }
    }
}

fn shown(path: &[u8]) -> String {
    let end = path.len().min(MAX_SHOWN);
    format!("\"{}{}\"", path[..end].escape_ascii(), if end < path.len() { "…" } else { "" })
}
