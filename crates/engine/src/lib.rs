//! Policy: everything that decides something about sandboxes and executions. Knows no kernel, and no HTTP but the agent protocol's.
//!
//! ```text
//! Engine ──▶ create · oneshot · execution ──▶ sandbox (one task each) ──▶ Backend
//!                     │                                │
//!                     ├──▶ agent_client ◀── stream ────┘
//!                     ├──▶ egress
//!                     ├──▶ output_log
//!                     └──▶ Store
//! ```

mod activity;
mod agent_client;
mod answers;
mod backends;
pub mod bounds;
mod commit;
mod config;
mod contexts;
mod core;
mod create;
pub mod doctor;
mod documents;
mod egress;
mod endings;
mod engine;
mod events;
mod execution;
mod figures;
mod files;
mod images;
mod keys;
mod languages;
mod layers;
mod metrics;
mod oneshot;
mod output_log;
mod patch;
mod pool;
mod ports;
mod queue;
mod quotas;
mod ready;
mod registry;
mod request;
mod retention;
mod room;
mod sandbox;
pub mod sealed;
mod search;
mod secret;
mod servers;
mod setup;
mod stopped;
mod validate;
mod waiting;
mod webhooks;
mod workspaces;

pub use backends::{BackendInfo, Backends};
pub use commit::Committing;
pub use config::EngineConfig;
pub use contexts::{
    CodeRequest, CodeResult, CodeStatus, ContextInfo, ContextRequest, ContextState, Display, Driver, Failure, RunningCode, Shown, driver,
};
pub use egress::{EgressConfig, EgressDecision, EgressReport, EgressSnapshot, EgressWay};
pub use engine::Engine;
pub use execution::{Attachment, Running};
pub use keys::{Credential, NewKey, TenantUse};
pub use languages::{known_language, language_of_extension, language_of_shebang};
pub use metrics::{BUCKETS, Histogram, PoolSnapshot, Snapshot};
pub use oneshot::RunningOneShot;
pub use patch::{Checkpoint, CheckpointRequest, PatchRequest};
pub use pool::PoolFigures;
pub use ports::PortStream;
pub use request::{
    ByteStream, Captured, ChangedFile, CreateRequest, Created, ExecRequest, ExecutionResult, FileAttributes, FileEvents, InputFile,
    OneShotStage, OutputChunk, Program, Progress, RunRequest, RunResult, SandboxUpdate, Stdin, WindowSize,
};
pub use room::asked_for;
pub use search::{GrepLimit, GrepLine, GrepMatch, GrepRequest, Grepped};
pub use servers::Host;
pub use validate::{create as check_create, run as check_run};
pub use webhooks::NewWebhook;
pub use workspaces::{
    Missing, NewWorkspaceFile, NotSynced, OutputFilter, Outputs, Pulled, PulledFile, Pushed, SyncRequest, SyncedIn, SyncedOut, Tree,
    WorkspaceFile, WorkspaceReport, WorkspaceUse, media_type, media_type_of_extension,
};
