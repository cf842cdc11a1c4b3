//! Reading the state of a tree. Every entry is reached by handles and no link is followed, so that whoever changes the tree meanwhile gets nothing
//! but a scan of what was there at some time, or an error.

use std::{fmt, fs::File, io, io::Read, time::Instant};

use caisson_tree::{Visit, Walk, open_beneath};
use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{FileType, Mode, OFlags, Stat, fstat, openat},
    io::Errno,
    time::{ClockId, clock_gettime},
};

use crate::{
    Entry, Error, Id, Index, Kind, Side, Tree,
    ignore::Rules,
    index::{Look, Time},
    layered::{Before, Change},
};

/// How often a file is read that gets shorter meanwhile.
const TRIES: usize = 3;
const ROOT: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// Git's own directory, or the file that names it, at any depth.
const GIT: &[u8] = b".git";
const IGNORE: &[u8] = b".gitignore";
/// Bytes of all `.gitignore` files that hold in one directory.
const MAX_IGNORE: u64 = 1 << 20;
/// How many entries are looked at between two looks at the clock.
const CLOCK: usize = 16;

/// How a tree is scanned.
#[derive(Clone, Copy)]
pub struct Scan<'a> {
    /// Whether what the tree's `.gitignore` files say is left out; not that which `before` has, as in a repository.
    pub gitignore: bool,
    /// What else is left out: by path, and whether it is a directory. With a directory goes all that is in it.
    pub leave_out: &'a dyn Fn(&[u8], bool) -> bool,
    /// The scan before, of which all is taken that looks the same.
    pub before: Option<&'a Index>,
    /// Who gets every content that is read.
    pub keep: Option<&'a dyn Keep>,
    pub limits: Limits,
    /// When it has to have ended.
    pub until: Option<Instant>,
}

/// Takes contents as they are read, so that each is there to the byte as the tree has it, whatever becomes of the file.
pub trait Keep {
    /// One of so many bytes comes. If another has not ended, it has broken off.
    fn begin(&self, size: u64) -> io::Result<()>;
    fn piece(&self, bytes: &[u8]) -> io::Result<()>;
    /// It has come as a whole.
    fn end(&self, id: Id) -> io::Result<()>;
}

/// What a scan reads at most. Beyond it there is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub entries: usize,
    /// Bytes of all paths together.
    pub paths: usize,
    /// Bytes of one file.
    pub file: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    pub index: Index,
    /// How many contents were read.
    pub read: usize,
    /// How many files and directories could not be: whoever scans has no right to. What is in them is as before.
    pub unreadable: usize,
}

/// The same of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedLayers {
    pub change: Change,
    pub read: usize,
    pub unreadable: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1_000_000, paths: 1 << 30, file: 1 << 30 }
    }
}

impl Default for Scan<'_> {
    fn default() -> Self {
        Self { gitignore: false, leave_out: &|_, _| false, before: None, keep: None, limits: Limits::default(), until: None }
    }
}

impl fmt::Debug for Scan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("gitignore", &self.gitignore).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Reads the files and links below an open directory. Left out are whatever is called `.git`, directories without content, what is neither
/// file nor link, and what is in a `/proc`. What may not be read is as it was before, and left out where it was not there. Of a file that only grows meanwhile, that counts which was there when it was opened.
///
/// What goes on being written through memory that it was mapped to before (`mmap`) is missed while the file looks the same.
pub fn scan(root: impl AsFd, options: &Scan<'_>) -> Result<Scanned, Error> {
    let root = openat(root, c".", ROOT, Mode::empty()).map_err(|errno| Error::read(b"", errno))?;
    let begun = now();
    let mut scanner = Scanner::new(options, Before::of(options.before, None));
    if options.gitignore {
        scanner.enter(b"", root.as_fd())?;
    }
    let mut walk = Walk::new(root).map_err(|error| Error::read(b"", error))?;
    scanner.walk(&mut walk, Scanner::visit)?;
    let (read, unreadable) = (scanner.read, scanner.unreadable);
    Ok(Scanned { index: scanner.index(begun)?, read, unreadable })
}

