//! Every entry of a tree, one after the other: each directory before its content, in the order of the names' bytes.
//!
//! ```text
//! a   a/b   a/b/c   a/d   e        The path of any entry says where to go on.
//! ```
//!
//! Memory is bounded by the depth, not by the number of entries: of each directory on the way down so many names are known, the next ones are
//! read when those are used up. As names only grow, none comes twice, whatever happens in the directory meanwhile.

use std::{collections::BinaryHeap, io};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, fstat, fstatfs, openat, readlinkat, statat},
    io::Errno,
};

use crate::{MAX_PATH, beneath::open_beneath};

/// Names of one directory that are known at one time.
const NAMES: usize = 16_384;
/// Directories that are kept open; those further up are opened again on the way back.
const OPEN: usize = 64;
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// See the module.
#[derive(Debug)]
pub struct Walk {
    root: OwnedFd,
    levels: Vec<Level>,
}

/// A directory that is being walked.
#[derive(Debug)]
struct Level {
    /// Absent while it is too far up.
    directory: Option<OwnedFd>,
    /// Its file system.
    device: u64,
    /// Below the root; empty for the root.
    path: Vec<u8>,
    /// Those that come next, the last one first.
    names: Vec<Name>,
    /// Whether there are more behind this one.
    more: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    bytes: Vec<u8>,
    kind: u8,
}

/// An entry on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Below the root.
    pub path: Vec<u8>,
    pub kind: FileType,
    name: usize,
}

impl Visit {
    /// Its name in its directory.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.path[self.name..]
    }

    /// 1 for what is in the root.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.path.iter().filter(|byte| **byte == b'/').count() + 1
    }
}

impl Walk {
    /// Begins with the first entry of `root`, which is open for reading.
    pub fn new(root: OwnedFd) -> io::Result<Self> {
        Self::below(root, b"")
    }

    /// Begins with the first entry of the directory at `path`, of which all comes that is in it and nothing else. Paths are below `root`.
    pub fn below(root: OwnedFd, path: &[u8]) -> io::Result<Self> {
        let mut walk = Self { root, levels: Vec::new() };
        let directory = match path {
            b"" => openat(&walk.root, c".", READ, Mode::empty())?,
            path => open_beneath(&walk.root, path, READ)?,
        };
        let device = device(&directory)?;
        walk.push(directory, device, path.to_vec(), None)?;
        Ok(walk)
    }

    /// Goes on behind the entry at `last`, whether that is still there or not, with what is in it if it is less than `depth` levels down.
    pub fn resume(root: OwnedFd, last: &[u8], depth: usize) -> io::Result<Self> {
        let mut walk = Self { root, levels: Vec::new() };
        let mut path = Vec::new();
        let mut directory = openat(&walk.root, c".", READ, Mode::empty())?;
        let mut on = device(&directory)?;
        for (level, name) in last.split(|byte| *byte == b'/').enumerate() {
            let inside = openat(&directory, name, READ, Mode::empty());
            walk.push(directory, on, path.clone(), Some(name.to_vec()))?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            // What cannot be entered (any more) has nothing behind it.
            let Some(next) = inside.ok().filter(|_| level + 1 < depth) else { return Ok(walk) };
            let below = device(&next)?;
            if below != on && on_proc(&next)? {
                return Ok(walk);
            }
            (directory, on) = (next, below);
        }
        walk.push(directory, on, path, None)?;
        Ok(walk)
    }

