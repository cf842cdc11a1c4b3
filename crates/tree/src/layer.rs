//! From a layer of an image ([OCI image spec, layers]) into a directory of its own, ready to be a lower one of overlayfs.
//!
//! ```text
//! in the layer       in the directory
//! d/.wh.x            d/x, a character device 0/0: nothing of that name in lower layers is seen
//! d/.wh..wh..opq     `trusted.overlay.opaque` of d is `y`: nothing that lower layers have in d is seen
//! d/x                d/x, with the layer's owner and permission bits, set-id bits among them: whoever mounts it says `nosuid`
//! ```
//!
//! Whiteouts are about lower layers alone, which are not here: what the layer itself has of that name stays, before or behind them. So there is
//! nothing that they could remove. Of several members of one name the last one counts. Extended attributes are not taken; devices, fifos and
//! sockets are left out and told. Names that begin with `/` mean the layer's own root, as everybody reads them; `..` ends it, and so does a
//! member below something that is no directory: nothing is made through a link.
//!
//! It takes root: owners, devices and trusted attributes are nobody else's to give.
//!
//! [OCI image spec, layers]: https://github.com/opencontainers/image-spec/blob/main/layer.md

use std::{
    fmt,
    io::{self, Seek, SeekFrom, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Timespec, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens, linkat, mkdirat,
        mknodat, openat, statat, symlinkat, utimensat,
    },
    io::Errno,
};

use crate::{
    Error, MAX_PATH, Unpacked,
    beneath::{DIRECTORY, open_beneath},
    draft::times,
    error::At,
    is_a_name,
    name::{normal, split},
    remove::discard,
    tar::{Kind, Member, Members},
};

/// The highest user and group of images: the agent is the one behind it.
pub const MAX_ID: u32 = 65_535;
/// Set-id bits and the sticky one included.
pub(crate) const BITS: u32 = 0o7777;
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// What begins like this is about the directory that it is in.
const ABOUT: &[u8] = b".wh..wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
pub(crate) const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What all layers of an image may hold together. What is announced counts, so that a bomb ends before it has filled anything.
#[derive(Debug)]
pub struct Allowance {
    bytes: Count,
    entries: Count,
}

#[derive(Debug)]
struct Count {
    left: AtomicU64,
    most: u64,
}

impl Allowance {
    #[must_use]
    pub fn new(bytes: u64, entries: u64) -> Self {
        let count = |most| Count { left: AtomicU64::new(most), most };
        Self { bytes: count(bytes), entries: count(entries) }
    }

    /// Takes what a layer has that is not unpacked again.
    pub fn take(&self, bytes: u64, entries: u64) -> Result<(), TooMuch> {
        self.bytes.take(bytes, "bytes")?;
        self.entries.take(entries, "entries")
    }
}

impl Count {
    fn take(&self, count: u64, what: &'static str) -> Result<(), TooMuch> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count));
        taken.map(|_| ()).map_err(|_| TooMuch { what, most: self.most })
    }
}

/// An image that holds more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    /// `bytes` or `entries`.
    pub what: &'static str,
    pub most: u64,
}

/// Why a layer was not unpacked.
#[derive(Debug)]
pub enum LayerError {
    Tree(Error),
    TooMuch(TooMuch),
}

impl From<Error> for LayerError {
    fn from(error: Error) -> Self {
        Self::Tree(error)
    }
}

impl From<TooMuch> for LayerError {
    fn from(error: TooMuch) -> Self {
        Self::TooMuch(error)
    }
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::TooMuch(TooMuch { what, most }) => write!(f, "unpacked, the image has more than the {most} {what} that it may have"),
        }
    }
}

impl std::error::Error for LayerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tree(error) => error.source(),
            Self::TooMuch(_) => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Layer<'a> {
    root: OwnedFd,
    allowance: &'a Allowance,
    /// The directory in which the last member was made: the next one is mostly there too.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// Directories that more may come into: owner, bits and times come last.
    open: Vec<Undressed>,
    /// What has been made so far.
    pub done: Unpacked,
    /// Whiteouts and opaque directories.
    pub whiteouts: u64,
}

