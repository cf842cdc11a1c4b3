//! Records for as long as the program runs.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use caisson_core::{
    Execution, ExecutionFilter, ExecutionId, ExecutionStatus, Outcome, Page, Sandbox, SandboxFilter, SandboxId, State, Store, StoreError,
    Tenant, Tombstone,
};
use jiff::Timestamp;

/// A store in memory for one tenant without keys. Lists come in one page.
#[derive(Debug, Default)]
pub(crate) struct Records(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    sandboxes: HashMap<SandboxId, Sandbox>,
    executions: HashMap<ExecutionId, Execution>,
}

impl Records {
    /// No operation leaves a table half changed.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for Records {
    async fn insert_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let namesake =
            tables.sandboxes.values().find(|other| sandbox.name.is_some() && other.name == sandbox.name && other.state != State::Ended);
        if let Some(namesake) = namesake {
            return Err(StoreError::NameTaken(namesake.id));
        }
        tables.sandboxes.insert(sandbox.id, sandbox.clone());
        Ok(())
    }

    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        if let Some(known) = self.tables().sandboxes.get_mut(&sandbox.id) {
            known.clone_from(sandbox);
        }
        Ok(())
    }

    async fn sandbox(&self, _: &Tenant, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        Ok(self.tables().sandboxes.get(&id).cloned())
    }

    async fn sandboxes(&self, _: &Tenant, filter: &SandboxFilter) -> Result<Page<Sandbox>, StoreError> {
        let wanted = |sandbox: &&Sandbox| {
            (filter.states.is_empty() || filter.states.contains(&sandbox.state))
                && filter.name.as_ref().is_none_or(|name| sandbox.name.as_ref() == Some(name))
                && filter.metadata.iter().all(|(key, value)| sandbox.metadata.get(key) == Some(value))
        };
        let mut data: Vec<Sandbox> = self.tables().sandboxes.values().filter(wanted).cloned().collect();
        data.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.created_at, sandbox.id)));
        Ok(Page { data, next_cursor: None })
    }

    async fn insert_execution(&self, execution: &Execution) -> Result<(), StoreError> {
        self.tables().executions.insert(execution.id, execution.clone());
        Ok(())
    }

    async fn finish_execution(&self, id: ExecutionId, outcome: &Outcome) -> Result<(), StoreError> {
        if let Some(execution) = self.tables().executions.get_mut(&id) {
            execution.outcome = Some(outcome.clone());
        }
        Ok(())
    }

    async fn execution(&self, _: &Tenant, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
        Ok(self.tables().executions.get(&id).cloned())
    }

    async fn executions(&self, _: &Tenant, filter: &ExecutionFilter) -> Result<Page<Execution>, StoreError> {
        let wanted = |execution: &&Execution| {
            execution.sandbox == filter.sandbox && (filter.statuses.is_empty() || filter.statuses.contains(&execution.status()))
        };
        let mut data: Vec<Execution> = self.tables().executions.values().filter(wanted).cloned().collect();
        data.sort_by_key(|execution| std::cmp::Reverse((execution.started_at, execution.id)));
        Ok(Page { data, next_cursor: None })
    }

    async fn bury_the_living(&self, _: &Tombstone, _: &[SandboxId]) -> Result<(u64, u64), StoreError> {
        // There was nobody before us.
        Ok((0, 0))
    }

    async fn stopped(&self) -> Result<Vec<Sandbox>, StoreError> {
        // Nor does anybody come after us.
        Ok(Vec::new())
    }

    async fn purge(&self, before: Timestamp) -> Result<Vec<ExecutionId>, StoreError> {
        let mut tables = self.tables();
        let Tables { sandboxes, executions } = &mut *tables;
        sandboxes.retain(|_, sandbox| sandbox.tombstone.as_ref().is_none_or(|tombstone| tombstone.at >= before));
        let orphaned =
            |execution: &Execution| execution.status() != ExecutionStatus::Running && !sandboxes.contains_key(&execution.sandbox);
        Ok(executions.extract_if(|_, execution| orphaned(execution)).map(|(id, _)| id).collect())
    }

    async fn purge_beyond(&self, kept: u64) -> Result<Vec<ExecutionId>, StoreError> {
        let mut ends: Vec<Timestamp> = self.tables().sandboxes.values().filter_map(|s| Some(s.tombstone.as_ref()?.at)).collect();
        ends.sort_unstable_by(|one, other| other.cmp(one));
        match usize::try_from(kept).ok().and_then(|kept| ends.get(kept.checked_sub(1)?)) {
            Some(last_kept) => self.purge(*last_kept).await,
            None => Ok(Vec::new()),
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
