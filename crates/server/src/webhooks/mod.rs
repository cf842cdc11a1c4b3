//! Webhooks: what happens, sent to addresses that an operator has named.
//!
//! ```text
//! Webhooks ──▶ one task each (delivery) ──▶ attempt ──▶ POST, signed
//!                 │        ▲
//!                 │        └── backoff, after a failure
//!                 └──▶ engine: events, how far it has come
//! ```
//!
//! Each webhook is told in order and at least once: how far it has come is recorded after each success, and the next event is not sent before.

mod attempt;
mod backoff;
mod client;
mod delivery;
mod signature;
mod target;

use std::{collections::HashMap, sync::Arc};

use caisson_core::{Result, Webhook, WebhookId};
use caisson_engine::{Engine, NewWebhook};
use reqwest::Client;
use tokio::{
    sync::{Mutex, OnceCell},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::delivery::Courier;
pub(crate) use self::{signature::Secret, target::check};

/// A webhook's task.
#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All of a server's.
#[derive(Debug, Default)]
pub(crate) struct Webhooks {
    /// Held while one is made or removed, so that record and task come and go together, and nobody makes one too many.
    running: Mutex<HashMap<WebhookId, Running>>,
    /// Made for the first delivery of all: most servers have none.
    client: Arc<OnceCell<Client>>,
    stop: CancellationToken,
}

impl Webhooks {
    /// Goes on with those that are recorded, where that is for this server to do.
    pub(crate) async fn start(&self, tasks: &TaskTracker, operator: &Engine) {
        let mut running = self.running.lock().await;
        if !operator.leads() {
            return;
        }
        match operator.every_webhook().await {
            Ok(all) => {
                for (_, gone) in running.extract_if(|id, _| !all.iter().any(|webhook| webhook.id == *id)) {
                    gone.stop.cancel();
                }
                for webhook in all {
                    running.entry(webhook.id).or_insert_with(|| self.begin(tasks, operator, webhook));
                }
            }
            Err(error) => tracing::error!(error = %error, "Webhooks are told nothing: their records cannot be read"),
        }
    }

    /// Of several servers one tells them: begins and ends with that, and with what others have made and removed.
    pub(crate) async fn follow(&self, tasks: &TaskTracker, operator: &Engine) {
        let (mut leading, mut changes) = (operator.leading(), operator.changes());
        loop {
            if operator.leads() {
                self.start(tasks, operator).await;
            } else {
                self.running.lock().await.drain().for_each(|(_, running)| running.stop.cancel());
            }
            tokio::select! {
                // Whatever has changed is looked at above. An error means that there is one server alone, for good.
                changed = leading.changed() => if changed.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Makes one, for what happens to the tenant of this engine's view from now on.
    pub(crate) async fn add(&self, tasks: &TaskTracker, engine: &Engine, new: NewWebhook) -> Result<Webhook> {
        let mut running = self.running.lock().await;
        let webhook = engine.add_webhook(new).await?;
        if engine.leads() {
            running.insert(webhook.id, self.begin(tasks, engine, webhook.clone()));
        }
        Ok(webhook)
    }

    /// Removes one: when this returns, nothing is sent there any more.
    pub(crate) async fn remove(&self, engine: &Engine, id: WebhookId) -> Result<()> {
        let mut running = self.running.lock().await;
        engine.remove_webhook(id).await?;
        if let Some(Running { stop, task }) = running.remove(&id) {
            stop.cancel();
            // An error is a task that has failed, and that is as good an end as any.
            task.await.ok();
        }
        Ok(())
    }

    /// Sends nothing more. What was under way is sent again after the next start.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    fn begin(&self, tasks: &TaskTracker, engine: &Engine, webhook: Webhook) -> Running {
        let (stop, client) = (self.stop.child_token(), Arc::clone(&self.client));
        let (engine, stopped) = (engine.of(&webhook.tenant), stop.clone());
        let task = tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                // It may end anywhere: what has not been recorded as delivered is sent again, if anybody is left to send it to.
                () = Courier::new(engine, webhook).run(&client) => {}
            }
        });
        Running { stop, task }
    }
}