#[derive(Debug)]
struct Undressed {
    path: Vec<u8>,
    dress: Dress,
}

/// Owner, permission bits and time.
#[derive(Debug, Clone, Copy)]
struct Dress {
    user: Uid,
    group: Gid,
    mode: Mode,
    modified: Timespec,
}

impl<'a> Layer<'a> {
    /// Into the directory `root`, which is empty, open for reading, and nobody else's.
    #[must_use]
    pub fn new(root: OwnedFd, allowance: &'a Allowance) -> Self {
        Self { root, allowance, parent: None, open: Vec::new(), done: Unpacked::default(), whiteouts: 0 }
    }

    /// Whether layers can be unpacked here at all: tries in `scratch`, an empty directory, what only root can do, and leaves it empty.
    pub fn possible(scratch: impl AsFd) -> rustix::io::Result<()> {
        const TRIAL: &str = "trial";
        mkdirat(&scratch, TRIAL, Mode::from_raw_mode(0o700))?;
        let tried = openat(&scratch, TRIAL, READ, Mode::empty()).and_then(|directory| {
            set_opaque(&directory)?;
            fchown(&directory, Some(Uid::from_raw(MAX_ID)), Some(Gid::from_raw(MAX_ID)))?;
            mknodat(&directory, TRIAL, FileType::CharacterDevice, Mode::empty(), 0)
        });
        discard(&scratch, TRIAL.as_bytes()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        tried
    }

    /// Everything that the stream has. After an error, the directory is good for nothing but removing.
    pub fn all(&mut self, pieces: impl Iterator<Item = io::Result<Bytes>>) -> Result<(), LayerError> {
        let mut members = Members::new(pieces);
        while let Some(member) = members.next_member()? {
            self.member(&member, &mut members)?;
        }
        self.dress_all_but(b"")?;
        Ok(())
    }

    fn member<I>(&mut self, member: &Member, members: &mut Members<I>) -> Result<(), LayerError>
    where
        I: Iterator<Item = io::Result<Bytes>>,
    {
        let path = below_root(&member.path)?;
        self.allowance.take(member.size, 1)?;
        if path.split(|byte| *byte == b'/').any(|part| part.starts_with(ABOUT) && part != OPAQUE) {
            self.done.left_out.add(&path, "is of the book-keeping of an old storage driver");
            return Ok(());
        }
        self.dress_all_but(&path)?;
        let (directory, name) = split(&path);
        if directory.split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(Error::archive(&path, "is below a whiteout").into());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&path, directory, name, hidden);
        }
        let dress = dress(&path, member)?;
        match member.kind {
            Kind::Directory => self.directory(&path, dress)?,
            _ if path.is_empty() => return Err(Error::archive(&member.path, "names the root of the layer and is no directory").into()),
            Kind::File => self.file(&path, dress, member, members)?,
            Kind::Symlink => self.symlink(&path, dress, member)?,
            Kind::HardLink => self.hard_link(&path, member)?,
            Kind::Special => self.done.left_out.add(&path, "is a device or a fifo"),
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &[u8], directory: &[u8], name: &[u8], hidden: &[u8]) -> Result<(), LayerError> {
        self.whiteouts += 1;
        if name == OPAQUE {
            if directory.is_empty() {
                // Overlayfs would not look at it there.
                return Err(Error::archive(path, "hides the whole of all lower layers; pack the image without them").into());
            }
            let (parent, name) = self.parent_of(directory)?;
            let directory = self.directory_in(&parent, name, directory)?;
            return Ok(set_opaque(&directory).at(path)?);
        }
        if !is_a_name(hidden) {
            return Err(Error::archive(path, "is a whiteout of something that is no name").into());
        }
        let parent = self.parent(directory)?;
        match kind(&parent, hidden).at(path)? {
            None => mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0).at(path)?,
            Some(FileType::Directory) => {
                openat(&parent, hidden, READ, Mode::empty()).and_then(|directory| set_opaque(&directory)).at(path)?;
            }
            // It hides what is below anyway, or is such a device already.
            Some(_) => {}
        }
        Ok(())
    }

    fn file<I>(&mut self, path: &[u8], dress: Dress, member: &Member, members: &mut Members<I>) -> Result<(), LayerError>
    where
        I: Iterator<Item = io::Result<Bytes>>,
    {
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.place(&parent, name, path, |name| openat(&parent, name, flags, Mode::from_raw_mode(0o600)))?;
        let mut file = std::fs::File::from(file);
        let mut hole = false;
        while let Some(piece) = members.content()? {
            // Zeros take no room on the disk.
            hole = piece.iter().all(|byte| *byte == 0);
            if hole {
                file.seek(SeekFrom::Current(i64::try_from(piece.len()).unwrap_or(i64::MAX))).at(path)?;
            } else {
                file.write_all(&piece).at(path)?;
            }
        }
        if hole {
            file.set_len(member.size).at(path)?;
        }
        put_on(&file, dress).at(path)?;
        self.done.files += 1;
        self.done.bytes += member.size;
        Ok(())
    }

    fn directory(&mut self, path: &[u8], dress: Dress) -> Result<(), LayerError> {
        if path.is_empty() {
            self.open.retain(|undressed| !undressed.path.is_empty());
            self.open.insert(0, Undressed { path: Vec::new(), dress });
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        self.directory_in(&parent, name, path)?;
        self.open.push(Undressed { path: path.to_vec(), dress });
        self.done.directories += 1;
        Ok(())
    }

    fn symlink(&mut self, path: &[u8], dress: Dress, member: &Member) -> Result<(), LayerError> {
        if member.link.is_empty() || member.link.len() > MAX_PATH || member.link.contains(&0) {
            return Err(Error::archive(path, "is a link to something that cannot be a path").into());
        }
        let (parent, name) = self.parent_of(path)?;
        self.place(&parent, name, path, |name| symlinkat(&member.link, &parent, name))?;
        chownat(&parent, name, Some(dress.user), Some(dress.group), AtFlags::SYMLINK_NOFOLLOW).at(path)?;
        utimensat(&parent, name, &times(dress.modified), AtFlags::SYMLINK_NOFOLLOW).at(path)?;
        self.done.links += 1;
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], member: &Member) -> Result<(), LayerError> {
        let target = below_root(&member.link)?;
        let (from, old) = split(&target);
        let shown = || String::from_utf8_lossy(&member.link).escape_debug().to_string();
        let found = open_beneath(&self.root, from, DIRECTORY).and_then(|from| kind(&from, old).map(|kind| (from, kind)));
        let Some((from, Some(FileType::RegularFile | FileType::Symlink))) = found.ok().filter(|_| !old.is_empty()) else {
            return Err(Error::archive(path, format!("is a hard link to `{}`, which is no file in this layer", shown())).into());
        };
        if target == path {
            return Err(Error::archive(path, "is a hard link to itself").into());
        }
        let (parent, name) = self.parent_of(path)?;
        // Without AT_SYMLINK_FOLLOW a link to a link is another name of that link.
        self.place(&parent, name, path, |name| linkat(&from, old, &parent, name, AtFlags::empty()))?;
        self.done.links += 1;
        Ok(())
    }

    /// Makes an entry, in place of whatever is there: of several members the last one counts.
    fn place<T>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        make: impl Fn(&[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, LayerError> {
        match make(name) {
            Err(Errno::EXIST) => {}
            result => return Ok(result.at(path)?),
        }
        // What was remembered may be in it.
        self.parent = None;
        discard(parent, name).at(path)?;
        Ok(make(name).at(path)?)
    }

    /// Makes a directory, or finds the one that is there. One in place of a whiteout hides what is below as that did; anything else that is
    /// there gives way.
    fn directory_in(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, LayerError> {
        // As those are that no member describes, whatever this process masks.
        let bits = Mode::from_raw_mode(0o755);
        let make = || {
            mkdirat(parent, name, bits)?;
            let directory = openat(parent, name, READ, Mode::empty())?;
            fchmod(&directory, bits).map(|()| directory)
        };
        match make() {
            Err(Errno::EXIST) => {}
            result => return Ok(result.at(path)?),
        }
        let there = kind(parent, name).at(path)?;
        if there == Some(FileType::Directory) {
            return Ok(openat(parent, name, READ, Mode::empty()).at(path)?);
        }
        discard(parent, name).at(path)?;
        let directory = make().at(path)?;
        if there == Some(FileType::CharacterDevice) {
            set_opaque(&directory).at(path)?;
        }
        Ok(directory)
    }

    /// The directory that an entry is to be made in, open, and the entry's name.
    fn parent_of<'b>(&mut self, path: &'b [u8]) -> Result<(Arc<OwnedFd>, &'b [u8]), LayerError> {
        let (parent, name) = split(path);
        Ok((self.parent(parent)?, name))
    }

    /// A directory, made with those on the way if it is not there.
    fn parent(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, LayerError> {
        if let Some((known, directory)) = &self.parent
            && known == path
        {
            return Ok(Arc::clone(directory));
        }
        let directory = match open_beneath(&self.root, path, DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.make_parents(path)?,
            Err(error) => return Err(Error::entry(path, error).into()),
        };
        let directory = Arc::new(directory);
        self.parent = Some((path.to_vec(), Arc::clone(&directory)));
        Ok(directory)
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd, LayerError> {
        let mut here = open_beneath(&self.root, b"", DIRECTORY).at(path)?;
        for part in path.split(|byte| *byte == b'/') {
            match kind(&here, part).at(path)? {
                Some(FileType::Directory) => {}
                None => {
                    self.allowance.take(0, 1)?;
                    self.directory_in(&here, part, path)?;
                }
                Some(FileType::CharacterDevice) => _ = self.directory_in(&here, part, path)?,
                Some(_) => return Err(Error::archive(path, "has something in it, and is a link or a file and no directory").into()),
            }
            here = openat(&here, part, DIRECTORY, Mode::empty()).at(path)?;
        }
        Ok(here)
    }

    /// Finishes directories that `path` is not in.
    fn dress_all_but(&mut self, path: &[u8]) -> Result<(), Error> {
        let is_in = |directory: &[u8]| directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"));
        while let Some(done) = self.open.pop_if(|last| path.is_empty() || !is_in(&last.path)) {
            let directory = open_beneath(&self.root, &done.path, READ).at(&done.path)?;
            put_on(&directory, done.dress).at(&done.path)?;
        }
        Ok(())
    }
}

/// A name as a path below the layer's root.
fn below_root(name: &[u8]) -> Result<Vec<u8>, Error> {
    let begin = name.iter().position(|byte| *byte != b'/').unwrap_or(name.len());
    normal(&name[begin..]).map_err(|why| Error::archive(name, why.to_string()))
}

fn dress(path: &[u8], member: &Member) -> Result<Dress, Error> {
    let id = |id: u64, whose: &str| {
        let known = u32::try_from(id).ok().filter(|id| *id <= MAX_ID);
        known.ok_or_else(|| Error::archive(path, format!("belongs to {whose} {id}; images may use ids up to {MAX_ID}")))
    };
    Ok(Dress {
        user: Uid::from_raw(id(member.user, "user")?),
        group: Gid::from_raw(id(member.group, "group")?),
        mode: Mode::from_raw_mode(member.mode & BITS),
        modified: member.modified,
    })
}

/// The bits come behind the owner: to change that takes set-id bits away.
fn put_on(file: impl AsFd, dress: Dress) -> rustix::io::Result<()> {
    fchown(&file, Some(dress.user), Some(dress.group))?;
    fchmod(&file, dress.mode)?;
    futimens(&file, &times(dress.modified))
}

fn set_opaque(directory: &OwnedFd) -> rustix::io::Result<()> {
    fsetxattr(directory, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
}

/// What an entry is, if it is there.
fn kind(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<Option<FileType>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
