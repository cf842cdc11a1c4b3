//! From one place of a tree to another, both reached by handle.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    sync::Arc,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, copy_file_range, ftruncate, linkat, mkdirat, openat, readlinkat, seek,
        statat, symlinkat, utimensat,
    },
    io::Errno,
};

use crate::{
    Draft, Error, LeftOuts,
    beneath::{DIRECTORY, open_beneath},
    draft::{dress, put, times},
    error::At,
    name::{split, temporary},
    remove::{discard, remove},
    walk::{Visit, Walk},
};

/// Permission bits that a copy keeps.
const BITS: u32 = 0o7777;
const BUFFER: usize = 128 << 10;
/// Files of more than one name that are remembered, so that their other names become links.
const MAX_NAMES: usize = 65_536;

/// What has been copied.
#[derive(Debug, Default)]
pub struct Copied {
    pub files: u64,
    pub directories: u64,
    pub links: u64,
    /// Of the contents.
    pub bytes: u64,
    pub left_out: LeftOuts,
}

/// Copies the entry `old` of `from` to `new` in `to`: a file, a link as the link that it is, or a directory with everything in it. The copy
/// appears whole or not at all. Paths in errors are below what is copied. Without `replace`, nothing must be there; with it, no directory that has something in it.
pub fn copy(from: &OwnedFd, old: &[u8], to: &Arc<OwnedFd>, new: &[u8], replace: bool) -> Result<Copied, Error> {
    let stat = statat(from, old, AtFlags::SYMLINK_NOFOLLOW).at(b"")?;
    // Before anything is copied for nothing.
    if !replace && statat(to, new, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Error::Target(Errno::EXIST.into()));
    }
    let mut done = Copied::default();
    let target = |cause: Errno| Error::Target(cause.into());
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let file = openat(from, old, flags, Mode::empty()).at(b"")?;
            if crate::on_proc(&file).at(b"")? {
                return Err(Error::entry(b"", io::Error::other("what is in /proc is not read")));
            }
            let mut draft = Draft::begin(Arc::clone(to)).map_err(target)?;
            content(&file, draft.file()).map_err(Error::Target)?;
            done.files = 1;
            done.bytes = u64::try_from(stat.st_size).unwrap_or(0);
            draft.finish(new, stat.st_mode & BITS, Some(modified(&stat)), replace).map_err(target)?;
        }
        FileType::Symlink => {
            let made = temporary();
            let points_to = readlinkat(from, old, Vec::new()).at(b"")?;
            symlinkat(&points_to, to, &made).map_err(target)?;
            done.links = 1;
            let result =
                utimensat(to, &made, &times(modified(&stat)), AtFlags::SYMLINK_NOFOLLOW).and_then(|()| put(to, &made, new, replace));
            result.inspect_err(|_| _ = remove(to, &made)).map_err(target)?;
        }
        FileType::Directory => {
            let made = temporary();
            mkdirat(to, &made, Mode::from_raw_mode(0o700)).map_err(target)?;
            let result = tree(from, old, to, &made, &mut done).and_then(|()| put(to, &made, new, replace).map_err(target));
            // What cannot be removed either is no reason to say something else than what went wrong.
            result.inspect_err(|_| _ = discard(to, &made))?;
        }
        _ => return Err(Error::entry(b"", io::Error::other("it is a socket, a fifo or a device"))),
    }
    Ok(done)
}

