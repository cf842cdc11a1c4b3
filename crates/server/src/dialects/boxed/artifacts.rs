//! What a program leaves in `/output`: one entry a file, with its content at the end.

use std::collections::VecDeque;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_core::{FileKind, FileStat, SandboxId};
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

/// Their contents, one after the other. What has gone meanwhile is passed over.
pub(super) fn read(engine: Engine, id: SandboxId, wanted: VecDeque<FileStat>) -> impl Stream<Item = BoxedArtifact> {
    stream::unfold((engine, wanted), move |(engine, mut wanted)| async move {
        loop {
            let stat = wanted.pop_front()?;
            if let Some(artifact) = one(&engine, id, &stat).await {
                return Some((artifact, (engine, wanted)));
            }
        }
    })
}

async fn one(engine: &Engine, id: SandboxId, stat: &FileStat) -> Option<BoxedArtifact> {
    let (_, content) = engine.read_file(id, &stat.path, 0, Some(stat.size)).await.ok()?;
    let content = content.try_fold(Vec::new(), async |mut all, piece| {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    let path = String::from_utf8_lossy(below(&stat.path)?).into_owned();
    Some(BoxedArtifact { mime: mime::of(&path), data_base64: STANDARD.encode(content.await.ok()?), path })
}
