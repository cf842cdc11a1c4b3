//! Webhooks: addresses that are told what happens, each with how far that has come.

use std::fmt;

use jiff::Timestamp;

use crate::{EventKind, Tenant, WebhookId};

/// What messages to one webhook are signed with. Kept as it is: whoever signs needs it.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(pub [u8; Self::BYTES]);

impl WebhookSecret {
    /// As many as the hash of the signature has.
    pub const BYTES: usize = 32;
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// A webhook as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub id: WebhookId,
    pub tenant: Tenant,
    /// As it was given; checked by whoever sends.
    pub url: String,
    pub secret: WebhookSecret,
    /// Which events. Nothing means all.
    pub kinds: Vec<EventKind>,
    /// What it is for, in its maker's words.
    pub description: String,
    pub created_at: Timestamp,
    pub delivery: Delivery,
}

/// How far it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Up to the event with this number everything is delivered, was not asked for, or is lost.
    pub until: u64,
    /// The number of the last event that was delivered.
    pub last_event: Option<u64>,
    pub last_success_at: Option<Timestamp>,
    /// Attempts since then.
    pub failures: u32,
    /// The last one, also after a success.
    pub last_failure: Option<FailedAttempt>,
    pub next_attempt_at: Option<Timestamp>,
    /// Events, of whatever kind, that were not kept until they could be delivered.
    pub missed: u64,
    /// The receiver has said that it wants nothing more, ever.
    pub disabled: bool,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    pub at: Timestamp,
    /// In our words: nothing of what came back is in it but a status.
    pub reason: String,
}
