//! The files themselves. Every name is resolved below a directory that is held, and through no link.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, renameat, unlinkat},
    io::Errno,
};

const FILES: &str = "files";
const NEW: &str = "new";
/// How often a directory is made anew that goes while a file is put into it.
const ATTEMPTS: usize = 16;
/// Directories within directories: no key has more parts.
const DEPTH: usize = 512;

/// The directories of all files, and of new ones.
pub(super) struct Tree {
    files: OwnedFd,
    new: OwnedFd,
}

/// Part of a list.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) keys: Vec<String>,
    pub(super) folders: Vec<String>,
    pub(super) next: Option<String>,
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?)
}

fn beneath(at: &OwnedFd, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::RDONLY;
    Ok(openat2(at, name, flags, Mode::empty(), resolve)?)
}

/// What a key is in, and its own name.
fn split(key: &str) -> (Option<&str>, &str) {
    key.rsplit_once('/').map_or((None, key), |(parent, name)| (Some(parent), name))
}

impl Tree {
    pub(super) fn open(at: &Path) -> io::Result<Self> {
        let make = |name: &str| fs::DirBuilder::new().recursive(true).mode(0o700).create(at.join(name));
        make(FILES)?;
        make(NEW)?;
        for left in fs::read_dir(at.join(NEW))? {
            fs::remove_file(left?.path())?;
        }
        Ok(Self { files: directory(&at.join(FILES))?, new: directory(&at.join(NEW))? })
    }

    pub(super) fn open_file(&self, key: &str) -> io::Result<File> {
        match beneath(&self.files, key, OFlags::empty()) {
            Ok(file) => Ok(file.into()),
            // Below a file there is nothing.
            Err(error) if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn create(&self, number: u64) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(&self.new, number.to_string(), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    pub(super) fn discard(&self, number: u64) -> io::Result<()> {
        match unlinkat(&self.new, number.to_string(), AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a new file to its key, over what is there.
    pub(super) fn publish(&self, number: u64, key: &str) -> io::Result<()> {
        let (parent, name) = split(key);
        for attempt in 1.. {
            let moved = self.parent(parent).and_then(|into| {
                renameat(&self.new, number.to_string(), &into, name)?;
                rustix::fs::fsync(&into)?;
                Ok(())
            });
            match moved {
                // Somebody has removed the last other file in there.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// The directory, made where it is missing.
    fn parent(&self, path: Option<&str>) -> io::Result<OwnedFd> {
        let Some(path) = path else { return self.files.try_clone() };
        match beneath(&self.files, path, OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut at = self.files.try_clone()?;
        for name in path.split('/') {
            match mkdirat(&at, name, Mode::RWXU) {
                Ok(()) => rustix::fs::fsync(&at)?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = beneath(&at, name, OFlags::DIRECTORY)?;
        }
        Ok(at)
    }

    /// Removes a file, and the directories that nothing is in any more.
    pub(super) fn remove(&self, key: &str) -> io::Result<()> {
        let (parent, name) = split(key);
        let at = match parent {
            Some(parent) => beneath(&self.files, parent, OFlags::DIRECTORY)?,
            None => self.files.try_clone()?,
        };
        unlinkat(&at, name, AtFlags::empty())?;
        let mut left = parent;
        while let Some(path) = left {
            let (above, name) = split(path);
            let at = match above {
                Some(above) => beneath(&self.files, above, OFlags::DIRECTORY),
                None => Ok(self.files.try_clone()?),
            };
            // Whatever is in the way is somebody else's: the directory stays.
            if at.and_then(|at| Ok(unlinkat(&at, name, AtFlags::REMOVEDIR)?)).is_err() {
                break;
            }
            left = above;
        }
        Ok(())
    }

    /// Keys that begin with `prefix` and are behind `after`, in the order of their bytes; `limit` of them, and whether there are more.
    pub(super) fn list(&self, prefix: &str, after: &str, limit: usize, folders: bool) -> io::Result<Listed> {
        // What is before the last slash is a directory, and behind it is the begin of names in it.
        let base = prefix.rfind('/').map_or("", |at| &prefix[..=at]);
        let mut listed = Listed::default();
        let root = match base.strip_suffix('/') {
            None => self.files.try_clone()?,
            Some(path) if path.parse::<caisson_core::BlobKey>().is_err() => return Ok(listed),
            Some(path) => match beneath(&self.files, path, OFlags::DIRECTORY) {
                Ok(at) => at,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(listed),
                Err(error) => return Err(error),
            },
        };
        let wanted = Wanted { prefix, after, limit, folders };
        wanted.walk(&root, base, 0, &mut listed)?;
        Ok(listed)
    }
}

struct Wanted<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    folders: bool,
}

impl Wanted<'_> {
    /// Whether there is room for more.
    fn walk(&self, at: &OwnedFd, base: &str, depth: usize, listed: &mut Listed) -> io::Result<bool> {
        for (name, is_directory) in sorted(at)? {
            let key = if is_directory { format!("{base}{name}/") } else { format!("{base}{name}") };
            if !key.starts_with(self.prefix) && !self.prefix.starts_with(&key) {
                continue;
            }
            let last = listed.keys.last().max(listed.folders.last()).cloned();
            if is_directory && self.folders && key.len() > self.prefix.len() {
                if key.as_str() <= self.after || !self.holds_files(at, &name)? {
                    continue;
                }
                if listed.keys.len() + listed.folders.len() == self.limit {
                    listed.next = last;
                    return Ok(false);
                }
                listed.folders.push(key);
            } else if is_directory {
                // Everything in it is before what the list goes on behind.
                if depth == DEPTH || key.as_str() < self.after && !self.after.starts_with(&key) {
                    continue;
                }
                let below = match beneath(at, &name, OFlags::DIRECTORY) {
                    Ok(below) => below,
                    // It has gone meanwhile, or we are not let in.
                    Err(_) => continue,
                };
                if !self.walk(&below, &key, depth + 1, listed)? {
                    return Ok(false);
                }
            } else if key.as_str() > self.after && key.starts_with(self.prefix) {
                if listed.keys.len() + listed.folders.len() == self.limit {
                    listed.next = last;
                    return Ok(false);
                }
                listed.keys.push(key);
            }
        }
        Ok(true)
    }

    /// An empty directory is one that is being made or removed.
    fn holds_files(&self, at: &OwnedFd, name: &str) -> io::Result<bool> {
        match beneath(at, name, OFlags::DIRECTORY) {
            Ok(below) => Ok(!sorted(&below)?.is_empty()),
            Err(_) => Ok(false),
        }
    }
}

/// What is in a directory, in the order of keys: a directory's name counts with its slash. Nothing but files and directories is there.
fn sorted(at: &OwnedFd) -> io::Result<Vec<(String, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(at)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
            known => known,
        };
        match kind {
            FileType::RegularFile => names.push((name.to_owned(), false)),
            FileType::Directory => names.push((name.to_owned(), true)),
            _ => {}
        }
    }
    let slash = |is_directory: &bool| is_directory.then_some(b'/');
    names.sort_by(|(a, x), (b, y)| a.bytes().chain(slash(x)).cmp(b.bytes().chain(slash(y))));
    Ok(names)
}
