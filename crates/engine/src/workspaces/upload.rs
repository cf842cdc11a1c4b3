//! Files on their way from the server's disk into a workspace: tried until they are there, over restarts.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use caisson_core::{AboutBlob, Blob, BlobError, BlobStream, Digest, Error, ExecutionId, NewBlob, OnlyIf, Tenant};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, time::Instant};

use super::{
    Workspaces,
    incoming::{AT_ONCE, MODE},
    media::media_type,
    outgoing::{Outcome, failed_to},
    quota::{Allowance, NotWritten},
    request::{NotSynced, SyncedOut, Tree, WorkspaceReport},
    spool::{Item, Manifest, Upload},
};
use crate::{core::Core, request::ExecutionResult};

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

    /// Bytes that wait on this server's disk.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.with(|report| report.pending.iter().filter_map(|file| file.size).fold(0, u64::saturating_add))
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

/// Hands a result on, with what became of the files where there are some, which is waited for in a task of its own.
pub(crate) fn settled(
    core: &Arc<Core>,
    outcome: Option<Outcome>,
    result: Result<ExecutionResult, Error>,
    tell: impl FnOnce(Result<ExecutionResult, Error>) + Send + 'static,
) {
    let Some(Outcome { workspaces, job }) = outcome else { return tell(result) };
    let (core, tasks) = (Arc::clone(core), core.tasks.clone());
    tasks.spawn(async move {
        let report = settle(&core, &workspaces, job).await;
        tell(result.map(|result| ExecutionResult { workspace: Some(report), ..result }));
    });
}

/// Begins to write what there is, in a task of its own, and waits until it is there, or until there is no point in waiting.
async fn settle(core: &Arc<Core>, workspaces: &Arc<Workspaces>, job: Job) -> WorkspaceReport {
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
            match write(core, workspaces, job, &item).await {
                Ok(file) => job.synced(file),
                Err(error) => {
                    let (for_good, is_over) = (!error.is_temporary(), matches!(error, NotWritten::Over(_)));
                    let text = error.into_error().to_string();
                    // What a tenant brings about itself is not for the log of everybody.
                    if !is_over {
                        tracing::warn!(execution.id = %job.manifest.execution, error = text, "An output of {} is not in its workspace", job.manifest.execution);
                    }
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

/// Writes one file of an execution.
async fn write(core: &Core, workspaces: &Workspaces, job: &Job, item: &Item) -> Result<SyncedOut, NotWritten> {
    let refused = |error: &dyn std::fmt::Display| BlobError::Refused(error.to_string());
    let digest: Digest = item.digest.parse().map_err(|error| refused(&error))?;
    let execution = job.manifest.execution().ok_or_else(|| refused(&"its execution has no id"))?;
    let file = Whole { name: &item.name, size: item.size, mode: item.mode, digest };
    let source = Source::Spooled { execution, item, moved: &job.moved };
    let tenant: Tenant = job.manifest.tenant.parse().map_err(|error| refused(&error))?;
    write_over(workspaces, &core.allowance(&tenant), &job.manifest.tree, &file, &source, item.seen.clone()).await
}

/// A file that is to be written into a workspace.
pub(super) struct Whole<'a> {
    pub(super) name: &'a str,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) digest: Digest,
}

impl Whole<'_> {
    /// As it is told when it is there.
    fn written(&self, etag: String, overwrote: Option<String>) -> SyncedOut {
        SyncedOut { path: self.name.to_owned(), size: self.size, media_type: media_type(self.name).to_owned(), etag, overwrote }
    }
}

/// Where its bytes are.
pub(super) enum Source<'a> {
    Spooled { execution: ExecutionId, item: &'a Item, moved: &'a Arc<AtomicU64> },
    Uploaded(&'a Upload),
}

impl Source<'_> {
    async fn read(&self, workspaces: &Workspaces) -> std::io::Result<BlobStream> {
        match self {
            Source::Uploaded(upload) => upload.read().await,
            Source::Spooled { execution, item, moved } => {
                let content = workspaces.spool.read(*execution, item).await?;
                let moved = Arc::clone(moved);
                Ok(Box::pin(content.inspect_ok(move |piece| {
                    moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
                })))
            }
        }
    }
}

/// Writes a file over whatever is there, and finds out what that is, unless it is the version that was `seen`.
async fn write_over(
    workspaces: &Workspaces,
    allowance: &Allowance,
    tree: &Tree,
    file: &Whole<'_>,
    source: &Source<'_>,
    seen: Option<String>,
) -> Result<SyncedOut, NotWritten> {
    let _permit = workspaces.writes.acquire().await.map_err(|error| BlobError::Unavailable(error.into()))?;
    let key = tree.key(file.name).map_err(|error| BlobError::Refused(error.to_string()))?;
    let about = AboutBlob { mode: Some(file.mode), digest: Some(file.digest), media_type: Some(media_type(file.name).to_owned()) };
    let new = NewBlob { size: file.size, about };
    let room = workspaces.room(allowance, tree, &key, file.size).await?;
    let mut only_if = seen.map_or(OnlyIf::Absent, OnlyIf::Matches);
    let mut overwrote = None;
    let mut contested = 0;
    loop {
        let content = source.read(workspaces).await.map_err(BlobError::Content)?;
        match workspaces.blobs.put(&key, &new, content, &only_if).await {
            Ok(etag) => {
                room.use_up();
                return Ok(file.written(etag, overwrote));
            }
            Err(BlobError::Changed) => {}
            Err(error) => return Err(error.into()),
        }
        only_if = match workspaces.blobs.head(&key).await {
            Err(BlobError::NotFound) => OnlyIf::Absent,
            Err(error) => return Err(error.into()),
            Ok(there) if is_same(workspaces, &there, file).await? => return Ok(file.written(there.etag, overwrote)),
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

/// The same for a file that nothing was seen of, which is written only where it is not there already: `None` where it is.
pub(super) async fn write_if_other(
    workspaces: &Workspaces,
    allowance: &Allowance,
    tree: &Tree,
    file: &Whole<'_>,
    source: &Source<'_>,
) -> Result<Option<SyncedOut>, NotWritten> {
    let key = tree.key(file.name).map_err(|error| BlobError::Refused(error.to_string()))?;
    let there = match workspaces.blobs.head(&key).await {
        Err(BlobError::NotFound) => None,
        Err(error) => return Err(error.into()),
        Ok(there) if is_same(workspaces, &there, file).await? => return Ok(None),
        Ok(there) => Some(there.etag),
    };
    let written = write_over(workspaces, allowance, tree, file, source, there.clone()).await?;
    Ok(Some(SyncedOut { overwrote: written.overwrote.or(there), ..written }))
}

/// Whether what is there is what is to be written: an earlier attempt of ours whose answer was lost, or somebody else's equal file.
async fn is_same(workspaces: &Workspaces, there: &Blob, file: &Whole<'_>) -> Result<bool, BlobError> {
    if there.size != file.size || there.about.mode.unwrap_or(MODE) != file.mode {
        return Ok(false);
    }
    if let Some(known) = there.about.digest {
        return Ok(known == file.digest);
    }
    let (_, mut content) = workspaces.blobs.get(&there.key, 0, None).await?;
    let mut hash = Sha256::new();
    while let Some(piece) = content.next().await {
        hash.update(&piece.map_err(|error| BlobError::Unavailable(error.into()))?);
    }
    Ok(Digest::from_bytes(hash.finalize().into()) == file.digest)
}