/// A tree that overlayfs shows: a directory that nobody writes to any more, and over it what has changed since.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// As it is shown.
    pub merged: BorrowedFd<'a>,
    pub upper: BorrowedFd<'a>,
    pub lower: BorrowedFd<'a>,
    /// What the last scan found to be different from the lower one.
    pub change: Option<&'a Change>,
    /// Whether the whole tree is looked at, as what is to be left out is not what it was for the index of the lower one.
    pub whole: bool,
}

/// What is different now from an index of the lower directory, which has to have everything that could be read. It costs as much as what is in
/// the upper one.
///
/// `options.before` and `layers.change` are together the state of the scan before, which need not be of these layers.
pub fn scan_layers(layers: &Layers<'_>, options: &Scan<'_>) -> Result<ScannedLayers, Error> {
    let begun = now();
    let mut scanner = Scanner::new(options, Before::of(options.before, layers.change));
    let device = |directory: BorrowedFd<'_>| fstat(directory).map(|stat| stat.st_dev).map_err(|errno| Error::read(b"", errno));
    let one_device = device(layers.upper)? == device(layers.lower)?;
    scanner.layers = Some((*layers, one_device));
    if scanner.has_other_rules(b"")? {
        scanner.whole(b"")?;
    } else {
        let root = openat(layers.upper, c".", ROOT, Mode::empty()).map_err(|errno| Error::read(b"", errno))?;
        if options.gitignore {
            scanner.enter(b"", layers.merged)?;
        }
        let mut walk = Walk::new(root).map_err(|error| Error::read(b"", error))?;
        scanner.walk(&mut walk, Scanner::visit_upper)?;
    }
    let (read, unreadable) = (scanner.read, scanner.unreadable);
    let (hidden, ruled) = (std::mem::take(&mut scanner.hidden), std::mem::take(&mut scanner.ruled));
    Ok(ScannedLayers { change: Change::new(hidden, ruled, scanner.index(begun)?), read, unreadable })
}

/// By the clock that files are stamped with.
fn now() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Time { seconds: now.tv_sec, nanoseconds: now.tv_nsec as u32 }
}

struct Scanner<'a> {
    options: &'a Scan<'a>,
    before: Before<'a>,
    /// And whether both are on one file system.
    layers: Option<(Layers<'a>, bool)>,
    /// Paths of which the index of the lower directory says nothing any more, nor of what is below them.
    hidden: Vec<Vec<u8>>,
    /// Directories in which something else is left out than in the lower one.
    ruled: Vec<Vec<u8>>,
    rules: Rules,
    /// The depth of the ignored directory that is being walked for what is in the index of before.
    tracked_only: Option<usize>,
    found: Vec<(Entry, Look)>,
    /// Bytes of their paths.
    paths: usize,
    read: usize,
    unreadable: usize,
    seen: usize,
}

impl<'a> Scanner<'a> {
    fn new(options: &'a Scan<'a>, before: Before<'a>) -> Self {
        Self {
            options,
            before,
            layers: None,
            hidden: Vec::new(),
            ruled: Vec::new(),
            rules: Rules::until(options.until),
            tracked_only: None,
            found: Vec::new(),
            paths: 0,
            read: 0,
            unreadable: 0,
            seen: 0,
        }
    }

    fn walk(&mut self, walk: &mut Walk, visit: impl Fn(&mut Self, &mut Walk, &Visit) -> Result<(), Error>) -> Result<(), Error> {
        loop {
            match walk.next_entry() {
                Ok(None) => return Ok(()),
                Ok(Some(entry)) => visit(self, walk, &entry)?,
                // One that is not there any more was there when it was entered.
                Err((path, error)) if !path.is_empty() => return gone_or_failed(&path, error).and(Err(Error::changed(&path, Side::New))),
                Err((path, error)) => return Err(Error::read(&path, error)),
            }
        }
    }

    /// What was found.
    fn index(self, begun: Time) -> Result<Index, Error> {
        let mut found = self.found;
        found.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        let (entries, looks) = found.into_iter().unzip();
        // Sorts them again, which changes nothing. What a walk finds is a tree, unless a directory and a file changed places.
        let tree = Tree::new(entries).map_err(|error| match error {
            Error::Path { path, .. } => Error::changed(&path, Side::New),
            other => other,
        })?;
        Ok(Index { tree, looks, begun })
    }

    fn visit(&mut self, walk: &mut Walk, visit: &Visit) -> Result<(), Error> {
        match self.is_ignored(visit)? {
            Some(ignored) => self.see(walk, visit, ignored),
            None => Ok(()),
        }
    }

