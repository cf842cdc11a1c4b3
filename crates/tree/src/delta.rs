//! From what overlayfs has written over the layers of an image to one more layer ([OCI image spec, layers]), a piece at a time.
//!
//! ```text
//! in the upper directory                            in the layer
//! d/x, a character device 0/0                       d/.wh.x
//! d with `trusted.overlay.opaque`                   d/, d/.wh..wh..opq, and what is in d
//! d with `trusted.overlay.redirect`: d was renamed  the same with everything that d shows
//! d, over which another overlayfs is mounted        likewise, with everything that is shown there
//! d/x                                               d/x with the image's ids; hard links stay links
//! ```
//! What a directory shows that was renamed lies in lower layers under its old name, so it is taken from the root as the sandbox sees it. What the
//! sandbox was given at its start and has not changed since is not in the layer; a directory alone is neither, unless something in it is.
//!
//! Whoever made these files may mean harm, and may go on writing. Nothing is followed, memory is bounded as that of [`Walk`] is, and what a layer
//! cannot say is an error with its path: it would be another tree than the one that was there. Sockets alone are left out, as nobody can use them.
//!
//! It takes `CAP_DAC_READ_SEARCH`, and `CAP_SYS_ADMIN` for the attributes.
//!
//! [OCI image spec, layers]: https://github.com/opencontainers/image-spec/blob/main/layer.md

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{FileType, Mode, OFlags, Stat, fgetxattr, fstat, openat},
    io::Errno,
};

use crate::{
    Error, MAX_ID, MAX_NAME, MAX_PATH,
    beneath::open_beneath,
    error::At,
    layer::{BITS, OPAQUE, OPAQUE_ATTRIBUTE, WHITEOUT},
    pack::{CHUNK, read},
    tar::{self, About, Kind, padding},
    walk::{Visit, Walk},
};

const REDIRECT_ATTRIBUTE: &str = "trusted.overlay.redirect";
/// What is mounted there belongs to nobody's image, and what lies below it is out of reach.
const MOUNTED: [&[u8]; 3] = [b"dev", b"proc", b"sys"];
/// How many bytes of names are remembered of files that have several, so that their other names become links.
const MAX_NAMES: usize = 32 << 20;
/// What one of these takes beside its bytes.
const NAME: usize = 128;
const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Something that a sandbox had before any of its programs ran, as it was then. Nobody inside can set the time of change (`ctime`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Below the root; empty for the root.
    pub path: Vec<u8>,
    pub mode: u32,
    /// Ids inside.
    pub user: u32,
    pub group: u32,
    /// Of files.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub changed: (i64, u64),
}

