//! What can go wrong with a tree.

use std::{fmt, io};

/// How much of a path is shown.
const MAX_SHOWN: usize = 256;

/// See the variants.
#[derive(Debug)]
pub enum Error {
    /// The stream is not an archive, or has something in it that is not taken. `path` is the member's name, as far as it has one.
    Archive { path: Vec<u8>, why: String },
    /// Something at this path below the root could not be read, made or changed.
    Entry { path: Vec<u8>, cause: io::Error },
    /// The copy could not be given its place.
    Target(io::Error),
    /// The stream itself broke off.
    Stream(io::Error),
}

impl Error {
    pub(crate) fn archive(path: &[u8], why: impl Into<String>) -> Self {
        Self::Archive { path: path.to_vec(), why: why.into() }
    }

    pub(crate) fn entry(path: &[u8], cause: impl Into<io::Error>) -> Self {
        Self::Entry { path: path.to_vec(), cause: cause.into() }
    }
}

/// Says where something failed.
pub(crate) trait At<T> {
    fn at(self, path: &[u8]) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &[u8]) -> Result<T, Error> {
        self.map_err(|cause| Error::entry(path, cause))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &[u8]| {
            let begin = &path[..path.len().min(MAX_SHOWN)];
            let more = if begin.len() < path.len() { "..." } else { "" };
            format!("{}{more}", String::from_utf8_lossy(begin).escape_debug())
        };
        match self {
            Self::Archive { path, why } if path.is_empty() => write!(f, "the archive {why}"),
            Self::Archive { path, why } => write!(f, "`{}` in the archive {why}", shown(path)),
            Self::Entry { path, .. } => write!(f, "`{}`", shown(path)),
            Self::Target(_) => f.write_str("the place of the copy"),
            Self::Stream(_) => f.write_str("the archive breaks off"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Archive { .. } => None,
            Self::Entry { cause, .. } | Self::Target(cause) | Self::Stream(cause) => Some(cause),
        }
    }
}
