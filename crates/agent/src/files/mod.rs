//! Files, as the sandbox's user touches them. All of it runs on the worker threads.

mod archive;
mod change;
mod checkpoint;
mod glob;
mod grep;
mod layers;
mod list;
mod place;
mod read;
mod watch;
mod write;

pub(crate) use self::{
    archive::{pack, unpack},
    change::{copy, delete, make_directory, move_entry},
    checkpoint::{Checkpoints, checkpoint},
    grep::grep,
    layers::layer,
    list::{glob, list},
    read::read,
    watch::watch,
    write::write,
};

use std::path::PathBuf;

use caisson_wire::{FileKind, FileStat, Refusal, path};
use http::{Request, Response};
use hyper::body::Incoming;
use rustix::fs::{FileType, OFlags, Stat, fstat, readlinkat};

use crate::{body::Answer, query::Query, refusal::of_errno, service::json, setup::Agent};

/// Pieces under way between a worker and the stream.
const CHUNKS: usize = 4;
/// The longest path that a program can name, and so the longest one that is told.
const LONGEST_PATH: usize = 4095;
/// The path that a request is about, as bytes.
fn path_of(request: &Request<Incoming>, agent: &Agent) -> Result<Vec<u8>, Refusal> {
    Ok(bytes(Query::of(request.uri()).path(&agent.config.work_dir)?))
}

fn bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_encoded_bytes()
}

/// A directory as it is told in front of what is in it: `/a` for `/a/` and `/a/.`.
fn told(directory: &[u8]) -> &[u8] {
    let mut told = directory;
    while let Some(rest) = told.strip_suffix(b"/.").or_else(|| told.strip_suffix(b"/")) {
        told = rest;
    }
    if told.is_empty() { b"/" } else { told }
}

/// A directory's path with a relative one behind it.
fn join(directory: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(directory.len() + 1 + rest.len());
    whole.extend_from_slice(directory);
    if !directory.ends_with(b"/") {
        whole.push(b'/');
    }
    whole.extend_from_slice(rest);
    whole
}

/// An entry as it is told.
fn describe(name: &[u8], stat: &Stat, target: Option<&[u8]>) -> FileStat {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    FileStat {
        path: path::encode(name),
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        mtime_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        uid: stat.st_uid,
        gid: stat.st_gid,
        inode: stat.st_ino,
        target: target.map(path::encode),
    }
}

/// What is at a path; a link is told as the link that it is.
pub(crate) fn describe_path(path: &[u8]) -> Result<FileStat, Refusal> {
    let refusal = |error| of_errno(error, path);
    let entry = place::open(path, OFlags::PATH | OFlags::NOFOLLOW).map_err(refusal)?;
    let stat = fstat(&entry).map_err(refusal)?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        // What has no name any more has no target either.
        FileType::Symlink => readlinkat(&entry, c"", Vec::new()).ok(),
        _ => None,
    };
    Ok(describe(path, &stat, target.as_ref().map(|target| target.to_bytes())))
}

pub(crate) async fn stat(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let path = path_of(request, agent)?;
    let stat = agent.workers.run(move || describe_path(&path)).await?;
    Ok(json(&stat))
}
