//! Opening what lies below a directory, links excluded.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2},
    io::{Errno, Result},
};

use crate::name::split;

/// How often the kernel may say that the tree was changing under it.
const TRIES: usize = 32;
/// A handle to look things up in.
pub(crate) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a path below `root`, empty for the root itself. A link on the way is `ELOOP`; the last part may be one where `flags` can take it.
pub fn open_beneath(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..TRIES {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// The same for a directory in which things are to be made; those that are missing on the way are made too. A link on the way is no directory.
pub fn make_directories(root: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    make(root, path).map_err(|error| if error == Errno::LOOP { Errno::NOTDIR } else { error })
}

fn make(root: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    match open_beneath(&root, path, DIRECTORY) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let (parent, name) = split(path);
    if name.is_empty() {
        return Err(Errno::NOENT);
    }
    // What is there already is found from above, so that nothing recurses as deep as the path is long.
    let mut here = existing_part(&root, parent)?;
    for part in here.1.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).chain([name]) {
        match mkdirat(&here.0, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        here.0 = openat(&here.0, part, DIRECTORY, Mode::empty())?;
    }
    Ok(here.0)
}

/// The longest part of a path that is there, open, and the rest.
fn existing_part(root: impl AsFd, path: &[u8]) -> Result<(OwnedFd, &[u8])> {
    let mut have = path;
    loop {
        match open_beneath(&root, have, DIRECTORY) {
            Ok(directory) => return Ok((directory, &path[have.len()..])),
            Err(Errno::NOENT) if !have.is_empty() => have = split(have).0,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn links_are_not_followed_and_nothing_outside_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        symlink("b", at("a/link")).unwrap();
        symlink("/", at("root")).unwrap();
        let root = openat(CWD, directory.path(), DIRECTORY, Mode::empty()).unwrap();
        assert!(open_beneath(&root, b"", DIRECTORY).is_ok() && open_beneath(&root, b"a/b", DIRECTORY).is_ok());
        assert_eq!(open_beneath(&root, b"a/link/x", DIRECTORY).unwrap_err(), Errno::LOOP);
        assert_eq!(open_beneath(&root, b"root/etc", DIRECTORY).unwrap_err(), Errno::LOOP);
        assert_eq!(open_beneath(&root, b"a/../..", DIRECTORY).unwrap_err(), Errno::XDEV);
        assert_eq!(open_beneath(&root, b"/etc", DIRECTORY).unwrap_err(), Errno::XDEV);
        make_directories(&root, b"a/c/d/e").unwrap();
        assert!(at("a/c/d/e").is_dir());
        assert_eq!(make_directories(&root, b"a/link/x/y").unwrap_err(), Errno::NOTDIR);
        assert_eq!(make_directories(&root, b"a/link").unwrap_err(), Errno::NOTDIR);
        assert!(!at("a/b/x").exists());
        let deep = b"d/".repeat(1000);
        make_directories(&root, &deep[..deep.len() - 1]).unwrap();
    }
}
