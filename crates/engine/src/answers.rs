//! Answers that are kept for requests that come again.

use std::time::Duration;

use caisson_core::{KeptAnswer, Result};

use crate::{
    Engine,
    core::{now, store_error},
};

/// How long an answer is kept, or as long as records where that is shorter.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

impl Engine {
    /// The answer that this tenant was given under this key.
    pub async fn kept_answer(&self, key: &str) -> Result<Option<KeptAnswer>> {
        self.core.ledger()?.kept_answer(&self.tenant, key).await.map_err(store_error)
    }

    /// Keeps an answer. The first one of a key stays.
    pub async fn keep_answer(&self, key: &str, answer: &KeptAnswer) -> Result<()> {
        self.core.ledger()?.keep_answer(&self.tenant, key, answer, now()).await.map_err(store_error)
    }
}
