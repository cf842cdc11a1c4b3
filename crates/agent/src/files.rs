//! Files, as the sandbox's user touches them. All of it runs on the worker threads.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use caisson_wire::{FileKind, FileStat, Listing, Refusal, RefusalCode, STAT_HEADER, path};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat, openat2, statat, unlinkat},
    io::Errno,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    body::Answer,
    code::random_letters,
    query::Query,
    refusal::{of_path, refuse},
    service::json,
    setup::Agent,
};

/// Bytes read or written at once.
const CHUNK: usize = 64 << 10;
/// Chunks under way between a worker and the stream.
const CHUNKS: usize = 4;
/// Entries in a listing, unless fewer are asked for.
const MAX_ENTRIES: u32 = 100_000;
const DEFAULT_ENTRIES: u32 = 10_000;

fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// An entry as it is told.
pub(crate) fn describe(name: &[u8], metadata: &fs::Metadata, target: Option<&Path>) -> FileStat {
    let kind = if metadata.is_file() {
        FileKind::File
    } else if metadata.is_dir() {
        FileKind::Directory
    } else if metadata.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    };
    FileStat {
        path: path::encode(name),
        kind,
        size: metadata.size(),
        mode: metadata.mode() & 0o7777,
        mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        target: target.map(|target| path::encode(bytes_of(target))),
    }
}

fn describe_path(path: &Path) -> Result<FileStat, Refusal> {
    let metadata = fs::symlink_metadata(path).map_err(|error| of_path(&error, bytes_of(path)))?;
    let target = metadata.is_symlink().then(|| fs::read_link(path).ok()).flatten();
    Ok(describe(bytes_of(path), &metadata, target.as_deref()))
}

pub(crate) async fn stat(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let path = Query::of(request.uri()).path(&agent.config.work_dir)?;
    let stat = agent.workers.run(move || describe_path(&path)).await?;
    Ok(json(&stat))
}

pub(crate) async fn list(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let root = query.path(&agent.config.work_dir)?;
    let depth: u32 = query.number("depth")?.unwrap_or(1);
    let limit = query.number("limit")?.unwrap_or(DEFAULT_ENTRIES).min(MAX_ENTRIES) as usize;
    let listing = agent.workers.run(move || list_tree(&root, depth, limit)).await?;
    Ok(json(&listing))
}

/// Depth first, each directory sorted by name.
fn list_tree(root: &Path, depth: u32, limit: usize) -> Result<Listing, Refusal> {
    let mut listing = Listing { entries: Vec::new(), truncated: false };
    let mut waiting = children(root, limit, &mut listing.truncated).map_err(|error| of_path(&error, bytes_of(root)))?;
    let mut waiting: Vec<(PathBuf, u32)> = waiting.drain(..).rev().map(|path| (path, 1)).collect();
    while let Some((path, level)) = waiting.pop() {
        if listing.entries.len() >= limit {
            listing.truncated = true;
            break;
        }
        // What has gone since its directory was read is not there.
        let Ok(stat) = describe_path(&path) else { continue };
        let descend = stat.kind == FileKind::Directory && level < depth;
        listing.entries.push(stat);
        if descend {
            // A directory that may not be read is listed without its content, as `find` does.
            let below = children(&path, limit, &mut listing.truncated).unwrap_or_default();
            waiting.extend(below.into_iter().rev().map(|path| (path, level + 1)));
        }
    }
    Ok(listing)
}

fn children(directory: &Path, limit: usize, truncated: &mut bool) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        if paths.len() > limit {
            *truncated = true;
            break;
        }
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

