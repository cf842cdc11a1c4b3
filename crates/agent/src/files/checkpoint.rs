//! Checkpoints of directories, and patches since.
//!
//! ```text
//! scan ─▶ contents that are new are kept ─▶ patch from what was kept before to what is kept now ─▶ that state is the checkpoint
//! ```
//! Both sides of a patch are what is kept, never the files: what is written meanwhile is in the next one. Until the last step the checkpoint is
//! the old one, and whatever fails leaves it so.
//!
//! Where a directory has [`Layers`], a checkpoint is an index of the lower one, whose files need not be kept, and what is different from that.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use caisson_patch::{
    Change, Directory, Entry, Error, Index, Keep, Limits, Options, Scan, ScannedLayers, Source, Texts, Tree, differences, scan,
    scan_layers, write_patch,
};
use caisson_tree::on_proc;
use caisson_wire::{CHECKPOINT_HEADER, Checkpoint, Checkpointed, Refusal, RefusalCode, path};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{OFlags, fstat},
    io::Errno,
};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};

use super::{
    CHUNKS, bytes, join,
    layers::{AllLayers, Layers},
    place,
    read::{not_a_file, send_file},
};
use crate::{
    body::Answer,
    kept::{Contents, Keeping, nameless},
    query::absolute,
    refusal::{of_errno, of_path, refuse},
    service::read_json,
    setup::Agent,
};

/// Directories that have a checkpoint.
pub(super) const MAX_CHECKPOINTS: usize = 8;
/// Files and links in all of them, and the bytes of their paths: the agent has them in memory.
const MAX_ENTRIES: usize = 300_000;
const MAX_PATHS: usize = 32 << 20;
/// The largest file that a checkpoint takes.
const MAX_FILE: u64 = 1 << 30;
/// The largest file whose lines are compared, which takes several times its size in memory.
const MAX_TEXT: u64 = 4 << 20;
/// How often a directory is read that changes meanwhile.
const TRIES: usize = 5;

/// By the paths of their directories. One request is at them at a time.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    all: Arc<Mutex<BTreeMap<Vec<u8>, Kept>>>,
    pub(crate) layers: Arc<AllLayers>,
}

type All = OwnedMutexGuard<BTreeMap<Vec<u8>, Kept>>;

/// A state of a directory, with all contents that are not elsewhere.
#[derive(Debug)]
struct Kept {
    index: Index,
    contents: Contents,
    /// Where the index is that of a lower directory.
    over: Option<Over>,
}

/// What the state is beyond its index.
#[derive(Debug)]
struct Over {
    layers: Arc<Layers>,
    /// Whether ignored files are left out of the index.
    gitignore: bool,
    change: Change,
}

/// The new state.
enum Next {
    Whole(Index),
    /// Of the same index.
    Changed(Change),
    Layered(Index, Over),
}

/// What the new state is beside itself.
struct Found {
    next: Next,
    /// What is different, as it was and as it is; absent when that is all of both states.
    different: Option<(Tree, Tree)>,
    files: u64,
    unreadable: u64,
}

/// What a request has.
struct Work {
    asked: Checkpoint,
    root: Vec<u8>,
    until: Instant,
    all: All,
    layers: Arc<AllLayers>,
    /// Where a new checkpoint has its contents, and where the patch goes.
    fresh: Option<File>,
    patch: Option<File>,
}

pub(crate) async fn checkpoint(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let asked: Checkpoint = read_json(request).await?;
    let root = plain(bytes(absolute(&asked.path, &agent.config.work_dir)?));
    let until = Instant::now() + Duration::from_millis(asked.max_ms);
    let all = tokio::time::timeout_at(until.into(), Arc::clone(&agent.checkpoints.all).lock_owned());
    let all = all.await.map_err(|_| refuse(RefusalCode::TooSlow, "another checkpoint takes too long; try again"))?;
    let is_new = !all.contains_key(&root);
    if is_new && !asked.keep {
        let message = format!("there is no checkpoint of `{}`; make one first", path::encode(&root));
        return Err(refuse(RefusalCode::NoCheckpoint, message));
    }
    if is_new && all.len() >= MAX_CHECKPOINTS {
        let message = format!("{MAX_CHECKPOINTS} directories have a checkpoint already; make it of one of them, or of one above them");
        return Err(refuse(RefusalCode::TooManyCheckpoints, message));
    }
    let file = |wanted: bool| {
        let file = wanted.then(|| nameless(agent.config.uid)).transpose();
        file.map_err(|error| no_room(&error, "a checkpoint"))
    };
    let (fresh, patch) = (file(is_new)?, file(!is_new && asked.patch)?);
    let (tell, told) = oneshot::channel();
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let layers = Arc::clone(&agent.checkpoints.layers);
    let mut work = Work { asked, root, until, all, layers, fresh, patch };
    agent.workers.spawn_deep(move || {
        let done = work.carry_out();
        let patch = work.patch.take().filter(|_| done.is_ok());
        // Whoever asked has gone, so nobody wants to hear it.
        if tell.send(done).is_ok()
            && let Some(patch) = patch
            && let Err(error) = send_file(patch, 0, None, &chunks)
        {
            drop(chunks.blocking_send(Err(error)));
        }
    })?;
    let done = told.await.unwrap_or_else(|_| Err(refuse(RefusalCode::Failed, "the checkpoint ended")))?;
    let header = serde_json::to_string(&done).expect("wire types are plain data");
    let header = HeaderValue::from_str(&header).map_err(|_| refuse(RefusalCode::Failed, "figures do not fit into a header"))?;
    let mut response = Response::new(Answer::Breakable(receiver));
    response.headers_mut().insert(CHECKPOINT_HEADER, header);
    Ok(response)
}

