//! Files on their way from a sandbox to the server's disk.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use caisson_core::{ExecutionId, FileKind, FileStat};
use futures::{StreamExt, stream};

use super::{
    Workspaces,
    incoming::InUse,
    media::{extension, media_type},
    request::{NotSynced, OutputFilter, Outputs, shown},
    spool::{Batch, Item, Manifest},
    upload::Job,
};
use crate::{
    agent_client::AgentClient,
    core::{Core, now},
    figures,
    sandbox::Living,
};

/// How long files may be on their way to the disk, all together.
pub(super) const WITHIN: Duration = Duration::from_secs(15 * 60);

/// What is known of the files that a program has made or changed.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) files: Vec<FileStat>,
    /// There may be more.
    pub(crate) truncated: bool,
    /// Why nobody could say anything, where nobody could.
    pub(crate) unknown: Option<&'static str>,
}

/// What an execution has left, safe on the server's disk.
pub(crate) struct Outcome {
    pub(super) workspaces: Arc<Workspaces>,
    pub(super) job: Job,
}

/// A file that is to be brought out.
#[derive(Debug)]
struct Candidate {
    name: String,
    stat: FileStat,
}

/// Puts the outputs of an execution on the server's disk, where they are safe when this returns, and says what there is to be done. Whatever
/// cannot be put there is told in the report.
pub(crate) async fn keep(core: &Core, living: &Living, agent: &AgentClient, used: &InUse, id: ExecutionId, changed: Changed) -> Outcome {
    let workspaces = &used.workspaces;
    let outcome = |job| Outcome { workspaces: Arc::clone(workspaces), job };
    let mut manifest = Manifest {
        execution: id.to_string(),
        tenant: living.tenant.to_string(),
        tree: used.tree.clone(),
        at_once: Some(used.at_once),
        made_at: now().to_string(),
        synced_in: used.synced_in.clone(),
        failed: Vec::new(),
        items: Vec::new(),
    };
    let Some(outputs) = &used.outputs else { return outcome(Job::done(manifest)) };
    if let Some(why) = changed.unknown {
        manifest.failed.push(unnamed(why));
        return outcome(Job::done(manifest));
    }
    if changed.truncated {
        manifest
            .failed
            .push(unnamed("there are more new and changed files than can be named; those that are missing stayed in the sandbox"));
    }
    let files = always(outputs, agent, changed.files).await;
    let (candidates, failed) = candidates(used, outputs, files);
    manifest.failed.extend(failed);
    if candidates.is_empty() {
        return outcome(Job::done(manifest));
    }
    let job = match kept(core, living, agent, used, id, candidates, &mut manifest).await {
        Ok(true) => Job::new(manifest),
        Ok(false) => Job::done(manifest),
        Err(error) => {
            tracing::error!(execution.id = %id, error = %error, "The outputs of execution {id} cannot be kept on disk");
            let lost = std::mem::take(&mut manifest.items).into_iter().map(|item| item.name);
            let why = format!("the server cannot keep it on its disk: {error}");
            manifest.failed.extend(lost.map(|name| failed_to(name, None, &why)));
            if let Err(error) = workspaces.spool.remove(id).await {
                tracing::warn!(execution.id = %id, error = %error, "What is left of the outputs of execution {id} goes at the next start");
            }
            Job::done(manifest)
        }
    };
    outcome(job)
}

/// Whether there is anything to be written into the workspace.
async fn kept(
    core: &Core,
    living: &Living,
    agent: &AgentClient,
    used: &InUse,
    id: ExecutionId,
    candidates: Vec<Candidate>,
    manifest: &mut Manifest,
) -> io::Result<bool> {
    let workspaces = &used.workspaces;
    let batch = workspaces.spool.begin(id).await?;
    let budget = budget(living);
    // What waits for a quota is on the server's disk, and so has an end as well.
    let (tenant, limit) = (&living.tenant, core.allowance(&living.tenant).limit_in(&used.tree));
    let mut may_wait = limit.map_or(u64::MAX, |limit| limit.saturating_sub(workspaces.waiting(tenant)));
    let mut left = budget;
    let mut tasks = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        // A file of holes is larger than everything that its sandbox can hold, and would be as large here as it says.
        if candidate.stat.size > left {
            manifest.failed.push(failed_to(candidate.name, Some(candidate.stat.size), &beyond(budget)));
            continue;
        }
        if candidate.stat.size > may_wait {
            let why = format!("quota `workspace_bytes` is {}, and no more than that may wait to be written", limit.unwrap_or_default());
            manifest.failed.push(failed_to(candidate.name, Some(candidate.stat.size), &why));
            continue;
        }
        may_wait -= candidate.stat.size;
        left -= candidate.stat.size;
        tasks.push(candidate);
    }
    let deadline = tokio::time::Instant::now() + WITHIN;
    let reading = tasks.into_iter().map(|candidate| {
        let batch = &batch;
        async move {
            let (name, size) = (candidate.name.clone(), candidate.stat.size);
            let kept = tokio::time::timeout_at(deadline, one(workspaces, agent, batch, candidate)).await;
            let late = || io::Error::new(io::ErrorKind::TimedOut, "reading the outputs took too long");
            kept.map_err(|_| late())
                .and_then(|kept| kept)
                .map_err(|error| failed_to(name, Some(size), &figures::tamed(&error.to_string(), 500)))
        }
    });
    let mut kept = stream::iter(reading).buffer_unordered(used.at_once);
    while let Some(one) = kept.next().await {
        match one {
            Ok(mut item) => {
                let given = used.given.get(&item.name);
                if given.is_some_and(|given| given.digest.to_string() == item.digest && given.mode == item.mode) {
                    continue;
                }
                item.seen = given.map(|given| given.etag.clone());
                manifest.items.push(item);
            }
            Err(failed) => manifest.failed.push(failed),
        }
    }
    drop(kept);
    manifest.items.sort_by(|a, b| a.name.cmp(&b.name));
    if manifest.items.is_empty() {
        workspaces.spool.remove(id).await?;
        return Ok(false);
    }
    batch.seal(manifest).await?;
    Ok(true)
}

