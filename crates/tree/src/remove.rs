//! Removing.

use std::{ffi::CString, io};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, openat, statat, unlinkat},
    io::Errno,
};

use crate::walk::Walk;

/// Removes an entry of `directory`, itself empty if it is a directory.
pub fn remove(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    match unlinkat(&directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(&directory, name, AtFlags::REMOVEDIR),
        result => result,
    }
}

/// Removes an entry with everything in it, also in directories that their owner may not write.
pub fn discard(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    match remove(&directory, name) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        result => return Ok(result?),
    }
    match remove_tree(&directory, name) {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::ACCESS | Errno::PERM)) => {}
        result => return result,
    }
    make_writable(&directory, name)?;
    remove_tree(&directory, name)
}

/// By handle: a name could have become that of a link to something else.
fn make_writable(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    let writable = Mode::from_raw_mode(0o700);
    let root = openat(&directory, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    fchmod(&root, writable)?;
    let mut walk = Walk::new(root)?;
    loop {
        match walk.next_entry() {
            Ok(Some(visit)) if visit.kind == FileType::Directory => fchmod(walk.descend(&visit)?, writable)?,
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err((_, error)) => return Err(error),
        }
    }
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(file: &OwnedFd) -> rustix::io::Result<Identity> {
    let stat = fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Removes a directory with all below it, following no link. Goes down by handle and comes up by `..`, so that neither the length of the path
/// nor the number of open descriptors grows with the depth. A directory that is moved elsewhere meanwhile ends it.
pub fn remove_tree(parent: impl AsFd, root: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here: OwnedFd = openat(&parent, root, flags, Mode::empty())?;
    // The way back: the name gone down by, and what has to be found on coming up.
    let mut way: Vec<(CString, Identity)> = Vec::new();
    // A program that makes files faster than they are removed must not hold us for ever.
    let mut budget: u64 = 50_000_000;
    loop {
        let mut down = None;
        for entry in Dir::read_from(&here)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            budget = budget.checked_sub(1).ok_or(Errno::BUSY)?;
            let directory = match entry.file_type() {
                FileType::Unknown => {
                    FileType::from_raw_mode(statat(&here, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) == FileType::Directory
                }
                kind => kind == FileType::Directory,
            };
            if directory {
                // An empty one goes at once.
                match unlinkat(&here, name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {
                        down = Some(name.to_owned());
                        break;
                    }
                    Err(Errno::NOENT) => {}
                    result => result?,
                }
            } else {
                match unlinkat(&here, name, AtFlags::empty()) {
                    Err(Errno::NOENT) => {}
                    result => result?,
                }
            }
        }
        if let Some(name) = down {
            let down = openat(&here, name.as_c_str(), flags, Mode::empty())?;
            way.push((name, identity(&here)?));
            here = down;
            continue;
        }
        match way.pop() {
            Some((name, left)) => {
                here = openat(&here, "..", flags, Mode::empty())?;
                if identity(&here)? != left {
                    return Err(Errno::BUSY.into());
                }
                match unlinkat(&here, name.as_c_str(), AtFlags::REMOVEDIR) {
                    // Something was made in it meanwhile: the next pass goes down again.
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
                    result => result?,
                }
            }
            None => match unlinkat(&parent, root, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => budget = budget.checked_sub(1).ok_or(Errno::BUSY)?,
                result => return Ok(result?),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn a_tree_goes_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("tree").join("d/".repeat(1500))).unwrap();
        fs::create_dir_all(at("kept")).unwrap();
        fs::write(at("kept/file"), "").unwrap();
        symlink("../kept", at("tree/d/link")).unwrap();
        let parent = openat(CWD, directory.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(remove(&parent, b"tree").unwrap_err(), Errno::NOTEMPTY);
        remove_tree(&parent, b"tree").unwrap();
        assert!(!at("tree").exists() && at("kept/file").exists());
        symlink("kept", at("link")).unwrap();
        assert!(remove_tree(&parent, b"link").is_err());
        remove(&parent, b"link").unwrap();
        assert!(at("kept/file").exists());
    }
}