pub(crate) async fn read(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let path = query.path(&agent.config.work_dir)?;
    let (offset, length): (u64, Option<u64>) = (query.number("offset")?.unwrap_or(0), query.number("length")?);
    let (tell, told) = oneshot::channel();
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    agent.workers.spawn(move || match open_for_reading(&path) {
        // Whoever asked has gone, so nobody wants to hear it.
        Err(refusal) => drop(tell.send(Err(refusal))),
        Ok((file, stat)) => {
            if tell.send(Ok(stat)).is_ok() {
                // An error in the middle ends the body early, which the size in the header gives away.
                drop(send_file(file, offset, length, &chunks));
            }
        }
    })?;
    let stat = told.await.unwrap_or_else(|_| Err(refuse(RefusalCode::Failed, "the file worker ended")))?;
    let header = serde_json::to_string(&stat).expect("wire types are plain data");
    let header = HeaderValue::from_str(&header).map_err(|_| refuse(RefusalCode::Failed, "the file's name does not fit into a header"))?;
    let mut response = Response::new(Answer::Channel(receiver));
    response.headers_mut().insert(STAT_HEADER, header);
    Ok(response)
}

/// Follows links as the user would, but none that the kernel makes up: `/proc/self` is the agent here, and by `exe` or `fd` its links lead to
/// what has no name in the sandbox. Does not wait for the other end of a fifo.
fn open_for_reading(path: &Path) -> Result<(File, FileStat), Refusal> {
    let refusal = |error: io::Error| of_path(&error, bytes_of(path));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // A socket, or a device without a driver.
        Err(Errno::NXIO | Errno::NODEV) => return Err(not_a_file(path)),
        result => File::from(result.map_err(|error| refusal(error.into()))?),
    };
    let metadata = file.metadata().map_err(refusal)?;
    if metadata.is_dir() {
        return Err(of_path(&Errno::ISDIR.into(), bytes_of(path)));
    }
    // What a process says of itself. Here that process is the agent, whose own memory is among it for a user who is root.
    if !metadata.is_file() || !rustix::fs::fstatfs(&file).is_ok_and(|about| about.f_type != rustix::fs::PROC_SUPER_MAGIC) {
        return Err(not_a_file(path));
    }
    Ok((file, describe(bytes_of(path), &metadata, None)))
}

fn not_a_file(path: &Path) -> Refusal {
    refuse(RefusalCode::NotAFile, format!("`{}` is not a regular file", path::encode(bytes_of(path))))
}

fn send_file(mut file: File, offset: u64, length: Option<u64>, chunks: &mpsc::Sender<Bytes>) -> io::Result<()> {
    if offset > 0 {
        file.seek(SeekFrom::Start(offset))?;
    }
    let mut rest = file.take(length.unwrap_or(u64::MAX));
    loop {
        let mut chunk = vec![0; CHUNK];
        let count = rest.read(&mut chunk)?;
        chunk.truncate(count);
        if count == 0 || chunks.blocking_send(chunk.into()).is_err() {
            return Ok(());
        }
    }
}

/// What the stream has to say to the worker that writes a file.
enum Piece {
    Data(Bytes),
    /// The body is complete. Without this the file is not kept.
    End,
}

pub(crate) async fn write(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let path = query.path(&agent.config.work_dir)?;
    let mode = query.number::<u32>("mode")?.unwrap_or(0o644) & 0o777;
    let (pieces, receiver) = mpsc::channel(CHUNKS);
    let written = agent.workers.run(move || write_file(&path, mode, receiver));
    let mut body = request.into_body();
    let feed = async move {
        loop {
            let piece = match body.frame().await {
                None => Piece::End,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Piece::Data(data),
                    Err(_) => continue,
                },
                // The upload was cut: dropping the sender tells the worker.
                Some(Err(_)) => return,
            };
            let last = matches!(piece, Piece::End);
            // The worker stops listening when it has failed, and says why.
            if pieces.send(piece).await.is_err() || last {
                return;
            }
        }
    };
    let (stat, ()) = tokio::join!(written, feed);
    Ok(json(&stat?))
}

