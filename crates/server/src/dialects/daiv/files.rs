//! Files that a client writes into a session's repository.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use caisson_core::{Error, FileKind, SandboxId};
use caisson_engine::{ByteStream, Engine};
use caisson_tree::tar::{About, END, Kind, header_of, padding};
use futures::stream;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    answer::{has_ended, json, no_session},
    archive::tidy,
    body::Fields,
    check::{self, Check, Wrong},
    layout::REPO,
    patch,
    python::repr,
    record::{Named, Session},
};
use crate::{caller::Caller, error::ApiResult};

/// Files of one request.
const MOST: usize = 64;
/// Permission bits, with what is not taken of them.
const MODES: i64 = 0o7777;
/// Links that are followed on the way to a file.
const MOST_LINKS: usize = 40;

/// Files to be written, 1 to 64.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivFiles {
    #[schema(min_items = 1, max_items = 64)]
    mutations: Vec<DaivMutation>,
}

/// A file to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivMutation {
    /// Below `/repo`
    path: String,
    /// The whole file as base64
    content: String,
    #[schema(minimum = 0, maximum = 4095)]
    mode: u32,
}

/// What has become of them, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivWritten {
    results: Vec<DaivMutated>,
}

/// What has become of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivMutated {
    /// As it was sent
    path: String,
    ok: bool,
    /// Absent where it is there
    #[schema(required)]
    error: Option<String>,
}

struct Mutation {
    path: String,
    content: Bytes,
    mode: u32,
}

fn taken(fields: &Fields) -> ApiResult<Vec<Mutation>> {
    let mut faults = Vec::new();
    let items = Check::new(&fields.0, &mut faults).need("mutations", check::list_of(1..=MOST));
    let mut mutations = Vec::new();
    for (index, item) in items.iter().flatten().enumerate() {
        let loc = vec!["body".into(), "mutations".into(), index.into()];
        let Value::Object(fields) = item else {
            let message = "Input should be a valid dictionary or object to extract fields from";
            faults.push(check::fault("model_attributes_type", json!(loc), message, item.clone()));
            continue;
        };
        let mut check = Check::at(fields, loc, &mut faults);
        let (path, content, mode) = (check.need("path", check::text), check.need("content", check::base64), check.need("mode", mode));
        if let (Some(path), Some(content), Some(mode)) = (path, content, mode) {
            mutations.push(Mutation { path, content, mode });
        }
    }
    check::done(Some(mutations), faults)
}

/// Permission bits as clients send them.
pub(super) fn mode(value: &Value) -> Result<u32, Wrong> {
    check::integer_in(0, Some(MODES))(value).map(|mode| u32::try_from(mode).unwrap_or_default())
}

/// Writes files into the repository, one after the other, each whole or not at all.
#[utoipa::path(post, path = "/session/{id}/files", operation_id = "daiv_write_files", tag = "daiv", params(("id" = String, Path)),
    request_body = DaivFiles, responses((status = 200, description = "What has become of each", body = DaivWritten)))]
pub(crate) async fn write(Caller(app): Caller, named: Named, fields: Fields) -> ApiResult<Response> {
    let mutations = taken(&fields)?;
    let session = named.open(&app).await?;
    let written = session.work(&app, |session| async move { all(&session, mutations).await }).await?;
    Ok(json(StatusCode::OK, &written))
}

async fn all(session: &Arc<Session>, mutations: Vec<Mutation>) -> ApiResult<DaivWritten> {
    let mut results = Vec::with_capacity(mutations.len());
    for Mutation { path, content, mode } in mutations {
        let error = match below(&path, REPO, false) {
            Ok(whole) => {
                let rest = whole.strip_prefix(REPO).unwrap_or_default().trim_start_matches('/');
                match put(&session.engine, session.id, session.layout().repo(), rest, content, mode).await {
                    Ok(()) => None,
                    Err(_) if has_ended(&session.engine, session.id).await => return Err(no_session()),
                    Err(error) => Some(error.to_string()),
                }
            }
            Err(why) => Some(why),
        };
        results.push(DaivMutated { path, ok: error.is_none(), error });
    }
    if session.record.wants_patches() && results.iter().any(|result| result.ok) {
        if let Err(error) = patch::advance(session).await {
            return Err(patch::failed(session, error, "Patch-extractor HEAD-advance failed; session may be inconsistent.").await);
        }
        if !session.has_base() {
            session.keep(&session.with_base()).await?;
        }
    }
    Ok(DaivWritten { results })
}

