//! Files on their way from the server's disk into a workspace: tried until they are there, over restarts.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use caisson_core::{AboutBlob, Blob, BlobError, Digest, ExecutionId, NewBlob, OnlyIf, Tenant};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, time::Instant};

use super::{
    Workspaces,
    incoming::{AT_ONCE, MODE},
    media::media_type,
    outgoing::failed_to,
    request::{NotSynced, SyncedOut, WorkspaceReport},
    spool::{Item, Manifest},
};
use crate::core::Core;

/// How often it is tried while somebody waits; then the answer says what is pending.
const WHILE_AWAITED: u32 = 4;
/// Passes of what needs no more.
const DONE: u32 = u32::MAX;
/// How long somebody waits while nothing moves.
const STILL: Duration = Duration::from_secs(15);
/// How long somebody waits at most.
const AWAITED: Duration = Duration::from_secs(15 * 60);
/// Between attempts: doubled each time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(300));
/// How often a file is written that others write at the same time, before the last word is taken.
const CONTESTED: u32 = 5;

/// The outputs of one execution, and how far they have come.
#[derive(Debug)]
pub(crate) struct Job {
    manifest: Manifest,
    report: Mutex<WorkspaceReport>,
    /// Passes over what is pending that have been made.
    passes: watch::Sender<u32>,
    /// Bytes that storage has taken.
    moved: Arc<AtomicU64>,
}

impl Job {
    /// All of it is still to be done.
    pub(super) fn new(manifest: Manifest) -> Self {
        let pending = manifest.items.iter().map(|item| failed_to(item.name.clone(), Some(item.size), "it was not tried yet")).collect();
        let mut failed = manifest.failed.clone();
        failed.sort_by(|a, b| a.path.cmp(&b.path));
        let report = WorkspaceReport { synced_in: manifest.synced_in.clone(), synced_out: Vec::new(), pending, failed };
        Self { manifest, report: Mutex::new(report), passes: watch::Sender::new(0), moved: Arc::default() }
    }

    /// Nothing is to be done.
    pub(super) fn done(manifest: Manifest) -> Self {
        Self::new(Manifest { items: Vec::new(), ..manifest })
    }

    pub(super) fn report(&self) -> WorkspaceReport {
        self.with(|report| report.clone())
    }

    pub(super) fn belongs_to(&self, tenant: &Tenant) -> bool {
        self.manifest.tenant == tenant.as_str()
    }

    pub(super) fn tenant(&self) -> &str {
        &self.manifest.tenant
    }

    pub(super) fn execution(&self) -> Option<ExecutionId> {
        self.manifest.execution()
    }

