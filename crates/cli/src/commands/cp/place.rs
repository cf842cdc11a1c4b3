//! Where a copy begins or ends.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use anyhow::{Result, bail};

/// One of the two ends of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A path on this machine.
    Here(PathBuf),
    /// A path in a sandbox, by id or name.
    Sandbox { name: String, path: Vec<u8> },
    /// Standard input or output.
    Standard,
}

impl Place {
    /// A colon makes a sandbox's path, unless a slash comes first: `./a:b` is a file here.
    pub(super) fn parse(text: OsString) -> Result<Self> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Standard);
        }
        if bytes.is_empty() {
            bail!("a path is empty; give SRC and DST, one of them as ID:PATH");
        }
        let name_end = bytes.iter().position(|byte| matches!(byte, b':' | b'/')).filter(|at| *at > 0 && bytes[*at] == b':');
        let Some(colon) = name_end else { return Ok(Self::Here(text.into())) };
        let (name, path) = (&bytes[..colon], &bytes[colon + 1..]);
        let Ok(name) = std::str::from_utf8(name) else {
            bail!("`{}` names no sandbox; write ./ in front of a path here", text.to_string_lossy())
        };
        if path.is_empty() {
            bail!("there is no path behind `{name}:`; write {name}:. for its work directory");
        }
        Ok(Self::Sandbox { name: name.to_owned(), path: path.to_vec() })
    }
}

/// A directory's path with a name behind it.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The last part of a path; `None` where that names nothing in particular.
pub(super) fn last_part(path: &[u8]) -> Option<&[u8]> {
    let trimmed = &path[..path.iter().rposition(|byte| *byte != b'/')? + 1];
    let name = trimmed.rsplit(|byte| *byte == b'/').next()?;
    is_a_name(name).then_some(name)
}

/// Whether this can only be an entry of the directory it is looked up in.
pub(super) fn is_a_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

/// Bytes as a path here.
pub(super) fn here(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn sandbox(text: &str, name: &str, path: &str) {
        let place = Place::Sandbox { name: name.to_owned(), path: path.as_bytes().to_vec() };
        assert_eq!(Place::parse(text.into()).unwrap(), place, "{text}");
    }

    #[test]
    fn a_colon_makes_a_sandboxs_path() {
        sandbox("box:/a/b", "box", "/a/b");
        sandbox("box:a:b", "box", "a:b");
        sandbox("box:.", "box", ".");
        for text in ["a", "./a:b", "/a:b", "a/b:c", ":x", "..", "-x"] {
            assert_eq!(Place::parse(text.into()).unwrap(), Place::Here(text.into()), "{text}");
        }
        assert_eq!(Place::parse("-".into()).unwrap(), Place::Standard);
        for text in ["", "box:"] {
            assert!(Place::parse(text.into()).is_err(), "{text}");
        }
    }

    #[test]
    fn last_parts_name_something() {
        for (path, name) in
            [("/a/b", Some("b")), ("a", Some("a")), ("a/b///", Some("b")), ("/", None), ("", None), ("a/..", None), (".", None)]
        {
            assert_eq!(last_part(path.as_bytes()), name.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        for (name, fine) in [
            ("a", true),
            ("a b", true),
            ("...", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("/etc", false),
            ("a\0", false),
        ] {
            assert_eq!(is_a_name(name.as_bytes()), fine, "{name:?}");
        }
        assert_eq!(join(b"/a", b"b"), b"/a/b");
        assert_eq!(join(b"/", b"b"), b"/b");
    }
}