    /// The next entry. An error is about the directory that was to be read; the walk goes on without the rest of it.
    pub fn next_entry(&mut self) -> Result<Option<Visit>, (Vec<u8>, io::Error)> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            if let Some(name) = level.names.pop() {
                let mut path = Vec::with_capacity(level.path.len() + 1 + name.bytes.len());
                path.extend_from_slice(&level.path);
                if !path.is_empty() {
                    path.push(b'/');
                }
                let start = path.len();
                path.extend_from_slice(&name.bytes);
                return Ok(Some(Visit { path, kind: file_type(name.kind), name: start }));
            }
            let Some(last) = level.more.take() else {
                self.levels.pop();
                continue;
            };
            match self.directory().map_err(io::Error::from).and_then(|directory| names(directory, Some(&last))) {
                Ok((names, more)) => {
                    let level = self.levels.last_mut().expect("it was there above");
                    (level.names, level.more) = (names, more);
                }
                Err(error) => {
                    let path = self.levels.pop().map(|level| level.path).unwrap_or_default();
                    return Err((path, error));
                }
            }
        }
    }

    /// Goes into the directory that came last. The handle is that of the directory itself, for a look at it.
    pub fn descend(&mut self, visit: &Visit) -> io::Result<BorrowedFd<'_>> {
        if visit.path.len() > MAX_PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let directory = openat(self.directory()?, visit.name(), READ, Mode::empty())?;
        let device = device(&directory)?;
        if self.enters_proc(device, &directory)? {
            return Err(io::Error::other("what is in /proc is not read"));
        }
        self.push(directory, device, visit.path.clone(), None)?;
        Ok(self.directory()?)
    }

    /// What the entry that came last is. Links are not followed.
    pub fn stat(&mut self, visit: &Visit) -> rustix::io::Result<Stat> {
        statat(self.directory()?, visit.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens the regular file that came last for reading, and says what it is.
    pub fn open(&mut self, visit: &Visit) -> io::Result<(OwnedFd, Stat)> {
        let file = openat(self.directory()?, visit.name(), FILE, Mode::empty())?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || self.enters_proc(stat.st_dev, &file)? {
            return Err(io::Error::other("it is no ordinary file"));
        }
        Ok((file, stat))
    }

    /// Where the symbolic link that came last points.
    pub fn read_link(&mut self, visit: &Visit) -> rustix::io::Result<Vec<u8>> {
        Ok(readlinkat(self.directory()?, visit.name(), Vec::new())?.into_bytes())
    }

    /// What is walked.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory that the entry that came last is in.
    pub(crate) fn directory(&mut self) -> rustix::io::Result<BorrowedFd<'_>> {
        let level = self.levels.last_mut().ok_or(Errno::NOENT)?;
        let directory = match level.directory.take() {
            Some(directory) => directory,
            None => open_beneath(&self.root, &level.path, READ)?,
        };
        Ok((*level.directory.insert(directory)).as_fd())
    }

    /// Whether an entry of the present directory has to be left alone: what a process says of itself is, for the agent, its own memory.
    fn enters_proc(&self, device: u64, entry: impl AsFd) -> rustix::io::Result<bool> {
        // Almost always it is on the same file system, which was looked at before.
        Ok(self.levels.last().is_some_and(|level| level.device != device) && on_proc(entry)?)
    }

    fn push(&mut self, directory: OwnedFd, device: u64, path: Vec<u8>, after: Option<Vec<u8>>) -> io::Result<()> {
        let (names, more) = names(directory.as_fd(), after.as_deref())?;
        let far = self.levels.len().checked_sub(OPEN).and_then(|index| self.levels.get_mut(index));
        if let Some(level) = far {
            level.directory = None;
        }
        self.levels.push(Level { directory: Some(directory), device, path, names, more });
        Ok(())
    }
}

/// The first names behind `after`, the last one first, and the last one if there are more.
fn names(directory: BorrowedFd<'_>, after: Option<&[u8]>) -> io::Result<(Vec<Name>, Option<Vec<u8>>)> {
    let mut first: BinaryHeap<Name> = BinaryHeap::new();
    let mut more = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || after.is_some_and(|after| name <= after) {
            continue;
        }
        if first.len() == NAMES {
            more = true;
            if first.peek().is_some_and(|last| last.bytes.as_slice() < name) {
                continue;
            }
            first.pop();
        }
        let kind = match entry.file_type() {
            // Not every file system says it here. What has gone meanwhile is found missing later.
            FileType::Unknown => match statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => FileType::Unknown,
            },
            kind => kind,
        };
        first.push(Name { bytes: name.to_vec(), kind: byte(kind) });
    }
    let mut names = first.into_sorted_vec();
    names.reverse();
    let last = if more { names.first().map(|name| name.bytes.clone()) } else { None };
    Ok((names, last))
}

