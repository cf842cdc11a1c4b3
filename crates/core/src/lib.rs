//! The vocabulary of Caisson: ids, specs, limits, states, errors, and the ports that others implement.
//!
//! Nothing here performs I/O or knows how anything is serialised; each boundary (HTTP, agent stream, database)
//! owns its own representation and converts to these types.

mod answer;
mod backend;
mod blobs;
mod document;
mod error;
mod event;
mod execution;
mod files;
mod ids;
mod image;
mod images;
mod key;
mod limits;
mod network;
mod page;
mod recipe;
mod sandbox;
mod servers;
mod spec;
mod store;
mod tenant;
mod uuid;
mod webhook;

pub use answer::KeptAnswer;
pub use backend::{
    About, AgentIo, AgentStream, Backend, BackendError, Changes, Death, Difference, Feature, Files, Given, LowerDirectory, Observed,
    SET_ASIDE_FOR, UpperSeen, Usage,
};
pub use blobs::{AboutBlob, Blob, BlobError, BlobKey, BlobKeyError, BlobPage, BlobStream, Blobs, NewBlob, OnlyIf};
pub use document::Document;
pub use error::{Denied, Error, Result};
pub use event::{EgressTotals, EventFilter, EventKind, Events, Happened, LifecycleEvent};
pub use execution::{Execution, ExecutionStatus, Outcome, Stream, StreamTotals};
pub use files::{FileEvent, FileKind, FileStat, LeftOut, Listing, Unpacked, Watched};
pub use ids::{ContextId, ExecutionId, IdError, KeyId, SandboxId, ServerId, WebhookId};
pub use image::{Digest, DigestError, ImageConfig, StoredImage};
pub use images::{ImageLease, Images};
pub use key::{Key, KeyHash, Scope};
pub use limits::{Limits, TimeLimits};
pub use network::{
    AddressRange, Asked, BUNDLE_VARIABLES, BadHost, BadRange, CERTIFICATE_VARIABLES, EgressLimits, HostName, Intercept, NO_PROXY_VARIABLES,
    Network, PROXY_VARIABLES, Ports, Refused, RequestRule, Rule, Rules, Secret, SecretValue, Subject, canonical, is_plain, special,
};
pub use page::{Cursor, Page};
pub use recipe::{Place, Recipe, SetupCommand, SetupStep, Warmth};
pub use sandbox::{Event, Sandbox, State, Stop, StopReason, Tombstone, TombstoneReason, UnknownName, next};
pub use servers::{Abandoned, Buried, Hosted, Peer, Seen, Servers};
pub use spec::{Image, LeftToImage, SandboxSpec, Storage, UserSpec};
pub use store::{ExecutionFilter, Ledger, SandboxFilter, Store, StoreError};
pub use tenant::{Exceeded, Holdings, Quota, Quotas, Tenant};
pub use uuid::{Uuid, UuidError};
pub use webhook::{Delivery, FailedAttempt, Webhook, WebhookSecret};
