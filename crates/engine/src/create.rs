//! New sandboxes, and existing ones by their name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use caisson_core::{Error, Hosted, Result, Sandbox, SandboxId, SandboxSpec, State, StoreError, Tenant, TimeLimits, TombstoneReason};

use tokio::time::Instant;

use crate::{
    agent_client::AgentClient,
    core::{Core, now, store_error, unavailable},
    execution::task_ended,
    images,
    request::{CreateRequest, Created},
    room,
    sandbox::{End, LAUNCH_WITHIN, Living, Purpose, not_recorded},
    servers::Host,
    setup, stopped, validate,
};

/// How often a name is tried when its holder ends at that very moment.
const ATTEMPTS: usize = 5;
/// Between two looks at the record of a sandbox that comes up on another server.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The record of a sandbox that is about to be made.
pub(crate) fn record(
    core: &Core,
    tenant: &Tenant,
    name: Option<String>,
    mut spec: SandboxSpec,
    time_limits: TimeLimits,
    metadata: BTreeMap<String, String>,
) -> Sandbox {
    let created_at = now();
    spec.weaker_limits = core.backend.weaker_limits(&spec);
    Sandbox {
        id: SandboxId::random(),
        tenant: tenant.clone(),
        name,
        state: State::Creating,
        spec,
        time_limits,
        metadata,
        created_at,
        last_active_at: created_at,
        starts: 1,
        stop: None,
        tombstone: None,
    }
}

/// Makes or finds it, in a task of its own: a caller that goes away leaves a whole sandbox or none.
pub(crate) async fn create(core: &Arc<Core>, tenant: &Tenant, mut request: CreateRequest) -> Result<Created> {
    validate::create(&request)?;
    core.prepare_network(&mut request.spec.network).await?;
    core.accepting()?;
    let (task, tenant) = (Arc::clone(core), tenant.clone());
    let made = core.tasks.spawn(room::asked_for(room::asker(), async move {
        for _ in 0..ATTEMPTS {
            if let Some(created) = attempt(&task, &tenant, &request).await? {
                return Ok(created);
            }
        }
        Err(just_ending(&request))
    }));
    made.await.unwrap_or_else(|_| Err(task_ended()))
}

/// Makes it, in a task of its own likewise, and returns as soon as it is recorded. What it comes to then is in its record.
pub(crate) async fn begin(core: &Arc<Core>, tenant: &Tenant, mut request: CreateRequest) -> Result<Sandbox> {
    validate::create(&request)?;
    core.prepare_network(&mut request.spec.network).await?;
    core.accepting()?;
    let (task, tenant) = (Arc::clone(core), tenant.clone());
    let begun = core.tasks.spawn(room::asked_for(room::asker(), async move {
        for _ in 0..ATTEMPTS {
            let mut spec = request.spec.clone();
            let lease = images::resolve(&task, &tenant, &mut spec).await?;
            let record = record(&task, &tenant, request.name.clone(), spec, request.time_limits, request.metadata.clone());
            let living = Living::bring_up(&task, record, lease, Purpose::Kept).await?;
            let coming_up = living.activity.begin();
            match living.recorded().await {
                Ok(()) => {}
                Err(error) => match &*error {
                    StoreError::NameTaken(holder) if is_gone(&task, &tenant, *holder).await => continue,
                    StoreError::NameTaken(holder) => return Err(store_error(StoreError::NameTaken(*holder))),
                    _ => return Err(not_recorded(error)),
                },
            }
            let begun = living.now();
            task.tasks.spawn(async move {
                // Whoever looks at the record hears of a failure there.
                if prove(&living).await.is_ok() {
                    living.answered().await;
                }
                drop(coming_up);
            });
            return Ok(begun);
        }
        Err(just_ending(&request))
    }));
    begun.await.unwrap_or_else(|_| Err(task_ended()))
}

fn just_ending(request: &CreateRequest) -> Error {
    unavailable(format!("the sandbox named `{}` is just ending; try again", request.name.as_deref().unwrap_or_default()))
}

/// Whether the holder of a name has given it back by now. One that is ending is waited for: whoever asked heard of its end before it was recorded.
async fn is_gone(core: &Core, tenant: &Tenant, holder: SandboxId) -> bool {
    if let Some(living) = core.registry.sandbox(tenant, holder) {
        return matches!(living.state(), State::Stopping | State::Ended) && living.over().await.state == State::Ended;
    }
    // Without an answer the name is taken for taken.
    matches!(core.store.sandbox(tenant, holder).await, Ok(Some(Sandbox { state: State::Ended, .. }) | None))
}

