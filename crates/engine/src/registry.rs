//! Everything that is alive: sandboxes that have not ended and executions that run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use caisson_core::{Error, ExecutionId, Holdings, Quotas, Result, SandboxId, State, Tenant};

use crate::{
    core::unavailable,
    execution::RunningExecution,
    quotas::Account,
    sandbox::{Living, Purpose},
};

#[derive(Debug, Default)]
pub(crate) struct Registry {
    alive: Mutex<Alive>,
    executions: Mutex<HashMap<ExecutionId, Arc<RunningExecution>>>,
}

#[derive(Debug, Default)]
struct Alive {
    sandboxes: HashMap<SandboxId, Arc<Living>>,
    accounts: HashMap<Tenant, Account>,
}

impl Registry {
    /// Admits a new sandbox unless there are `max` already, or its tenant has as much as it may have. A one-shot is an execution as well.
    pub(crate) fn admit(&self, living: Arc<Living>, purpose: Purpose, max: usize, quotas: &Quotas) -> Result<()> {
        let mut alive = self.lock_alive();
        let Alive { sandboxes, accounts } = &mut *alive;
        let account = accounts.entry(living.tenant.clone()).or_default();
        let now = Instant::now();
        if purpose == Purpose::OneShot {
            account.may_execute(quotas, now).map_err(Error::OverQuota)?;
        }
        if sandboxes.len() >= max {
            return Err(unavailable(format!("this server holds its maximum of {max} sandboxes; destroy some or try again later")));
        }
        account.take(living.share, quotas).map_err(Error::OverQuota)?;
        if purpose == Purpose::OneShot {
            account.execute(quotas, now).map_err(Error::OverQuota)?;
        }
        sandboxes.insert(living.id, living);
        Ok(())
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

    /// Whose a sandbox is, for those who may know because they were let in to it.
    pub(crate) fn owner(&self, id: SandboxId) -> Option<Tenant> {
        self.lock_alive().sandboxes.get(&id).map(|living| living.tenant.clone())
    }

    /// The holder of this name among this tenant's.
    pub(crate) fn named(&self, tenant: &Tenant, name: &str) -> Option<Arc<Living>> {
        self.lock_alive().sandboxes.values().find(|living| living.tenant == *tenant && living.holds(name)).cloned()
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
    pub(crate) fn forget_sandbox(&self, id: SandboxId) {
        let mut alive = self.lock_alive();
        let Alive { sandboxes, accounts } = &mut *alive;
        if let Some(gone) = sandboxes.remove(&id)
            && let Some(account) = accounts.get_mut(&gone.tenant)
        {
            account.give_back(gone.share);
        }
    }

    /// How many sandboxes of all tenants are in which state of their lives.
    pub(crate) fn count(&self) -> Vec<(State, u64)> {
        let alive = self.lock_alive();
        let living = State::ALL.into_iter().filter(|state| *state != State::Ended);
        living.map(|state| (state, alive.sandboxes.values().filter(|s| s.state() == state).count() as u64)).collect()
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

/// There is no such sandbox.
pub(crate) fn unknown_sandbox(id: SandboxId) -> Error {
    Error::not_found("sandbox", id.to_string())
}

/// There is no such execution.
pub(crate) fn unknown_execution(id: ExecutionId) -> Error {
    Error::not_found("execution", id.to_string())
}
