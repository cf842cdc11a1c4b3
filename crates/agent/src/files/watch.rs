//! What happens in a directory, from the kernel's `inotify(7)`, as lines of JSON.
//!
//! The kernel watches single directories and tells names in them. So for a whole tree every directory is watched, new ones as soon as they are
//! told, and what was made in them before that is looked for. The kernel's queue is bounded: who reads too slowly loses events, and is told.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use caisson_tree::{Walk, on_proc};
use caisson_wire::{Refusal, RefusalCode, Watch, WatchEvent, path};
use http::{Request, Response};
use hyper::body::Incoming;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    fs::{
        FileType, OFlags, fstat,
        inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    },
    io::Errno,
};
use tokio::sync::{mpsc, oneshot};

use super::{CHUNKS, LONGEST_PATH, join, path_of, place, told};
use crate::{
    body::Answer,
    query::Query,
    refusal::{of_path, refuse},
    setup::Agent,
};

/// Directories of one watch.
const MAX_DIRECTORIES: usize = 8192;
/// Events are sent when this many bytes of them have come together, or nothing more comes.
const BATCH: usize = 32 << 10;
/// Entries that are remembered as told. Of more, one may be told twice.
const MAX_FOUND: usize = 32_768;
/// Both halves of a move come together. One that is alone for so long went elsewhere.
const OTHER_HALF: Duration = Duration::from_millis(20);
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::EXCL_UNLINK);

pub(crate) async fn watch(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let (path, recursive) = (path_of(request, agent)?, Query::of(request.uri()).flag("recursive"));
    let (tell, told) = oneshot::channel();
    let (lines, receiver) = mpsc::channel(CHUNKS);
    let (gone, alive) = io::pipe().map_err(|error| of_path(&error, &path))?;
    agent.workers.spawn_lasting(move || match Watcher::begin(path, recursive, lines) {
        // Whoever asked has gone, so nobody wants to hear it.
        Err(refusal) => drop(tell.send(Err(refusal))),
        Ok(watcher) => {
            if tell.send(Ok(())).is_ok() {
                watcher.run(&gone.into());
            }
        }
    })?;
    told.await.unwrap_or_else(|_| Err(refuse(RefusalCode::Failed, "the watch ended")))?;
    Ok(Response::new(Answer::Watched(receiver, alive.into())))
}

/// What the kernel told.
struct Event {
    watch: i32,
    what: ReadFlags,
    cookie: u32,
    name: Option<Vec<u8>>,
}

/// An entry that has left one directory and may have come into another.
struct Moving {
    cookie: u32,
    path: Vec<u8>,
    directory: bool,
    since: Instant,
}

struct Watcher {
    inotify: OwnedFd,
    /// As it was asked for, and as it is told.
    root: Vec<u8>,
    /// The same without links.
    real: Vec<u8>,
    is_directory: bool,
    recursive: bool,
    root_watch: i32,
    /// Below the root, by what the kernel calls them.
    directories: HashMap<i32, Vec<u8>>,
    moving: Option<Moving>,
    /// Told as made because they were found; the kernel may still tell the same.
    found: HashSet<Vec<u8>>,
    /// Told last, so that a thousand writes are not a thousand events.
    modified: Option<Vec<u8>>,
    out: Vec<u8>,
    lines: mpsc::Sender<io::Result<Bytes>>,
}

/// Nobody reads any more, or there is nothing left to tell.
struct Over;

