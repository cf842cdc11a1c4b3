//! What the query of a request about files says. Looks at no file.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use caisson_wire::{Refusal, RefusalCode, path};

/// The longest path that the kernel takes.
const MAX_PATH: usize = 4095;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(crate) fn of(uri: &'a http::Uri) -> Self {
        Self(uri.query().unwrap_or(""))
    }

    pub(crate) fn get(self, name: &str) -> Option<&'a str> {
        self.0.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
    }

    pub(crate) fn number<T: FromStr>(self, name: &str) -> Result<Option<T>, Refusal> {
        self.get(name).map(|text| text.parse().map_err(|_| invalid(format!("`{name}` is not a number")))).transpose()
    }

    pub(crate) fn flag(self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// Bytes that need not be there.
    pub(crate) fn bytes(self, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
        self.get(name).map(|text| path::decode(text).ok_or_else(|| invalid(format!("`{name}` is not encoded")))).transpose()
    }

    /// The absolute path asked for; relative ones start at the work dir.
    pub(crate) fn path(self, work_dir: &str) -> Result<PathBuf, Refusal> {
        self.path_in("path", work_dir)
    }

    /// The same for one of another name.
    pub(crate) fn path_in(self, name: &str, work_dir: &str) -> Result<PathBuf, Refusal> {
        absolute(self.get(name).unwrap_or_default(), work_dir)
    }
}

/// The absolute path that percent-encoded text means.
pub(crate) fn absolute(text: &str, work_dir: &str) -> Result<PathBuf, Refusal> {
    let bytes = path::decode(text).ok_or_else(|| invalid("a path is not encoded"))?;
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() > MAX_PATH {
        return Err(invalid(format!("a path has 1 to {MAX_PATH} bytes and no NUL")));
    }
    Ok(Path::new(work_dir).join(OsStr::from_bytes(&bytes)))
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal { code: RefusalCode::Invalid, message: message.into() }
}
