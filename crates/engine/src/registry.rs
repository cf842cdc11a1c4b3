//! Everything that is alive: sandboxes that have not ended and executions that run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use caisson_core::{Error, Exceeded, ExecutionId, Holdings, Hosted, Quotas, Result, Sandbox, SandboxId, State, Tenant};
use tokio::sync::oneshot;

use crate::{
    execution::RunningExecution,
    queue::Queue,
    quotas::{Account, Share},
    room::{Room, Slot},
    sandbox::{Living, Purpose},
    stopped::Stopped,
};

#[derive(Debug)]
pub(crate) struct Registry {
    /// Sandboxes that exist at one time, pooled ones included.
    max: usize,
    alive: Mutex<Alive>,
    executions: Mutex<HashMap<ExecutionId, Arc<RunningExecution>>>,
}

#[derive(Debug, Default)]
struct Alive {
    sandboxes: HashMap<SandboxId, Arc<Living>>,
    stopped: HashMap<SandboxId, Arc<Stopped>>,
    accounts: HashMap<Tenant, Account>,
    /// Places held for sandboxes that are about to be registered.
    held: usize,
    /// Sandboxes without an owner, those that are coming up and going down included.
    pooled: usize,
    waiting: Queue<oneshot::Sender<Slot>>,
}

/// Why there is no room.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Its tenant has as much as it may have.
    Quota(Exceeded),
    /// There are as many as there may be.
    Full,
}

