//! Webhooks.

use caisson_core::{Error, EventKind, Result, Webhook, WebhookSecret};
use caisson_engine::NewWebhook;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time;
use crate::webhooks;

/// A webhook to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateWebhook)]
pub struct CreateWebhookBody {
    /// Where events are sent: `https:`, or `http:` for a network where nobody else reads along. Without user and password; redirects are not
    /// followed, and no proxy is asked.
    pub url: String,
    /// Only events of these types, such as `sandbox.ended`; all when absent or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whose events; the caller's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

impl CreateWebhookBody {
    /// What the engine is to record.
    pub(crate) fn into_new(self, secret: WebhookSecret) -> Result<NewWebhook> {
        webhooks::check(&self.url)?;
        let kinds = self.types.iter().map(|name| kind(name)).collect::<Result<_>>()?;
        Ok(NewWebhook { url: self.url, secret, kinds, description: self.description.unwrap_or_default() })
    }
}

fn kind(name: &str) -> Result<EventKind> {
    name.parse().map_err(|_| {
        let known = EventKind::ALL.map(EventKind::as_str).join(", ");
        Error::invalid("invalid_type", format!("field `types` has `{}`, expected some of {known}", name.escape_debug()))
    })
}

/// A webhook, and how far it has come.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookBody {
    pub id: String,
    pub tenant: String,
    pub url: String,
    /// Which events; empty for all.
    pub types: Vec<String>,
    pub description: String,
    pub created_at: String,
    /// `active`, `failing` (the last attempt failed, and there will be another) or `disabled` (the receiver answered with 410: nothing more is
    /// sent).
    pub state: String,
    /// The id of the last event that was delivered.
    pub last_event: Option<String>,
    pub last_success_at: Option<String>,
    /// Attempts that failed since then.
    pub failures: u32,
    /// The last attempt that failed, also when it went well again later.
    pub last_failure: Option<WebhookFailureBody>,
    pub next_attempt_at: Option<String>,
    /// Events, of whatever type, that were not kept until they could be delivered.
    pub missed: u64,
    /// What messages are signed with: in the answer to the request that made it, and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// An attempt that failed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = WebhookFailure)]
pub struct WebhookFailureBody {
    pub at: String,
    /// The status of the answer, or why there was none; nothing else of what came back.
    pub reason: String,
}

impl From<&Webhook> for WebhookBody {
    fn from(webhook: &Webhook) -> Self {
        let delivery = &webhook.delivery;
        let state = match delivery {
            delivery if delivery.disabled => "disabled",
            delivery if delivery.failures > 0 => "failing",
            _ => "active",
        };
        let failure = |failed: &caisson_core::FailedAttempt| WebhookFailureBody { at: time(failed.at), reason: failed.reason.clone() };
        Self {
            id: webhook.id.to_string(),
            tenant: webhook.tenant.to_string(),
            url: webhook.url.clone(),
            types: webhook.kinds.iter().map(|kind| kind.as_str().to_owned()).collect(),
            description: webhook.description.clone(),
            created_at: time(webhook.created_at),
            state: state.to_owned(),
            last_event: delivery.last_event.map(|number| number.to_string()),
            last_success_at: delivery.last_success_at.map(time),
            failures: delivery.failures,
            last_failure: delivery.last_failure.as_ref().map(failure),
            next_attempt_at: delivery.next_attempt_at.map(time),
            missed: delivery.missed,
            secret: None,
        }
    }
}
