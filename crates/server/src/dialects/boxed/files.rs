//! Files: what there is, and what is in one.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, FileKind, FileStat, SandboxId};
use caisson_engine::Engine;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    WORK_DIR,
    answer::{Named, bad_request, failed, json, refusal},
};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
    native::files::exactly,
    params::Params,
};

/// Entries of one answer.
const MAX_ENTRIES: usize = 50_000;
/// What their paths may come to.
const MAX_PATHS: usize = 8 << 20;
const MAX_DEPTH: u32 = 64;
/// What is not looked into when everything is asked for: the kernel makes it up.
const MADE_UP: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];
/// What is looked into last then, because it is lent and fills the answer alone.
const LENT: &[u8] = b"/usr";

/// What is there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxedFiles {
    files: Vec<BoxedEntry>,
}

/// An entry, at whatever depth.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct BoxedEntry {
    name: String,
    /// Begins with the last part of the path that was asked for; ends with a slash for a folder
    path: String,
    size: u64,
    /// As `st_mode` has it
    mode: u32,
    is_dir: bool,
    last_modified: String,
}

/// The path that a query names. Everything else in it is passed over.
pub(super) fn path(params: &mut Params) -> Option<Vec<u8>> {
    params.all_bytes("path").into_iter().next().filter(|path| !path.is_empty())
}

/// Lists a folder with everything in it.
///
/// The folder itself comes first, then what is in it, depth first and by name. `/proc`, `/sys` and `/dev` are left out of a list of `/`, and
/// so is what is beyond 50 000 entries, of `/usr` first.
#[utoipa::path(get, path = "/v1/sandbox/{id}/files", operation_id = "boxed_list_files", tag = "boxed",
    params(("id" = String, Path), ("path" = Option<String>, Query, description = "`/` when absent; relative ones begin at `/workspace`")),
    responses((status = 200, description = "The entries", body = BoxedFiles)))]
pub(crate) async fn list(Caller(app): Caller, named: Named, mut params: Params) -> ApiResult<Response> {
    let id = named.id()?;
    let path = path(&mut params).unwrap_or_else(|| b"/".to_vec());
    let files = match entries(&app.engine, id, &path).await {
        Ok(files) => files,
        Err(error) => return Err(unreadable(&app.engine, id, "failed to read path", error).await),
    };
    Ok(json(StatusCode::OK, &BoxedFiles { files }))
}

async fn entries(engine: &Engine, id: SandboxId, path: &[u8]) -> caisson_core::Result<Vec<BoxedEntry>> {
    // A slash at its end asks for what a link leads to.
    let root = engine.stat_file(id, path).await?;
    let whole = normal(path);
    let name = whole.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let prefix = match (root.kind, name) {
        (FileKind::Directory, b"") => Vec::new(),
        (FileKind::Directory, name) => [name, b"/"].concat(),
        (_, name) => name.to_vec(),
    };
    let mut entries = vec![entry(&root, &prefix)];
    if root.kind != FileKind::Directory {
        return Ok(entries);
    }
    let mut room = Room { entries: MAX_ENTRIES - 1, bytes: MAX_PATHS };
    let found = if whole == b"/" { everything(engine, id, &mut room).await? } else { below(engine, id, path, &mut room).await? };
    // What is in it is told behind its name as it was asked for.
    let asked = plain(path);
    entries.extend(found.iter().map(|stat| {
        let rest = stat.path.strip_prefix(&asked[..]).unwrap_or(&stat.path);
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let mut told = [&prefix[..], rest].concat();
        if stat.kind == FileKind::Directory {
            told.push(b'/');
        }
        entry(stat, &told)
    }));
    Ok(entries)
}

/// What an answer has room for.
struct Room {
    entries: usize,
    bytes: usize,
}

