//! From a sandbox to what an image is made of.

use std::sync::Arc;

use caisson_core::{BackendError, Changes, Error, Image, Result, SandboxId, StoredImage};
use tokio::sync::OwnedMutexGuard;

use crate::{
    Engine,
    activity::Use,
    core::{Core, unavailable},
    sandbox::Living,
};

/// A sandbox of which an image is being made: it is in use as long as this lives, its image stays where it is, and nobody else makes one of it.
pub struct Committing {
    core: Arc<Core>,
    living: Arc<Living>,
    image: Arc<StoredImage>,
    _use: Use,
    _alone: OwnedMutexGuard<()>,
}

impl std::fmt::Debug for Committing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committing").field("sandbox", &self.living.id).field("image", &self.image.name).finish_non_exhaustive()
    }
}

impl Engine {
    /// Begins to make an image of a living sandbox; waits for whoever is at it.
    pub async fn commit(&self, id: SandboxId) -> Result<Committing> {
        let living = self.living(id).await?;
        let Image::Stored(image) = &living.image else {
            let message = format!(
                "sandbox `{id}` is made of `{}`, which has no layers for others to be added to; make it of an image of the store \
                 (`caisson new --image alpine:3.20`)",
                living.image.name()
            );
            return Err(Error::invalid("unsupported", message));
        };
        let image = Arc::clone(image);
        let begun = living.begin().await?;
        let alone = Arc::clone(&living.committing).lock_owned().await;
        Ok(Committing { core: Arc::clone(&self.core), living, image, _use: begun, _alone: alone })
    }
}

impl Committing {
    /// The image below the changes.
    #[must_use]
    pub fn image(&self) -> &Arc<StoredImage> {
        &self.image
    }

    /// What has changed, as a tar in the form of a layer: see [`caisson_core::Backend::changes`].
    pub async fn changes(&self) -> Result<Changes> {
        let agent = self.living.ready_agent().await?;
        let given = match agent.given().await {
            // It was there before this agent, and what programs did to it before then is not to be left out.
            Ok(_) if self.living.now().starts > 1 => Vec::new(),
            Ok(given) => given,
            Err(error) => return Err(self.living.failed(error).await),
        };
        let changes = self.core.backend.changes(self.living.id, &given).await;
        changes.map_err(|error| match error {
            BackendError::Unsupported(message) => Error::unsupported(message),
            BackendError::Exhausted(message) => unavailable(format!("the sandbox cannot be read now: {message}")),
            BackendError::Broken(message) | BackendError::Failed(message) => {
                Error::internal("what has changed in a sandbox cannot be read", message)
            }
        })
    }
}