/// What a sandbox can hold, in memory and on its disk.
pub(super) fn budget(living: &Living) -> u64 {
    living.limits.disk_bytes.saturating_add(living.limits.memory_bytes)
}

pub(super) fn beyond(budget: u64) -> String {
    format!("all outputs together have more than the {} that the sandbox may hold", figures::bytes(budget))
}

async fn one(workspaces: &Workspaces, agent: &AgentClient, batch: &Batch, candidate: Candidate) -> io::Result<Item> {
    let Candidate { name, stat } = candidate;
    workspaces.spool.has_room(stat.size)?;
    let (now, content) = agent.get(&stat.path, 0, None).await.map_err(|error| io::Error::other(error.to_string()))?;
    if now.kind != FileKind::File || now.size > stat.size {
        return Err(io::Error::other("it changed while it was brought out"));
    }
    batch.add(name, now.mode & 0o777, now.size, content).await
}

/// Everything that passes, each name once, and what has to be told beside it.
fn candidates(used: &InUse, outputs: &Outputs, files: Vec<FileStat>) -> (Vec<Candidate>, Vec<NotSynced>) {
    let mut found: BTreeMap<String, FileStat> = BTreeMap::new();
    let mut failed = Vec::new();
    // The main directory first: its files win over those of the same name elsewhere.
    let places =
        std::iter::once((used.directory.as_str(), true)).chain(outputs.also.iter().map(|path| (path.trim_end_matches('/'), false)));
    for (place, deep) in places {
        for stat in files.iter().filter(|stat| stat.kind == FileKind::File) {
            let Some(below) = stat.path.strip_prefix(place.as_bytes()).and_then(|rest| rest.strip_prefix(b"/")) else { continue };
            if !deep && below.contains(&b'/') {
                continue;
            }
            let Ok(name) = std::str::from_utf8(below) else {
                failed.push(failed_to(shown(&String::from_utf8_lossy(below)), Some(stat.size), "its name is not UTF-8"));
                continue;
            };
            if !outputs.filter.lets(name) {
                continue;
            }
            if outputs.filter.max_file_bytes.is_some_and(|max| stat.size > max) {
                failed.push(failed_to(shown(name), Some(stat.size), "it is larger than the request lets files be"));
            } else if let Err(error) = used.tree.key(name) {
                failed.push(failed_to(shown(name), Some(stat.size), &error.to_string()));
            } else {
                found.entry(name.to_owned()).or_insert_with(|| stat.clone());
            }
        }
    }
    (found.into_iter().map(|(name, stat)| Candidate { name, stat }).collect(), failed)
}

/// What comes whether it has changed or not.
async fn always(outputs: &Outputs, agent: &AgentClient, mut files: Vec<FileStat>) -> Vec<FileStat> {
    for path in &outputs.always {
        if files.iter().all(|stat| stat.path != path.as_bytes()) {
            // What is not there is no output.
            files.extend(agent.stat(path.as_bytes()).await);
        }
    }
    files
}

impl OutputFilter {
    /// Whether a file of this name is brought out.
    fn lets(&self, name: &str) -> bool {
        let parts: Vec<&str> = name.split('/').collect();
        let (_, directories) = parts.split_last().unwrap_or((&"", &[]));
        let extension = extension(name);
        let by_extension = self.extensions.as_ref().is_none_or(|known| extension.is_some_and(|extension| known.contains(&extension)));
        let hidden = self.without_hidden && parts.iter().any(|part| part.starts_with('.'));
        let left_out = directories.iter().any(|part| self.without_directories.iter().any(|name| name == part));
        by_extension && !hidden && !left_out
    }
}

fn unnamed(why: &str) -> NotSynced {
    NotSynced { path: String::new(), size: None, media_type: media_type("").to_owned(), error: why.to_owned() }
}

pub(super) fn failed_to(name: String, size: Option<u64>, why: &str) -> NotSynced {
    NotSynced { media_type: media_type(&name).to_owned(), path: name, size, error: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_about_the_whole_name() {
        let filter = OutputFilter {
            extensions: Some(vec!["png".to_owned(), "csv".to_owned()]),
            without_hidden: true,
            without_directories: vec!["__pycache__".to_owned()],
            max_file_bytes: None,
        };
        for (name, expect) in [
            ("a.png", true),
            ("a/b.PNG", true),
            ("a.txt", false),
            ("png", false),
            (".png", false),
            (".a/b.png", false),
            ("a/.b.png", false),
            ("__pycache__/a.png", false),
            ("a/__pycache__/b.csv", false),
            ("__pycache__.csv", true),
        ] {
            assert_eq!(filter.lets(name), expect, "{name}");
        }
        assert!(OutputFilter::default().lets(".a/__pycache__/b"));
    }
}
