//! Files inside a sandbox, as its agent reports them.

use jiff::Timestamp;

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    /// Fifo, socket or device.
    Other,
}

impl FileKind {
    /// The name in APIs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Other => "other",
        }
    }
}

/// What is known of one directory entry; links are not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Absolute path inside the sandbox, any bytes but NUL.
    pub path: Vec<u8>,
    pub kind: FileKind,
    pub size: u64,
    /// Permission bits, as in `chmod`.
    pub mode: u32,
    pub modified_at: Timestamp,
    /// Where a symbolic link points.
    pub target: Option<Vec<u8>>,
}

/// A directory's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<FileStat>,
    /// Whether there is more than the cap allowed to list.
    pub truncated: bool,
}