/// The path without what means nothing, if it is below the root; nothing else of it is looked at.
pub(super) fn below(path: &str, root: &str, or_itself: bool) -> Result<String, String> {
    let shown = || repr(path.as_bytes());
    if path.contains(['\0', '\n', '\r']) {
        return Err(format!("path must not contain NUL or newline characters: {}", shown()));
    }
    if !path.starts_with('/') {
        return Err(format!("path must be absolute, got: {}", shown()));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(format!("path must not contain '..' segments: {}", shown()));
    }
    let whole = format!("/{}", parts.join("/"));
    if whole == root {
        return if or_itself { Ok(whole) } else { Err(format!("path must not equal a reserved root: {}", shown())) };
    }
    if whole.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')) {
        return Ok(whole);
    }
    Err(format!("path must be under one of ({},), got: {}", repr(root.as_bytes()), shown()))
}

/// Writes one file below a directory. Links of the directory that stay in it are followed on the way, and no others.
pub(super) async fn put(engine: &Engine, id: SandboxId, root: &str, rest: &str, content: Bytes, mode: u32) -> caisson_core::Result<()> {
    no_link(engine, id, root).await?;
    let first = unpack(engine, id, root, rest, content.clone(), mode).await;
    let Err(error @ (Error::Conflict { .. } | Error::Invalid { .. })) = first else { return first };
    // A link on the way is the one thing that this refuses and others would not.
    match resolved(engine, id, root, rest, Last::Kept).await? {
        Some(other) if other != rest => unpack(engine, id, root, &other, content, mode).await,
        _ => Err(error),
    }
}

