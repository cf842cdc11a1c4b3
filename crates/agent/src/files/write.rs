//! Writing one file: beside the target and then in its place, so that the target is whole, old or new, at every moment.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use caisson_tree::{Draft, PERMISSIONS};
use caisson_wire::{FileStat, Refusal};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::{
    fs::{FileType, Timespec},
    io::Errno,
};
use tokio::sync::mpsc;

use super::{CHUNKS, describe, path_of, place::Place, read::not_a_file};
use crate::{body::Answer, query::Query, refusal::of_path, service::json, setup::Agent};

/// The permission bits of a new file, when nothing is said of them.
const MODE: u32 = 0o644;

/// What the stream has to say to the worker that writes.
pub(super) enum Piece {
    Data(Bytes),
    /// The body is complete. Without this nothing of it is kept.
    End,
}

/// The pieces of a request's body as a worker takes them.
#[derive(Debug)]
pub(super) struct Pieces(mpsc::Receiver<Piece>);

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self.0.blocking_recv() {
            Some(Piece::Data(data)) => Some(Ok(data)),
            Some(Piece::End) => {
                self.0.close();
                None
            }
            None => Some(Err(io::Error::other("the upload was cut off"))),
        }
    }
}

/// Does `work` on a worker with the pieces of the request's body.
pub(super) async fn with_body<T: Send + 'static>(
    agent: &Agent,
    request: Request<Incoming>,
    work: impl FnOnce(Pieces) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (pieces, receiver) = mpsc::channel(CHUNKS);
    let done = agent.workers.run(move || work(Pieces(receiver)));
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
    let (done, ()) = tokio::join!(done, feed);
    done
}

pub(crate) async fn write(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let (query, path) = (Query::of(request.uri()), path_of(&request, agent)?);
    let mode = query.number::<u32>("mode")?;
    let modified = query.number::<i64>("mtime")?.map(timespec);
    let stat = with_body(agent, request, move |pieces| write_file(&path, mode, modified, pieces)).await?;
    Ok(json(&stat))
}

fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) }
}

fn write_file(path: &[u8], mode: Option<u32>, modified: Option<Timespec>, pieces: Pieces) -> Result<FileStat, Refusal> {
    let mut place = Place::make(path)?;
    place.is_for(FileType::RegularFile)?;
    let mut there = place.stat().ok();
    if there.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink) {
        // A link is written through, as the user's own programs do. One that leads nowhere is replaced.
        if let Ok(target) = fs::canonicalize(Path::new(OsStr::from_bytes(path))) {
            place = Place::find(target.as_os_str().as_bytes())?;
            there = place.stat().ok();
        }
    }
    let kept = match there.map(|stat| (FileType::from_raw_mode(stat.st_mode), stat.st_mode & PERMISSIONS)) {
        Some((FileType::Directory, _)) => return Err(place.refusal(Errno::ISDIR)),
        Some((FileType::RegularFile, bits)) => Some(bits),
        None | Some((FileType::Symlink, _)) => None,
        Some(_) => return Err(not_a_file(path)),
    };
    let refusal = |error: io::Error| of_path(&error, path);
    let mut draft = Draft::begin(Arc::clone(&place.directory)).map_err(|error| refusal(error.into()))?;
    for piece in pieces {
        draft.file().write_all(&piece.map_err(refusal)?).map_err(refusal)?;
    }
    let mode = mode.map_or(kept.unwrap_or(MODE), |mode| mode & PERMISSIONS);
    draft.finish(&place.name, mode, modified, true).map_err(|error| refusal(error.into()))?;
    Ok(describe(&place.path, &place.stat().map_err(|error| refusal(error.into()))?, None))
}
