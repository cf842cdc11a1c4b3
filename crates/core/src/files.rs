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
    /// The owner, as ids inside the sandbox.
    pub uid: u32,
    pub gid: u32,
    /// What its file system calls it.
    pub inode: u64,
    /// Where a symbolic link points.
    pub target: Option<Vec<u8>>,
}

/// What is in a directory, or as much of it as was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<FileStat>,
    /// Where to go on, below the directory, when there is more.
    pub next: Option<Vec<u8>>,
    /// Directories that could not be read.
    pub unreadable: u64,
}

/// Something that was not taken along, or not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Below the directory that it was about.
    pub path: Vec<u8>,
    pub why: String,
}

/// What a copy or an archive has made.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What happened to a file while somebody watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Watched {
    /// From now on everything is told; always the first.
    Ready,
    Created,
    /// Content, permission bits or times.
    Modified,
    Deleted,
    /// From one path to another, both within what is watched.
    Moved,
    /// Something was missed: look at everything there again.
    Overflow,
    /// What was watched is no more; always the last.
    Gone,
}

impl Watched {
    /// The name in APIs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Created => "created",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Moved => "moved",
            Self::Overflow => "overflow",
            Self::Gone => "gone",
        }
    }
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEvent {
    pub what: Watched,
    /// Absolute path inside the sandbox.
    pub path: Vec<u8>,
    /// Where it was moved to.
    pub to: Option<Vec<u8>>,
    pub directory: bool,
}
