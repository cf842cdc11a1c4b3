//! Records of webhooks. Who sends is no concern of the engine's.

use caisson_core::{Delivery, Error, EventKind, Result, Webhook, WebhookId, WebhookSecret};

use crate::{
    Engine,
    bounds::{NOTE_LENGTH, WEBHOOKS},
    core::{now, store_error},
};

/// A webhook to be made.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    pub url: String,
    pub secret: WebhookSecret,
    pub kinds: Vec<EventKind>,
    pub description: String,
}

impl Engine {
    /// Records a new webhook, for what happens from now on. One at a time: callers see to that.
    pub async fn add_webhook(&self, new: NewWebhook) -> Result<Webhook> {
        let NewWebhook { url, secret, kinds, description } = new;
        if description.chars().count() > NOTE_LENGTH || description.contains('\0') {
            let message = format!("field `description` is at most {NOTE_LENGTH} characters without NUL");
            return Err(Error::invalid("invalid_description", message));
        }
        if self.webhooks().await?.len() >= WEBHOOKS {
            let message = format!("this tenant has its maximum of {WEBHOOKS} webhooks; remove one that is not used any more");
            return Err(Error::conflict("too_many_webhooks", message));
        }
        let kinds = EventKind::ALL.into_iter().filter(|kind| kinds.contains(kind)).collect();
        let delivery = Delivery { until: self.last_event().await?, ..Delivery::default() };
        let webhook =
            Webhook { id: WebhookId::random(), tenant: self.tenant.clone(), url, secret, kinds, description, created_at: now(), delivery };
        self.core.ledger()?.insert_webhook(&webhook).await.map_err(store_error)?;
        Ok(webhook)
    }

    /// The oldest first.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>> {
        self.core.ledger()?.webhooks(&self.tenant).await.map_err(store_error)
    }

    /// One of them.
    pub async fn webhook(&self, id: WebhookId) -> Result<Webhook> {
        self.webhooks().await?.into_iter().find(|webhook| webhook.id == id).ok_or_else(|| unknown(id))
    }

    pub async fn remove_webhook(&self, id: WebhookId) -> Result<()> {
        let was_there = self.core.ledger()?.remove_webhook(&self.tenant, id).await.map_err(store_error)?;
        if was_there { Ok(()) } else { Err(unknown(id)) }
    }

    /// Those of all tenants.
    pub async fn every_webhook(&self) -> Result<Vec<Webhook>> {
        self.core.ledger()?.every_webhook().await.map_err(store_error)
    }

    /// Records how far one has come.
    pub async fn save_delivery(&self, id: WebhookId, delivery: &Delivery) -> Result<()> {
        self.core.ledger()?.save_delivery(id, delivery).await.map_err(store_error)
    }
}

fn unknown(id: WebhookId) -> Error {
    Error::not_found("webhook", id.to_string())
}
