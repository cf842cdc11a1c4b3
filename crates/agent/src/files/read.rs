//! Reading one file.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use bytes::Bytes;
use caisson_tree::{CHUNK, on_proc};
use caisson_wire::{FileStat, Refusal, RefusalCode, STAT_HEADER, path};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use rustix::{
    fs::{FileType, OFlags, fstat},
    io::Errno,
};
use tokio::sync::{mpsc, oneshot};

use super::{CHUNKS, describe, path_of, place};
use crate::{
    body::Answer,
    query::Query,
    refusal::{of_errno, refuse},
    setup::Agent,
};

pub(crate) async fn read(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let (query, path) = (Query::of(request.uri()), path_of(request, agent)?);
    let (offset, length): (u64, Option<u64>) = (query.number("offset")?.unwrap_or(0), query.number("length")?);
    let (tell, told) = oneshot::channel();
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    agent.workers.spawn(move || match open_for_reading(&path) {
        // Whoever asked has gone, so nobody wants to hear it.
        Err(refusal) => drop(tell.send(Err(refusal))),
        Ok((file, stat)) => {
            if tell.send(Ok(stat)).is_ok()
                && let Err(error) = send_file(file, offset, length, &chunks)
            {
                // Likewise.
                drop(chunks.blocking_send(Err(error)));
            }
        }
    })?;
    let stat = told.await.unwrap_or_else(|_| Err(refuse(RefusalCode::Failed, "the file worker ended")))?;
    let header = serde_json::to_string(&stat).expect("wire types are plain data");
    let header = HeaderValue::from_str(&header).map_err(|_| refuse(RefusalCode::Failed, "the file's name does not fit into a header"))?;
    let mut response = Response::new(Answer::Breakable(receiver));
    response.headers_mut().insert(STAT_HEADER, header);
    Ok(response)
}

/// Follows links as the user would; does not wait for the other end of a fifo.
pub(super) fn open_for_reading(path: &[u8]) -> Result<(File, FileStat), Refusal> {
    let refusal = |error| of_errno(error, path);
    let file = match place::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        // A socket, or a device without a driver.
        Err(Errno::NXIO | Errno::NODEV) => return Err(not_a_file(path)),
        result => result.map_err(refusal)?,
    };
    let stat = fstat(&file).map_err(refusal)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Err(refusal(Errno::ISDIR)),
        // What a process says of itself. Here that process is the agent, whose own memory is among it for a user who is root.
        FileType::RegularFile if !on_proc(&file).map_err(refusal)? => {}
        _ => return Err(not_a_file(path)),
    }
    Ok((file.into(), describe(path, &stat, None)))
}

pub(super) fn not_a_file(path: &[u8]) -> Refusal {
    refuse(RefusalCode::NotAFile, format!("`{}` is not a regular file", path::encode(path)))
}

pub(super) fn send_file(mut file: File, offset: u64, length: Option<u64>, chunks: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    if offset > 0 {
        file.seek(SeekFrom::Start(offset))?;
    }
    let mut rest = file.take(length.unwrap_or(u64::MAX));
    loop {
        let most = usize::try_from(rest.limit()).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0; most];
        let count = rest.read(&mut chunk)?;
        chunk.truncate(count);
        if count == 0 || chunks.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}
