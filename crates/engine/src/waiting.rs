//! Waiting for what becomes of a sandbox.

use caisson_core::{Result, Sandbox, SandboxId};

use crate::Engine;

impl Engine {
    /// The record as soon as it is as wanted, or the sandbox ends. Cancel-safe.
    pub async fn sandbox_when(&self, id: SandboxId, wanted: impl Fn(&Sandbox) -> bool) -> Result<Sandbox> {
        match self.core.registry.sandbox(&self.tenant, id) {
            Some(living) => Ok(living.when(|sandbox| wanted(sandbox) || sandbox.is_over()).await),
            None => self.sandbox(id).await,
        }
    }
}
