//! Sandboxes that are stopped: nothing of them runs, their files are kept, and whoever uses one starts it again.
//!
//! ```text
//!            used: `awake`, once however many ask                 too long, too many, a time limit: `reap`
//! Living ◀───────────────────────────────────────── Stopped ─────────────────────────────────────────▶ ended, its files gone
//!        ──────────────────────────────────────────▶
//!            `Living::stop`, a start that failed
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use caisson_core::{
    Error, Event, Files, ImageLease, Result, SET_ASIDE_FOR, Sandbox, SandboxId, Stop, StopReason, Tenant, Tombstone, TombstoneReason, next,
};

use crate::{
    core::{Core, now, store_error, unavailable},
    create,
    endings::{self, Ending},
    execution::task_ended,
    figures, images,
    quotas::Share,
    registry::unknown_sandbox,
    request::SandboxUpdate,
    room,
    sandbox::{End, Living, age, discard},
};

/// How often one is looked for that changes between running and stopped all the time.
const ATTEMPTS: usize = 5;

/// See the module.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) id: SandboxId,
    pub(crate) tenant: Tenant,
    pub(crate) name: Option<String>,
    pub(crate) share: Share,
    record: Mutex<Sandbox>,
    /// Keeps the layers of its image where they are.
    lease: Mutex<Option<ImageLease>>,
    /// Held by whoever starts, changes or removes it.
    turn: tokio::sync::Mutex<()>,
}

