//! What dialects keep. The engine knows nothing of it but that it is kept.

use caisson_core::{Document, Result, SandboxId, Tenant};

use crate::{Engine, core::store_error};

impl Engine {
    /// Whether there was none of that name.
    pub async fn insert_document(&self, document: &Document) -> Result<bool> {
        self.core.ledger()?.insert_document(document).await.map_err(store_error)
    }

    /// Whether there was one.
    pub async fn replace_document(&self, document: &Document) -> Result<bool> {
        self.core.ledger()?.replace_document(document).await.map_err(store_error)
    }

    /// Whether there was one.
    pub async fn remove_document(&self, kind: &str, owner: &str, id: &str) -> Result<bool> {
        self.core.ledger()?.remove_document(kind, owner, id).await.map_err(store_error)
    }

    pub async fn document(&self, kind: &str, owner: &str, id: &str) -> Result<Option<Document>> {
        self.core.ledger()?.document(kind, owner, id).await.map_err(store_error)
    }

    /// The oldest first.
    pub async fn documents(&self, kind: &str, owner: &str) -> Result<Vec<Document>> {
        self.core.ledger()?.documents(kind, owner).await.map_err(store_error)
    }

    /// Whose a sandbox is, living or ended. For whoever shows that they may know: to all others, what is another's was never there.
    pub async fn owner(&self, id: SandboxId) -> Result<Option<Tenant>> {
        match self.core.registry.owner(id) {
            Some(tenant) => Ok(Some(tenant)),
            None => self.core.ledger()?.owner(id).await.map_err(store_error),
        }
    }
}