impl Registry {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, alive: Mutex::default(), executions: Mutex::default() }
    }

    /// Room for a new sandbox, in the place of `slot` where whoever asks has waited for one. Pooled sandboxes are in nobody's way: they go
    /// where they take too much, see [`Self::is_crowded`]. A one-shot is an execution as well.
    pub(crate) fn take_room(
        self: &Arc<Self>,
        tenant: &Tenant,
        share: Share,
        purpose: Purpose,
        quotas: &Quotas,
        slot: Option<Slot>,
    ) -> Result<Room, Refused> {
        let mut alive = self.lock_alive();
        let room = slot.is_some() || self.has_room(&alive);
        let taken = alive.take_share(tenant, share, purpose, quotas, room);
        if taken.is_ok() && slot.is_none() {
            alive.held += 1;
        }
        // Before a slot is dropped, which takes the lock as well.
        drop(alive);
        taken?;
        let slot = slot.unwrap_or_else(|| Slot::new(Arc::clone(self)));
        Ok(Room::new(slot, Arc::clone(self), tenant.clone(), share))
    }

    /// Whether the next one need not wait.
    fn has_room(&self, alive: &Alive) -> bool {
        alive.waiting.is_empty() && alive.sandboxes.len() + alive.held < self.max
    }

    /// A place in the line for room; `None` where `most` of this tenant are in it already.
    pub(crate) fn line_up(self: &Arc<Self>, tenant: &Tenant, most: usize) -> Option<oneshot::Receiver<Slot>> {
        let (sender, receiver) = oneshot::channel();
        let mut alive = self.lock_alive();
        alive.waiting.push(tenant, sender, most, |sender| !sender.is_closed()).ok()?;
        // Something may have ended since whoever asks was refused.
        self.let_in(&mut alive);
        Some(receiver)
    }

    /// Lets in as many of those who wait as there is room for.
    fn let_in(self: &Arc<Self>, alive: &mut Alive) {
        while alive.sandboxes.len() + alive.held < self.max
            && let Some(next) = alive.waiting.pop()
        {
            match next.send(Slot::new(Arc::clone(self))) {
                Ok(()) => alive.held += 1,
                // It has gone. Dropping a slot takes the lock.
                Err(slot) => slot.keep(),
            }
        }
    }

    pub(crate) fn give_back_slot(self: &Arc<Self>) {
        let mut alive = self.lock_alive();
        alive.held = alive.held.saturating_sub(1);
        self.let_in(&mut alive);
    }

    pub(crate) fn give_back_share(&self, tenant: &Tenant, share: Share) {
        if let Some(account) = self.lock_alive().accounts.get_mut(tenant) {
            account.give_back(share);
        }
    }

    /// Registers a sandbox in the room that was taken for it. One that comes from the pool is none of the pool's any more.
    pub(crate) fn admit(&self, living: Arc<Living>, room: Room, is_pooled: bool) {
        let mut alive = self.lock_alive();
        alive.held = alive.held.saturating_sub(1);
        if is_pooled {
            alive.pooled = alive.pooled.saturating_sub(1);
        }
        // Whose disk it has from now on.
        alive.stopped.remove(&living.id);
        alive.sandboxes.insert(living.id, living);
        room.keep();
    }

    /// A sandbox of which nothing runs any more. What it had of its tenant's quotas is free again, but for its disk.
    pub(crate) fn rest(self: &Arc<Self>, id: SandboxId, record: &Sandbox) {
        let mut alive = self.lock_alive();
        let Alive { sandboxes, accounts, stopped, .. } = &mut *alive;
        if let Some(living) = sandboxes.remove(&id) {
            if let Some(account) = accounts.get_mut(&living.tenant) {
                account.give_back(living.share.without_disk());
            }
            stopped.insert(id, living.at_rest(record.clone()));
        }
        self.let_in(&mut alive);
    }

    /// One that was stopped before this server began.
    pub(crate) fn keep_stopped(&self, stopped: Arc<Stopped>) {
        let mut alive = self.lock_alive();
        alive.accounts.entry(stopped.tenant.clone()).or_default().hold_disk(stopped.share.disk_bytes);
        alive.stopped.insert(stopped.id, stopped);
    }

    /// Its disk is free again.
    pub(crate) fn forget_stopped(&self, id: SandboxId) {
        let mut alive = self.lock_alive();
        if let Some(gone) = alive.stopped.remove(&id)
            && let Some(account) = alive.accounts.get_mut(&gone.tenant)
        {
            account.give_back_disk(gone.share.disk_bytes);
        }
    }

    /// A stopped sandbox of this tenant.
    pub(crate) fn stopped(&self, tenant: &Tenant, id: SandboxId) -> Option<Arc<Stopped>> {
        self.lock_alive().stopped.get(&id).filter(|stopped| stopped.tenant == *tenant).cloned()
    }

    /// Those of all tenants.
    pub(crate) fn all_stopped(&self) -> Vec<Arc<Stopped>> {
        self.lock_alive().stopped.values().cloned().collect()
    }

    /// Counts a sandbox that nobody owns yet, where that leaves `spare` places for others and nobody waits for one.
    pub(crate) fn add_pooled(&self, spare: usize) -> bool {
        let mut alive = self.lock_alive();
        let fits = alive.waiting.is_empty() && alive.total() + spare < self.max;
        alive.pooled += usize::from(fits);
        fits
    }

    pub(crate) fn forget_pooled(&self) {
        let mut alive = self.lock_alive();
        alive.pooled = alive.pooled.saturating_sub(1);
    }

    /// Whether there are more than there may be, so that a pooled one has to go.
    pub(crate) fn is_crowded(&self) -> bool {
        let alive = self.lock_alive();
        alive.pooled > 0 && alive.total() > self.max
    }

    /// How many nobody owns, and how many requests wait for room.
    pub(crate) fn pooled_and_waiting(&self) -> (usize, usize) {
        let alive = self.lock_alive();
        (alive.pooled, alive.waiting.len())
    }

    /// Counts an execution in a living sandbox, unless there were as many within a minute as there may be.
    pub(crate) fn admit_execution(&self, tenant: &Tenant, quotas: &Quotas) -> Result<()> {
        let mut alive = self.lock_alive();
        alive.accounts.entry(tenant.clone()).or_default().execute(quotas, Instant::now()).map_err(Error::OverQuota)
    }

    /// What this tenant has.
    pub(crate) fn holdings(&self, tenant: &Tenant) -> Holdings {
        self.lock_alive().accounts.get_mut(tenant).map(|account| account.holdings(Instant::now())).unwrap_or_default()
    }

    /// A sandbox of this tenant.
    pub(crate) fn sandbox(&self, tenant: &Tenant, id: SandboxId) -> Option<Arc<Living>> {
        self.lock_alive().sandboxes.get(&id).filter(|living| living.tenant == *tenant).cloned()
    }

    /// Whether it is here, running or stopped, whosever it is.
    pub(crate) fn has(&self, what: Hosted) -> bool {
        match what {
            Hosted::Sandbox(id) => {
                let alive = self.lock_alive();
                alive.sandboxes.contains_key(&id) || alive.stopped.contains_key(&id)
            }
            Hosted::Execution(id) => self.lock_executions().contains_key(&id),
        }
    }

    /// Whose a sandbox is, for those who may know because they were let in to it.
    pub(crate) fn owner(&self, id: SandboxId) -> Option<Tenant> {
        let alive = self.lock_alive();
        let living = alive.sandboxes.get(&id).map(|living| living.tenant.clone());
        living.or_else(|| alive.stopped.get(&id).map(|stopped| stopped.tenant.clone()))
    }

    /// The holder of this name among this tenant's, stopped or not.
    pub(crate) fn named(&self, tenant: &Tenant, name: &str) -> Option<SandboxId> {
        let alive = self.lock_alive();
        let living = alive.sandboxes.values().find(|living| living.tenant == *tenant && living.holds(name)).map(|living| living.id);
        living.or_else(|| alive.stopped.values().find(|s| s.tenant == *tenant && s.name.as_deref() == Some(name)).map(|s| s.id))
    }

    /// Those of this tenant that are ending.
    pub(crate) fn ending(&self, tenant: &Tenant) -> Vec<Arc<Living>> {
        self.lock_alive().sandboxes.values().filter(|living| living.tenant == *tenant && living.is_ending()).cloned().collect()
    }

    /// Those of all tenants.
    pub(crate) fn sandboxes(&self) -> Vec<Arc<Living>> {
        self.lock_alive().sandboxes.values().cloned().collect()
    }

    /// What it had of its tenant's quotas is free again.
    pub(crate) fn forget_sandbox(self: &Arc<Self>, id: SandboxId) {
        let mut alive = self.lock_alive();
        let Alive { sandboxes, accounts, .. } = &mut *alive;
        if let Some(gone) = sandboxes.remove(&id)
            && let Some(account) = accounts.get_mut(&gone.tenant)
        {
            account.give_back(gone.share);
        }
        self.let_in(&mut alive);
    }

    /// How many sandboxes of all tenants are in which state of their lives.
    pub(crate) fn count(&self) -> Vec<(State, u64)> {
        let alive = self.lock_alive();
        let there = State::ALL.into_iter().filter(|state| *state != State::Ended);
        let count = |state| match state {
            State::Stopped => alive.stopped.len() as u64,
            state => alive.sandboxes.values().filter(|living| living.state() == state).count() as u64,
        };
        there.map(|state| (state, count(state))).collect()
    }

    pub(crate) fn add_execution(&self, execution: Arc<RunningExecution>) {
        self.lock_executions().insert(execution.started.id, execution);
    }

    /// An execution of this tenant.
    pub(crate) fn execution(&self, tenant: &Tenant, id: ExecutionId) -> Option<Arc<RunningExecution>> {
        self.lock_executions().get(&id).filter(|running| running.started.tenant == *tenant).cloned()
    }

    pub(crate) fn forget_execution(&self, id: ExecutionId) {
        self.lock_executions().remove(&id);
    }

    pub(crate) fn running_executions(&self) -> u64 {
        self.lock_executions().len() as u64
    }

    fn lock_alive(&self) -> MutexGuard<'_, Alive> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_executions(&self) -> MutexGuard<'_, HashMap<ExecutionId, Arc<RunningExecution>>> {
        self.executions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Alive {
    fn total(&self) -> usize {
        self.sandboxes.len() + self.held + self.pooled
    }

    /// Takes a share of a tenant's quotas for a sandbox for which there is `room`. A tenant that has too much is not told to wait.
    fn take_share(&mut self, tenant: &Tenant, share: Share, purpose: Purpose, quotas: &Quotas, room: bool) -> Result<(), Refused> {
        let account = self.accounts.entry(tenant.clone()).or_default();
        let now = Instant::now();
        if purpose == Purpose::OneShot {
            account.may_execute(quotas, now).map_err(Refused::Quota)?;
        }
        account.take(share, quotas).map_err(Refused::Quota)?;
        if !room {
            account.give_back(share);
            return Err(Refused::Full);
        }
        if purpose == Purpose::OneShot {
            account.execute(quotas, now).map_err(Refused::Quota)?;
        }
        Ok(())
    }
}

/// There is no such sandbox.
pub(crate) fn unknown_sandbox(id: SandboxId) -> Error {
    Error::not_found("sandbox", id.to_string())
}

/// There is no such execution.
pub(crate) fn unknown_execution(id: ExecutionId) -> Error {
    Error::not_found("execution", id.to_string())
}