/// Writes beside the target and renames, so that the target is whole, old or new, at every moment.
fn write_file(path: &Path, mode: u32, mut pieces: mpsc::Receiver<Piece>) -> Result<FileStat, Refusal> {
    let refusal = |error: io::Error| of_path(&error, bytes_of(path));
    let (Some(parent), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(refuse(RefusalCode::Invalid, format!("`{}` names no file", path::encode(bytes_of(path)))));
    };
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => return Err(of_path(&Errno::ISDIR.into(), bytes_of(path))),
        Ok(there) if !there.is_file() && !there.is_symlink() => return Err(not_a_file(path)),
        _ => {}
    }
    // A link is written through, as the user's own programs do.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = target.parent().unwrap_or(parent);
    if !parent.is_dir() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(refusal)?;
    }
    let temporary = parent.join(format!(".caisson-{}{}", random_letters(), random_letters()));
    let written = fill(&temporary, mode, &mut pieces).and_then(|()| fs::rename(&temporary, &target));
    if let Err(error) = written {
        // Nothing half-written stays; if it cannot be removed either, the first error is the one that matters.
        drop(fs::remove_file(&temporary));
        return Err(refusal(error));
    }
    describe_path(&target)
}

fn fill(temporary: &Path, mode: u32, pieces: &mut mpsc::Receiver<Piece>) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(open(temporary, flags, Mode::from_raw_mode(0o600))?);
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(data)) => file.write_all(&data)?,
            Some(Piece::End) => return file.set_permissions(fs::Permissions::from_mode(mode)),
            None => return Err(io::Error::other("the upload was cut off")),
        }
    }
}

pub(crate) async fn delete(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let path = query.path(&agent.config.work_dir)?;
    let recursive = query.get("recursive") == Some("true");
    agent.workers.run(move || delete_path(&path, recursive)).await?;
    let mut response = Response::new(Answer::Done);
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn delete_path(path: &Path, recursive: bool) -> Result<(), Refusal> {
    let refusal = |error: io::Error| of_path(&error, bytes_of(path));
    let metadata = fs::symlink_metadata(path).map_err(refusal)?;
    if !metadata.is_dir() {
        return fs::remove_file(path).map_err(refusal);
    }
    if !recursive {
        return fs::remove_dir(path).map_err(refusal);
    }
    delete_tree(path).map_err(refusal)
}

/// Removes a directory with all below it, following no link. Goes down by handle and comes up by `..`, so that neither the length of the path
/// nor the number of open descriptors grows with the depth. Where `..` leads elsewhere than it came from, somebody has moved the directory
/// meanwhile, and what is there now is not to be removed.
fn delete_tree(root: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = open(root, flags, Mode::empty())?;
    let which = |directory: &OwnedFd| fstat(directory).map(|stat| (stat.st_dev, stat.st_ino));
    let mut above = Vec::new();
    // A program that makes files faster than they are removed must not hold us for ever.
    let mut budget: u64 = 50_000_000;
    loop {
        let mut down = None;
        for entry in Dir::read_from(&here)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            budget = budget.checked_sub(1).ok_or(Errno::BUSY)?;
            let directory = match entry.file_type() {
                FileType::Unknown => {
                    FileType::from_raw_mode(statat(&here, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) == FileType::Directory
                }
                kind => kind == FileType::Directory,
            };
            if directory {
                // An empty one goes at once.
                match unlinkat(&here, name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {
                        down = Some(name.to_owned());
                        break;
                    }
                    Err(Errno::NOENT) => {}
                    result => result?,
                }
            } else {
                match unlinkat(&here, name, AtFlags::empty()) {
                    Err(Errno::NOENT) => {}
                    result => result?,
                }
            }
        }
        if let Some(name) = down {
            let below = openat(&here, name.as_c_str(), flags, Mode::empty())?;
            above.push((name, which(&here)?));
            here = below;
            continue;
        }
        match above.pop() {
            Some((name, parent)) => {
                here = openat(&here, "..", flags, Mode::empty())?;
                if which(&here)? != parent {
                    return Err(Errno::BUSY.into());
                }
                match unlinkat(&here, name.as_c_str(), AtFlags::REMOVEDIR) {
                    // Something was made in it meanwhile: the next pass goes down again.
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
                    result => result?,
                }
            }
            None => match unlinkat(CWD, root, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => budget = budget.checked_sub(1).ok_or(Errno::BUSY)?,
                result => return Ok(result?),
            },
        }
    }
}