impl Room {
    /// Whether this one still fits. Once one does not, nothing does.
    fn take(&mut self, stat: &FileStat) -> bool {
        match self.bytes.checked_sub(stat.path.len()) {
            Some(left) if self.entries > 0 => {
                (self.entries, self.bytes) = (self.entries - 1, left);
                true
            }
            _ => {
                self.entries = 0;
                false
            }
        }
    }
}

/// What is in a folder, as far as there is room.
async fn below(engine: &Engine, id: SandboxId, path: &[u8], room: &mut Room) -> caisson_core::Result<Vec<FileStat>> {
    let mut found: Vec<FileStat> = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    while room.entries > 0 {
        let limit = u32::try_from(room.entries).unwrap_or(u32::MAX);
        let page = engine.list_files(id, path, MAX_DEPTH, limit, after.as_deref()).await?;
        // Whoever does not get on cannot say to go on.
        after = page.next.filter(|next| after.as_ref() != Some(next));
        found.extend(page.entries.into_iter().take_while(|stat| room.take(stat)).map(|stat| FileStat { target: None, ..stat }));
        if after.is_none() {
            break;
        }
    }
    Ok(found)
}

/// What is in the root, without what is made up; and of what is lent only as much as there is room for.
async fn everything(engine: &Engine, id: SandboxId, room: &mut Room) -> caisson_core::Result<Vec<FileStat>> {
    let top = engine.list_files(id, b"/", 1, u32::try_from(MAX_ENTRIES).unwrap_or(u32::MAX), None).await?.entries;
    let mut found: Vec<(FileStat, Vec<FileStat>)> =
        top.into_iter().filter(|stat| !MADE_UP.contains(&&stat.path[..]) && room.take(stat)).map(|stat| (stat, Vec::new())).collect();
    for last in [false, true] {
        for (stat, inside) in found.iter_mut().filter(|(stat, _)| stat.kind == FileKind::Directory && (stat.path == LENT) == last) {
            *inside = match below(engine, id, &stat.path, room).await {
                Ok(inside) => inside,
                // It has gone, or is nobody's to look into.
                Err(Error::NotFound { kind: "file", .. } | Error::Conflict { .. } | Error::Invalid { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
        }
    }
    Ok(found.into_iter().flat_map(|(stat, inside)| std::iter::once(stat).chain(inside)).collect())
}

/// As the agent names a folder in front of what is in it.
fn plain(path: &[u8]) -> Vec<u8> {
    let mut whole = if path.starts_with(b"/") { path.to_vec() } else { [WORK_DIR.as_bytes(), b"/", path].concat() };
    while let Some(rest) = whole.strip_suffix(b"/.").or_else(|| whole.strip_suffix(b"/")) {
        whole.truncate(rest.len());
    }
    whole
}

/// The whole path without its dots.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let whole = plain(path);
    for part in whole.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    [b"/", &parts.join(&b'/')[..]].concat()
}

fn entry(stat: &FileStat, told: &[u8]) -> BoxedEntry {
    let told = String::from_utf8_lossy(told).into_owned();
    let name = match told.trim_end_matches('/').rsplit('/').next().unwrap_or_default() {
        "" => ".",
        name => name,
    };
    let is_dir = stat.kind == FileKind::Directory;
    let kind = match stat.kind {
        FileKind::File => 0o100_000,
        FileKind::Directory => 0o040_000,
        FileKind::Symlink => 0o120_000,
        // A fifo, a socket or a device: nobody knows here.
        FileKind::Other => 0,
    };
    BoxedEntry {
        name: name.to_owned(),
        size: if is_dir { 0 } else { stat.size },
        mode: kind | stat.mode,
        is_dir,
        last_modified: Timestamp::from_second(stat.modified_at.as_second()).unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        path: told,
    }
}

/// A file as it is.
#[utoipa::path(get, path = "/v1/sandbox/{id}/files/content", operation_id = "boxed_download", tag = "boxed",
    params(("id" = String, Path), ("path" = String, Query, description = "Relative ones begin at `/workspace`")),
    responses((status = 200, description = "The content", content_type = "application/octet-stream")))]
