//! Locks by name: one holder at a time, the others wait for a bounded time.
//!
//! Every holder gets a number, [`Held::fence`], which is greater than those of all holders before. Whoever writes somewhere on a lock's word
//! can have a write with an older number refused there: that is how a holder that stalled without knowing it does no harm.

mod redis;
mod turns;

use std::{fmt, future, sync::Arc, time::Duration};

use tokio::time::Instant;

pub use self::redis::{BadSettings, BadUrl, RedisUrl, Settings};
use self::{
    redis::{Lease, Redis},
    turns::{Turn, Turns},
};

/// Locks of one server, or of all that share a Redis. Clones are the same locks.
#[derive(Debug, Clone)]
pub struct Locks {
    /// In front of Redis as well: of those who wait in one process, the first one asks.
    turns: Turns,
    redis: Option<Arc<Redis>>,
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
    by: By,
}

/// What holds it.
enum By {
    Process(Turn),
    Redis(Box<Lease>),
}

impl Locks {
    /// For a server that is alone. Who waits gets the lock in the order of asking.
    #[must_use]
    pub fn in_process() -> Self {
        Self { turns: Turns::default(), redis: None }
    }

    /// For all servers with the same Redis and prefix. Nothing is asked yet; [`Self::check`] does. Names may not begin with `#`.
    pub fn redis(url: &RedisUrl, settings: Settings) -> Result<Self, BadSettings> {
        Ok(Self { turns: Turns::default(), redis: Some(Arc::new(Redis::new(url, settings)?)) })
    }

    /// Whether locks can be got, and if not, why.
    pub async fn check(&self) -> Result<(), LockError> {
        match &self.redis {
            None => Ok(()),
            Some(redis) => redis.check().await,
        }
    }

    /// The lock of this name, as soon as it is free and within `wait`. Whoever stops waiting has not got it.
    ///
    /// A Redis that does not answer is not waited for longer than [`Settings::answer`].
    pub async fn acquire(&self, key: &str, wait: Duration) -> Result<Held, LockError> {
        let begun = Instant::now();
        let turn = self.turns.take(key, wait).await.ok_or_else(|| self.waited_in_vain())?;
        let Some(redis) = &self.redis else {
            return Ok(Held { fence: self.turns.number(), by: By::Process(turn) });
        };
        let (fence, lease) = redis.acquire(turn, wait.saturating_sub(begun.elapsed())).await?;
        Ok(Held { fence, by: By::Redis(Box::new(lease)) })
    }

    /// Whoever was first may have waited for a Redis that does not answer.
    fn waited_in_vain(&self) -> LockError {
        self.redis.as_ref().and_then(|redis| redis.failing()).map_or(LockError::Busy, LockError::Unavailable)
    }

    /// Until locks that were dropped are free for others, or that has failed. For the end of a server.
    pub async fn settled(&self) {
        if let Some(redis) = &self.redis {
            redis.settled().await;
        }
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
        match &self.by {
            By::Process(_) => true,
            By::Redis(lease) => lease.holds(),
        }
    }

    /// Returns when it is held no more: another server may have it. In this process nobody gets it until this is dropped, whatever happens.
    /// Cancel-safe.
    pub async fn lost(&self) {
        match &self.by {
            By::Process(_) => future::pending().await,
            By::Redis(lease) => lease.lost().await,
        }
    }

    /// Releases it, and returns when the next one can have it or Redis does not answer.
    pub async fn release(self) {
        match self.by {
            By::Process(turn) => drop(turn),
            By::Redis(lease) => lease.release().await,
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.by {
            By::Process(turn) => turn.key(),
            By::Redis(lease) => lease.name(),
        };
        f.debug_struct("Held").field("name", &name).field("fence", &self.fence).finish_non_exhaustive()
    }
}
