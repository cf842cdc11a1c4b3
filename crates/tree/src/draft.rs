//! Making entries so that whoever looks sees the old one or the new one, whole.

use std::{fs::File, io, sync::Arc};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, fchmod, futimens, openat, renameat_with, unlinkat},
    io::Errno,
};

use crate::name::temporary;

/// A file that is being written under another name. What is not finished goes when this is dropped.
#[derive(Debug)]
pub struct Draft {
    directory: Arc<OwnedFd>,
    name: Vec<u8>,
    file: File,
    finished: bool,
}

impl Draft {
    /// Begins an empty file in `directory`.
    pub fn begin(directory: Arc<OwnedFd>) -> rustix::io::Result<Self> {
        let name = temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&directory, &name, flags, Mode::from_raw_mode(0o600))?);
        Ok(Self { directory, name, file, finished: false })
    }

    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Puts the file where it belongs, in place of what is there if that is no directory. Without `replace`, nothing must be there.
    pub fn finish(mut self, name: &[u8], mode: u32, modified: Option<Timespec>, replace: bool) -> rustix::io::Result<()> {
        dress(&self.file, mode, modified)?;
        put(&self.directory, &self.name, name, replace)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            // If it cannot be removed either, the error that brought us here is the one that matters.
            _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Gives an open file or directory its permission bits and its time.
pub(crate) fn dress(file: impl AsFd, mode: u32, modified: Option<Timespec>) -> rustix::io::Result<()> {
    fchmod(&file, Mode::from_raw_mode(mode))?;
    match modified {
        Some(modified) => futimens(file, &times(modified)),
        None => Ok(()),
    }
}

/// Only the time of modification.
pub(crate) fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT }, last_modification: modified }
}

/// Gives what was made as `temporary` its name.
pub(crate) fn put(directory: impl AsFd, temporary: &[u8], name: &[u8], replace: bool) -> rustix::io::Result<()> {
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    renameat_with(&directory, temporary, &directory, name, flags)
}

/// Makes an entry that cannot be opened first, in place of what is there if that is no directory.
pub(crate) fn place(directory: impl AsFd, name: &[u8], make: impl Fn(&[u8]) -> rustix::io::Result<()>) -> io::Result<()> {
    match make(name) {
        Err(Errno::EXIST) => {}
        result => return Ok(result?),
    }
    let temporary = temporary();
    make(&temporary)?;
    let put = put(&directory, &temporary, name, true);
    // It is still there after a failure, and after a success of the kind in which both are the same file already.
    match unlinkat(&directory, &temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(put?),
        Err(error) => Err(put.err().unwrap_or(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write,
        os::unix::fs::{MetadataExt, symlink},
    };

    use rustix::fs::{CWD, linkat, symlinkat};

    use super::*;

    fn open(path: &std::path::Path) -> Arc<OwnedFd> {
        Arc::new(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap())
    }

    #[test]
    fn files_appear_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let names =
            || fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
        fs::write(directory.path().join("f"), "old").unwrap();
        let handle = open(directory.path());
        let mut draft = Draft::begin(Arc::clone(&handle)).unwrap();
        draft.file().write_all(b"ne").unwrap();
        drop(draft);
        assert_eq!(names(), ["f"]);
        let mut draft = Draft::begin(Arc::clone(&handle)).unwrap();
        draft.file().write_all(b"new").unwrap();
        let draft_again = Draft::begin(Arc::clone(&handle)).unwrap();
        assert_eq!(draft_again.finish(b"f", 0o600, None, false).unwrap_err(), Errno::EXIST);
        draft.finish(b"f", 0o750, Some(Timespec { tv_sec: 7, tv_nsec: 5 }), true).unwrap();
        let metadata = fs::metadata(directory.path().join("f")).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()), (0o750, 7, 5));
        assert_eq!(names(), ["f"]);
    }

    #[test]
    fn links_replace_what_is_no_directory_and_leave_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let handle = open(directory.path());
        fs::write(at("f"), "f").unwrap();
        fs::create_dir(at("d")).unwrap();
        symlink("f", at("l")).unwrap();
        place(&handle, b"l", |name| symlinkat("d", &handle, name)).unwrap();
        assert_eq!(fs::read_link(at("l")).unwrap().to_str(), Some("d"));
        assert!(place(&handle, b"d", |name| symlinkat("f", &handle, name)).is_err());
        for _ in 0..2 {
            place(&handle, b"l", |name| linkat(&handle, "f", &handle, name, AtFlags::empty())).unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
        assert_eq!(fs::metadata(at("l")).unwrap().ino(), fs::metadata(at("f")).unwrap().ino());
    }
}
