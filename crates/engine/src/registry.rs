//! Everything that is alive: sandboxes that have not ended and executions that run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use caisson_core::{Error, ExecutionId, Result, SandboxId, State};

use crate::{core::unavailable, execution::RunningExecution, sandbox::Living};

#[derive(Debug, Default)]
pub(crate) struct Registry {
    sandboxes: Mutex<HashMap<SandboxId, Arc<Living>>>,
    executions: Mutex<HashMap<ExecutionId, Arc<RunningExecution>>>,
}

impl Registry {
    /// Admits a new sandbox unless there are `max` already.
    pub(crate) fn admit(&self, living: Arc<Living>, max: usize) -> Result<()> {
        let mut sandboxes = self.lock_sandboxes();
        if sandboxes.len() >= max {
            return Err(unavailable(format!("this server holds its maximum of {max} sandboxes; destroy some or try again later")));
        }
        sandboxes.insert(living.id, living);
        Ok(())
    }

    pub(crate) fn sandbox(&self, id: SandboxId) -> Option<Arc<Living>> {
        self.lock_sandboxes().get(&id).cloned()
    }

    /// The holder of this name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Living>> {
        self.lock_sandboxes().values().find(|living| living.holds(name)).cloned()
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Living>> {
        self.lock_sandboxes().values().cloned().collect()
    }

    pub(crate) fn forget_sandbox(&self, id: SandboxId) {
        self.lock_sandboxes().remove(&id);
    }

    /// How many sandboxes are in which state of their lives.
    pub(crate) fn count(&self) -> Vec<(State, u64)> {
        let sandboxes = self.lock_sandboxes();
        let living = State::ALL.into_iter().filter(|state| *state != State::Ended);
        living.map(|state| (state, sandboxes.values().filter(|s| s.state() == state).count() as u64)).collect()
    }

    pub(crate) fn add_execution(&self, execution: Arc<RunningExecution>) {
        self.lock_executions().insert(execution.started.id, execution);
    }

    pub(crate) fn execution(&self, id: ExecutionId) -> Option<Arc<RunningExecution>> {
        self.lock_executions().get(&id).cloned()
    }

    pub(crate) fn forget_execution(&self, id: ExecutionId) {
        self.lock_executions().remove(&id);
    }

    pub(crate) fn running_executions(&self) -> u64 {
        self.lock_executions().len() as u64
    }

    fn lock_sandboxes(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<Living>>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
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