/// Refuses a root that is no directory any more. What is in the directory of another one can be replaced by a link to elsewhere.
pub(super) async fn no_link(engine: &Engine, id: SandboxId, root: &str) -> caisson_core::Result<()> {
    match engine.stat_file(id, root.as_bytes()).await {
        Ok(stat) if stat.kind != FileKind::Directory => {
            let message = format!("`{root}` was replaced by something that is no directory; remove that, and make the directory anew");
            Err(Error::conflict("not_a_directory", message))
        }
        // It is made.
        Ok(_) | Err(Error::NotFound { kind: "file", .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// As an archive of one file, which goes through no link, makes the directories that are missing, and takes the place of files alone.
async fn unpack(engine: &Engine, id: SandboxId, root: &str, rest: &str, content: Bytes, mode: u32) -> caisson_core::Result<()> {
    let size = content.len() as u64;
    let about = About { mode: tidy(mode, false), user: 0, group: 0, size, modified: Timestamp::now().as_second() };
    let mut head = Vec::new();
    header_of(&mut head, Kind::File, rest.as_bytes(), b"", about);
    let mut end = vec![0; padding(size)];
    end.extend_from_slice(&END);
    let pieces = [Bytes::from(head), content, Bytes::from(end)].into_iter().filter(|piece| !piece.is_empty());
    let archive: ByteStream = Box::pin(stream::iter(pieces.map(Ok)));
    engine.unpack_files(id, root.as_bytes(), false, archive).await.map(drop)
}

/// What becomes of a link that is the last part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Kept,
    Followed,
}

/// The path without links on the way, if it stays below the root and its last part is not a folder's.
pub(super) async fn resolved(engine: &Engine, id: SandboxId, root: &str, rest: &str, last: Last) -> caisson_core::Result<Option<String>> {
    let mut left: Vec<String> = rest.split('/').rev().map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                if done.pop().is_none() {
                    return Ok(None);
                }
                continue;
            }
            _ => {}
        }
        done.push(part);
        if left.is_empty() && last == Last::Kept {
            break;
        }
        let path = format!("{root}/{}", done.join("/"));
        let target = match engine.stat_file(id, path.as_bytes()).await {
            Ok(stat) if stat.kind == FileKind::Symlink => stat.target.and_then(|target| String::from_utf8(target).ok()),
            Ok(_) => continue,
            // What is missing is made, and is no link.
            Err(Error::NotFound { kind: "file", .. }) => break,
            Err(error) => return Err(error),
        };
        links += 1;
        let Some(target) = target.filter(|_| links <= MOST_LINKS) else { return Ok(None) };
        done.pop();
        let target = match target.strip_prefix('/') {
            None => target,
            Some(_) => match target.strip_prefix(root).filter(|rest| rest.starts_with('/')) {
                Some(rest) => {
                    done.clear();
                    rest.to_owned()
                }
                None => return Ok(None),
            },
        };
        left.extend(target.split('/').rev().map(str::to_owned));
    }
    done.extend(left.into_iter().rev());
    Ok((!done.iter().any(|part| part == "..")).then(|| done.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_looked_at_in_order() {
        for (path, error) in [
            ("/repo/a\nb", "path must not contain NUL or newline characters: '/repo/a\\nb'"),
            ("a\0", "path must not contain NUL or newline characters: 'a\\x00'"),
            ("repo/x", "path must be absolute, got: 'repo/x'"),
            ("", "path must be absolute, got: ''"),
            ("/repo/../etc/passwd", "path must not contain '..' segments: '/repo/../etc/passwd'"),
            ("/repo", "path must not equal a reserved root: '/repo'"),
            ("/repo/", "path must not equal a reserved root: '/repo/'"),
            ("//repo/.", "path must not equal a reserved root: '//repo/.'"),
            ("/etc/passwd", "path must be under one of ('/repo',), got: '/etc/passwd'"),
            ("/repository/x", "path must be under one of ('/repo',), got: '/repository/x'"),
            ("/", "path must be under one of ('/repo',), got: '/'"),
        ] {
            assert_eq!(below(path, REPO, false).unwrap_err(), error);
        }
        for (path, whole) in [("/repo/a", "/repo/a"), ("//repo//a/./b/", "/repo/a/b"), ("/repo/..a", "/repo/..a")] {
            assert_eq!(below(path, REPO, false).as_deref(), Ok(whole));
        }
        assert_eq!(below("/workspace/", "/workspace", true).as_deref(), Ok("/workspace"));
    }

    #[test]
    fn faults_of_items_are_told_with_their_places() {
        let fields = |body: Value| if let Value::Object(fields) = body { Fields(fields) } else { unreachable!() };
        let faults = |body: Value| taken(&fields(body)).err().unwrap().details().unwrap().clone();
        let found = faults(json!({"mutations": [
            {"path": "/repo/a", "content": "aGk=", "mode": 420},
            {"path": 5, "content": "aGVsbG8", "mode": 4096},
            {"path": "/repo/b", "content": "", "mode": -1},
            7,
            {"path": "/repo/c"},
        ]}));
        let shown: Vec<String> = found.as_array().unwrap().iter().map(|fault| format!("{} {}", fault["type"], fault["loc"])).collect();
        assert_eq!(
            shown,
            [
                r#""string_type" ["body","mutations",1,"path"]"#,
                r#""base64_decode" ["body","mutations",1,"content"]"#,
                r#""less_than_equal" ["body","mutations",1,"mode"]"#,
                r#""greater_than_equal" ["body","mutations",2,"mode"]"#,
                r#""model_attributes_type" ["body","mutations",3]"#,
                r#""missing" ["body","mutations",4,"content"]"#,
                r#""missing" ["body","mutations",4,"mode"]"#,
            ]
        );
        assert_eq!(faults(json!({"mutations": []}))[0]["type"], "too_short");
        assert_eq!(faults(json!({"mutations": vec![json!({}); 65]})).as_array().unwrap().len(), 1);
        assert_eq!(faults(json!({}))[0]["type"], "missing");
        assert_eq!(faults(json!({"mutations": "x"}))[0]["type"], "list_type");
    }
}
