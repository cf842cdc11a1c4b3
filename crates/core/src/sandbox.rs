//! The life of a sandbox: one enum, one pure transition function.
//!
//! ```text
//!            AgentReady        Destroy | AgentLost | Stop          TornDown
//! Creating ─────────────▶ Running ─────────────────────▶ Stopping ──────────▶ Ended
//!   ▲  └───────────── Destroy | AgentLost | LaunchFailed ────▲ │ Kept
//!   └───────── Start ────────── Stopped ◀──────────────────────┘
//!                                  └──────── Destroy ────────▲
//! ```
//! Only a sandbox whose files are kept can be stopped.

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::Timestamp;

use crate::{Denied, SandboxId, SandboxSpec, Tenant, TimeLimits};

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Recorded; the backend is making it exist.
    Creating,
    /// The agent answers.
    Running,
    /// Being taken down; nothing new is accepted.
    Stopping,
    /// Nothing of it runs and its files are kept: whoever uses it next starts it again. [`Stop`] says why.
    Stopped,
    /// Gone. Its [`Tombstone`] says why.
    Ended,
}

impl State {
    /// All states, for tables and metrics.
    pub const ALL: [Self; 5] = [Self::Creating, Self::Running, Self::Stopping, Self::Stopped, Self::Ended];

    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
        }
    }
}

impl FromStr for State {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or(UnknownName)
    }
}

/// A name that stands for no value of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown name")]
pub struct UnknownName;

/// What happens to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The agent has answered for the first time.
    AgentReady,
    /// The backend could not make it exist.
    LaunchFailed,
    /// Somebody or some limit asks for its end.
    Destroy,
    /// The agent's stream ended or talked nonsense.
    AgentLost,
    /// Nothing of it is to run, and its files are to stay.
    Stop,
    /// The backend has its files and nothing else of it.
    Kept,
    /// Somebody uses it again.
    Start,
    /// The backend has nothing of it any more.
    TornDown,
}

impl Event {
    /// All events, for tables.
    pub const ALL: [Self; 8] =
        [Self::AgentReady, Self::LaunchFailed, Self::Destroy, Self::AgentLost, Self::Stop, Self::Kept, Self::Start, Self::TornDown];
}

/// The one place that says what may follow what.
pub fn next(state: State, event: Event) -> Result<State, Denied> {
    match (state, event) {
        (State::Creating, Event::AgentReady) => Ok(State::Running),
        (State::Creating, Event::LaunchFailed | Event::Destroy | Event::AgentLost) => Ok(State::Stopping),
        (State::Running, Event::Destroy | Event::AgentLost | Event::Stop) => Ok(State::Stopping),
        // Destroying twice is one destruction; an agent that dies while it is being taken down is no news.
        (State::Stopping, Event::Destroy | Event::AgentLost | Event::LaunchFailed) => Ok(State::Stopping),
        (State::Stopping, Event::Kept) => Ok(State::Stopped),
        (State::Stopped, Event::Start) => Ok(State::Creating),
        (State::Stopped, Event::Destroy) | (State::Stopping, Event::Stop) => Ok(State::Stopping),
        (State::Stopping, Event::TornDown) => Ok(State::Ended),
        (State::Ended, Event::Destroy | Event::TornDown) => Ok(State::Ended),
        (state, event) => Err(Denied { state, event }),
    }
}

/// Why a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TombstoneReason {
    /// Asked for through the API.
    Deleted,
    /// A one-shot that is done.
    Finished,
    /// Its lifetime was over.
    Lifetime,
    /// Nothing happened in it for its idle time-out.
    IdleTimeout,
    /// The kernel ended its agent for want of memory.
    OutOfMemory,
    /// The agent died or broke the protocol.
    Crashed,
    /// It never came up.
    LaunchFailed,
    /// What its template has done before anybody gets it went wrong.
    SetupFailed,
    /// The server was shut down.
    ServerStopped,
    /// The server that ran it died; found at the next start.
    ServerLost,
    /// It was stopped, and nobody used it again for too long, or too many others were stopped after it.
    StoppedTooLong,
    /// It was stopped, and its files are not there any more.
    FilesLost,
}

impl TombstoneReason {
    /// All reasons, for tables and metrics.
    pub const ALL: [Self; 12] = [
        Self::Deleted,
        Self::Finished,
        Self::Lifetime,
        Self::IdleTimeout,
        Self::OutOfMemory,
        Self::Crashed,
        Self::LaunchFailed,
        Self::SetupFailed,
        Self::ServerStopped,
        Self::ServerLost,
        Self::StoppedTooLong,
        Self::FilesLost,
    ];

    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Finished => "finished",
            Self::Lifetime => "lifetime",
            Self::IdleTimeout => "idle_timeout",
            Self::OutOfMemory => "oom",
            Self::Crashed => "crashed",
            Self::LaunchFailed => "launch_failed",
            Self::SetupFailed => "setup_failed",
            Self::ServerStopped => "server_stopped",
            Self::ServerLost => "server_lost",
            Self::StoppedTooLong => "stopped_too_long",
            Self::FilesLost => "files_lost",
        }
    }
}

