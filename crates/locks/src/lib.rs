//! Locks by name: one holder at a time, the others wait for a bounded time.
//!
//! Every holder gets a number, [`Held::fence`], which is greater than those of all holders before. Whoever writes somewhere on a lock's word
//! can have a write with an older number refused there: that is how a holder that stalled without knowing it does no harm.

mod turns;

use std::{fmt, future, time::Duration};

use turns::{Turn, Turns};

/// Locks of one server. Clones are the same locks.
#[derive(Debug, Clone)]
pub struct Locks {
    turns: Turns,
}

/// Why a lock was not got.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Somebody held it all the time.
    #[error("somebody else holds the lock")]
    Busy,
    /// Nobody can say who holds it.
    #[error("{0}")]
    Unavailable(String),
}

/// A lock that is held. It is released when this is dropped.
#[must_use = "the lock is released when this is dropped"]
pub struct Held {
    fence: u64,
    turn: Turn,
}

impl Locks {
    /// For a server that is alone. Who waits gets the lock in the order of asking.
    #[must_use]
    pub fn in_process() -> Self {
        Self { turns: Turns::default() }
    }

    /// The lock of this name, as soon as it is free and within `wait`. Whoever stops waiting has not got it.
    pub async fn acquire(&self, key: &str, wait: Duration) -> Result<Held, LockError> {
        let turn = self.turns.take(key, wait).await.ok_or(LockError::Busy)?;
        Ok(Held { fence: self.turns.number(), turn })
    }
}

impl Held {
    /// Greater than that of every holder before.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Whether it is held still.
    #[must_use]
    pub fn holds(&self) -> bool {
        true
    }

    /// Returns when it is held no more. Losing a race against something else is harmless.
    pub async fn lost(&self) {
        future::pending().await
    }

    /// Releases it, and returns when the next one can have it.
    #[expect(clippy::unused_async, reason = "there is nothing to wait for in one process")]
    pub async fn release(self) {
        drop(self);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("key", &self.turn.key()).field("fence", &self.fence).finish_non_exhaustive()
    }
}
