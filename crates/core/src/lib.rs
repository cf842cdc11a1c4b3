//! The vocabulary of Caisson: ids, specs, limits, states, errors, and the ports that others implement.
//!
//! Nothing here performs I/O or knows how anything is serialised; each boundary (HTTP, agent stream, database)
//! owns its own representation and converts to these types.

mod backend;
mod error;
mod execution;
mod files;
mod ids;
mod limits;
mod sandbox;
mod spec;
mod store;

pub use backend::{AgentIo, AgentStream, Backend, BackendError, Death, Observed, Usage};
pub use error::{Denied, Error, Result};
pub use execution::{Execution, ExecutionStatus, Outcome, Stream, StreamTotals};
pub use files::{FileEvent, FileKind, FileStat, LeftOut, Listing, Unpacked, Watched};
pub use ids::{ContextId, ExecutionId, IdError, SandboxId};
pub use limits::{Limits, TimeLimits};
pub use sandbox::{Event, Sandbox, State, Tombstone, TombstoneReason, UnknownName, next};
pub use spec::{Image, Network, SandboxSpec, Storage, UserSpec};
pub use store::{ExecutionFilter, Page, SandboxFilter, Store, StoreError};
