//! What is in the bodies of the native API. The only place that says how it is written; server and command line share it.

mod archive;
mod backend;
mod commit;
mod context;
mod doctor;
mod event;
mod execution;
mod field;
mod file;
mod image;
mod key;
mod limits;
mod link;
mod network;
mod number;
mod page;
mod patch;
mod program;
mod result;
mod sandbox;
mod search;
mod stream;
mod template;
mod tenant;
mod watch;
mod webhook;
mod workspace;

pub use archive::{CopiedBody, LeftOutBody, UnpackedBody};
pub use backend::{BackendBody, BackendList, ProofBody};
pub use commit::{CommitBody, CommitConfigBody};
pub use context::{CodeBody, CodeErrorBody, CodeResultBody, CodeStartEvent, ContextBody, ContextsBody, CreateContextBody, ShownBody};
pub use doctor::{AttackBody, DoctorBody, GuaranteeBody};
pub use event::{EventBody, LostBody, ReadyBody};
pub use execution::{ExecutionBody, OutputEvent, ResizeBody, SignalBody, SignalName, StartEvent};
pub use file::{ChangedFileBody, FileBody, InputFileBody, ListingBody, Mode};
pub use image::{
    CollectedBody, ImageBody, ImageConfigBody, ImageDetailsBody, ImageLayerBody, ImportedBody, LoginBody, Policy, PullBody,
    PullProgressBody, PulledLayerBody,
};
pub use key::{CreateKeyBody, KeyBody};
pub use limits::LimitsBody;
pub use link::{LinkBody, LinkRequestBody};
pub use network::{EgressBody, EgressDecisionBody, EgressLimitsBody, EgressSecretBody, NetworkBody, NetworkRulesBody, RequestRuleBody};
pub use number::{Number, Whole};
pub use page::PageBody;
pub use patch::{CheckpointBody, CheckpointRequestBody};
pub use program::{ExecBody, RunBody};
pub use result::{ResultBody, RunResultBody, Truncated};
pub use sandbox::{CreateBody, SandboxBody, StopBody, TombstoneBody, UpdateBody, UsageBody};
pub use search::{GrepBody, GrepLineBody, GrepMatchBody};
pub use stream::{ClientMessage, ServerMessage, StdinBody, TerminalBody, decode_output, encode_output};
pub use template::{MOST_WARM, PoolBody, RecipeBody, SetupBody, SetupStepBody, TemplateBody};
pub use tenant::{CallerBody, HoldingsBody, QuotasBody, TenantBody, UpdateQuotasBody};
pub use watch::FileEventBody;
pub use webhook::{CreateWebhookBody, WebhookBody, WebhookFailureBody};
pub use workspace::{
    DeletedWorkspaceBody, NotSyncedBody, PulledBody, PulledFileBody, PushedBody, SyncRequestBody, SyncedInBody, SyncedOutBody,
    WorkspaceBody, WorkspaceFileBody, WorkspaceLinkBody, WorkspaceLinkRequestBody, WorkspaceReportBody, WorkspaceUseBody,
};

pub(crate) use field::printable_path;
pub(crate) use link::{DEFAULT as DEFAULT_LINK, LONGEST as LONGEST_LINK, SHORTEST as SHORTEST_LINK};
pub(crate) use number::SHORTEST as SHORTEST_TIME;
pub(crate) use program::{DEFAULT_FILE_BYTES, DEFAULT_TIMEOUT, MAX_FILE_BYTES, MAX_OUTPUT_BYTES, MIN_OUTPUT_BYTES};

/// A moment as RFC 3339, in UTC, to the millisecond.
pub(crate) fn time(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

/// A duration as milliseconds, to the microsecond.
fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