    /// Whether the entry that has come is ignored; absent if it is nothing for us at all.
    fn is_ignored(&mut self, visit: &Visit) -> Result<Option<bool>, Error> {
        self.seen += 1;
        if self.seen.is_multiple_of(CLOCK) && self.options.until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::TooSlow);
        }
        let depth = visit.depth();
        self.rules.leave(&visit.path, depth);
        self.tracked_only = self.tracked_only.filter(|outer| depth > *outer);
        let directory = visit.kind == FileType::Directory;
        if visit.name() == GIT || (self.options.leave_out)(&visit.path, directory) {
            return Ok(None);
        }
        let ignored = self.options.gitignore && (self.tracked_only.is_some() || self.rules.ignores(&visit.path, directory));
        if self.rules.out_of_time() { Err(Error::TooSlow) } else { Ok(Some(ignored)) }
    }

    fn see(&mut self, walk: &mut Walk, visit: &Visit, ignored: bool) -> Result<(), Error> {
        match visit.kind {
            FileType::Directory => {
                if ignored && !self.follows(visit) {
                    return Ok(());
                }
                match walk.descend(visit) {
                    Ok(inside) if self.options.gitignore && !ignored => self.enter(&visit.path, inside),
                    Ok(_) => Ok(()),
                    // The walk's own word for a `/proc`.
                    Err(error) if error.kind() == io::ErrorKind::Other => Ok(()),
                    Err(error) if is_denied(&error) => self.as_before(&visit.path, true),
                    Err(error) => gone_or_failed(&visit.path, error),
                }
            }
            FileType::RegularFile | FileType::Symlink => {
                if ignored && !self.before.has(&visit.path) {
                    return Ok(());
                }
                self.take(walk, visit)
            }
            _ => Ok(()),
        }
    }

    /// Whether something is in an ignored directory that is followed all the same, and then nothing else in it is.
    fn follows(&mut self, visit: &Visit) -> bool {
        let follows = self.before.has_below(&visit.path);
        if follows {
            self.tracked_only.get_or_insert(visit.depth());
        }
        follows
    }

    /// An entry of the upper directory.
    fn visit_upper(&mut self, walk: &mut Walk, visit: &Visit) -> Result<(), Error> {
        let Some(ignored) = self.is_ignored(visit)? else { return Ok(()) };
        if visit.kind != FileType::Directory {
            // What is neither file nor link says that what was there has gone, or is in its place.
            self.hidden.push(visit.path.clone());
            return self.see(walk, visit, ignored);
        }
        if ignored && !self.follows(visit) {
            self.hidden.push(visit.path.clone());
            return Ok(());
        }
        if !self.is_over_its_own(&visit.path) || !ignored && self.has_other_rules(&visit.path)? {
            return self.whole(&visit.path);
        }
        match walk.descend(visit) {
            Ok(_) if self.options.gitignore && !ignored => self.enter_merged(&visit.path),
            Ok(_) => Ok(()),
            Err(error) if is_denied(&error) => {
                self.hidden.push(visit.path.clone());
                self.as_before(&visit.path, true)
            }
            Err(error) => gone_or_failed(&visit.path, error),
        }
    }

    /// Everything that is shown below a path: it is another directory than the one that the lower one has there.
    fn whole(&mut self, path: &[u8]) -> Result<(), Error> {
        self.hidden.push(path.to_vec());
        let Some((layers, _)) = self.layers else { return Ok(()) };
        let walk = openat(layers.merged, c".", ROOT, Mode::empty()).map_err(io::Error::from).and_then(|root| Walk::below(root, path));
        let mut walk = match walk {
            Ok(walk) => walk,
            Err(error) if path.is_empty() => return Err(Error::read(path, error)),
            Err(error) if is_denied(&error) => return self.as_before(path, true),
            Err(error) => return gone_or_failed(path, error),
        };
        if self.options.gitignore && self.tracked_only.is_none() {
            self.enter_merged(path)?;
        }
        self.walk(&mut walk, Self::visit)
    }

    /// Whether a directory that both have at a path is shown as that of both: overlayfs gives it the number of the lower one then, as it is on one
    /// file system, or behind one of the layer. One that was made or moved there has another.
    fn is_over_its_own(&self, path: &[u8]) -> bool {
        const OF_INODES: u64 = (1 << 48) - 1;
        let Some((layers, one_device)) = self.layers else { return false };
        let number = |directory| {
            let stat = open_beneath(directory, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW).and_then(fstat);
            stat.map(|stat| stat.st_ino)
        };
        let (Ok(merged), Ok(lower)) = (number(layers.merged), number(layers.lower)) else { return false };
        if one_device { merged == lower } else { lower <= OF_INODES && merged > OF_INODES && merged & OF_INODES == lower }
    }

    /// Whether what is left out in a directory may be something else than in the lower one. That is so for good: what was found then is followed.
    fn has_other_rules(&mut self, path: &[u8]) -> Result<bool, Error> {
        let Some((layers, _)) = self.layers else { return Ok(false) };
        let known = path.is_empty() && layers.whole || layers.change.is_some_and(|change| change.has_other_rules(path));
        let other = known
            || self.options.gitignore && {
                let is_there = open_beneath(layers.upper, &ignore_path(path), OFlags::PATH | OFlags::NOFOLLOW).is_ok();
                is_there && ignore_file(layers.merged, path)? != ignore_file(layers.lower, path)?
            };
        if other {
            self.ruled.push(path.to_vec());
        }
        Ok(other)
    }

    fn enter_merged(&mut self, path: &[u8]) -> Result<(), Error> {
        let Some((layers, _)) = self.layers else { return Ok(()) };
        match open_beneath(layers.merged, path, ROOT) {
            Ok(directory) => self.enter(path, directory.as_fd()),
            Err(errno) => gone_or_failed(path, errno.into()),
        }
    }

    /// Reads the rules of a directory that is entered. As in git, a link is none.
    fn enter(&mut self, path: &[u8], directory: BorrowedFd<'_>) -> Result<(), Error> {
        // What does not hold here any more has gone with the directory that was left.
        let room = MAX_IGNORE.saturating_sub(self.rules.bytes() as u64);
        let Some(rules) = rules_in(directory, path, room)? else { return Ok(()) };
        if rules.len() as u64 > room {
            return Err(Error::IgnoreTooLarge { path: ignore_path(path), limit: MAX_IGNORE });
        }
        self.rules.enter(path, &rules);
        Ok(())
    }

    fn take(&mut self, walk: &mut Walk, visit: &Visit) -> Result<(), Error> {
        for _ in 0..TRIES {
            let stat = match walk.stat(visit) {
                Ok(stat) => stat,
                Err(Errno::ACCESS) => return self.as_before(&visit.path, false),
                Err(errno) => return gone_or_failed(&visit.path, errno.into()),
            };
            match self.look(walk, visit, &stat) {
                Ok(Some((entry, look))) => return self.found(entry, look),
                Ok(None) => {}
                Err(Error::Read { cause, .. }) if is_denied(&cause) => return self.as_before(&visit.path, false),
                Err(error) => return Err(error),
            }
        }
        Err(Error::changed(&visit.path, Side::New))
    }

    fn found(&mut self, entry: Entry, look: Look) -> Result<(), Error> {
        if self.found.len() == self.options.limits.entries {
            return Err(Error::TooManyEntries { limit: self.options.limits.entries });
        }
        self.paths = self.paths.saturating_add(entry.path.len());
        if self.paths > self.options.limits.paths {
            return Err(Error::PathsTooLong { limit: self.options.limits.paths });
        }
        self.found.push((entry, look));
        Ok(())
    }

    /// What may not be read, and with a directory all that is in it.
    fn as_before(&mut self, path: &[u8], directory: bool) -> Result<(), Error> {
        self.unreadable += 1;
        let before = self.before;
        before.at(path, directory).try_for_each(|(entry, look)| self.found(entry.clone(), look))
    }

    /// Absent if it changed while it was looked at.
    fn look(&mut self, walk: &mut Walk, visit: &Visit, stat: &Stat) -> Result<Option<(Entry, Look)>, Error> {
        if FileType::from_raw_mode(stat.st_mode) != visit.kind {
            return Err(Error::changed(&visit.path, Side::New));
        }
        if let Some(entry) = self.before.unchanged(&visit.path, kind(stat), stat.st_size as u64, look(stat)) {
            return Ok(Some((entry.clone(), look(stat))));
        }
        self.read += 1;
        if visit.kind == FileType::Symlink {
            let target = match walk.read_link(visit) {
                Ok(target) => target,
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(Error::read(&visit.path, errno)),
            };
            let entry = Entry { path: visit.path.clone(), kind: Kind::Link, size: target.len() as u64, id: Id::of(&target) };
            // Another link may have come in its place; the look of the one before is none of it.
            if !walk.stat(visit).is_ok_and(|after| look(&after) == look(stat)) {
                return Ok(None);
            }
            self.keep(&target, entry.id)?;
            return Ok(Some((entry, look(stat))));
        }
        let (file, stat) = match walk.open(visit) {
            Ok(opened) => opened,
            Err(error) => return gone_or_failed(&visit.path, error).map(|()| None),
        };
        let size = stat.st_size as u64;
        if size > self.options.limits.file {
            return Err(Error::FileTooLarge { path: visit.path.clone(), size, limit: self.options.limits.file });
        }
        let id = self.read(&visit.path, File::from(file), size)?;
        Ok(id.map(|id| (Entry { path: visit.path.clone(), kind: kind(&stat), size, id }, look(&stat))))
    }

    /// The name of a content, which goes to whoever keeps it on the way.
    fn read(&self, path: &[u8], content: File, size: u64) -> Result<Option<Id>, Error> {
        let Some(keep) = self.options.keep else {
            return Id::of_stream(content, size).map_err(|error| Error::read(path, error));
        };
        keep.begin(size).map_err(Error::Keep)?;
        let mut not_kept = false;
        let id = Id::of_stream_through(content, size, |piece| {
            let kept = keep.piece(piece);
            not_kept = kept.is_err();
            kept
        });
        let id = id.map_err(|error| if not_kept { Error::Keep(error) } else { Error::read(path, error) })?;
        if let Some(id) = id {
            keep.end(id).map_err(Error::Keep)?;
        }
        Ok(id)
    }

    /// The same for one that is there as a whole.
    fn keep(&self, content: &[u8], id: Id) -> Result<(), Error> {
        let Some(keep) = self.options.keep else { return Ok(()) };
        keep.begin(content.len() as u64).and_then(|()| keep.piece(content)).and_then(|()| keep.end(id)).map_err(Error::Keep)
    }
}