/// Everything in a directory into one that is new.
fn tree(from: &OwnedFd, old: &[u8], to: &OwnedFd, made: &[u8], done: &mut Copied) -> Result<(), Error> {
    let open = |directory: &OwnedFd, name: &[u8]| {
        openat(directory, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let source = open(from, old).at(b"")?;
    if crate::on_proc(&source).at(b"")? {
        return Err(Error::entry(b"", io::Error::other("what is in /proc is not read")));
    }
    let stat = rustix::fs::fstat(&source).at(b"")?;
    let root = open(to, made).map_err(|cause| Error::Target(cause.into()))?;
    let mut copy = Tree { root, parent: None, names: HashMap::new(), open: vec![(Vec::new(), stat)], done };
    let mut walk = Walk::new(source).at(b"")?;
    loop {
        let visit = match walk.next_entry() {
            Ok(Some(visit)) => visit,
            Ok(None) => break,
            Err((path, cause)) => return Err(Error::Entry { path, cause }),
        };
        copy.leave(&visit.path)?;
        match copy.entry(&mut walk, &visit) {
            // It has gone since its directory was read.
            Err(Error::Entry { cause, .. }) if Errno::from_io_error(&cause) == Some(Errno::NOENT) => {}
            result => result?,
        }
    }
    copy.leave(b"")
}

struct Tree<'a> {
    root: OwnedFd,
    /// The directory that was written to last.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// By device and inode, the first name.
    names: HashMap<(u64, u64), Vec<u8>>,
    /// Directories that more comes into: their permission bits and times come last.
    open: Vec<(Vec<u8>, Stat)>,
    done: &'a mut Copied,
}

impl Tree<'_> {
    fn entry(&mut self, walk: &mut Walk, visit: &Visit) -> Result<(), Error> {
        let (parent, name) = (self.parent_of(visit)?, visit.name());
        match visit.kind {
            FileType::RegularFile => {
                let (file, stat) = walk.open(visit).at(&visit.path)?;
                if stat.st_nlink > 1 {
                    if let Some(first) = self.names.get(&(stat.st_dev, stat.st_ino)) {
                        let (directory, first) = split(first);
                        let directory = open_beneath(&self.root, directory, DIRECTORY).at(&visit.path)?;
                        linkat(directory, first, &parent, name, AtFlags::empty()).at(&visit.path)?;
                        self.done.links += 1;
                        return Ok(());
                    }
                    if self.names.len() < MAX_NAMES {
                        self.names.insert((stat.st_dev, stat.st_ino), visit.path.clone());
                    }
                }
                let mut draft = Draft::begin(parent).at(&visit.path)?;
                content(&file, draft.file()).at(&visit.path)?;
                draft.finish(name, stat.st_mode & BITS, Some(modified(&stat)), false).at(&visit.path)?;
                self.done.files += 1;
                self.done.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            }
            FileType::Directory => {
                let stat = rustix::fs::fstat(walk.descend(visit).at(&visit.path)?).at(&visit.path)?;
                mkdirat(&parent, name, Mode::from_raw_mode(0o700)).at(&visit.path)?;
                self.open.push((visit.path.clone(), stat));
                self.done.directories += 1;
            }
            FileType::Symlink => {
                let (target, stat) = (walk.read_link(visit).at(&visit.path)?, walk.stat(visit).at(&visit.path)?);
                symlinkat(&target, &parent, name).at(&visit.path)?;
                utimensat(&parent, name, &times(modified(&stat)), AtFlags::SYMLINK_NOFOLLOW).at(&visit.path)?;
                self.done.links += 1;
            }
            _ => self.done.left_out.add(&visit.path, "is a socket, a fifo or a device"),
        }
        Ok(())
    }

    fn parent_of(&mut self, visit: &Visit) -> Result<Arc<OwnedFd>, Error> {
        let (parent, _) = split(&visit.path);
        match &self.parent {
            Some((known, directory)) if known == parent => Ok(Arc::clone(directory)),
            _ => {
                let directory = Arc::new(open_beneath(&self.root, parent, DIRECTORY).at(&visit.path)?);
                self.parent = Some((parent.to_vec(), Arc::clone(&directory)));
                Ok(directory)
            }
        }
    }

    /// Finishes directories that `path` is not in.
    fn leave(&mut self, path: &[u8]) -> Result<(), Error> {
        let is_in = |directory: &[u8]| directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"));
        while let Some((done, stat)) = self.open.pop_if(|(last, _)| path.is_empty() || !is_in(last)) {
            let directory = open_beneath(&self.root, &done, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW).at(&done)?;
            dress(&directory, stat.st_mode & BITS, Some(modified(&stat))).at(&done)?;
        }
        Ok(())
    }
}

fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Copies a file's bytes and leaves its holes holes.
fn content(from: &OwnedFd, to: &mut File) -> io::Result<()> {
    let size = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or(0);
    let mut at = 0;
    while at < size {
        let begin = match seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error.into()),
        };
        let end =
            if begin == at && at == 0 { seek(from, SeekFrom::Hole(begin)).unwrap_or(size) } else { seek(from, SeekFrom::Hole(begin))? };
        seek(from, SeekFrom::Start(begin))?;
        seek(&*to, SeekFrom::Start(begin))?;
        span(from, to, end - begin)?;
        at = end;
    }
    Ok(ftruncate(to, size)?)
}

fn span(from: &OwnedFd, to: &mut File, mut left: u64) -> io::Result<()> {
    while left > 0 {
        match copy_file_range(from, None, to.as_fd(), None, usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30)) {
            Ok(0) => return Ok(()),
            Ok(count) => left = left.saturating_sub(count as u64),
            // Not between these file systems, or not at all.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut buffer = vec![0; BUFFER];
    let mut rest = File::from(from.try_clone()?).take(left);
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileExt, MetadataExt, symlink},
        path::Path,
    };

    use rustix::fs::CWD;

    use super::*;

    fn open(path: &Path) -> Arc<OwnedFd> {
        Arc::new(openat(CWD, path, DIRECTORY, Mode::empty()).unwrap())
    }

    #[test]
    fn trees_are_copied_with_bits_times_links_and_holes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("a/sub/ro")).unwrap();
        fs::write(at("a/sub/ro/f"), vec![7; BUFFER * 3]).unwrap();
        fs::hard_link(at("a/sub/ro/f"), at("a/sub/h")).unwrap();
        symlink("/nowhere", at("a/l")).unwrap();
        let sparse = fs::File::create(at("a/sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        sparse.write_all_at(b"end", (1 << 40) - 3).unwrap();
        rustix::fs::chmodat(CWD, at("a/sub/ro"), Mode::from_raw_mode(0o511), AtFlags::empty()).unwrap();
        let handle = open(directory.path());
        let done = copy(&handle, b"a", &handle, b"b", false).unwrap();
        assert_eq!((done.files, done.directories, done.links), (2, 2, 2));
        let of = |name: &str| fs::symlink_metadata(at(name)).unwrap();
        assert_eq!((of("b/sub/ro").mode() & 0o7777, of("b/sub/ro/f").len()), (0o511, BUFFER as u64 * 3));
        assert_eq!(of("b/sub/ro/f").mtime_nsec(), of("a/sub/ro/f").mtime_nsec());
        assert_eq!(of("b/sub/ro/f").ino(), of("b/sub/h").ino());
        assert_eq!(fs::read_link(at("b/l")).unwrap().to_str(), Some("/nowhere"));
        assert!(of("b/sparse").len() == 1 << 40 && of("b/sparse").blocks() < 1000);
        let mut end = [0; 3];
        fs::File::open(at("b/sparse")).unwrap().read_exact_at(&mut end, (1 << 40) - 3).unwrap();
        assert_eq!(&end, b"end");
        // Again, over what is there: not without being asked, and never over a directory that has something in it.
        for replace in [false, true] {
            let error = copy(&handle, b"a", &handle, b"b", replace).unwrap_err();
            assert!(matches!(error, Error::Target(cause) if matches!(Errno::from_io_error(&cause), Some(Errno::EXIST | Errno::NOTEMPTY))));
        }
        copy(&handle, b"a/l", &handle, b"l", false).unwrap();
        assert!(copy(&handle, b"a/l", &handle, b"l", false).is_err());
        copy(&handle, b"a/sub/h", &handle, b"l", true).unwrap();
        assert!(of("l").is_file());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "nothing half-made stays");
    }
}
