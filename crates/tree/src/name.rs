//! Names and paths inside a tree, as bytes.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::{MAX_NAME, MAX_PATH};

/// Why a path is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Absolute,
    Upwards,
    TooLong,
    Nul,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absolute => "begins with `/`; pack with names relative to a directory",
            Self::Upwards => "has `..` in its name, which leads out of the directory",
            Self::TooLong => "has a name that is longer than Linux takes: 4095 bytes in all, 255 in each part",
            Self::Nul => "has a NUL in its name",
        })
    }
}

/// A path as it is used below a root: relative, its parts separated by one slash, without `.`; empty for the root itself.
pub fn normal(path: &[u8]) -> Result<Vec<u8>, Refused> {
    if path.starts_with(b"/") {
        return Err(Refused::Absolute);
    }
    if path.contains(&0) {
        return Err(Refused::Nul);
    }
    let mut whole = Vec::with_capacity(path.len().min(MAX_PATH));
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(Refused::Upwards),
            _ if part.len() > MAX_NAME => return Err(Refused::TooLong),
            _ => {}
        }
        if !whole.is_empty() {
            whole.push(b'/');
        }
        whole.extend_from_slice(part);
        if whole.len() > MAX_PATH {
            return Err(Refused::TooLong);
        }
    }
    Ok(whole)
}

/// Whether this can only be an entry of the directory it is looked up in.
#[must_use]
pub fn is_a_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

/// The directory that the last part of a path is in, and that part.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A name for something that is not finished, hard to guess.
#[must_use]
pub fn temporary() -> Vec<u8> {
    let mut bytes = [0u8; 12];
    // A collision is an error for whoever uses the name, so a generator that is not ready costs that at most.
    _ = getrandom(&mut bytes, GetRandomFlags::empty());
    b".caisson-".iter().copied().chain(bytes.iter().map(|byte| b'a' + byte % 26)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, whole) in [("a/b", "a/b"), ("./a//b/./", "a/b"), (".", ""), ("", ""), ("./", ""), ("...", "..."), ("a..", "a..")] {
            assert_eq!(normal(path.as_bytes()), Ok(whole.as_bytes().to_vec()), "{path}");
        }
        for (path, why) in [("/a", Refused::Absolute), ("a/../b", Refused::Upwards), ("..", Refused::Upwards), ("a\0b", Refused::Nul)] {
            assert_eq!(normal(path.as_bytes()), Err(why), "{path}");
        }
        assert_eq!(normal(&[b'x'; 256]), Err(Refused::TooLong));
        assert_eq!(normal(&b"xy/".repeat(2000)), Err(Refused::TooLong));
        assert!(normal(&[b'x'; 255]).is_ok() && normal(&b"x/".repeat(2048)).is_ok());
    }

    #[test]
    fn names_lead_nowhere_else() {
        for (name, fine) in
            [("a", true), ("a b", true), ("...", true), ("", false), (".", false), ("..", false), ("a/b", false), ("a\0", false)]
        {
            assert_eq!(is_a_name(name.as_bytes()), fine, "{name:?}");
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
        assert_ne!(temporary(), temporary());
    }
}