impl Work {
    fn carry_out(&mut self) -> Result<Checkpointed, Refusal> {
        let (mut kept, is_new) = match (self.all.remove(&self.root), self.fresh.take()) {
            (Some(kept), _) => (kept, false),
            (None, Some(file)) => (Kept { index: Index::default(), contents: Contents::new(file), over: None }, true),
            (None, None) => return Err(refuse(RefusalCode::Failed, "there is nothing to keep contents in")),
        };
        let done = self.look(&mut kept, is_new);
        let (done, next) = match done {
            Ok((done, next)) => (Ok(done), next),
            Err(refusal) => (Err(refusal), None),
        };
        let is_kept = !is_new || next.is_some();
        match next {
            Some(next) => kept.become_next(next),
            None => kept.contents.sweep(),
        }
        if is_kept {
            self.all.insert(self.root.clone(), kept);
        }
        done
    }

    /// Reads the directory and writes the patch. The state is that of the new checkpoint, if there is to be one.
    fn look(&mut self, kept: &mut Kept, is_new: bool) -> Result<(Checkpointed, Option<Next>), Refusal> {
        let Found { next, different, files, unreadable } = self.find(kept)?;
        let (old, new) = match (&different, &next) {
            (Some((old, new)), _) => (old, new),
            (None, Next::Whole(index) | Next::Layered(index, _)) => (kept.index.tree(), index.tree()),
            (None, Next::Changed(_)) => (kept.index.tree(), kept.index.tree()),
        };
        let patch = match &mut self.patch {
            Some(file) if !is_new => {
                let options = Options {
                    text_bytes: MAX_TEXT,
                    patch_bytes: self.asked.max_patch,
                    texts: if self.asked.utf8 { Texts::Utf8 } else { Texts::Any },
                    ..Options::default()
                };
                let lower = match (&next, &kept.over) {
                    (Next::Layered(_, over), _) | (Next::Changed(_), Some(over)) => Some(Arc::clone(&over.layers)),
                    _ => None,
                };
                let lower = lower.map(|layers| layers.lower.try_clone().map(Directory::new)).transpose();
                let lower = lower.map_err(|cause| of_patch(&self.root, Error::Read { path: Vec::new(), cause }))?;
                let contents = InTime(KeptOrLower { kept: &kept.contents, lower: lower.as_ref() }, self.until);
                let written = write_patch(old, new, &contents, &contents, &options, &mut InTime(&mut *file, self.until));
                let summary = written.map_err(|error| of_patch(&self.root, error))?;
                file.rewind().map_err(|error| of_patch(&self.root, Error::Write(error)))?;
                Some(summary.bytes)
            }
            _ => None,
        };
        let changed = if is_new { files } else { old.differences(new).count() as u64 };
        let done = Checkpointed { files, changed, unreadable, patch };
        Ok((done, self.asked.keep.then_some(next)))
    }

    /// What is in the directory now, tried again while it changes.
    fn find(&self, kept: &mut Kept) -> Result<Found, Refusal> {
        let refusal = |error| of_errno(error, &self.root);
        let mut tries = 0;
        loop {
            let directory = place::open(&self.root, OFlags::RDONLY | OFlags::DIRECTORY).map_err(refusal)?;
            if on_proc(&directory).map_err(refusal)? {
                return Err(not_a_file(&self.root));
            }
            let layers = self.layers.of(&fstat(&directory).map_err(refusal)?);
            tries += 1;
            match self.find_once(kept, &directory, layers) {
                Err(Error::Changed { .. }) if tries < TRIES => {}
                found => return found.map_err(|error| of_patch(&self.root, error)),
            }
        }
    }