/// `None`: the name was taken by a sandbox that is gone by now.
async fn attempt(core: &Arc<Core>, tenant: &Tenant, request: &CreateRequest) -> Result<Option<Created>> {
    if let Some(holder) = request.name.as_deref().and_then(|name| core.registry.named(tenant, name)) {
        return existing(core, tenant, holder).await;
    }
    let mut spec = request.spec.clone();
    let lease = images::resolve(core, tenant, &mut spec).await?;
    let record = record(core, tenant, request.name.clone(), spec, request.time_limits, request.metadata.clone());
    let living = Living::bring_up(core, record, lease, Purpose::Kept).await?;
    let begun = living.activity.begin();
    let (recorded, healthy) = tokio::join!(living.recorded(), prove(&living));
    let result = match (recorded, healthy) {
        (Err(error), _) => match &*error {
            StoreError::NameTaken(holder) => return existing(core, tenant, *holder).await,
            _ => Err(not_recorded(error)),
        },
        (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(())) => {
            living.answered().await;
            // Waits until its task has heard of it.
            living.ready_agent().await.map(|_| Some(Created::New(living.now())))
        }
    };
    drop(begun);
    result
}

/// Whether an agent answers that speaks our language, and what its template asks for can be done.
pub(crate) async fn prove(living: &Living) -> Result<()> {
    let agent = living.agent().await?;
    if living.was_warm {
        if let Some(ready) = living.take_ready() {
            ready.end().await;
        }
        return Ok(());
    }
    if let Err(error) = agent.health(LAUNCH_WITHIN).await {
        let text = error.to_string();
        let failure = living.failed(error).await;
        living.end(End::new(TombstoneReason::LaunchFailed, text)).await;
        return Err(failure);
    }
    if let Err(error) = set_up(living, &agent).await {
        living.end(End::new(TombstoneReason::SetupFailed, error.to_string())).await;
        return Err(error);
    }
    Ok(())
}

/// Does what its template asks for, unless that was done before it was anybody's.
pub(crate) async fn set_up(living: &Living, agent: &AgentClient) -> Result<()> {
    if living.was_warm {
        return Ok(());
    }
    match setup::run(&living.recipe, agent).await {
        Ok(()) => Ok(()),
        Err(setup::Failed::Command(message)) => Err(Error::conflict("setup_failed", message)),
        Err(setup::Failed::Agent(error)) => Err(living.failed(error).await),
    }
}

async fn existing(core: &Arc<Core>, tenant: &Tenant, holder: SandboxId) -> Result<Option<Created>> {
    if !core.registry.has(Hosted::Sandbox(holder)) {
        return hosted_elsewhere(core, tenant, holder).await;
    }
    let living = match stopped::awake(core, tenant, holder).await {
        Err(Error::Gone { .. } | Error::NotFound { .. }) => return Ok(None),
        living => living?,
    };
    if living.state() == State::Stopping {
        living.over().await;
        return Ok(None);
    }
    match living.ready_agent().await {
        Ok(_) => {
            living.activity.touch();
            Ok(Some(Created::Existing(living.now())))
        }
        Err(Error::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// One that another server hosts is known by its record, which says when it runs, is stopped until it is used, and has ended.
async fn hosted_elsewhere(core: &Core, tenant: &Tenant, holder: SandboxId) -> Result<Option<Created>> {
    let begun = Instant::now();
    loop {
        match core.host(Hosted::Sandbox(holder)).await? {
            Host::Here => return Ok(None),
            Host::Away(_) => return Err(core.not_here(holder).await),
            Host::At(_) => {}
        }
        match core.store.sandbox(tenant, holder).await.map_err(store_error)? {
            Some(sandbox) if matches!(sandbox.state, State::Running | State::Stopped) => return Ok(Some(Created::Existing(sandbox))),
            Some(sandbox) if sandbox.state != State::Ended && begun.elapsed() < LAUNCH_WITHIN => tokio::time::sleep(LOOK_AGAIN).await,
            Some(sandbox) if sandbox.state != State::Ended => return Err(core.not_here(holder).await),
            _ => return Ok(None),
        }
    }
}
