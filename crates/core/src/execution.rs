//! One command or piece of code run in a sandbox: a durable record.

use std::{str::FromStr, time::Duration};

use jiff::Timestamp;

use crate::{ExecutionId, SandboxId, Tenant, sandbox::UnknownName};

/// How an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecutionStatus {
    Running,
    /// The program ended by itself; `exit_code` is set.
    Exited,
    /// A signal that Caisson did not send ended it; `signal` is set.
    Signaled,
    /// Its `timeout_s` was over and its process tree was killed.
    TimedOut,
    /// The kernel killed it at the sandbox's memory limit.
    OutOfMemory,
    /// It wrote more than the request allowed and was killed.
    OutputLimit,
    /// Ended because the client or the end of the sandbox asked for it.
    Killed,
    /// The server or the agent died while it ran; how it ended is not known.
    Lost,
}

impl ExecutionStatus {
    /// All statuses, for tables and metrics.
    pub const ALL: [Self; 8] =
        [Self::Running, Self::Exited, Self::Signaled, Self::TimedOut, Self::OutOfMemory, Self::OutputLimit, Self::Killed, Self::Lost];

    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::TimedOut => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::OutputLimit => "output_limit",
            Self::Killed => "killed",
            Self::Lost => "lost",
        }
    }
}

impl FromStr for ExecutionStatus {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or(UnknownName)
    }
}

/// Which output of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The name in APIs, records and log file names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl FromStr for Stream {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            _ => Err(UnknownName),
        }
    }
}

/// How much a program wrote to one stream, and how much of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamTotals {
    /// Bytes written by the program.
    pub total_bytes: u64,
    /// Bytes left out of the log between its head and its tail.
    pub dropped_bytes: u64,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub status: ExecutionStatus,
    pub exit_code: Option<i32>,
    /// Signal number, when a signal ended the program.
    pub signal: Option<i32>,
    /// A sentence with the figure, where the status alone does not say enough.
    pub message: Option<String>,
    pub duration: Duration,
    /// User and system time of the program and the children it waited for.
    pub cpu: Duration,
    /// Largest resident set of any process of the program.
    pub peak_memory_bytes: u64,
    pub stdout: StreamTotals,
    pub stderr: StreamTotals,
}

/// An execution as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    pub id: ExecutionId,
    pub sandbox: SandboxId,
    /// That of its sandbox.
    pub tenant: Tenant,
    /// What was run, as argv.
    pub argv: Vec<String>,
    pub started_at: Timestamp,
    /// Absent while it runs.
    pub outcome: Option<Outcome>,
}

impl Execution {
    /// How it stands.
    #[must_use]
    pub fn status(&self) -> ExecutionStatus {
        self.outcome.as_ref().map_or(ExecutionStatus::Running, |o| o.status)
    }
}
