//! One-shots: fresh sandbox, files in, run, result and changed files out, sandbox destroyed behind the answer.

use std::{sync::Arc, time::Duration};

use caisson_core::{Execution, FileKind, FileStat, Result, Tenant, TimeLimits, TombstoneReason};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    Engine,
    agent_client::AgentClient,
    core::Core,
    create,
    execution::{self, Ended, Started, task_ended},
    images,
    request::{ChangedFile, ExecRequest, InputFile, OneShotStage, RunRequest, RunResult},
    sandbox::{End, Living, Purpose},
    validate,
    workspaces::{self, Changed, InUse, SyncedIn},
};

/// Files on their way at one time.
const FILES_AT_ONCE: usize = 16;
/// How long the contents of changed files are waited for in all; those that have not come by then are only named.
const FILES_WITHIN: Duration = Duration::from_secs(30);
/// What a one-shot without a time-out of its own gets, so that none is forgotten for ever.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A one-shot whose program runs. Dropping this changes nothing: it still finishes, is recorded, and its sandbox destroyed.
#[derive(Debug)]
pub struct RunningOneShot {
    /// As recorded at its start.
    pub execution: Execution,
    /// What was brought in from its workspace.
    pub synced_in: Vec<SyncedIn>,
    result: oneshot::Receiver<Result<RunResult>>,
}

impl RunningOneShot {
    /// Returns when it has ended and is recorded.
    pub async fn wait(self) -> Result<RunResult> {
        self.result.await.unwrap_or_else(|_| Err(task_ended()))
    }
}

/// Runs it in a task of its own that outlives the caller.
pub(crate) async fn run(
    core: &Arc<Core>,
    tenant: &Tenant,
    mut request: RunRequest,
    stage: watch::Sender<OneShotStage>,
) -> Result<RunningOneShot> {
    validate::run(&request)?;
    core.prepare_network(&mut request.spec.network).await?;
    let lifetime = request.exec.timeout.map_or(LONGEST, |timeout| timeout + LONGEST).min(TimeLimits::MAX + LONGEST);
    let time_limits = TimeLimits { lifetime: Some(lifetime), idle_timeout: None };
    let mut spec = request.spec.clone();
    let lease = images::resolve(core, tenant, &mut spec).await?;
    let sandbox = create::record(core, tenant, None, spec, time_limits, request.metadata.clone());
    let living = Living::bring_up(core, sandbox, lease, Purpose::OneShot).await?;
    let (reply, running) = oneshot::channel();
    let (core, tasks) = (Arc::clone(core), core.tasks.clone());
    let executions = living.executions.clone();
    tasks.spawn(executions.track_future(async move {
        let begun = living.activity.begin();
        let end = match prepare_and_start(&core, &living, request, &stage).await {
            Ok((begin, started)) => follow(&core, &living, begin, started, reply, &stage).await,
            Err(error) => {
                let end = End::new(TombstoneReason::Finished, format!("its program did not start: {error}"));
                living.is_spent();
                // Whoever asked may have gone; nothing ran.
                drop(reply.send(Err(error)));
                end
            }
        };
        drop(begun);
        living.end(end).await;
    }));
    running.await.unwrap_or_else(|_| Err(task_ended()))
}

/// What is known of a one-shot whose program runs.
struct Begun {
    agent: AgentClient,
    workspace: Option<InUse>,
    max_file_bytes: u64,
}

async fn prepare_and_start(
    core: &Arc<Core>,
    living: &Arc<Living>,
    mut request: RunRequest,
    stage: &watch::Sender<OneShotStage>,
) -> Result<(Begun, Started)> {
    let agent = living.agent().await?;
    stage.send_replace(OneShotStage::Prepares(living.id));
    create::set_up(living, &agent).await?;
    let mut ready = living.take_ready();
    // What an interpreter looks at when it starts has to be there before.
    let wanted = request.exec.workspace.take();
    let brings_nothing = wanted.as_ref().is_none_or(|wanted| wanted.files.is_empty());
    let may_wait = ready.as_ref().is_some_and(|ready| brings_nothing && ready.waits_for(&request.files, &living.work_dir));
    if !may_wait && let Some(ready) = ready.take() {
        ready.end().await;
    }
    if !brings_nothing {
        // It has come up, however long the files take.
        living.answered().await;
    }
    let workspace = match wanted {
        Some(wanted) => Some(workspaces::bring_in(&Engine::workspaces_of(core)?, living, &agent, wanted).await?),
        None => None,
    };
    put_files(living, &agent, request.files).await?;
    // An image may name the root, and whoever starts there is not asking for a look at all files.
    let watched = Some(living.work_dir.clone()).filter(|directory| !directory.trim_matches('/').is_empty());
    let also_report = workspace.iter().flat_map(InUse::watched).collect();
    let watched = ExecRequest { report_changes: watched, also_report, ..request.exec };
    let prepared = execution::prepare(living, &agent, watched).await?;
    let started = execution::start_ready(core, living, &agent, prepared, ready).await?;
    living.answered().await;
    Ok((Begun { agent, workspace, max_file_bytes: request.max_file_bytes }, started))
}