/// What of entries matters here.
const KINDS: [FileType; 3] = [FileType::RegularFile, FileType::Directory, FileType::Symlink];

fn byte(kind: FileType) -> u8 {
    KINDS.iter().position(|known| *known == kind).map_or(u8::MAX, |index| index as u8)
}

fn file_type(byte: u8) -> FileType {
    KINDS.get(usize::from(byte)).copied().unwrap_or(FileType::Unknown)
}

fn device(file: impl AsFd) -> rustix::io::Result<u64> {
    Ok(fstat(file)?.st_dev)
}

/// Whether this is of a process file system.
pub fn on_proc(file: impl AsFd) -> rustix::io::Result<bool> {
    Ok(fstatfs(file)?.f_type == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use rustix::fs::CWD;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        openat(CWD, path, READ, Mode::empty()).unwrap()
    }

    fn all(mut walk: Walk) -> Vec<String> {
        let mut paths = Vec::new();
        while let Some(visit) = walk.next_entry().unwrap() {
            if visit.kind == FileType::Directory {
                walk.descend(&visit).unwrap();
            }
            paths.push(String::from_utf8(visit.path).unwrap());
        }
        paths
    }

    #[test]
    fn everything_comes_once_in_order_and_from_any_entry_on() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a/d", "a-b/x", "e", "z/y/x/w"] {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        symlink("a", directory.path().join("link")).unwrap();
        let expect = ["a", "a/b", "a/b/c", "a/d", "a-b", "a-b/x", "e", "link", "z", "z/y", "z/y/x", "z/y/x/w"];
        assert_eq!(all(Walk::new(open(directory.path())).unwrap()), expect);
        for (index, last) in expect.iter().enumerate() {
            let rest = all(Walk::resume(open(directory.path()), last.as_bytes(), usize::MAX).unwrap());
            assert_eq!(rest, expect[index + 1..], "behind {last}");
        }
        assert_eq!(all(Walk::below(open(directory.path()), b"a").unwrap()), expect[1..4]);
        assert_eq!(all(Walk::below(open(directory.path()), b"z/y").unwrap()), expect[10..]);
        // What has gone, or never was, still has its place in the order.
        assert_eq!(all(Walk::resume(open(directory.path()), b"a/c/gone", usize::MAX).unwrap()), expect[3..]);
        assert_eq!(all(Walk::resume(open(directory.path()), b"a", 1).unwrap()), expect[4..], "not deeper than asked for");
    }

    #[test]
    fn directories_deeper_than_what_is_kept_open_and_larger_than_what_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(OPEN + 20);
        fs::create_dir_all(directory.path().join(&deep)).unwrap();
        for index in 0..NAMES + 10 {
            fs::write(directory.path().join(format!("f{index:06}")), "").unwrap();
        }
        fs::write(directory.path().join("d/z"), "").unwrap();
        let all = all(Walk::new(open(directory.path())).unwrap());
        assert_eq!(all.len(), OPEN + 20 + 1 + NAMES + 10);
        assert_eq!(all[OPEN + 20], "d/z", "on the way back up");
        assert!(all.is_sorted_by(|a, b| a.split('/').lt(b.split('/'))));
    }

    #[test]
    fn proc_is_not_entered() {
        let mut walk = Walk::new(open(Path::new("/"))).unwrap();
        while let Some(visit) = walk.next_entry().unwrap() {
            if visit.path == b"proc" {
                assert!(walk.descend(&visit).is_err());
                return;
            }
        }
        panic!("there is a /proc");
    }
}
