//! Whole trees as tar streams.

use bytes::Bytes;
use caisson_tree::{Links, Pack, Unpack, on_proc};
use caisson_wire::{Refusal, RefusalCode, Unpacked};
use http::{Request, Response};
use hyper::body::Incoming;
use rustix::fs::{FileType, OFlags, fstat};
use tokio::sync::{mpsc, oneshot};

use super::{
    CHUNKS,
    change::{directory, left_out, of_tree},
    path_of, place,
    read::{not_a_file, open_for_reading},
    write::with_body,
};
use crate::{
    body::Answer,
    query::Query,
    refusal::{of_errno, of_path, refuse},
    service::json,
    setup::Agent,
};

pub(crate) async fn pack(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let path = path_of(request, agent)?;
    let owners = owners(agent, request)?;
    let (tell, told) = oneshot::channel();
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    agent.workers.spawn(move || match begin(&path, owners) {
        // Whoever asked has gone, so nobody wants to hear it.
        Err(refusal) => drop(tell.send(Err(refusal))),
        Ok(mut pack) => {
            if tell.send(Ok(())).is_err() {
                return;
            }
            while let Some(piece) = pack.next_piece().transpose() {
                let piece = piece.map(Bytes::from).map_err(std::io::Error::other);
                let failed = piece.is_err();
                if chunks.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        }
    })?;
    told.await.unwrap_or_else(|_| Err(refuse(RefusalCode::Failed, "the file worker ended")))?;
    Ok(Response::new(Answer::Breakable(receiver)))
}

/// Whether owners and set-id bits are told or taken, which only root can do anything with.
fn owners(agent: &Agent, request: &Request<Incoming>) -> Result<bool, Refusal> {
    let owners = Query::of(request.uri()).flag("owners");
    if owners && agent.config.uid != 0 {
        return Err(refuse(RefusalCode::Invalid, "`owners` is for sandboxes whose user is root"));
    }
    Ok(owners)
}

fn begin(path: &[u8], owners: bool) -> Result<Pack, Refusal> {
    let refusal = |error| of_errno(error, path);
    let entry = place::open(path, OFlags::PATH).map_err(refusal)?;
    if FileType::from_raw_mode(fstat(&entry).map_err(refusal)?.st_mode) == FileType::Directory {
        let root = place::open(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(refusal)?;
        if on_proc(&root).map_err(refusal)? {
            return Err(not_a_file(path));
        }
        return Pack::directory_of(root, owners).map_err(|error| of_tree(path, error));
    }
    let (file, _) = open_for_reading(path)?;
    let name = path.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or(b"file");
    Pack::file_of(file.into(), name, owners).map_err(|error| of_tree(path, error))
}

pub(crate) async fn unpack(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let path = path_of(&request, agent)?;
    let owners = owners(agent, &request)?;
    let unpacked = with_body(agent, request, move |pieces| {
        let (root, fresh) = directory(&path)?;
        let mut unpack = Unpack::new(root, fresh, Links::All).map_err(|error| of_path(&error, &path))?;
        if owners {
            unpack = unpack.with_owners();
        }
        let result = unpack.all(pieces);
        let done = unpack.done;
        result.map_err(|error| {
            let mut refusal = of_tree(&path, error);
            refusal.message +=
                &format!("; {} files, {} directories and {} links before it are there", done.files, done.directories, done.links);
            refusal
        })?;
        let (left_out, left_out_total) = left_out(&done.left_out);
        Ok(Unpacked { files: done.files, directories: done.directories, links: done.links, bytes: done.bytes, left_out, left_out_total })
    });
    Ok(json(&unpacked.await?))
}
