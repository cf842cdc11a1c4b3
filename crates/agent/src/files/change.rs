//! Making directories, moving, copying and deleting.

use std::sync::Arc;

use caisson_tree::{Copied, Error, LeftOuts, PERMISSIONS, copy as copy_tree, discard, on_proc, remove, remove_tree};
use caisson_wire::{self as wire, FileStat, LeftOut, Made, Refusal, RefusalCode, path};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rustix::{
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, RenameFlags, fchmod, fstat, mkdirat, openat, renameat_with},
    io::Errno,
};

use super::{
    bytes, describe_path, join, path_of,
    place::{Place, in_proc},
};
use crate::{
    body::Answer,
    query::Query,
    refusal::{of_path, refuse},
    service::json,
    setup::Agent,
};

/// Directories within directories that are looked at to find out whether one lies in another.
const MAX_DEPTH: usize = 4096;

pub(crate) async fn make_directory(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let (path, parents, mode) = (path_of(request, agent)?, query.flag("parents"), query.number::<u32>("mode")?);
    let made = agent.workers.run(move || make(&path, parents, mode)).await?;
    Ok(json(&made))
}

/// With `parents`, one that is there already is as good as a new one.
fn make(path: &[u8], parents: bool, mode: Option<u32>) -> Result<Made, Refusal> {
    let place = if parents { Place::make(path)? } else { Place::find(path)?.outside_proc()? };
    let existed = match mkdirat(&place.directory, &place.name, Mode::from_raw_mode(0o755)) {
        Ok(()) => false,
        Err(Errno::EXIST) if parents && place.stat().is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) => true,
        Err(error) => return Err(place.refusal(error)),
    };
    if let Some(mode) = mode.filter(|_| !existed) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&place.directory, &place.name, flags, Mode::empty()).map_err(|error| place.refusal(error))?;
        fchmod(directory, Mode::from_raw_mode(mode & PERMISSIONS)).map_err(|error| place.refusal(error))?;
    }
    Ok(Made { stat: describe_path(path)?, existed })
}

pub(crate) async fn move_entry(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let (from, to, replace) = (path_of(request, agent)?, bytes(query.path_in("to", &agent.config.work_dir)?), query.flag("replace"));
    let stat = agent.workers.run(move || rename(&from, &to, replace)).await?;
    Ok(json(&stat))
}

fn rename(from: &[u8], to: &[u8], replace: bool) -> Result<FileStat, Refusal> {
    let (source, target) = ends(from, to)?;
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match renameat_with(&source.directory, &source.name, &target.directory, &target.name, flags) {
        Ok(()) => {}
        // From one file system to another: a copy, and the old one goes when that is whole.
        Err(Errno::XDEV) => {
            let copied = copied(&source, &target, replace)?;
            if let Some(left) = copied.left_out.named().first() {
                discard(&target.directory, &target.name).map_err(|error| target.refusal(error))?;
                let left = path::encode(&join(from, &left.path));
                let message = format!("`{left}` cannot be taken to another file system; move what is around it");
                return Err(refuse(RefusalCode::NotAFile, message));
            }
            // Where it stood nobody has to be able to write in what has gone.
            discard(&source.directory, &source.name).map_err(|error| source.refusal(error))?;
        }
        Err(error) => return Err(target.refusal(error)),
    }
    describe_path(to)
}

pub(crate) async fn copy(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let (from, to, replace) = (path_of(request, agent)?, bytes(query.path_in("to", &agent.config.work_dir)?), query.flag("replace"));
    let copied = agent.workers.run(move || {
        let (source, target) = ends(&from, &to)?;
        let Copied { files, directories, links, bytes, left_out: missing } = copied(&source, &target, replace)?;
        let (left_out, left_out_total) = left_out(&missing);
        let made = wire::Unpacked { files, directories, links, bytes, left_out, left_out_total };
        Ok(wire::Copied { stat: describe_path(&to)?, made })
    });
    Ok(json(&copied.await?))
}

