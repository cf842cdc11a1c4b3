//! Room for one more sandbox: held from before it is made until it is registered, and given to those who wait in turns.

use std::{sync::Arc, time::Duration};

use caisson_core::{Error, Result, Tenant};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    core::{Core, unavailable},
    quotas::Share,
    registry::{Refused, Registry},
    sandbox::{Living, Purpose},
};

/// Requests of one tenant that wait for room at one time.
const MOST_WAITING: usize = 200;
/// When to come back after having waited in vain.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// How long a new sandbox waits for others of its tenant that are just ending, where they have what it needs.
const ENDING_WITHIN: Duration = Duration::from_secs(2);

tokio::task_local! {
    /// Cancelled when whoever asked for what this task does has gone.
    static GONE: CancellationToken;
}

/// Does `work` for somebody who may go away: then it no longer waits for room. Whatever has room goes on all the same.
pub async fn asked_for<T>(gone: CancellationToken, work: impl Future<Output = T>) -> T {
    GONE.scope(gone, work).await
}

/// Whether whoever asked has gone, for tasks that carry it on.
pub(crate) fn asker() -> CancellationToken {
    GONE.try_with(CancellationToken::clone).unwrap_or_default()
}

/// One of the places that there are. Dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Slot {
    registry: Option<Arc<Registry>>,
}

impl Slot {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry: Some(registry) }
    }

    /// It is taken for good, or was given back by other means.
    pub(crate) fn keep(mut self) {
        self.registry = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.take() {
            registry.give_back_slot();
        }
    }
}

/// Room for one sandbox, and its share of its tenant's quotas. Dropping it gives both back.
#[derive(Debug)]
pub(crate) struct Room {
    slot: Option<Slot>,
    registry: Arc<Registry>,
    tenant: Tenant,
    share: Share,
}

impl Room {
    pub(crate) fn new(slot: Slot, registry: Arc<Registry>, tenant: Tenant, share: Share) -> Self {
        Self { slot: Some(slot), registry, tenant, share }
    }

    /// A sandbox has it from now on.
    pub(crate) fn keep(mut self) {
        if let Some(slot) = self.slot.take() {
            slot.keep();
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.registry.give_back_share(&self.tenant, self.share);
        }
    }
}

/// Waits for room. A one-shot is answered before its sandbox is gone, and whoever then comes at once with the next one must not be refused for
/// it. Where the machine is full, tenants take turns until the deadline. Cancel-safe.
pub(crate) async fn find(core: &Arc<Core>, tenant: &Tenant, share: Share, purpose: Purpose) -> Result<Room> {
    let ending_until = Instant::now() + ENDING_WITHIN;
    let mut slot = None;
    loop {
        core.accepting()?;
        match core.registry.take_room(tenant, share, purpose, &core.keys.quotas(tenant), slot.take()) {
            Ok(room) => return Ok(room),
            Err(Refused::Quota(exceeded)) => {
                let ending = core.registry.ending(tenant);
                if exceeded.retry_after.is_some() || !one_ends(&ending, ending_until).await {
                    return Err(Error::OverQuota(exceeded));
                }
            }
            Err(Refused::Full) => slot = Some(turn(core, tenant).await?),
        }
    }
}

async fn one_ends(ending: &[Arc<Living>], until: Instant) -> bool {
    let ended: Vec<_> = ending.iter().map(|living| Box::pin(living.over())).collect();
    !ended.is_empty() && tokio::time::timeout_at(until, futures::future::select_all(ended)).await.is_ok()
}

/// Waits for this tenant's turn.
async fn turn(core: &Core, tenant: &Tenant) -> Result<Slot> {
    let (max, within) = (core.config.max_sandboxes, core.config.queue_wait);
    let full = |what: &str| Error::Unavailable {
        message: format!("this server holds its maximum of {max} sandboxes, {what}; destroy some or try again later"),
        retry_after: BUSY_FOR,
        cause: None,
    };
    if within.is_zero() {
        return Err(full("and nobody waits here"));
    }
    let Some(turn) = core.registry.line_up(tenant, MOST_WAITING) else {
        return Err(full(&format!("and {MOST_WAITING} requests of this tenant wait already")));
    };
    let gone = asker();
    tokio::select! {
        // In a race with what follows the slot is dropped, and so goes to the next one.
        turn = tokio::time::timeout(within, turn) => match turn {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) => Err(unavailable("the server is shutting down")),
            Err(_) => Err(full(&format!("and none of them ended within {} s", within.as_secs()))),
        },
        () = core.closing.cancelled() => Err(unavailable("the server is shutting down")),
        () = gone.cancelled() => Err(unavailable("whoever asked has gone")),
    }
}