impl Given {
    /// What is there at a path.
    #[must_use]
    pub fn of(path: &[u8], stat: &Stat) -> Self {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Self {
            path: path.to_vec(),
            mode: stat.st_mode,
            user: stat.st_uid,
            group: stat.st_gid,
            size: if is_file { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Delta {
    /// Absent behind its last entry.
    upper: Option<Walk>,
    /// The root as the sandbox sees it.
    merged: OwnedFd,
    /// What is mounted over a directory of it: where, and that.
    covered: Option<(Vec<u8>, OwnedFd)>,
    /// A directory that is taken along as a whole, and one in it that is covered.
    whole: Vec<Whole>,
    /// The host's id for root inside.
    first_id: u32,
    given: BTreeMap<Vec<u8>, Given>,
    /// Directories on the way to the present entry that are not in the layer yet: depth and header.
    pending: Vec<(usize, Vec<u8>)>,
    body: Option<Body>,
    /// By tree, device and inode, the first name.
    names: HashMap<(bool, u64, u64), Vec<u8>>,
    named: usize,
    ended: bool,
}

#[derive(Debug)]
struct Whole {
    walk: Walk,
    /// Where it is, with a slash behind it.
    path: Vec<u8>,
}

/// The content that is being read.
#[derive(Debug)]
struct Body {
    file: OwnedFd,
    path: Vec<u8>,
    left: u64,
    padding: usize,
}

impl Delta {
    /// `upper` is the upper directory, `merged` the root that overlayfs makes of it, without anything that is mounted in there. Ids of the image
    /// begin at `first_id` in both.
    pub fn new(upper: OwnedFd, merged: OwnedFd, first_id: u32, given: Vec<Given>) -> Result<Self, Error> {
        let upper = openat(upper, c".", READ, Mode::empty()).at(b"")?;
        let root = fstat(&upper).at(b"")?;
        let mut delta = Self {
            upper: Some(Walk::new(upper).at(b"")?),
            merged,
            covered: None,
            whole: Vec::new(),
            first_id,
            given: given.into_iter().map(|given| (given.path.clone(), given)).collect(),
            pending: Vec::new(),
            body: None,
            names: HashMap::new(),
            named: 0,
            ended: false,
        };
        let header = delta.head(Kind::Directory, b"", b"", &root, 0)?;
        delta.pending.push((0, header));
        Ok(delta)
    }

    /// Says that the directory at `path` is covered by another, whose content belongs to the sandbox as well. Its own does not.
    #[must_use]
    pub fn with_covered(mut self, path: Vec<u8>, directory: OwnedFd) -> Self {
        self.covered = Some((path, directory));
        self
    }

    /// The next piece; `None` after the last. Without any change the archive is an empty one.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut out = Vec::new();
        if !self.ended {
            out.reserve(CHUNK);
        }
        if let Some(root) = self.upper.as_ref().map(Walk::root).filter(|_| self.pending.first().is_some_and(|(depth, _)| *depth == 0)) {
            let root = fstat(root).at(b"")?;
            if !self.is_given(b"", &root)? {
                self.flush(&mut out);
            }
        }
        while out.len() < CHUNK && !self.ended {
            match self.body.take() {
                Some(body) => self.body = content(body, &mut out)?,
                None => self.entry(&mut out)?,
            }
        }
        Ok((!out.is_empty()).then_some(out))
    }

    fn entry(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if let Some(Whole { walk, path }) = self.whole.last_mut() {
            let at = |below: &[u8]| [&path[..], below].concat();
            match walk.next_entry().map_err(|(below, error)| Error::entry(&at(&below), error))? {
                None => drop(self.whole.pop()),
                Some(visit) => {
                    let path = at(&visit.path);
                    return self.of_whole(&visit, path, out);
                }
            }
            return Ok(());
        }
        let Some(walk) = &mut self.upper else {
            out.extend_from_slice(&tar::END);
            self.ended = true;
            return Ok(());
        };
        match walk.next_entry().map_err(|(path, error)| Error::entry(&path, error))? {
            None => self.upper = None,
            Some(visit) if visit.depth() == 1 && MOUNTED.contains(&visit.name()) => {}
            Some(visit) => return self.of_upper(&visit, out),
        }
        Ok(())
    }

    fn of_upper(&mut self, visit: &Visit, out: &mut Vec<u8>) -> Result<(), Error> {
        let depth = visit.depth();
        self.pending.retain(|(above, _)| *above < depth);
        let covering = self.covering(&visit.path);
        let Some(walk) = &mut self.upper else { return Ok(()) };
        let stat = match walk.stat(visit) {
            // It has gone since its directory was read.
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.at(&visit.path)?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice if stat.st_rdev == 0 => self.whiteout(&visit.path, visit.name(), out),
            FileType::Directory => {
                let directory = openat(walk.directory().at(&visit.path)?, visit.name(), READ, Mode::empty()).at(&visit.path)?;
                let (opaque, renamed) =
                    (has(&directory, OPAQUE_ATTRIBUTE).at(&visit.path)?, has(&directory, REDIRECT_ATTRIBUTE).at(&visit.path)?);
                drop(directory);
                let whole = renamed || covering.is_some();
                if !whole {
                    walk.descend(visit).at(&visit.path)?;
                }
                let stat = covering.unwrap_or(Ok(stat)).at(&visit.path)?;
                let mut header = self.head(Kind::Directory, &visit.path, b"", &stat, 0)?;
                if opaque || whole {
                    hide(&visit.path, OPAQUE, &mut header)?;
                }
                self.pending.push((depth, header));
                if whole || !self.is_given(&visit.path, &stat)? {
                    self.flush(out);
                }
                if whole { self.take_whole(&visit.path) } else { Ok(()) }
            }
            kind => {
                if self.is_given(&visit.path, &stat)? {
                    return Ok(());
                }
                let Some(walk) = &mut self.upper else { return Ok(()) };
                let opened = open(walk, kind, visit).at(&visit.path)?;
                self.plain(false, &visit.path, &stat, opened, out)
            }
        }
    }

    fn of_whole(&mut self, visit: &Visit, path: Vec<u8>, out: &mut Vec<u8>) -> Result<(), Error> {
        let covering = self.covering(&path);
        let Some(Whole { walk, .. }) = self.whole.last_mut() else { return Ok(()) };
        let stat = match walk.stat(visit) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.at(&path)?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let is_covered = covering.is_some();
            if !is_covered {
                walk.descend(visit).at(&path)?;
            }
            let header = self.head(Kind::Directory, &path, b"", &covering.unwrap_or(Ok(stat)).at(&path)?, 0)?;
            out.extend_from_slice(&header);
            return if is_covered { self.take_whole(&path) } else { Ok(()) };
        }
        let opened = open(walk, kind, visit).at(&path)?;
        self.plain(true, &path, &stat, opened, out)
    }

    /// What is mounted over the directory at this path.
    fn covering(&self, path: &[u8]) -> Option<rustix::io::Result<Stat>> {
        self.covered.as_ref().filter(|(covered, _)| covered == path).map(|(_, directory)| fstat(directory))
    }

    /// Everything that is shown in a directory.
    fn take_whole(&mut self, path: &[u8]) -> Result<(), Error> {
        let directory = match &self.covered {
            Some((covered, directory)) if covered == path => openat(directory, c".", READ, Mode::empty()),
            _ => open_beneath(&self.merged, path, READ),
        };
        self.whole.push(Whole { walk: Walk::new(directory.at(path)?).at(path)?, path: [path, b"/"].concat() });
        Ok(())
    }

    /// Anything but a directory.
    fn plain(&mut self, whole: bool, path: &[u8], stat: &Stat, opened: Opened, out: &mut Vec<u8>) -> Result<(), Error> {
        let header = match opened {
            Opened::File(file, stat) => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let first = self.first_name(whole, path, &stat);
                if let Some(first) = first {
                    self.head(Kind::HardLink, path, &first, &stat, 0)?
                } else {
                    let header = self.head(Kind::File, path, b"", &stat, size)?;
                    self.body = Some(Body { file, path: path.to_vec(), left: size, padding: padding(size) });
                    header
                }
            }
            Opened::Link(target) => self.head(Kind::Symlink, path, &target, stat, 0)?,
            Opened::Nothing if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo => self.head(Kind::Special, path, b"", stat, 0)?,
            Opened::Nothing => return Ok(()),
        };
        self.flush(out);
        out.extend_from_slice(&header);
        Ok(())
    }

    /// The name that a file came under before; otherwise this one is it.
    fn first_name(&mut self, whole: bool, path: &[u8], stat: &Stat) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 {
            return None;
        }
        // Overlayfs has numbers of its own.
        let file = (whole, stat.st_dev, stat.st_ino);
        if let Some(first) = self.names.get(&file) {
            return Some(first.clone());
        }
        if self.named + path.len() + NAME <= MAX_NAMES {
            self.named += path.len() + NAME;
            self.names.insert(file, path.to_vec());
        }
        None
    }