impl Stopped {
    pub(crate) fn new(record: Sandbox, lease: Option<ImageLease>) -> Self {
        Self {
            id: record.id,
            tenant: record.tenant.clone(),
            name: record.name.clone(),
            share: Share::of(&record),
            record: Mutex::new(record),
            lease: Mutex::new(lease),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The record as it is now.
    pub(crate) fn now(&self) -> Sandbox {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is stopped again, as this says.
    pub(crate) fn again(&self, record: Sandbox, lease: Option<ImageLease>) {
        self.is_now(record);
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    fn is_now(&self, record: Sandbox) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
    }

    fn lease(&self) -> Option<ImageLease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is still the one that is stopped.
    fn is_there(self: &Arc<Self>, core: &Core) -> bool {
        core.registry.stopped(&self.tenant, self.id).is_some_and(|there| Arc::ptr_eq(&there, self))
    }
}

/// A sandbox that runs: one that is stopped is started for it. An error says what became of it.
pub(crate) async fn awake(core: &Arc<Core>, tenant: &Tenant, id: SandboxId) -> Result<Arc<Living>> {
    for _ in 0..ATTEMPTS {
        if let Some(living) = core.registry.sandbox(tenant, id) {
            if !living.is_stopping() {
                return Ok(living);
            }
            living.over().await;
        } else if let Some(stopped) = core.registry.stopped(tenant, id) {
            if let Some(living) = start(core, stopped).await? {
                return Ok(living);
            }
        } else {
            return Err(absent(core, tenant, id).await);
        }
    }
    Err(unavailable(format!("sandbox `{id}` is just being stopped; ask again, and it is started")))
}

/// The error for somebody who wanted something of a sandbox that is neither running nor stopped.
pub(crate) async fn absent(core: &Core, tenant: &Tenant, id: SandboxId) -> Error {
    match core.store.sandbox(tenant, id).await {
        Ok(Some(Sandbox { tombstone: Some(tombstone), .. })) => Error::Gone { id: id.to_string(), tombstone },
        // It ended between the two looks, or its server is another.
        Ok(Some(_)) => core.not_here(id).await,
        Ok(None) => unknown_sandbox(id),
        Err(error) => store_error(error),
    }
}

/// Starts it, in a task of its own: a caller that goes away leaves it running or stopped. `None`: it is something else by now.
async fn start(core: &Arc<Core>, stopped: Arc<Stopped>) -> Result<Option<Arc<Living>>> {
    core.accepting()?;
    let task = Arc::clone(core);
    let started = core.tasks.spawn(room::asked_for(room::asker(), async move {
        let _turn = stopped.turn.lock().await;
        if !stopped.is_there(&task) {
            return Ok(None);
        }
        let mut record = stopped.now();
        if let Some(end) = due(&task, &record) {
            let ended = remove(&task, &stopped, end).await;
            let tombstone = ended.tombstone.ok_or_else(|| unknown_sandbox(stopped.id))?;
            return Err(Error::Gone { id: stopped.id.to_string(), tombstone });
        }
        // The operator may have closed the ways out meanwhile.
        task.prepare_network(&mut record.spec.network).await?;
        let lease = images::resolve_again(&task, &stopped.tenant, &mut record.spec).await?.or_else(|| stopped.lease());
        let living = Living::bring_back(&task, record, lease, &stopped).await?;
        let begun = living.activity.begin();
        match create::prove(&living).await {
            Ok(()) => {
                living.answered().await;
                // Waits until its task has heard of it.
                living.ready_agent().await?;
                drop(begun);
                Ok(Some(living))
            }
            Err(error) => {
                drop(begun);
                // It is stopped again before the next one tries.
                living.over().await;
                Err(error)
            }
        }
    }));
    started.await.unwrap_or_else(|_| Err(task_ended()))
}

/// Changes time limits and metadata of one that stays stopped. `None`: it is something else by now.
pub(crate) async fn update(core: &Core, stopped: &Arc<Stopped>, update: SandboxUpdate) -> Result<Option<Sandbox>> {
    let _turn = stopped.turn.lock().await;
    if !stopped.is_there(core) {
        return Ok(None);
    }
    let mut record = stopped.now();
    if record.spec.network.is_none() {
        update.check_without_network(stopped.id)?;
    }
    update.apply(&mut record);
    core.store.update_sandbox(&record).await.map_err(store_error)?;
    stopped.is_now(record.clone());
    Ok(Some(record))
}

/// Ends it, and returns when its files are gone. `None`: it is something else by now.
pub(crate) async fn end(core: &Arc<Core>, stopped: &Arc<Stopped>, end: End) -> Option<Sandbox> {
    let _turn = stopped.turn.lock().await;
    if stopped.is_there(core) { Some(remove(core, stopped, end).await) } else { None }
}

/// The record of one that is stopped, or has just been found to be due.
pub(crate) async fn look(core: &Arc<Core>, stopped: &Arc<Stopped>) -> Option<Sandbox> {
    let record = stopped.now();
    match due(core, &record) {
        None => Some(record),
        Some(over) => end(core, stopped, over).await,
    }
}

/// To be called with its turn held.
async fn remove(core: &Arc<Core>, stopped: &Arc<Stopped>, end: End) -> Sandbox {
    let id = stopped.id;
    let mut record = stopped.now();
    discard(core, id).await;
    record.stop = None;
    record.tombstone = Some(Tombstone { reason: end.reason, message: end.message, at: now() });
    for event in [Event::Destroy, Event::TornDown] {
        match next(record.state, event) {
            Ok(state) => record.state = state,
            Err(denied) => tracing::error!(sandbox.id = %id, "Broken life of a sandbox: {denied}"),
        }
    }
    endings::record(core, Ending::Sandbox(Box::new(record.clone()))).await;
    core.metrics.sandbox_ended(end.reason);
    core.registry.forget_stopped(id);
    let reason = end.reason.as_str();
    tracing::debug!(sandbox.id = %id, reason, "Stopped sandbox {id} ended: {reason}");
    record
}

/// Whether one of its time limits is over, or it has been stopped for too long.
fn due(core: &Core, record: &Sandbox) -> Option<End> {
    let since = |from| age(from, now());
    if let Some(lifetime) = record.time_limits.lifetime
        && since(record.created_at) >= lifetime
    {
        return Some(End::new(TombstoneReason::Lifetime, format!("its lifetime of {} is over", figures::seconds(lifetime))));
    }
    if let Some(idle) = record.time_limits.idle_timeout
        && since(record.last_active_at) >= idle
    {
        return Some(End::new(TombstoneReason::IdleTimeout, format!("nothing happened in it for {}", figures::seconds(idle))));
    }
    let (grace, Stop { at, .. }) = (core.config.stopped_grace?, record.stop?);
    (since(at) >= grace).then(|| {
        let message = format!("it was stopped, and nobody used it again within {}", figures::seconds(grace));
        End::new(TombstoneReason::StoppedTooLong, message)
    })
}

/// Looks at them now and then, and when one more is there, until the engine closes.
pub(crate) async fn keep_tidy(core: Arc<Core>) {
    // A grace that is shorter is not waited for much longer than it says.
    let every = core.config.stopped_grace.map_or(core.config.reap_every, |grace| core.config.reap_every.min(grace / 2));
    let every = every.max(Duration::from_millis(100));
    loop {
        reap(&core).await;
        tokio::select! {
            // A token stays cancelled.
            () = core.closing.cancelled() => return,
            // What is told while nobody waits is kept.
            () = core.stopped.notified() => {}
            // Begins anew after each look.
            () = tokio::time::sleep(every) => {}
        }
    }
}

async fn reap(core: &Arc<Core>) {
    if core.in_touch().is_err() {
        return;
    }
    if let Some(grace) = core.config.stopped_grace {
        core.end_abandoned(grace).await;
    }
    let mut stopped = core.registry.all_stopped();
    stopped.sort_by_key(|one| one.now().stop.map(|stop| stop.at));
    let surplus = core.config.max_stopped.map_or_else(Vec::new, |max| surplus(&stopped, max));
    for one in &stopped {
        // Whoever starts or changes it just now uses it.
        let is_free = one.turn.try_lock().is_ok();
        let over = due(core, &one.now()).or_else(|| {
            surplus.contains(&one.id).then(|| {
                let max = core.config.max_stopped.unwrap_or_default();
                let message = format!("it was stopped first of more than {max}, which is how many this server keeps");
                End::new(TombstoneReason::StoppedTooLong, message)
            })
        });
        if let Some(over) = over.filter(|_| is_free) {
            end(core, one, over).await;
        }
    }
}

/// Of those that were stopped because nobody used them, sorted by when: which are too many. The tenant that has the most gives away its oldest
/// one, so that nobody loses what is theirs to somebody who stops many. Those that the end of a server has stopped are not to blame.
fn surplus(stopped: &[Arc<Stopped>], max: usize) -> Vec<SandboxId> {
    let mut of_tenants: BTreeMap<&Tenant, VecDeque<SandboxId>> = BTreeMap::new();
    let mut count = 0;
    for one in stopped {
        if one.now().stop.is_some_and(|stop| matches!(stop.reason, StopReason::Requested | StopReason::Idle)) {
            of_tenants.entry(&one.tenant).or_default().push_back(one.id);
            count += 1;
        }
    }
    let mut surplus = Vec::new();
    while count > max
        && let Some(oldest) = of_tenants.values_mut().max_by_key(|ids| ids.len()).and_then(VecDeque::pop_front)
    {
        surplus.push(oldest);
        count -= 1;
    }
    surplus
}

/// Those that the last server has left: each with its files, each file with its sandbox.
pub(crate) async fn take_over(core: &Arc<Core>, kept: &[SandboxId]) -> Result<()> {
    let recorded = core.store.stopped().await.map_err(store_error)?;
    let known: Vec<SandboxId> = recorded.iter().map(|sandbox| sandbox.id).collect();
    for mut sandbox in recorded {
        // Where a server runs without the backend that has its files, nobody can tell.
        let has_files = kept.contains(&sandbox.id) || !core.backend.is_usable(&sandbox.spec.backend);
        let lease = match images::resolve_again(core, &sandbox.tenant, &mut sandbox.spec).await {
            Ok(lease) => lease,
            Err(error) => {
                // Whoever wants to start it is told the same.
                tracing::warn!(sandbox.id = %sandbox.id, "Stopped sandbox {}: {error}", sandbox.id);
                None
            }
        };
        let stopped = Arc::new(Stopped::new(sandbox, lease));
        core.registry.keep_stopped(Arc::clone(&stopped));
        if !has_files {
            let lost = End::new(TombstoneReason::FilesLost, "its files are not there any more");
            end(core, &stopped, lost).await;
        }
    }
    let mut aside = 0;
    for id in kept.iter().filter(|id| !known.contains(id)) {
        core.backend.set_aside(*id).await.map_err(|error| Error::internal("cannot set a disk aside", error))?;
        aside += 1;
    }
    if aside > 0 {
        let hours = SET_ASIDE_FOR.as_secs() / 3600;
        tracing::warn!(
            disks = aside,
            "No stopped sandbox has {aside} of the disks; they are set aside, and removed by a start after {hours} hours"
        );
    }
    if !known.is_empty() {
        let count = known.len();
        tracing::info!(sandboxes = count, "{count} sandboxes are stopped; each is started when somebody uses it");
    }
    Ok(())
}

/// Whether sandboxes of this engine can be stopped at all, and this one.
pub(crate) fn check_can_stop(living: &Living) -> Result<()> {
    if living.files == Files::Passing {
        let message = format!(
            "sandbox `{}` cannot be stopped: its files are in memory and would be lost; delete it, or make one with `storage` `disk`",
            living.id
        );
        return Err(Error::conflict("not_stoppable", message));
    }
    Ok(())
}
