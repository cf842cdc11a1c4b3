//! Checkpoints of directories, and patches since.
//!
//! ```text
//! scan ─▶ contents that are new are kept ─▶ patch from what was kept before to what is kept now ─▶ that state is the checkpoint
//! ```
//! Both sides of a patch are what is kept, never the files: what is written meanwhile is in the next one. Until the last step the checkpoint is
//! the old one, and whatever fails leaves it so.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use caisson_patch::{Entry, Error, Index, Limits, Options, Scan, Scanned, Source, Texts, Tree, scan, write_patch};
use caisson_tree::on_proc;
use caisson_wire::{CHECKPOINT_HEADER, Checkpoint, Checkpointed, Refusal, RefusalCode, path};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use rustix::{fs::OFlags, io::Errno};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};

use super::{
    CHUNKS, bytes, join, place,
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
const MAX_CHECKPOINTS: usize = 8;
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
pub(crate) struct Checkpoints(Arc<Mutex<BTreeMap<Vec<u8>, Kept>>>);

type All = OwnedMutexGuard<BTreeMap<Vec<u8>, Kept>>;

/// A state of a directory, with all contents.
#[derive(Debug)]
struct Kept {
    index: Index,
    contents: Contents,
}

/// What a request has.
struct Work {
    asked: Checkpoint,
    root: Vec<u8>,
    until: Instant,
    all: All,
    /// Where a new checkpoint has its contents, and where the patch goes.
    fresh: Option<File>,
    patch: Option<File>,
}

pub(crate) async fn checkpoint(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let asked: Checkpoint = read_json(request).await?;
    let root = plain(bytes(absolute(&asked.path, &agent.config.work_dir)?));
    let until = Instant::now() + Duration::from_millis(asked.max_ms);
    let all = tokio::time::timeout_at(until.into(), Arc::clone(&agent.checkpoints.0).lock_owned());
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
    let mut work = Work { asked, root, until, all, fresh, patch };
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
            (None, Some(file)) => (Kept { index: Index::default(), contents: Contents::new(file) }, true),
            (None, None) => return Err(refuse(RefusalCode::Failed, "there is nothing to keep contents in")),
        };
        let done = self.look(&mut kept, is_new);
        match &done {
            Ok((_, Some(index))) => {
                kept.contents.settle(kept.index.tree(), index.tree());
            }
            _ => kept.contents.sweep(),
        }
        let (done, index) = match done {
            Ok((done, index)) => (Ok(done), index),
            Err(refusal) => (Err(refusal), None),
        };
        if let Some(index) = index {
            kept.index = index;
            self.all.insert(self.root.clone(), kept);
        } else if !is_new {
            self.all.insert(self.root.clone(), kept);
        }
        done
    }

    /// Reads the directory and writes the patch. The index is that of the new checkpoint, if there is to be one.
    fn look(&mut self, kept: &mut Kept, is_new: bool) -> Result<(Checkpointed, Option<Index>), Refusal> {
        let found = self.scan(kept)?;
        let (old, new) = (kept.index.tree(), found.index.tree());
        let patch = match &mut self.patch {
            Some(file) if !is_new => {
                let options = Options {
                    text_bytes: MAX_TEXT,
                    patch_bytes: self.asked.max_patch,
                    texts: if self.asked.utf8 { Texts::Utf8 } else { Texts::Any },
                    ..Options::default()
                };
                let contents = InTime(&kept.contents, self.until);
                let written = write_patch(old, new, &contents, &contents, &options, &mut InTime(&mut *file, self.until));
                let summary = written.map_err(|error| of_patch(&self.root, error))?;
                file.rewind().map_err(|error| of_patch(&self.root, Error::Write(error)))?;
                Some(summary.bytes)
            }
            _ => None,
        };
        let changed = old.differences(new).count() as u64;
        let done = Checkpointed { files: count(new), changed, unreadable: found.unreadable as u64, patch };
        Ok((done, self.asked.keep.then_some(found.index)))
    }

    fn scan(&self, kept: &mut Kept) -> Result<Scanned, Refusal> {
        let refusal = |error| of_errno(error, &self.root);
        let others = || self.all.values().map(|kept| kept.index.tree().entries());
        let entries = MAX_ENTRIES.saturating_sub(others().map(<[_]>::len).sum());
        let paths = MAX_PATHS.saturating_sub(others().flatten().map(|entry| entry.path.len()).sum());
        let mut tries = 0;
        loop {
            let directory = place::open(&self.root, OFlags::RDONLY | OFlags::DIRECTORY).map_err(refusal)?;
            if on_proc(&directory).map_err(refusal)? {
                return Err(not_a_file(&self.root));
            }
            let keeping = Keeping::new(&mut kept.contents, self.until);
            let found = scan(
                directory,
                &Scan {
                    gitignore: self.asked.gitignore,
                    before: Some(&kept.index),
                    keep: Some(&keeping),
                    limits: Limits { entries, paths, file: MAX_FILE },
                    until: Some(self.until),
                    ..Scan::default()
                },
            );
            tries += 1;
            match found {
                Err(Error::Changed { .. }) if tries < TRIES => {}
                found => return found.map_err(|error| of_patch(&self.root, error)),
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

impl Source for InTime<&Contents> {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + '_>> {
        if Instant::now() >= self.1 { Err(Errno::TIMEDOUT.into()) } else { self.0.open(entry) }
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