impl Watcher {
    fn begin(root: Vec<u8>, recursive: bool, lines: mpsc::Sender<io::Result<Bytes>>) -> Result<Self, Refusal> {
        let refusal = |error: io::Error| match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::MFILE) => {
                refuse(RefusalCode::Exhausted, "the machine gives no more watches to this user; watch less, or fewer directories")
            }
            _ => of_path(&error, &root),
        };
        let real = std::fs::canonicalize(Path::new(OsStr::from_bytes(&root))).map_err(refusal)?.into_os_string().into_encoded_bytes();
        let entry = place::open(&real, OFlags::PATH | OFlags::NOFOLLOW).map_err(|error| refusal(error.into()))?;
        if on_proc(&entry).map_err(|error| refusal(error.into()))? {
            return Err(place::in_proc(&root));
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|error| refusal(error.into()))?;
        let root_watch = inotify::add_watch(&inotify, &real, CHANGES | WatchFlags::DONT_FOLLOW).map_err(|error| refusal(error.into()))?;
        let mut watcher = Self {
            inotify,
            root: told(&root).to_vec(),
            real,
            is_directory: FileType::from_raw_mode(fstat(entry).map_err(|error| refusal(error.into()))?.st_mode) == FileType::Directory,
            recursive,
            root_watch,
            directories: HashMap::from([(root_watch, Vec::new())]),
            moving: None,
            found: HashSet::new(),
            modified: None,
            out: Vec::new(),
            lines,
        };
        watcher.tell(Watch::Ready, b"", None, watcher.is_directory);
        if recursive && watcher.is_directory {
            // What is missed in it waits until somebody reads.
            _ = watcher.add_tree(b"", false);
            if watcher.directories.len() >= MAX_DIRECTORIES {
                let message = format!("`{}` has more than {MAX_DIRECTORIES} directories; watch some of them", path::encode(&root));
                return Err(refuse(RefusalCode::Exhausted, message));
            }
        }
        Ok(watcher)
    }

    /// Until the other side hangs up, which closes the other end of `gone`, or the root is no more.
    fn run(mut self, gone: &OwnedFd) {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        loop {
            if self.send().is_err() {
                return;
            }
            let ready = {
                let mut sources = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(gone, PollFlags::IN)];
                let patience = self.moving.as_ref().map(|moving| timespec(OTHER_HALF.saturating_sub(moving.since.elapsed())));
                match poll(&mut sources, patience.as_ref()) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => return,
                }
                if !sources[1].revents().is_empty() {
                    return;
                }
                !sources[0].revents().is_empty()
            };
            if !ready {
                self.settle();
                continue;
            }
            loop {
                let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
                let mut events = Vec::new();
                match reader.next() {
                    Ok(event) => events.push(owned(&event)),
                    Err(Errno::INTR) => continue,
                    Err(_) => break,
                }
                while !reader.is_buffer_empty() {
                    match reader.next() {
                        Ok(event) => events.push(owned(&event)),
                        Err(_) => break,
                    }
                }
                for event in events {
                    if self.event(&event).is_err() {
                        // The last word, which only a reader who has gone does not hear.
                        _ = self.send();
                        return;
                    }
                }
                if self.out.len() >= BATCH && self.send().is_err() {
                    return;
                }
            }
            // The queue is empty: what was found by looking cannot be told once more.
            self.found.clear();
            self.modified = None;
        }
    }

    fn event(&mut self, event: &Event) -> Result<(), Over> {
        if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.tell(Watch::Overflow, b"", None, true);
            if self.recursive {
                self.add_tree(b"", false)?;
            }
            return Ok(());
        }
        if event.what.contains(ReadFlags::IGNORED) {
            self.directories.remove(&event.watch);
            return Ok(());
        }
        let is_late = |moving: &Moving| moving.since.elapsed() >= OTHER_HALF && moving.cookie != event.cookie;
        if self.moving.as_ref().is_some_and(is_late) {
            self.settle();
        }
        let Some(directory) = self.directories.get(&event.watch) else { return Ok(()) };
        let Some(name) = &event.name else {
            if event.watch != self.root_watch {
                // The directory above tells the same.
                return Ok(());
            }
            if event.what.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
                self.tell(Watch::Gone, b"", None, self.is_directory);
                return Err(Over);
            }
            if event.what.intersects(ReadFlags::MODIFY | ReadFlags::ATTRIB) {
                self.modified(b"", self.is_directory);
            }
            return Ok(());
        };
        let path = if directory.is_empty() { name.clone() } else { join(directory, name) };
        let is_directory = event.what.contains(ReadFlags::ISDIR);
        if event.what.intersects(ReadFlags::MODIFY | ReadFlags::ATTRIB) {
            self.modified(&path, is_directory);
            return Ok(());
        }
        if event.what.contains(ReadFlags::MOVED_TO)
            && let Some(moving) = self.moving.take_if(|moving| moving.cookie == event.cookie)
        {
            self.tell(Watch::Moved, &moving.path, Some(&path), is_directory);
            if is_directory {
                self.rename(&moving.path, &path);
            }
            return Ok(());
        }
        if event.what.contains(ReadFlags::MOVED_FROM) {
            self.settle();
            self.moving = Some(Moving { cookie: event.cookie, path, directory: is_directory, since: Instant::now() });
        } else if event.what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            if !self.found.remove(&path) {
                self.tell(Watch::Created, &path, None, is_directory);
            }
            if is_directory && self.recursive {
                self.add_tree(&path, true)?;
            }
        } else if event.what.contains(ReadFlags::DELETE) {
            self.tell(Watch::Deleted, &path, None, is_directory);
        }
        Ok(())
    }

    fn modified(&mut self, path: &[u8], directory: bool) {
        if self.modified.as_deref() != Some(path) {
            self.tell(Watch::Modified, path, None, directory);
            self.modified = Some(path.to_vec());
        }
    }

    /// What has left and not come in again is not there any more.
    fn settle(&mut self) {
        let Some(moving) = self.moving.take() else { return };
        self.tell(Watch::Deleted, &moving.path, None, moving.directory);
        if moving.directory {
            for (watch, _) in self.directories.extract_if(|_, path| is_in(path, &moving.path)) {
                // The kernel may have dropped it already.
                _ = inotify::remove_watch(&self.inotify, watch);
            }
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) {
        for path in self.directories.values_mut().filter(|path| is_in(path, from)) {
            *path = [to, &path[from.len()..]].concat();
        }
    }

    /// Watches a directory and all below it. With `told`, what is in it was made before it was watched, and is told now. A part that
    /// cannot be watched is told as well: what happens there is missed.
    fn add_tree(&mut self, directory: &[u8], told: bool) -> Result<(), Over> {
        if !self.add(directory) {
            return Ok(());
        }
        let opened = place::open(&self.real_path(directory), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW);
        let mut walk = match opened.map_err(io::Error::from).and_then(Walk::new) {
            Ok(walk) => walk,
            Err(error) => {
                self.missed(directory, &error);
                return Ok(());
            }
        };
        loop {
            let visit = match walk.next_entry() {
                Ok(Some(visit)) => visit,
                Ok(None) => return Ok(()),
                Err((path, error)) => {
                    self.missed(&below(directory, &path), &error);
                    continue;
                }
            };
            let (path, is_directory) = (below(directory, &visit.path), visit.kind == FileType::Directory);
            if told && !self.found.contains(&path) {
                self.tell(Watch::Created, &path, None, is_directory);
                if self.found.len() < MAX_FOUND {
                    self.found.insert(path.clone());
                }
                if self.out.len() >= BATCH {
                    self.send()?;
                }
            }
            if is_directory
                && self.add(&path)
                && let Err(error) = walk.descend(&visit)
            {
                self.missed(&path, &error);
            }
        }
    }

    fn add(&mut self, directory: &[u8]) -> bool {
        if self.directories.len() >= MAX_DIRECTORIES {
            self.missed(directory, &Errno::NOSPC.into());
            return false;
        }
        match inotify::add_watch(&self.inotify, self.real_path(directory), CHANGES | WatchFlags::DONT_FOLLOW | WatchFlags::ONLYDIR) {
            Ok(watch) => {
                self.directories.insert(watch, directory.to_vec());
                true
            }
            Err(error) => {
                self.missed(directory, &error.into());
                false
            }
        }
    }

    /// What has gone already is not missed.
    fn missed(&mut self, path: &[u8], error: &io::Error) {
        if !matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR)) {
            self.tell(Watch::Overflow, path, None, true);
        }
    }

    fn real_path(&self, below: &[u8]) -> Vec<u8> {
        if below.is_empty() { self.real.clone() } else { join(&self.real, below) }
    }

    fn tell(&mut self, what: Watch, path: &[u8], to: Option<&[u8]>, directory: bool) {
        self.modified = None;
        let length = |path: &[u8]| self.root.len() + 1 + path.len();
        if length(path).max(to.map_or(0, length)) > LONGEST_PATH {
            // It cannot be told where, but that something is to be looked at.
            return self.tell(Watch::Overflow, b"", None, true);
        }
        let shown = |path: &[u8]| path::encode(&if path.is_empty() { self.root.clone() } else { join(&self.root, path) });
        let event = WatchEvent { what, path: shown(path), to: to.map(shown), directory };
        serde_json::to_writer(&mut self.out, &event).expect("wire types are plain data");
        self.out.push(b'\n');
    }

    /// Waits while the other side is slow; the kernel's queue fills meanwhile.
    fn send(&mut self) -> Result<(), Over> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.lines.blocking_send(Ok(std::mem::take(&mut self.out).into())).map_err(|_| Over)
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: duration.subsec_nanos().into() }
}

fn owned(event: &inotify::Event<'_>) -> Event {
    let name = event.file_name().map(|name| name.to_bytes().to_vec());
    Event { watch: event.wd(), what: event.events(), cookie: event.cookie(), name }
}

fn below(directory: &[u8], rest: &[u8]) -> Vec<u8> {
    if directory.is_empty() { rest.to_vec() } else { join(directory, rest) }
}

/// Whether a path is that directory or lies in it.
fn is_in(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