pub(crate) async fn content(Caller(app): Caller, named: Named, mut params: Params) -> ApiResult<Response> {
    let path = path(&mut params).ok_or_else(|| bad_request("path required"))?;
    let id = named.id()?;
    let (stat, content) = match app.engine.read_file(id, &path, 0, None).await {
        Ok(read) => read,
        Err(error) => return Err(unreadable(&app.engine, id, "docker copy failed", error).await),
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let body = match stat.size {
        0 => Body::from_stream(content),
        size => {
            headers.insert(header::CONTENT_LENGTH, size.into());
            Body::from_stream(exactly(content, size))
        }
    };
    Ok((headers, body).into_response())
}

/// Why a path cannot be read or written; `what` is how upstream begins.
pub(super) async fn unreadable(engine: &Engine, id: SandboxId, what: &str, error: Error) -> ApiError {
    let told = format!("{what}: {error}");
    match error {
        Error::NotFound { kind: "file", .. } => refusal(StatusCode::NOT_FOUND, told),
        // A folder where a file is meant, or the other way round.
        Error::Conflict { code: "is_a_directory" | "not_a_directory" | "not_a_file" | "directory_not_empty", .. }
        | Error::Invalid { .. } => bad_request(told),
        error => failed(engine, id, error).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_named_by_their_last_part() {
        for (path, whole) in [
            ("/", "/"),
            ("/root", "/root"),
            ("/root/", "/root"),
            ("x/./y/..", "/workspace/x"),
            (".", "/workspace"),
            ("/../../x", "/x"),
            ("//a//b//.", "/a/b"),
        ] {
            assert_eq!(normal(path.as_bytes()), whole.as_bytes(), "{path}");
        }
        assert_eq!((plain(b"/"), plain(b"a/."), plain(b"/x/../y/")), (Vec::new(), b"/workspace/a".to_vec(), b"/x/../y".to_vec()));
    }

    #[test]
    fn answers_have_an_end_in_entries_and_in_bytes() {
        let stat = |length: usize| FileStat { path: vec![b'x'; length], ..stat(FileKind::File, 0) };
        let mut room = Room { entries: 2, bytes: 10 };
        assert!(room.take(&stat(3)) && room.take(&stat(3)) && !room.take(&stat(1)));
        let mut room = Room { entries: 9, bytes: 10 };
        assert!(room.take(&stat(10)) && !room.take(&stat(1)));
        // What comes behind is not told without what came before it.
        let mut room = Room { entries: 9, bytes: 10 };
        assert!(room.take(&stat(4)) && !room.take(&stat(7)) && !room.take(&stat(1)));
        assert_eq!(room.entries, 0, "and nobody asks for more");
    }

    fn stat(kind: FileKind, mode: u32) -> FileStat {
        FileStat {
            path: b"/workspace/a".to_vec(),
            kind,
            size: 7,
            mode,
            modified_at: "2026-11-21T04:08:15.999Z".parse().unwrap(),
            uid: 0,
            gid: 0,
            inode: 1,
            target: None,
        }
    }

    #[test]
    fn modes_are_whole() {
        let told = entry(&stat(FileKind::Directory, 0o755), b"workspace/");
        assert_eq!((told.name.as_str(), told.mode, told.size, told.is_dir), ("workspace", 16877, 0, true));
        let told = entry(&stat(FileKind::File, 0o644), b"workspace/a");
        assert_eq!((told.name.as_str(), told.mode, told.size, told.last_modified.as_str()), ("a", 33188, 7, "2026-11-21T04:08:15Z"));
        assert_eq!(entry(&stat(FileKind::Symlink, 0o777), b"a").mode, 41471);
        assert_eq!(entry(&stat(FileKind::Directory, 0o755), b"").name, ".");
    }
}
