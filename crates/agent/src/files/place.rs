//! Where a request's path leads: as the sandbox's user follows it, but never by the links in `/proc` that lead past all names.

use std::sync::Arc;

use caisson_tree::{is_a_name, on_proc};
use caisson_wire::{Refusal, RefusalCode, path};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, mkdirat, openat2, statat},
    io::{Errno, Result as Kernel},
};

use crate::refusal::{of_errno, refuse};

/// A handle to look things up in.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// An entry that is there or is to be: the directory that it is in, open, and its name.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: Arc<OwnedFd>,
    pub(crate) name: Vec<u8>,
    /// As it was asked for.
    pub(crate) path: Vec<u8>,
}

impl Place {
    /// In a directory that is there.
    pub(crate) fn find(path: &[u8]) -> Result<Self, Refusal> {
        let (parent, name) = split(path)?;
        let directory = open(parent, DIRECTORY).map_err(|error| of_errno(error, path))?;
        Ok(Self { directory: Arc::new(directory), name: name.to_vec(), path: path.to_vec() })
    }

    /// Makes the directories that are missing.
    pub(crate) fn make(path: &[u8]) -> Result<Self, Refusal> {
        let (parent, name) = split(path)?;
        let directory = open_or_make(parent).map_err(|error| match error {
            // Something on the way is a link to nothing.
            Errno::NOENT => of_errno(Errno::NOTDIR, path),
            error => of_errno(error, path),
        })?;
        Self { directory: Arc::new(directory), name: name.to_vec(), path: path.to_vec() }.outside_proc()
    }

    /// What a process says of itself is no place for anything.
    pub(crate) fn outside_proc(self) -> Result<Self, Refusal> {
        if on_proc(&self.directory).map_err(|error| self.refusal(error))? { Err(in_proc(&self.path)) } else { Ok(self) }
    }

    /// What is there; links are not followed.
    pub(crate) fn stat(&self) -> Kernel<Stat> {
        statat(&self.directory, &self.name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A path with a slash behind it is that of a directory.
    pub(crate) fn is_for(&self, kind: FileType) -> Result<(), Refusal> {
        if kind != FileType::Directory && self.path.ends_with(b"/") {
            let message = format!("`{}` ends with a slash, and what it is about is not a directory", path::encode(&self.path));
            return Err(refuse(RefusalCode::NotADirectory, message));
        }
        Ok(())
    }

    pub(crate) fn refusal(&self, error: impl Into<std::io::Error>) -> Refusal {
        crate::refusal::of_path(&error.into(), &self.path)
    }
}

pub(crate) fn in_proc(path: &[u8]) -> Refusal {
    let message = format!("`{}` is in /proc, which is left alone: what is said there is about the agent", path::encode(path));
    refuse(RefusalCode::PermissionDenied, message)
}

/// Opens a path.
pub(crate) fn open(path: &[u8], flags: OFlags) -> Kernel<OwnedFd> {
    open_in(CWD, path, flags)
}

fn open_in(directory: impl AsFd, path: &[u8], flags: OFlags) -> Kernel<OwnedFd> {
    openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// Opens a directory to look things up in; what is missing of the path is made.
pub(crate) fn open_or_make(path: &[u8]) -> Kernel<OwnedFd> {
    let mut have = path;
    let mut here = loop {
        match open(have, DIRECTORY) {
            Err(Errno::NOENT) if have.len() > 1 => {
                let end = have.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
                let slash = have[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                have = &have[..slash.max(1)];
            }
            result => break result?,
        }
    };
    for part in path[have.len()..].split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        match mkdirat(&here, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        here = open_in(&here, part, DIRECTORY)?;
    }
    Ok(here)
}

/// The directory and the name of an absolute path.
fn split(path: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let slash = path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let name = path.get(slash + 1..end).unwrap_or_default();
    if !is_a_name(name) {
        return Err(refuse(RefusalCode::Invalid, format!("`{}` names no entry of a directory", path::encode(path))));
    }
    Ok((&path[..slash.max(1)], name))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn paths_are_taken_apart_at_the_last_name() {
        for (path, parts) in
            [("/a", Some(("/", "a"))), ("/a/b//", Some(("/a", "b"))), ("/", None), ("//", None), ("/a/..", None), ("/a/.", None)]
        {
            let parts = parts.map(|(parent, name): (&str, &str)| (parent.as_bytes(), name.as_bytes()));
            assert_eq!(split(path.as_bytes()).ok(), parts, "{path}");
        }
    }

    #[test]
    fn what_is_missing_is_made_and_links_of_proc_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().as_os_str().as_bytes();
        let at = |rest: &str| [root, rest.as_bytes()].concat();
        let place = Place::make(&at("/a/b/c/f")).unwrap();
        assert_eq!(place.stat().unwrap_err(), Errno::NOENT);
        assert!(directory.path().join("a/b/c").is_dir());
        fs::write(directory.path().join("file"), "").unwrap();
        assert_eq!(Place::make(&at("/file/x/y")).unwrap_err().code, RefusalCode::NotADirectory);
        assert_eq!(Place::find(&at("/nothing/x")).unwrap_err().code, RefusalCode::NotFound);
        assert_eq!(Place::make(b"/proc/x").unwrap_err().code, RefusalCode::PermissionDenied);
        let slash = Place::find(&at("/file/")).unwrap();
        assert_eq!(slash.is_for(FileType::RegularFile).unwrap_err().code, RefusalCode::NotADirectory);
        assert!(slash.is_for(FileType::Directory).is_ok() && Place::find(&at("/file")).unwrap().is_for(FileType::RegularFile).is_ok());
        assert_eq!(open(b"/proc/self/root/etc", OFlags::PATH).unwrap_err(), Errno::LOOP);
        assert!(open(b"/proc/self/status", OFlags::PATH).is_ok());
    }
}
