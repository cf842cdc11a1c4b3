//! The task of one webhook: event after event, each until it is delivered.

use std::time::Duration;

use caisson_core::{Delivery, EventFilter, Events, FailedAttempt, LifecycleEvent, Webhook};
use caisson_engine::Engine;
use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Url};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout},
};

use super::{
    attempt::{self, Message, Outcome},
    backoff, client, target,
};
use crate::native::types::EventBody;

/// Events that are read from the database at once.
const AT_ONCE: u32 = 50;
/// That it has passed over events which nobody asked for is recorded this much later, at most so often.
const SETTLE: Duration = Duration::from_secs(5);
/// Pause when the database did not answer.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

pub(super) struct Courier {
    engine: Engine,
    webhook: Webhook,
    /// When what is known was recorded.
    recorded: Instant,
    /// Whether more is known.
    unrecorded: bool,
}

impl Courier {
    pub(super) fn new(engine: Engine, webhook: Webhook) -> Self {
        Self { engine, webhook, recorded: Instant::now(), unrecorded: false }
    }

    /// Delivers until it is dropped, or until the receiver wants nothing more.
    pub(super) async fn run(mut self, client: &OnceCell<Client>) {
        let url = match target::check(&self.webhook.url) {
            Ok(url) => url,
            Err(error) => {
                tracing::error!(webhook = %self.webhook.id, "Webhook {} is told nothing: {error}", self.webhook.id);
                return;
            }
        };
        while !self.webhook.delivery.disabled {
            self.pause().await;
            let events = self.next().await;
            self.count_missed(events.kept_from);
            let client = client.get_or_init(client::client).await;
            self.deliver(client, &url, &events).await;
        }
    }

    /// Until the next attempt is due.
    async fn pause(&self) {
        if let Some(at) = self.webhook.delivery.next_attempt_at {
            // An error is a moment that is over. The clock of the host may have been set back.
            let left = Duration::try_from(Timestamp::now().duration_until(at)).unwrap_or_default();
            sleep(left.min(backoff::LONGEST)).await;
        }
    }

    async fn next(&mut self) -> Events {
        let mut pause = REST;
        loop {
            let kinds = self.webhook.kinds.clone();
            let filter = EventFilter { after: self.webhook.delivery.until, sandbox: None, kinds, limit: AT_ONCE };
            let patience = if self.unrecorded { SETTLE } else { Duration::MAX };
            match timeout(patience, self.engine.next_events(&filter)).await {
                Ok(Ok(events)) => return events,
                Ok(Err(error)) => {
                    if pause == REST {
                        tracing::warn!(webhook = %self.webhook.id, error = %error, "Webhook {} has no events to be told of", self.webhook.id);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_REST);
                }
                Err(_) => self.record().await,
            }
        }
    }

    fn count_missed(&mut self, kept_from: u64) {
        let delivery = &mut self.webhook.delivery;
        let missed = kept_from.saturating_sub(delivery.until + 1);
        if missed > 0 {
            delivery.missed += missed;
            delivery.until = kept_from - 1;
            self.unrecorded = true;
            tracing::warn!(webhook = %self.webhook.id, missed, "Webhook {} has missed {missed} events: they are not kept any more", self.webhook.id);
        }
    }

    /// To the first that cannot be delivered.
    async fn deliver(&mut self, client: &Client, url: &Url, events: &Events) {
        for event in &events.data {
            // Another server may be telling it; then this task is about to be ended.
            while !self.engine.leads() {
                sleep(REST).await;
            }
            let outcome = attempt::send(client, &self.message(url, event)).await;
            let went_well = matches!(outcome, Outcome::Delivered);
            self.note(event.number, outcome);
            self.record().await;
            if !went_well {
                return;
            }
        }
        // The rest was not asked for.
        if self.webhook.delivery.until < events.until {
            self.webhook.delivery.until = events.until;
            self.unrecorded = true;
            if self.recorded.elapsed() > SETTLE {
                self.record().await;
            }
        }
    }

    fn message<'a>(&'a self, url: &'a Url, event: &LifecycleEvent) -> Message<'a> {
        let body = serde_json::to_vec(&EventBody::from(event)).expect("an event has text keys and finite figures");
        // With its moment: after a power cut the last numbers may be given out again, to other events.
        let id = format!("{}_{}_{}", self.webhook.id, event.number, event.at.as_microsecond());
        Message { id, body: body.into(), url, secret: &self.webhook.secret }
    }

    fn note(&mut self, event: u64, outcome: Outcome) {
        let (id, now) = (self.webhook.id, Timestamp::now());
        let delivery = &mut self.webhook.delivery;
        let failed = |delivery: &mut Delivery, reason: String| {
            if delivery.failures == 0 {
                tracing::warn!(webhook = %id, "Webhook {id} cannot be told of event {event}: {reason}");
            }
            delivery.failures = delivery.failures.saturating_add(1);
            delivery.last_failure = Some(FailedAttempt { at: now, reason });
        };
        delivery.next_attempt_at = None;
        match outcome {
            Outcome::Delivered => {
                if delivery.failures > 0 {
                    tracing::info!(webhook = %id, "Webhook {id} is told again, after {} failures", delivery.failures);
                }
                delivery.failures = 0;
                delivery.until = event;
                delivery.last_event = Some(event);
                delivery.last_success_at = Some(now);
            }
            Outcome::Gone => {
                failed(delivery, "answered with 410, so nothing more is sent".to_owned());
                delivery.disabled = true;
            }
            Outcome::Failed { reason, retry_after } => {
                failed(delivery, reason);
                let mut random = [255];
                // Without it all wait as long as they may.
                getrandom::fill(&mut random).ok();
                let pause = backoff::pause(delivery.failures, random[0], retry_after);
                delivery.next_attempt_at = SignedDuration::try_from(pause).ok().and_then(|pause| now.checked_add(pause).ok());
            }
        }
    }

    /// Before that nothing more is sent: what is not recorded is sent again after a restart, and that must not become more and more.
    async fn record(&mut self) {
        let mut told = false;
        while let Err(error) = self.engine.save_delivery(self.webhook.id, &self.webhook.delivery).await {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(webhook = %self.webhook.id, error = %error, "How far webhook {} has come cannot be recorded", self.webhook.id);
            }
            sleep(REST).await;
        }
        (self.recorded, self.unrecorded) = (Instant::now(), false);
    }
}