/// Until the answer has been given, or is in the hands of a task of its own; returns how the sandbox is to end.
async fn follow(
    core: &Arc<Core>,
    living: &Living,
    begun: Begun,
    mut started: Started,
    reply: oneshot::Sender<Result<RunningOneShot>>,
    stage: &watch::Sender<OneShotStage>,
) -> End {
    let (result_to, result) = oneshot::channel();
    let Begun { agent, workspace, max_file_bytes } = begun;
    let synced_in = workspace.as_ref().map_or_else(Vec::new, |used| used.synced_in().to_vec());
    stage.send_replace(OneShotStage::Runs(living.id));
    let ended = started
        .pump(|recorded| {
            // Whoever asked may have gone; the one-shot goes on.
            drop(reply.send(recorded.map(|execution| RunningOneShot { execution, synced_in, result })));
        })
        .await;
    stage.send_replace(OneShotStage::Ended(living.id));
    let Some(mut ended) = ended else { return End::new(TombstoneReason::Finished, "its execution could not be recorded") };
    let (mut changes, files_truncated) = take_changes(&mut ended);
    let mut job = None;
    if let Some(used) = &workspace {
        // Before its end is recorded: what is recorded as finished has lost nothing.
        let unknown = (!ended.changes_known).then_some("its sandbox ended under it, and its files are gone");
        let changed = Changed { files: changes.clone(), truncated: files_truncated, unknown };
        job = Some(workspaces::keep(core, living, &agent, used, started.id(), changed).await);
        changes.retain(|stat| is_below(&living.work_dir, &stat.path));
    }
    let (result, files) = tokio::join!(started.finish(ended), changed_files(living, &agent, changes, max_file_bytes));
    living.is_spent();
    let weaker_limits = core.backend.weaker_limits(&living.now().spec);
    let answered = move |result: Result<_>| {
        // Likewise.
        drop(result_to.send(result.map(|result| RunResult { result, files, files_truncated, weaker_limits })));
    };
    // The sandbox has done its part.
    workspaces::settled(core, job, result, answered);
    End::new(TombstoneReason::Finished, "its one execution has ended")
}

fn is_below(directory: &str, path: &[u8]) -> bool {
    path.strip_prefix(directory.trim_end_matches('/').as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
}

fn take_changes(ended: &mut Ended) -> (Vec<FileStat>, bool) {
    let mut changes = std::mem::take(&mut ended.changes);
    changes.retain(|stat| stat.kind == FileKind::File);
    (changes, ended.changes_truncated)
}

async fn put_files(living: &Living, agent: &AgentClient, files: Vec<InputFile>) -> Result<()> {
    let puts = files.into_iter().map(|file| async move {
        let path = validate::absolute_path(&living.work_dir, &file.path)?;
        match agent.put(&path, file.mode, file.content).await {
            Ok(_) => Ok(()),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    });
    stream::iter(puts).buffer_unordered(FILES_AT_ONCE).try_collect().await
}

/// The changed files with as many contents, in the order of their names, as fit under `max_bytes` in all.
async fn changed_files(living: &Living, agent: &AgentClient, changes: Vec<FileStat>, max_bytes: u64) -> Vec<ChangedFile> {
    let mut left = max_bytes;
    let deadline = Instant::now() + FILES_WITHIN;
    let reads = changes.into_iter().map(|stat| {
        let fits = stat.size <= left;
        if fits {
            left -= stat.size;
        }
        async move {
            if !fits || max_bytes == 0 {
                return ChangedFile { stat, content: None };
            }
            match tokio::time::timeout_at(deadline, read_whole(agent, &stat)).await.ok().flatten() {
                Some((stat, content)) => ChangedFile { stat, content: Some(content) },
                None => {
                    tracing::debug!(sandbox.id = %living.id, "A changed file could not be read back");
                    ChangedFile { stat, content: None }
                }
            }
        }
    });
    // A list first: the budget is given out in order, not as answers come.
    let reads: Vec<_> = reads.collect();
    stream::iter(reads).buffered(FILES_AT_ONCE).collect().await
}

/// The file as it is now, unless it has grown beyond what was promised.
async fn read_whole(agent: &AgentClient, stat: &FileStat) -> Option<(FileStat, bytes::Bytes)> {
    let (now, content) = agent.get(&stat.path, 0, Some(stat.size)).await.ok()?;
    if now.size > stat.size {
        return None;
    }
    let content: Vec<bytes::Bytes> = content.try_collect().await.ok()?;
    let content = match &content[..] {
        [one] => one.clone(),
        many => many.concat().into(),
    };
    (content.len() as u64 == now.size).then_some((now, content))
}