    fn whiteout(&mut self, path: &[u8], name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let hidden = [WHITEOUT, name].concat();
        if hidden.len() > MAX_NAME {
            let why = "it was removed, and its name is too long for a layer to say so; have an empty file there instead";
            return Err(Error::entry(path, io::Error::other(why)));
        }
        let directory = &path[..path.len() - name.len()];
        self.flush(out);
        hide(directory.strip_suffix(b"/").unwrap_or(directory), &hidden, out)
    }

    /// The directories that the present entry is in.
    fn flush(&mut self, out: &mut Vec<u8>) {
        for (_, header) in self.pending.drain(..) {
            out.extend_from_slice(&header);
        }
    }

    fn head(&self, kind: Kind, path: &[u8], link: &[u8], stat: &Stat, size: u64) -> Result<Vec<u8>, Error> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            let why = "its name begins with `.wh.`, which in a layer means that something is removed; give it another name";
            return Err(Error::entry(path, io::Error::other(why)));
        }
        let (user, group) = (self.id(path, stat.st_uid)?, self.id(path, stat.st_gid)?);
        let shown = match kind {
            Kind::Directory if path.is_empty() => b"./".to_vec(),
            Kind::Directory => [fits(path)?, b"/"].concat(),
            _ => fits(path)?.to_vec(),
        };
        let mut header = Vec::with_capacity(512);
        let about = About { mode: stat.st_mode & BITS, user, group, size, modified: stat.st_mtime };
        tar::header_of(&mut header, kind, &shown, link, about);
        Ok(header)
    }

    /// The image's id for one of the host.
    fn id(&self, path: &[u8], host: u32) -> Result<u32, Error> {
        host.checked_sub(self.first_id).filter(|id| *id <= MAX_ID).ok_or_else(|| {
            let why = "it belongs to somebody whom images cannot name; change its owner, or remove it";
            Error::entry(path, io::Error::other(why))
        })
    }

    fn is_given(&self, path: &[u8], stat: &Stat) -> Result<bool, Error> {
        let Some(given) = self.given.get(path) else { return Ok(false) };
        let now = Given::of(path, stat);
        Ok(*given == Given { user: self.id(path, now.user)?, group: self.id(path, now.group)?, ..now })
    }
}