    fn find_once(&self, kept: &mut Kept, directory: &OwnedFd, layers: Option<Arc<Layers>>) -> Result<Found, Error> {
        match (&kept.over, layers) {
            (Some(over), Some(layers)) if Arc::ptr_eq(&over.layers, &layers) => self.find_over(kept, directory),
            (None, Some(layers)) if self.asked.keep => match self.find_layers(kept, directory, layers)? {
                Some(found) => Ok(found),
                None => self.find_all(kept, directory),
            },
            _ => self.find_all(kept, directory),
        }
    }

    /// By a look at everything.
    fn find_all(&self, kept: &mut Kept, directory: &OwnedFd) -> Result<Found, Error> {
        // Of what is in a lower directory, nothing is kept: all is read.
        let unread = kept.over.as_ref().map(|over| over.change.unread(&kept.index)).transpose()?;
        let keeping = Keeping::new(&mut kept.contents, self.until);
        let found = scan(directory, &self.scan(unread.as_ref().unwrap_or(&kept.index), Some(&keeping)))?;
        let different = unread.map(|unread| (unread.tree().clone(), found.index.tree().clone()));
        Ok(Found { different, files: count(found.index.tree()), unreadable: found.unreadable as u64, next: Next::Whole(found.index) })
    }

    /// By what is in the upper directory. The state of the lower one is known.
    fn find_over(&self, kept: &mut Kept, directory: &OwnedFd) -> Result<Found, Error> {
        let Kept { index, contents, over: Some(Over { layers, gitignore, change }) } = kept else { return self.find_all(kept, directory) };
        let found = self.scan_layers((directory, layers), contents, index, Some(&*change), *gitignore != self.asked.gitignore)?;
        let files = self.size(index, &found.change)?;
        let different = Some(differences(index, change, &found.change)?);
        Ok(Found { different, files, unreadable: found.unreadable as u64, next: Next::Changed(found.change) })
    }

    /// The same, and the lower directory is looked at for the first time. Absent where not all of it can be read: what is in it could be seen later,
    /// with nothing changed.
    fn find_layers(&self, kept: &mut Kept, directory: &OwnedFd, layers: Arc<Layers>) -> Result<Option<Found>, Error> {
        let lower = scan(&layers.lower, &self.scan(&kept.index, None))?;
        if lower.unreadable > 0 {
            return Ok(None);
        }
        let found = self.scan_layers((directory, &layers), &mut kept.contents, &kept.index, None, false)?;
        let files = self.size(&lower.index, &found.change)?;
        let different = Some((kept.index.tree().clone(), found.change.unread(&lower.index)?.tree().clone()));
        let over = Over { layers, gitignore: self.asked.gitignore, change: found.change };
        Ok(Some(Found { different, files, unreadable: found.unreadable as u64, next: Next::Layered(lower.index, over) }))
    }

    fn scan_layers(
        &self,
        (directory, layers): (&OwnedFd, &Layers),
        contents: &mut Contents,
        before: &Index,
        change: Option<&Change>,
        whole: bool,
    ) -> Result<ScannedLayers, Error> {
        let keeping = Keeping::new(contents, self.until);
        let layers =
            caisson_patch::Layers { merged: directory.as_fd(), upper: layers.upper.as_fd(), lower: layers.lower.as_fd(), change, whole };
        scan_layers(&layers, &self.scan(before, Some(&keeping)))
    }

    fn scan<'a>(&self, before: &'a Index, keep: Option<&'a dyn Keep>) -> Scan<'a> {
        Scan {
            gitignore: self.asked.gitignore,
            before: Some(before),
            keep,
            limits: self.limits(),
            until: Some(self.until),
            ..Scan::default()
        }
    }

    /// What other checkpoints leave.
    fn limits(&self) -> Limits {
        let others = || self.all.values().flat_map(Kept::trees).map(Tree::entries);
        let entries = MAX_ENTRIES.saturating_sub(others().map(<[_]>::len).sum());
        let paths = MAX_PATHS.saturating_sub(others().flatten().map(|entry| entry.path.len()).sum());
        Limits { entries, paths, file: MAX_FILE }
    }

