//! What has happened to sandboxes and executions, told in order.

use std::{fmt, str::FromStr};

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
    /// Something wanted out that may not, for the first time.
    EgressRefused,
    /// What went out and came in until the sandbox ended or was stopped.
    EgressSummary,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::SandboxCreated,
        Self::SandboxUpdated,
        Self::SandboxStopped,
        Self::SandboxStarted,
        Self::SandboxEnded,
        Self::ExecutionStarted,
        Self::ExecutionEnded,
        Self::EgressRefused,
        Self::EgressSummary,
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
            Self::EgressRefused => "egress.refused",
            Self::EgressSummary => "egress.summary",
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
/// without its change, but for those about ways out, which change nothing.
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
    Created {
        name: Option<String>,
    },
    Updated,
    Stopped {
        reason: StopReason,
    },
    Restarted,
    Ended {
        reason: TombstoneReason,
        message: String,
    },
    Started {
        execution: ExecutionId,
    },
    Finished {
        execution: ExecutionId,
        status: ExecutionStatus,
        exit_code: Option<i32>,
        signal: Option<i32>,
    },
    /// `reason` is a code, `destination` a host with or without a port.
    Refused {
        destination: String,
        reason: String,
        message: String,
    },
    /// In one of its lives, counted from 1.
    Summary {
        start: u32,
        egress: EgressTotals,
    },
}

/// What a sandbox did with its ways out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressTotals {
    pub allowed: u64,
    pub refused: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

impl fmt::Display for EgressTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed, refused, bytes_out, bytes_in } = self;
        write!(f, "{allowed} allowed, {refused} refused, {bytes_out} bytes out, {bytes_in} bytes in")
    }
}

impl FromStr for EgressTotals {
    type Err = UnknownName;

    /// As it is displayed.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let figures: Vec<u64> = text.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok()).collect();
        let &[allowed, refused, bytes_out, bytes_in] = &figures[..] else { return Err(UnknownName) };
        Ok(Self { allowed, refused, bytes_out, bytes_in })
    }
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
            Self::Refused { .. } => EventKind::EgressRefused,
            Self::Summary { .. } => EventKind::EgressSummary,
        }
    }

    /// The execution that it is about, if it is about one.
    #[must_use]
    pub fn execution(&self) -> Option<ExecutionId> {
        match self {
            Self::Started { execution } | Self::Finished { execution, .. } => Some(*execution),
            Self::Created { .. }
            | Self::Updated
            | Self::Stopped { .. }
            | Self::Restarted
            | Self::Ended { .. }
            | Self::Refused { .. }
            | Self::Summary { .. } => None,
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
