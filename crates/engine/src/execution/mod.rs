//! Executions: one task owns each, pumps its frames into the log, and decides how it ended.

mod clients;
mod input;
mod outcome;
mod prepare;
mod task;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use caisson_core::{Error, Execution, Result};
use caisson_wire::frame::{Frame, Kind};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use self::clients::Attachment;
pub(crate) use self::{
    input::{Gate, Input},
    prepare::{code_file, prepare, words},
    task::{CodeEnd, CodeRun, Ended, Started, start, start_ready},
};
use crate::{
    Engine,
    activity::Activity,
    agent_client::{AgentClient, FrameSender},
    core::{Core, unavailable},
    output_log::OutputLog,
    request::{ExecRequest, ExecutionResult},
    sandbox::Living,
    workspaces::{self, Changed, InUse},
};

/// A frame waits this long behind others on their way to the program's agent.
const FRAME_SENT_WITHIN: Duration = Duration::from_secs(5);

/// Everybody's view of an execution that runs.
#[derive(Debug)]
pub(crate) struct RunningExecution {
    pub(crate) started: Execution,
    pub(crate) log: OutputLog,
    frames: FrameSender,
    input: Input,
    is_terminal: bool,
    /// That of its sandbox.
    activity: Arc<Activity>,
    /// Bit n: signal n was sent on request.
    signals_sent: AtomicU64,
    killed: CancellationToken,
}

impl RunningExecution {
    /// Sends a signal to the program's process group.
    pub(crate) async fn signal(&self, signal: i32) -> Result<()> {
        let number = u32::try_from(signal).ok().filter(|n| (1..=64).contains(n));
        let Some(number) = number else {
            return Err(Error::invalid("invalid_signal", format!("signal {signal} does not exist; signals are 1 to 64")));
        };
        // Before it is sent, so that no end by it is judged without; taken back when it was not sent after all.
        let bit = 1 << (number - 1);
        let before = self.signals_sent.fetch_or(bit, Ordering::AcqRel);
        let frame = Frame::new(Kind::Signal, Bytes::copy_from_slice(&number.to_be_bytes()));
        let sent = self.send(frame).await;
        if sent.is_err() {
            self.signals_sent.fetch_and(!bit | before, Ordering::AcqRel);
        }
        sent
    }

    /// Sends the agent a frame about this execution.
    async fn send(&self, frame: Frame) -> Result<()> {
        match tokio::time::timeout(FRAME_SENT_WITHIN, self.frames.send(frame.encode())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::conflict("execution_finished", format!("execution `{}` has ended", self.started.id))),
            Err(_) => Err(unavailable("the sandbox's agent is too busy to be told; try again, or kill the program instead")),
        }
    }

    /// Ends the program's whole process tree.
    pub(crate) fn kill(&self) {
        self.killed.cancel();
    }
}

/// An execution that the agent has started. Dropping this changes nothing: the execution goes on and is recorded.
#[derive(Debug)]
pub struct Running {
    /// As recorded at its start.
    pub execution: Execution,
    pub(crate) result: oneshot::Receiver<Result<ExecutionResult>>,
}

impl Running {
    /// Returns when it has ended and is recorded.
    pub async fn wait(self) -> Result<ExecutionResult> {
        self.result.await.unwrap_or_else(|_| Err(task_ended()))
    }
}

/// What is told instead of changed files, where nobody has said which these are.
const UNKNOWN: &str = "it was killed, or its sandbox ended under it, before it was known which files it had changed; as long as the sandbox is there, \
                       they are in it and can be pushed";

/// Starts an execution in a living sandbox, in a task of its own that outlives the caller.
pub(crate) async fn exec(core: &Arc<Core>, living: Arc<Living>, request: ExecRequest) -> Result<Running> {
    let mut begun = living.begin_inside().await?;
    core.registry.admit_execution(&living.tenant, &core.keys.quotas(&living.tenant))?;
    let (reply, started) = oneshot::channel();
    let (core, tasks) = (Arc::clone(core), core.tasks.clone());
    let executions = living.executions.clone();
    tasks.spawn(executions.track_future(async move {
        let (mut started, agent, workspace) = match prepare_and_start(&core, &living, request).await {
            Ok(begun) => begun,
            // Whoever asked may have gone; nothing was started.
            Err(error) => return drop(reply.send(Err(error))),
        };
        if started.is_terminal() {
            begun.rest();
        }
        let (result_to, result) = oneshot::channel();
        let mut reply = Some(reply);
        let ended = started
            .pump(|recorded| {
                if let Some(reply) = reply.take() {
                    // Whoever asked may have gone; the execution goes on.
                    drop(reply.send(recorded.map(|execution| Running { execution, result })));
                }
            })
            .await;
        if let Some(ended) = ended {
            let mut job = None;
            if let Some(used) = &workspace {
                // Before its end is recorded: what is recorded as finished has lost nothing.
                let unknown = (!ended.changes_known).then_some(UNKNOWN);
                let changed = Changed { files: ended.changes.clone(), truncated: ended.changes_truncated, unknown };
                job = Some(workspaces::keep(&core, &living, &agent, used, started.id(), changed).await);
            }
            let result = started.finish(ended).await;
            // Likewise.
            workspaces::settled(&core, job, result, |result| drop(result_to.send(result)));
        }
        drop(begun);
    }));
    started.await.unwrap_or_else(|_| Err(task_ended()))
}

/// Nothing runs when a file that it is to have is not there.
async fn prepare_and_start(
    core: &Arc<Core>,
    living: &Arc<Living>,
    mut request: ExecRequest,
) -> Result<(Started, AgentClient, Option<InUse>)> {
    let agent = living.ready_agent().await?;
    let workspace = match request.workspace.take() {
        Some(wanted) => {
            let workspaces = Engine::workspaces_of(core)?;
            // What is in the sandbox stays as it is when something is missing.
            workspaces::find(&workspaces, &wanted).await?;
            Some(workspaces::bring_in(&workspaces, living, &agent, wanted).await?)
        }
        None => None,
    };
    request.also_report.extend(workspace.iter().flat_map(InUse::watched));
    let prepared = prepare(living, &agent, request).await?;
    Ok((start(core, living, &agent, prepared).await?, agent, workspace))
}

/// A task of ours went without an answer: it panicked.
pub(crate) fn task_ended() -> Error {
    Error::Internal { message: "the server failed while it handled this; see its log".to_owned(), cause: None }
}