impl FromStr for TombstoneReason {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|r| r.as_str() == text).ok_or(UnknownName)
    }
}

/// What is left of an ended sandbox: why and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    pub reason: TombstoneReason,
    /// A sentence with the figure that matters, for people.
    pub message: String,
    pub at: Timestamp,
}

impl fmt::Display for Tombstone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)
    }
}

/// Why a sandbox is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Asked for through the API.
    Requested,
    /// Nobody used it for as long as a dialect lets its sessions run.
    Idle,
    /// The server was shut down.
    ServerStopped,
    /// The server that ran it died, which is found at its next start; or its launcher did.
    ServerLost,
}

impl StopReason {
    /// All reasons, for tables.
    pub const ALL: [Self; 4] = [Self::Requested, Self::Idle, Self::ServerStopped, Self::ServerLost];

    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Idle => "idle",
            Self::ServerStopped => "server_stopped",
            Self::ServerLost => "server_lost",
        }
    }
}

impl FromStr for StopReason {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|r| r.as_str() == text).ok_or(UnknownName)
    }
}

/// What is known of a stopped sandbox: why and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    pub reason: StopReason,
    pub at: Timestamp,
}

/// A sandbox as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: SandboxId,
    pub tenant: Tenant,
    /// Unique among the tenant's living sandboxes when given.
    pub name: Option<String>,
    pub state: State,
    pub spec: SandboxSpec,
    pub time_limits: TimeLimits,
    /// The client's own labels.
    pub metadata: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub last_active_at: Timestamp,
    /// How often it was started: once, and once more whenever it was used after it had been stopped.
    pub starts: u32,
    /// Present exactly when `state` is [`State::Stopped`] or on the way there.
    pub stop: Option<Stop>,
    /// Present exactly when `state` is [`State::Ended`] or on the way there.
    pub tombstone: Option<Tombstone>,
}

impl Sandbox {
    /// Whether what runs in it has ended, or is about to.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.tombstone.is_some() || self.stop.is_some()
    }

    /// When its lifetime is over, if it has one.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        let lifetime = self.time_limits.lifetime?;
        self.created_at.checked_add(lifetime).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_event_has_a_decision() {
        use Event as E;
        use State as S;
        let allowed = [
            (S::Creating, E::AgentReady, S::Running),
            (S::Creating, E::LaunchFailed, S::Stopping),
            (S::Creating, E::Destroy, S::Stopping),
            (S::Creating, E::AgentLost, S::Stopping),
            (S::Running, E::Destroy, S::Stopping),
            (S::Running, E::AgentLost, S::Stopping),
            (S::Stopping, E::Destroy, S::Stopping),
            (S::Stopping, E::AgentLost, S::Stopping),
            (S::Stopping, E::LaunchFailed, S::Stopping),
            (S::Stopping, E::TornDown, S::Ended),
            (S::Running, E::Stop, S::Stopping),
            (S::Stopping, E::Stop, S::Stopping),
            (S::Stopping, E::Kept, S::Stopped),
            (S::Stopped, E::Start, S::Creating),
            (S::Stopped, E::Destroy, S::Stopping),
            (S::Ended, E::Destroy, S::Ended),
            (S::Ended, E::TornDown, S::Ended),
        ];
        for state in S::ALL {
            for event in E::ALL {
                let expect = allowed.iter().find(|(s, e, _)| (*s, *e) == (state, event)).map(|(_, _, to)| *to);
                assert_eq!(next(state, event).ok(), expect, "{state:?} × {event:?}");
            }
        }
    }

    #[test]
    fn an_ended_sandbox_never_lives_again() {
        for event in Event::ALL {
            assert!(matches!(next(State::Ended, event), Ok(State::Ended) | Err(_)));
        }
    }

    #[test]
    fn names_round_trip() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for reason in TombstoneReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
        for reason in StopReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
    }

    #[test]
    fn what_is_stopped_is_started_or_destroyed_and_nothing_else() {
        let onward: Vec<_> = Event::ALL.into_iter().filter_map(|event| Some((event, next(State::Stopped, event).ok()?))).collect();
        assert_eq!(onward, [(Event::Destroy, State::Stopping), (Event::Start, State::Creating)]);
    }
}