fn copied(source: &Place, target: &Place, replace: bool) -> Result<Copied, Refusal> {
    copy_tree(&source.directory, &source.name, &target.directory, &target.name, replace).map_err(|error| match error {
        Error::Target(cause) => of_path(&cause, &target.path),
        other => of_tree(&source.path, other),
    })
}

/// The two ends of a move or copy. A directory cannot go into itself.
fn ends(from: &[u8], to: &[u8]) -> Result<(Place, Place), Refusal> {
    let source = Place::find(from)?;
    let stat = source.stat().map_err(|error| source.refusal(error))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    source.is_for(kind)?;
    let target = Place::make(to)?;
    target.is_for(kind)?;
    if kind == FileType::Directory {
        let mut here = Arc::clone(&target.directory);
        for _ in 0..MAX_DEPTH {
            let above = (|| {
                let at = fstat(&here)?;
                if (at.st_dev, at.st_ino) == (stat.st_dev, stat.st_ino) {
                    return Ok(None);
                }
                let above = openat(&here, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                let up = fstat(&above)?;
                Ok(Some((above, (up.st_dev, up.st_ino) == (at.st_dev, at.st_ino))))
            })();
            match above.map_err(|error: Errno| target.refusal(error))? {
                None => {
                    let message = format!("`{}` lies in `{}`, which cannot go into itself", path::encode(to), path::encode(from));
                    return Err(refuse(RefusalCode::Invalid, message));
                }
                Some((_, true)) => break,
                Some((above, false)) => here = Arc::new(above),
            }
        }
    }
    Ok((source, target))
}

pub(crate) async fn delete(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let (path, recursive) = (path_of(request, agent)?, query.flag("recursive"));
    agent
        .workers
        .run(move || {
            let place = Place::find(&path)?;
            if let Ok(stat) = place.stat() {
                place.is_for(FileType::from_raw_mode(stat.st_mode))?;
            }
            match remove(&place.directory, &place.name) {
                Err(Errno::NOTEMPTY | Errno::EXIST) if recursive => {
                    remove_tree(&place.directory, &place.name).map_err(|error| place.refusal(error))
                }
                result => result.map_err(|error| place.refusal(error)),
            }
        })
        .await?;
    let mut response = Response::new(Answer::Done);
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// A failure somewhere below a directory.
pub(super) fn of_tree(root: &[u8], error: Error) -> Refusal {
    match error {
        Error::Archive { .. } => refuse(RefusalCode::InvalidArchive, error.to_string()),
        Error::Entry { path, cause } => {
            let whole = if path.is_empty() { root.to_vec() } else { join(root, &path) };
            // Without an error number it is our own word that this is nothing to be read.
            match cause.raw_os_error() {
                Some(_) => of_path(&cause, &whole),
                None => refuse(RefusalCode::NotAFile, format!("`{}` cannot be taken along: {cause}", path::encode(&whole))),
            }
        }
        Error::Target(cause) => of_path(&cause, root),
        Error::Stream(cause) => refuse(RefusalCode::Failed, format!("the upload broke off: {cause}")),
    }
}

/// What was left out, as it is told.
pub(super) fn left_out(left_out: &LeftOuts) -> (Vec<LeftOut>, u64) {
    let named = left_out.named().iter().map(|left| LeftOut { path: path::encode(&left.path), why: left.why.clone() });
    (named.collect(), left_out.total())
}

/// An empty directory to unpack into, or one that is there; whether it is new.
pub(super) fn directory(path: &[u8]) -> Result<(OwnedFd, bool), Refusal> {
    let open = || super::place::open(path, OFlags::RDONLY | OFlags::DIRECTORY);
    let opened = match open() {
        Err(Errno::NOENT) => super::place::open_or_make(path)
            .and_then(|_| open())
            .map(|directory| (directory, true))
            .map_err(|error| of_path(&error.into(), path)),
        result => result.map(|directory| (directory, false)).map_err(|error| of_path(&error.into(), path)),
    }?;
    if on_proc(&opened.0).map_err(|error| of_path(&error.into(), path))? { Err(in_proc(path)) } else { Ok(opened) }
}
