//! A run in a context as an execution: recorded and logged like every other, while its program goes on afterwards.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use caisson_core::{Execution, ExecutionId, ExecutionStatus, Result, Stream};
use caisson_wire::ExecExit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Facts, Started, hits_before, outcome};
use crate::{
    agent_client::FrameSender,
    core::{Core, now},
    execution::{
        RunningExecution,
        input::{Gate, Input},
        outcome::Verdict,
    },
    output_log::{Lead, OutputLog},
    request::{ExecutionResult, Stdin},
    sandbox::Living,
};

const SIGINT: i32 = 2;

/// The record and log of a run.
pub(crate) struct CodeRun {
    started: Started,
    write_at: Option<Instant>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum CodeEnd {
    /// It came to its end.
    Returned {
        exit_code: i32,
    },
    Interrupted,
    TimedOut,
    /// The interpreter ended by itself.
    Exited(Box<ExecExit>),
    /// Everything was killed on request.
    Killed,
    /// Its sandbox ended under it.
    SandboxEnded,
    /// The interpreter was killed for this.
    Lost(String),
}

impl CodeRun {
    /// Records it. Nothing has to run before.
    pub(crate) async fn begin(
        core: &Arc<Core>,
        living: &Arc<Living>,
        frames: FrameSender,
        shown: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let id = ExecutionId::random();
        let execution = Execution { id, sandbox: living.id, tenant: living.tenant.clone(), argv: shown, started_at: now(), outcome: None };
        let handle = Arc::new(RunningExecution {
            log: OutputLog::new(&core.logs, id, Lead::Free),
            started: execution,
            input: Input::new(id, frames.clone(), Gate::Request, 0),
            frames,
            is_terminal: false,
            activity: Arc::clone(&living.activity),
            signals_sent: AtomicU64::new(0),
            killed: CancellationToken::new(),
        });
        let before = hits_before(core, living).await;
        let now = Instant::now();
        let started = Started {
            core: Arc::clone(core),
            living: Arc::clone(living),
            handle,
            stream: None,
            stdin: Stdin::Empty,
            facts: Facts { timeout, max_output_bytes: None, limits: living.limits, signals_sent: 0 },
            before,
            requested: now,
            began: now,
        };
        started.record().await?;
        core.registry.add_execution(Arc::clone(&started.handle));
        Ok(Self { started, write_at: None })
    }

    /// As recorded at its start.
    pub(crate) fn execution(&self) -> &Execution {
        &self.started.handle.started
    }

    /// Logs what was written.
    pub(crate) async fn take(&mut self, stream: Stream, data: &Bytes) {
        self.started.take(stream, data, &mut self.write_at).await;
    }

    /// When what was written has waited for the disk long enough.
    pub(crate) fn write_at(&self) -> Option<Instant> {
        self.write_at
    }

    /// Puts it there. Not to be given up half-way.
    pub(crate) async fn write(&mut self) {
        self.write_at = None;
        let log = &self.started.handle.log;
        tokio::join!(log.write(Stream::Stdout), log.write(Stream::Stderr));
    }

    /// Cancelled when somebody wants everything killed.
    pub(crate) fn killed(&self) -> CancellationToken {
        self.started.handle.killed.clone()
    }

    /// Completes log and record.
    pub(crate) async fn finish(self, end: CodeEnd) -> Result<ExecutionResult> {
        let plain = |status, exit_code, signal, message: Option<String>| Verdict { status, exit_code, signal, message };
        let started = self.started;
        let verdict = match end {
            CodeEnd::Returned { exit_code } => plain(ExecutionStatus::Exited, Some(exit_code), None, None),
            CodeEnd::Interrupted => plain(ExecutionStatus::Killed, None, Some(SIGINT), Some("interrupted on request".to_owned())),
            CodeEnd::TimedOut => outcome::overdue(started.facts.timeout.unwrap_or_default()),
            CodeEnd::Exited(exit) => match started.judge(&exit).await {
                Ok(verdict) => verdict,
                Err(what) => outcome::unreported(&what),
            },
            CodeEnd::Killed => outcome::killed(),
            CodeEnd::SandboxEnded => {
                let fate = started.living.fate().await;
                outcome::of_fate(fate.as_ref(), started.living.limits.memory_bytes)
            }
            CodeEnd::Lost(why) => plain(ExecutionStatus::Lost, None, None, Some(why)),
        };
        let ended = started.without_exit(verdict);
        started.finish(ended).await
    }
}
