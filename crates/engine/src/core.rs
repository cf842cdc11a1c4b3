//! What all parts of the engine share.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use caisson_core::{BackendError, Error, Files, Images, Ledger, SandboxSpec, Storage, Store, StoreError};
use jiff::Timestamp;
use tokio::sync::{Notify, OnceCell};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    backends::Backends, config::EngineConfig, egress, egress::Resolver, keys::Keys, metrics::Metrics, output_log::LogConfig, pool::Pool,
    registry::Registry, servers::Fleet, workspaces::Workspaces,
};

/// When to come back after a refusal for want of something.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Core {
    pub(crate) config: EngineConfig,
    pub(crate) logs: LogConfig,
    pub(crate) backend: Backends,
    pub(crate) store: Arc<dyn Store>,
    /// Where there are other images than `host`.
    pub(crate) images: Option<Arc<dyn Images>>,
    pub(crate) keys: Keys,
    pub(crate) registry: Arc<Registry>,
    /// Where sandboxes are kept warm.
    pub(crate) pool: Option<Pool>,
    /// See [`crate::Engine::secret`].
    pub(crate) secret: OnceCell<[u8; 32]>,
    /// Where other servers share the database.
    pub(crate) fleet: Option<Fleet>,
    /// Where there is storage for them.
    pub(crate) workspaces: OnceLock<Arc<Workspaces>>,
    pub(crate) metrics: Metrics,
    /// Told when a sandbox has been stopped.
    pub(crate) stopped: Notify,
    /// Who is asked for the names that sandboxes ask for, and what all of them have reached.
    pub(crate) resolver: Resolver,
    pub(crate) egress: egress::Figures,
    /// Who vouches for hosts whose TLS is looked into, once there is one.
    pub(crate) authority: OnceCell<egress::Authority>,
    /// Every task of the engine; shutdown waits for them.
    pub(crate) tasks: TaskTracker,
    /// Cancelled once nothing new is accepted.
    pub(crate) closing: CancellationToken,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("backend", &self.backend).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Core {
    /// What becomes of the files of a new sandbox that lives until somebody or some limit ends it.
    pub(crate) fn files(&self, spec: &SandboxSpec) -> Files {
        if self.config.keeps_disks && spec.storage == Storage::Disk { Files::Kept } else { Files::Passing }
    }

    /// What a server keeps beside the records.
    pub(crate) fn ledger(&self) -> Result<&dyn Ledger, Error> {
        self.store.ledger().ok_or_else(|| Error::unsupported("this is kept by a server alone; start one with `caisson serve`"))
    }

    /// Refuses when the engine is being shut down.
    pub(crate) fn accepting(&self) -> Result<(), Error> {
        if self.closing.is_cancelled() { Err(unavailable("the server is shutting down")) } else { Ok(()) }
    }
}

/// Now, as exactly as records keep it.
pub(crate) fn now() -> Timestamp {
    to_microsecond(Timestamp::now())
}

pub(crate) fn to_microsecond(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

pub(crate) fn unavailable(message: impl Into<String>) -> Error {
    Error::Unavailable { message: message.into(), retry_after: RETRY_AFTER, cause: None }
}

/// A sandbox that ended because the store did not take its record: a full disk, most of the time.
pub(crate) fn unrecorded(cause: Arc<StoreError>) -> Error {
    let message = "the sandbox could not be recorded; if that goes on, the server's log says why".to_owned();
    Error::Unavailable { message, retry_after: RETRY_AFTER, cause: Some(Box::new(cause)) }
}

/// A store's failure as a caller sees it. A taken name is dealt with where names are given.
pub(crate) fn store_error(error: StoreError) -> Error {
    match error {
        StoreError::NameTaken(id) => Error::conflict("name_taken", format!("the name is taken by sandbox {id}")),
        StoreError::Unavailable(cause) => {
            Error::Unavailable { message: "the database did not answer".to_owned(), retry_after: RETRY_AFTER, cause: Some(cause) }
        }
        StoreError::ForeignCursor => Error::foreign_cursor(),
        StoreError::Corrupt(_) => Error::internal("a record cannot be read", error),
    }
}

/// A launch that failed as a caller sees it.
pub(crate) fn launch_error(error: &BackendError) -> Error {
    match error {
        BackendError::Unsupported(message) => Error::unsupported(message.clone()),
        BackendError::Exhausted(message) => unavailable(format!("the sandbox cannot be launched now: {message}")),
        BackendError::Broken(message) => {
            Error::conflict("files_broken", format!("the sandbox cannot be started again: {message}; delete it, and make another"))
        }
        BackendError::Failed(message) => Error::internal(format!("the sandbox could not be launched: {message}"), error.clone()),
    }
}
