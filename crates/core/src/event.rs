//! What has happened to sandboxes and executions, told in order.

use std::str::FromStr;

use jiff::Timestamp;

use crate::{ExecutionId, ExecutionStatus, SandboxId, StopReason, TombstoneReason, sandbox::UnknownName};

/// What kind of thing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    SandboxCreated,
    /// Time limits or metadata were changed.
    SandboxUpdated,
    /// Nothing of it runs any more; its files are kept.
    SandboxStopped,
    /// It was stopped and runs again.
    SandboxStarted,
    SandboxEnded,
    ExecutionStarted,
    ExecutionEnded,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SandboxCreated,
        Self::SandboxUpdated,
        Self::SandboxStopped,
        Self::SandboxStarted,
        Self::SandboxEnded,
        Self::ExecutionStarted,
        Self::ExecutionEnded,
    ];

    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SandboxCreated => "sandbox.created",
            Self::SandboxUpdated => "sandbox.updated",
            Self::SandboxStopped => "sandbox.stopped",
            Self::SandboxStarted => "sandbox.started",
            Self::SandboxEnded => "sandbox.ended",
            Self::ExecutionStarted => "execution.started",
            Self::ExecutionEnded => "execution.ended",
        }
    }
}

impl FromStr for EventKind {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownName)
    }
}

/// Something that has happened to a sandbox or an execution of a tenant, as recorded: there is no change without its event, and no event
/// without its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleEvent {
    /// Counts what happens to a tenant's, from 1, without gaps.
    pub number: u64,
    /// When it was recorded.
    pub at: Timestamp,
    pub sandbox: SandboxId,
    pub what: Happened,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    Created { name: Option<String> },
    Updated,
    Stopped { reason: StopReason },
    Restarted,
    Ended { reason: TombstoneReason, message: String },
    Started { execution: ExecutionId },
    Finished { execution: ExecutionId, status: ExecutionStatus, exit_code: Option<i32>, signal: Option<i32> },
}

impl Happened {
    /// What kind of thing that is.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Created { .. } => EventKind::SandboxCreated,
            Self::Updated => EventKind::SandboxUpdated,
            Self::Stopped { .. } => EventKind::SandboxStopped,
            Self::Restarted => EventKind::SandboxStarted,
            Self::Ended { .. } => EventKind::SandboxEnded,
            Self::Started { .. } => EventKind::ExecutionStarted,
            Self::Finished { .. } => EventKind::ExecutionEnded,
        }
    }

    /// The execution that it is about, if it is about one.
    #[must_use]
    pub fn execution(&self) -> Option<ExecutionId> {
        match self {
            Self::Started { execution } | Self::Finished { execution, .. } => Some(*execution),
            Self::Created { .. } | Self::Updated | Self::Stopped { .. } | Self::Restarted | Self::Ended { .. } => None,
        }
    }
}

/// Which events. The oldest first.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Behind the one with this number.
    pub after: u64,
    pub sandbox: Option<SandboxId>,
    /// Nothing means all kinds.
    pub kinds: Vec<EventKind>,
    /// At most this many.
    pub limit: u32,
}

/// Events, and how far they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    pub data: Vec<LifecycleEvent>,
    /// Up to this number everything that was asked for is there; where to go on.
    pub until: u64,
    /// The first number that is still kept.
    pub kept_from: u64,
}