/// The rules in the directory at `path` below a root, empty where it has none.
fn ignore_file(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>, Error> {
    // One that is not there or cannot be read says nothing.
    let Ok(directory) = open_beneath(root, path, ROOT) else { return Ok(Vec::new()) };
    Ok(rules_in(directory.as_fd(), path, MAX_IGNORE)?.unwrap_or_default())
}

/// Those of a directory, and a byte more than there is room for if they are longer.
fn rules_in(directory: BorrowedFd<'_>, path: &[u8], room: u64) -> Result<Option<Vec<u8>>, Error> {
    let failed = |cause: io::Error| Error::read(&ignore_path(path), cause);
    let file = match openat(directory, IGNORE, FILE, Mode::empty()) {
        Ok(file) => file,
        // As in git, what cannot be read says nothing.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ACCESS) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let stat = fstat(&file).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut rules = Vec::new();
    File::from(file).take(room + 1).read_to_end(&mut rules).map_err(failed)?;
    Ok(Some(rules))
}

fn ignore_path(directory: &[u8]) -> Vec<u8> {
    if directory.is_empty() { IGNORE.to_vec() } else { [directory, b"/", IGNORE].concat() }
}

fn is_denied(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::ACCESS)
}

/// What is not there any more is not there.
fn gone_or_failed(path: &[u8], error: io::Error) -> Result<(), Error> {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => Ok(()),
        // Something else is there now; without a number it is the walk's own word for that.
        Some(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) | None => Err(Error::changed(path, Side::New)),
        Some(_) => Err(Error::read(path, error)),
    }
}

fn kind(stat: &Stat) -> Kind {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Kind::Link;
    }
    // As git: the owner's bit.
    Kind::File { executable: stat.st_mode & 0o100 != 0 }
}

fn look(stat: &Stat) -> Look {
    let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
    Look {
        modified: time(stat.st_mtime, stat.st_mtime_nsec as u32),
        changed: time(stat.st_ctime, stat.st_ctime_nsec as u32),
        inode: stat.st_ino,
    }
}