    /// How many files a state has, if the agent has room for it.
    fn size(&self, index: &Index, change: &Change) -> Result<u64, Error> {
        let Limits { entries, paths, .. } = self.limits();
        let (found, more) = change.size(index);
        let held = index.tree().entries().len() + change.found().tree().entries().len();
        if held > entries {
            return Err(Error::TooManyEntries { limit: entries });
        }
        let bytes: usize = index.tree().entries().iter().map(|entry| entry.path.len()).sum();
        if i64::try_from(bytes).unwrap_or(i64::MAX).saturating_add(more) > i64::try_from(paths).unwrap_or(i64::MAX) {
            return Err(Error::PathsTooLong { limit: paths });
        }
        Ok(found as u64)
    }
}

impl Kept {
    /// Everything that it holds entries in.
    fn trees(&self) -> impl Iterator<Item = &Tree> {
        [self.index.tree()].into_iter().chain(self.over.iter().map(|over| over.change.found().tree()))
    }

    fn become_next(&mut self, next: Next) {
        match next {
            Next::Whole(index) => {
                if self.over.take().is_some() {
                    self.contents.keep_only(index.tree());
                } else {
                    self.contents.settle(self.index.tree(), index.tree());
                }
                self.index = index;
            }
            Next::Changed(change) => {
                self.contents.keep_only(change.found().tree());
                if let Some(over) = &mut self.over {
                    over.change = change;
                }
            }
            Next::Layered(index, over) => {
                self.contents.keep_only(over.change.found().tree());
                (self.index, self.over) = (index, Some(over));
            }
        }
    }
}

fn count(tree: &Tree) -> u64 {
    tree.entries().len() as u64
}

/// A path with nothing in it that leads nowhere, so that one directory has one checkpoint: `/a` for `//a/.`.
fn plain(path: Vec<u8>) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    for name in path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
        plain.push(b'/');
        plain.extend_from_slice(name);
    }
    if plain.is_empty() { b"/".to_vec() } else { plain }
}

/// What is read or written until it is too late.
struct InTime<T>(T, Instant);

/// Contents that are kept, and those of a directory that nobody writes to.
struct KeptOrLower<'a> {
    kept: &'a Contents,
    lower: Option<&'a Directory>,
}

impl Source for InTime<KeptOrLower<'_>> {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + '_>> {
        if Instant::now() >= self.1 {
            return Err(Errno::TIMEDOUT.into());
        }
        match (self.0.kept.open(entry), self.0.lower) {
            (Err(error), Some(lower)) if error.kind() == io::ErrorKind::NotFound => lower.open(entry),
            (kept, _) => kept,
        }
    }
}

impl Write for InTime<&mut File> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if Instant::now() >= self.1 { Err(Errno::TIMEDOUT.into()) } else { self.0.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn no_room(error: &io::Error, what: &str) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => {
            refuse(RefusalCode::NoSpace, format!("{what} does not fit beside the files: remove some, or give the sandbox a larger disk"))
        }
        Some(Errno::TIMEDOUT) => refuse(RefusalCode::TooSlow, format!("{what} takes longer than it may; make it of a smaller directory")),
        _ => refuse(RefusalCode::Failed, format!("{what} cannot be kept: {error}")),
    }
}

fn of_patch(root: &[u8], error: Error) -> Refusal {
    let code = match &error {
        Error::Read { cause, .. } if cause.raw_os_error() == Some(Errno::TIMEDOUT.raw_os_error()) => return no_room(cause, "the patch"),
        Error::Read { path, cause } => return of_path(cause, &if path.is_empty() { root.to_vec() } else { join(root, path) }),
        Error::Keep(cause) => return no_room(cause, "a checkpoint"),
        Error::Write(cause) => return no_room(cause, "the patch"),
        Error::Changed { .. } => RefusalCode::Changing,
        Error::PatchTooLarge { .. } => RefusalCode::PatchTooLarge,
        Error::TooSlow => RefusalCode::TooSlow,
        Error::FileTooLarge { .. } | Error::IgnoreTooLarge { .. } | Error::TooManyEntries { .. } | Error::PathsTooLong { .. } => {
            RefusalCode::TreeTooLarge
        }
        Error::Index(_) | Error::Path { .. } => RefusalCode::Failed,
    };
    refuse(code, format!("`{}`: {error}", path::encode(root)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_has_one_name() {
        for (path, expect) in [("/", "/"), ("//a/./b//.", "/a/b"), ("/a/", "/a"), ("/.", "/"), ("/a/../b", "/a/../b"), ("/a/.b", "/a/.b")] {
            assert_eq!(plain(path.into()), expect.as_bytes(), "{path}");
        }
    }
}
