//! Records in memory. Behaves as `core::Store` demands, and forgets on request, so that a million inputs cost no more than one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use caisson_core::{
    Execution, ExecutionFilter, ExecutionId, Outcome, Page, Sandbox, SandboxFilter, SandboxId, State, Store, StoreError, Tenant, Tombstone,
};
use jiff::Timestamp;

/// See the module.
#[derive(Debug, Default)]
pub struct Records {
    sandboxes: Mutex<HashMap<SandboxId, Sandbox>>,
    executions: Mutex<HashMap<ExecutionId, Execution>>,
}

impl Records {
    /// How many sandboxes have not ended.
    pub fn living(&self) -> usize {
        lock(&self.sandboxes).values().filter(|sandbox| sandbox.state != State::Ended).count()
    }

    /// Forgets all that belongs to ended sandboxes.
    pub fn forget_the_ended(&self) {
        let mut sandboxes = lock(&self.sandboxes);
        sandboxes.retain(|_, sandbox| sandbox.state != State::Ended);
        lock(&self.executions).retain(|_, execution| sandboxes.contains_key(&execution.sandbox));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for Records {
    async fn insert_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        let mut sandboxes = lock(&self.sandboxes);
        let taken = |other: &&Sandbox| sandbox.name.is_some() && other.name == sandbox.name && other.state != State::Ended;
        if let Some(holder) = sandboxes.values().find(taken) {
            return Err(StoreError::NameTaken(holder.id));
        }
        sandboxes.insert(sandbox.id, sandbox.clone());
        Ok(())
    }

    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        if let Some(known) = lock(&self.sandboxes).get_mut(&sandbox.id).filter(|known| known.state != State::Ended) {
            known.clone_from(sandbox);
        }
        Ok(())
    }

    async fn sandbox(&self, _: &Tenant, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        Ok(lock(&self.sandboxes).get(&id).cloned())
    }

    async fn sandboxes(&self, _: &Tenant, _: &SandboxFilter) -> Result<Page<Sandbox>, StoreError> {
        Ok(Page { data: lock(&self.sandboxes).values().cloned().collect(), next_cursor: None })
    }

    async fn insert_execution(&self, execution: &Execution) -> Result<(), StoreError> {
        lock(&self.executions).insert(execution.id, execution.clone());
        Ok(())
    }

    async fn finish_execution(&self, id: ExecutionId, outcome: &Outcome) -> Result<(), StoreError> {
        if let Some(known) = lock(&self.executions).get_mut(&id) {
            known.outcome.get_or_insert_with(|| outcome.clone());
        }
        Ok(())
    }

    async fn execution(&self, _: &Tenant, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
        Ok(lock(&self.executions).get(&id).cloned())
    }

    async fn executions(&self, _: &Tenant, filter: &ExecutionFilter) -> Result<Page<Execution>, StoreError> {
        let of_it = lock(&self.executions).values().filter(|execution| execution.sandbox == filter.sandbox).cloned().collect();
        Ok(Page { data: of_it, next_cursor: None })
    }

    async fn stopped(&self) -> Result<Vec<Sandbox>, StoreError> {
        Ok(Vec::new())
    }

    async fn bury_the_living(&self, _: &Tombstone, _: &[SandboxId]) -> Result<(u64, u64), StoreError> {
        Ok((0, 0))
    }

    async fn purge(&self, _: Timestamp) -> Result<Vec<ExecutionId>, StoreError> {
        Ok(Vec::new())
    }

    async fn purge_beyond(&self, _: u64) -> Result<Vec<ExecutionId>, StoreError> {
        Ok(Vec::new())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
