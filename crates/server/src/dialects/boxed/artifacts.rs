//! What a program leaves in `/output`: one entry a file, with its content at the end.

use std::{collections::VecDeque, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_core::{Error, FileKind, FileStat, SandboxId};
use caisson_engine::{Engine, ExecutionResult};
use futures::{Stream, TryStreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::{OUTPUT, mime};

/// Files over this size are left out.
const MAX_FILE: u64 = 10 << 20;
/// And so are those that do not fit into this with the ones before them.
const MAX_ALL: u64 = 256 << 20;

/// A file that a program has left.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxedArtifact {
    /// Below `/output`
    path: String,
    mime: &'static str,
    data_base64: String,
}

/// Which of the changed files are artifacts.
pub(super) fn wanted(result: &ExecutionResult, notes: &mut Vec<String>) -> VecDeque<FileStat> {
    let mut left = MAX_ALL;
    let mut beyond = 0;
    let mut wanted: Vec<FileStat> = result.changes.iter().filter(|stat| is_one(stat)).cloned().collect();
    wanted.sort_by(|a, b| a.path.cmp(&b.path));
    wanted.retain(|stat| {
        let fits = stat.size <= left;
        if fits {
            left -= stat.size;
        } else {
            beyond += 1;
        }
        fits
    });
    if beyond > 0 {
        notes.push(format!("{beyond} files in {OUTPUT} are left out, because they come to more than {} MiB in all", MAX_ALL >> 20));
    }
    if result.changes_truncated {
        notes.push(format!("more was changed in {OUTPUT} than could be looked at"));
    }
    wanted.into()
}

fn is_one(stat: &FileStat) -> bool {
    let hidden = |path: &[u8]| path.split(|byte| *byte == b'/').any(|name| name.starts_with(b"."));
    stat.kind == FileKind::File && stat.size <= MAX_FILE && below(&stat.path).is_some_and(|path| !hidden(path))
}

fn below(path: &[u8]) -> Option<&[u8]> {
    path.strip_prefix(OUTPUT.as_bytes())?.strip_prefix(b"/")
}

/// Their contents, one after the other, as they are when their turn comes. What has gone meanwhile is passed over, and so is what has
/// become too large; when one cannot be read, nothing follows it.
pub(super) fn read(engine: Engine, id: SandboxId, wanted: VecDeque<FileStat>) -> impl Stream<Item = io::Result<BoxedArtifact>> {
    stream::try_unfold((engine, wanted, MAX_ALL), move |(engine, mut wanted, mut left)| async move {
        while let Some(stat) = wanted.pop_front() {
            if let Some(artifact) = one(&engine, id, &stat, &mut left).await? {
                return Ok(Some((artifact, (engine, wanted, left))));
            }
        }
        Ok(None)
    })
}

async fn one(engine: &Engine, id: SandboxId, stat: &FileStat, left: &mut u64) -> io::Result<Option<BoxedArtifact>> {
    let Some(path) = below(&stat.path) else { return Ok(None) };
    let (now, content) = match engine.read_file(id, &stat.path, 0, None).await {
        Ok(read) => read,
        Err(error) if is_no_file(&error) => return Ok(None),
        Err(error) => return Err(io::Error::other(error)),
    };
    if now.size > MAX_FILE.min(*left) {
        return Ok(None);
    }
    *left -= now.size;
    // What grows is cut there, and what is being written anew may be shorter.
    let size = usize::try_from(now.size).unwrap_or(usize::MAX);
    let content = content.try_fold(Vec::new(), async |mut all, piece| {
        all.extend_from_slice(&piece[..piece.len().min(size - all.len())]);
        Ok(all)
    });
    let path = String::from_utf8_lossy(path).into_owned();
    Ok(Some(BoxedArtifact { mime: mime::of(&path), data_base64: STANDARD.encode(content.await?), path }))
}

/// Whether there is no file (any more) where one was, or none that its user may read.
fn is_no_file(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { kind: "file", .. }
            | Error::Invalid { .. }
            | Error::Conflict { code: "is_a_directory" | "not_a_directory" | "not_a_file", .. }
    )
}