    fn with<T>(&self, see: impl FnOnce(&mut WorkspaceReport) -> T) -> T {
        see(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pending(&self) -> Vec<Item> {
        let report = self.report();
        self.manifest.items.iter().filter(|item| report.pending.iter().any(|file| file.path == item.name)).cloned().collect()
    }

    fn synced(&self, file: SyncedOut) {
        self.with(|report| {
            report.pending.retain(|pending| pending.path != file.path);
            let at = report.synced_out.partition_point(|other| other.path < file.path);
            report.synced_out.insert(at, file);
        });
    }

    fn not_synced(&self, item: &Item, error: &str, for_good: bool) {
        self.with(|report| {
            let file = failed_to(item.name.clone(), Some(item.size), error);
            if for_good {
                report.pending.retain(|pending| pending.path != file.path);
                let at = report.failed.partition_point(|other| other.path < file.path);
                report.failed.insert(at, file);
            } else if let Some(pending) = report.pending.iter_mut().find(|pending| pending.path == file.path) {
                *pending = file;
            }
        });
    }

    /// What was not done by then is not done at all.
    fn give_up(&self, why: &str) {
        self.with(|report| {
            let given_up = std::mem::take(&mut report.pending).into_iter();
            report.failed.extend(given_up.map(|file| NotSynced { error: format!("{why}; the last error was: {}", file.error), ..file }));
            report.failed.sort_by(|a, b| a.path.cmp(&b.path));
        });
    }
}

/// Begins to write what there is, in a task of its own, and waits until it is there, or until there is no point in waiting.
pub(crate) async fn settle(core: &Arc<Core>, workspaces: &Arc<Workspaces>, job: Job) -> WorkspaceReport {
    let job = Arc::new(job);
    if job.manifest.items.is_empty() {
        workspaces.remember(core, &job).await;
        return job.report();
    }
    begin(core, workspaces, &job);
    let mut passes = job.passes.subscribe();
    let (started, mut moved) = (Instant::now(), (Instant::now(), 0));
    while *passes.borrow() < WHILE_AWAITED && started.elapsed() < AWAITED && !core.closing.is_cancelled() {
        let now = job.moved.load(Ordering::Relaxed);
        if now != moved.1 {
            moved = (Instant::now(), now);
        } else if moved.0.elapsed() >= STILL {
            break;
        }
        tokio::select! {
            // An error means that the task has ended, which is seen above.
            changed = passes.changed() => if changed.is_err() { break },
            // A token stays cancelled.
            () = core.closing.cancelled() => {}
            // Computed anew in every round.
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    job.report()
}

/// Goes on with it in a task of its own.
pub(super) fn begin(core: &Arc<Core>, workspaces: &Arc<Workspaces>, job: &Arc<Job>) {
    let Some(id) = job.execution() else { return };
    workspaces.jobs().insert(id, Arc::clone(job));
    let (core, workspaces, job) = (Arc::clone(core), Arc::clone(workspaces), Arc::clone(job));
    let tasks = core.tasks.clone();
    tasks.spawn(async move {
        let whole = work(&core, &workspaces, &job);
        tokio::select! {
            () = whole => {}
            // What is on disk is found by the next start.
            () = core.closing.cancelled() => return,
        }
        workspaces.remember(&core, &job).await;
        if let Err(error) = workspaces.spool.remove(id).await {
            tracing::warn!(execution.id = %id, error = %error, "Outputs that are in their workspace are still on disk; they go at the next start");
        }
        workspaces.jobs().remove(&id);
        job.passes.send_replace(DONE);
    });
}

async fn work(core: &Core, workspaces: &Workspaces, job: &Job) {
    let mut pause = PAUSE.0;
    loop {
        let writing = job.pending().into_iter().map(|item| async move {
            match write(workspaces, job, &item).await {
                Ok(file) => job.synced(file),
                Err(error) => {
                    let for_good = !error.is_temporary();
                    let text = super::blob_error(error).to_string();
                    tracing::warn!(execution.id = %job.manifest.execution, error = text, "An output of {} is not in its workspace", job.manifest.execution);
                    job.not_synced(&item, &text, for_good);
                }
            }
        });
        let at_once = job.manifest.at_once.unwrap_or(AT_ONCE);
        stream::iter(writing).for_each_concurrent(at_once, |write| write).await;
        if job.report().is_settled() {
            return;
        }
        let old = Timestamp::now().checked_sub(core.config.retention).unwrap_or(Timestamp::MIN);
        if job.manifest.made_at() < old {
            job.give_up("it could not be written for as long as executions are kept");
            return;
        }
        job.passes.send_modify(|passes| *passes += 1);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Writes one file over whatever is there, and finds out what that is.
async fn write(workspaces: &Workspaces, job: &Job, item: &Item) -> Result<SyncedOut, BlobError> {
    let _permit = workspaces.writes.acquire().await.map_err(|error| BlobError::Unavailable(error.into()))?;
    let refused = |error: &dyn std::fmt::Display| BlobError::Refused(error.to_string());
    let key = job.manifest.tree.key(&item.name).map_err(|error| refused(&error))?;
    let digest: Digest = item.digest.parse().map_err(|error| refused(&error))?;
    let media_type = media_type(&item.name);
    let about = AboutBlob { mode: Some(item.mode), digest: Some(digest), media_type: Some(media_type.to_owned()) };
    let new = NewBlob { size: item.size, about };
    let execution = job.manifest.execution().ok_or_else(|| refused(&"its execution has no id"))?;
    let done = |etag, overwrote| SyncedOut { path: item.name.clone(), size: item.size, media_type: media_type.to_owned(), etag, overwrote };

    let mut only_if = item.seen.clone().map_or(OnlyIf::Absent, OnlyIf::Matches);
    let mut overwrote = None;
    let mut contested = 0;
    loop {
        let content = workspaces.spool.read(execution, item).await.map_err(BlobError::Content)?;
        let moved = Arc::clone(&job.moved);
        let content = content.inspect_ok(move |piece| {
            moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
        });
        match workspaces.blobs.put(&key, &new, Box::pin(content), &only_if).await {
            Ok(etag) => return Ok(done(etag, overwrote)),
            Err(BlobError::Changed) => {}
            Err(error) => return Err(error),
        }
        only_if = match workspaces.blobs.head(&key).await {
            Err(BlobError::NotFound) => OnlyIf::Absent,
            Err(error) => return Err(error),
            Ok(there) if is_same(workspaces, &there, item, digest).await? => return Ok(done(there.etag, overwrote)),
            Ok(there) => {
                overwrote = Some(there.etag.clone());
                OnlyIf::Matches(there.etag)
            }
        };
        contested += 1;
        if contested > CONTESTED {
            only_if = OnlyIf::Always;
        }
    }
}

/// Whether what is there is what is to be written: an earlier attempt of ours whose answer was lost, or somebody else's equal file.
async fn is_same(workspaces: &Workspaces, there: &Blob, item: &Item, digest: Digest) -> Result<bool, BlobError> {
    if there.size != item.size || there.about.mode.unwrap_or(MODE) != item.mode {
        return Ok(false);
    }
    if let Some(known) = there.about.digest {
        return Ok(known == digest);
    }
    let (_, mut content) = workspaces.blobs.get(&there.key, 0, None).await?;
    let mut hash = Sha256::new();
    while let Some(piece) = content.next().await {
        hash.update(&piece.map_err(|error| BlobError::Unavailable(error.into()))?);
    }
    Ok(Digest::from_bytes(hash.finalize().into()) == digest)
}
