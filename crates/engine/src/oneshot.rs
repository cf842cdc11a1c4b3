//! One-shots: fresh sandbox, files in, run, result and changed files out, sandbox destroyed behind the answer.

use std::{sync::Arc, time::Duration};

use caisson_core::{Execution, FileKind, FileStat, Result, Tenant, TimeLimits, TombstoneReason};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    agent_client::AgentClient,
    core::Core,
    create,
    execution::{self, Ended, Started, task_ended},
    images,
    request::{ChangedFile, ExecRequest, InputFile, RunRequest, RunResult},
    sandbox::{End, Living, Purpose},
    validate,
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
    result: oneshot::Receiver<Result<RunResult>>,
}

impl RunningOneShot {
    /// Returns when it has ended and is recorded.
    pub async fn wait(self) -> Result<RunResult> {
        self.result.await.unwrap_or_else(|_| Err(task_ended()))
    }
}

/// Runs it in a task of its own that outlives the caller.
pub(crate) async fn run(core: &Arc<Core>, tenant: &Tenant, request: RunRequest) -> Result<RunningOneShot> {
    validate::run(&request)?;
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
        let end = match prepare_and_start(&core, &living, request).await {
            Ok((agent, started, max_file_bytes)) => follow(&core, &living, &agent, started, max_file_bytes, reply).await,
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

async fn prepare_and_start(core: &Arc<Core>, living: &Arc<Living>, request: RunRequest) -> Result<(AgentClient, Started, u64)> {
    let agent = living.agent().await?;
    create::set_up(living, &agent).await?;
    put_files(living, &agent, request.files).await?;
    // An image may name the root, and whoever starts there is not asking for a look at all files.
    let watched = Some(living.work_dir.clone()).filter(|directory| !directory.trim_matches('/').is_empty());
    let watched = ExecRequest { report_changes: watched, ..request.exec };
    let prepared = execution::prepare(living, &agent, watched).await?;
    let started = execution::start(core, living, &agent, prepared).await?;
    living.answered().await;
    Ok((agent, started, request.max_file_bytes))
}

/// Until the answer has been given; returns how the sandbox is to end.
async fn follow(
    core: &Core,
    living: &Living,
    agent: &AgentClient,
    mut started: Started,
    max_file_bytes: u64,
    reply: oneshot::Sender<Result<RunningOneShot>>,
) -> End {
    let (result_to, result) = oneshot::channel();
    let ended = started
        .pump(|recorded| {
            // Whoever asked may have gone; the one-shot goes on.
            drop(reply.send(recorded.map(|execution| RunningOneShot { execution, result })));
        })
        .await;
    let Some(mut ended) = ended else { return End::new(TombstoneReason::Finished, "its execution could not be recorded") };
    let (changes, files_truncated) = take_changes(&mut ended);
    let (result, files) = tokio::join!(started.finish(ended), changed_files(living, agent, changes, max_file_bytes));
    living.is_spent();
    // Likewise.
    drop(result_to.send(result.map(|result| RunResult { result, files, files_truncated, weaker_limits: core.weaker_limits() })));
    End::new(TombstoneReason::Finished, "its one execution has ended")
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