/// Of an entry, what is not in its `stat`.
enum Opened {
    File(OwnedFd, Stat),
    Link(Vec<u8>),
    Nothing,
}

fn open(walk: &mut Walk, kind: FileType, visit: &Visit) -> io::Result<Opened> {
    Ok(match kind {
        FileType::RegularFile => {
            let (file, stat) = walk.open(visit)?;
            Opened::File(file, stat)
        }
        FileType::Symlink => Opened::Link(walk.read_link(visit)?),
        _ => Opened::Nothing,
    })
}

fn content(mut body: Body, out: &mut Vec<u8>) -> Result<Option<Body>, Error> {
    if body.left == 0 {
        out.resize(out.len() + body.padding, 0);
        return Ok(None);
    }
    let room = (CHUNK - out.len()).min(usize::try_from(body.left).unwrap_or(usize::MAX));
    // What was added to it since comes with the next layer.
    let count = read(&body.file, out, room).at(&body.path)?;
    if count == 0 {
        return Err(Error::entry(&body.path, io::Error::other("it became shorter while it was read; stop what writes it")));
    }
    body.left -= count as u64;
    Ok(Some(body))
}

/// A member that says what is not seen of lower layers.
fn hide(directory: &[u8], mark: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let path = if directory.is_empty() { mark.to_vec() } else { [directory, b"/", mark].concat() };
    let about = About { mode: 0o600, user: 0, group: 0, size: 0, modified: 0 };
    tar::header_of(out, Kind::File, fits(&path)?, b"", about);
    Ok(())
}

fn fits(path: &[u8]) -> Result<&[u8], Error> {
    if path.len() <= MAX_PATH {
        return Ok(path);
    }
    Err(Error::entry(path, io::Error::other(format!("its path is longer than {MAX_PATH} bytes, which a layer cannot have"))))
}

/// Whether overlayfs has noted this of a directory.
fn has(directory: impl AsFd, attribute: &str) -> rustix::io::Result<bool> {
    let mut value = [0u8; 1];
    match fgetxattr(directory, attribute, &mut value) {
        Ok(length) => Ok(length > 0 && (attribute != OPAQUE_ATTRIBUTE || value[0] == b'y')),
        // It is longer than one letter.
        Err(Errno::RANGE) => Ok(attribute != OPAQUE_ATTRIBUTE),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
