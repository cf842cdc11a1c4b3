//! What can go wrong, sorted by what the caller can do about it.

use std::time::Duration;

use crate::{Event, Exceeded, State, Tombstone};

pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A request that a sandbox's state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {} cannot take {event:?}", state.as_str())]
pub struct Denied {
    pub state: State,
    pub event: Event,
}

/// The engine's taxonomy. `Display` is the sentence for the caller; the cause is in `source()` and only for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be right whatever the state of the system; change it.
    #[error("{message}")]
    Invalid { code: &'static str, message: String },
    /// There is no such thing (or it is not yours, which looks the same).
    #[error("{kind} `{id}` does not exist")]
    NotFound { kind: &'static str, id: String },
    /// The sandbox existed and has ended.
    #[error("sandbox `{id}` has ended ({tombstone})")]
    Gone { id: String, tombstone: Tombstone },
    /// The present state does not allow it; look at the state and decide.
    #[error("{message}")]
    Conflict { code: &'static str, message: String },
    /// This machine or backend lacks what it takes; the message names the remedy. A request that nobody here could honour is
    /// [`Error::Invalid`] with the code `unsupported`.
    #[error("{message}")]
    Unsupported { message: String },
    /// A limit of the sandbox is used up.
    #[error("{message}")]
    QuotaExceeded { message: String },
    /// A quota of the caller's tenant is used up.
    #[error("{0}")]
    OverQuota(Exceeded),
    /// More bytes than allowed.
    #[error("{message}")]
    TooLarge { message: String },
    /// Not now; try again.
    #[error("{message}")]
    Unavailable {
        message: String,
        retry_after: Duration,
        #[source]
        cause: Option<Source>,
    },
    /// It has been done, and the database does not take the record yet.
    #[error(
        "execution `{execution}` has ended and the database does not take its record yet; it is recorded as soon as the database is back: \
         look at it then, instead of running it again"
    )]
    Unrecorded { execution: String },
    /// The storage that workspaces are in does not do its part; try again later.
    #[error("{message}")]
    BlobUnavailable {
        message: String,
        retry_after: Duration,
        #[source]
        cause: Option<Source>,
    },
    /// What is there is not what the request was for; look again and decide.
    #[error("{message}")]
    PreconditionFailed { message: String },
    /// Our bug, or the machine's.
    #[error("{message}")]
    Internal {
        message: String,
        #[source]
        cause: Option<Source>,
    },
}

impl Error {
    /// A request that cannot be right.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { code, message: message.into() }
    }

    /// An unknown id or name.
    pub fn not_found(kind: &'static str, id: impl Into<String>) -> Self {
        Self::NotFound { kind, id: id.into() }
    }

    /// A request that comes at the wrong moment.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict { code, message: message.into() }
    }

    /// A cursor that this kind of list has never handed out.
    #[must_use]
    pub fn foreign_cursor() -> Self {
        Self::invalid("invalid_cursor", "parameter `cursor` is not one that this list has handed out; begin again without it")
    }

    /// Something this server cannot do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported { message: message.into() }
    }

    /// A failure of ours, with its cause for the log.
    pub fn internal(message: impl Into<String>, cause: impl Into<Source>) -> Self {
        Self::Internal { message: message.into(), cause: Some(cause.into()) }
    }

    /// The stable code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { code, .. } | Self::Conflict { code, .. } => code,
            Self::NotFound { .. } => "not_found",
            Self::Gone { .. } => "gone",
            Self::Unsupported { .. } => "unsupported",
            Self::QuotaExceeded { .. } | Self::OverQuota(_) => "quota_exceeded",
            Self::TooLarge { .. } => "too_large",
            Self::Unavailable { .. } => "unavailable",
            Self::Unrecorded { .. } => "unrecorded",
            Self::BlobUnavailable { .. } => "blob_unavailable",
            Self::PreconditionFailed { .. } => "precondition_failed",
            Self::Internal { .. } => "internal",
        }
    }
}
