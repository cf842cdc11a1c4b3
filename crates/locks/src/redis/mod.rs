//! Locks of several servers, in one Redis.
//!
//! ```text
//! prefix + name      token of the holder, with a time to live    ── only scripts write it, and those of a holder only while it is the holder's
//! prefix + "#fence"  the last number that a holder got           ── outlives all locks, grows
//! prefix + "#left:" + token   of whoever left without an answer    ── what they asked for gets nothing any more
//! ```
//!
//! A holder renews its lock again and again. It counts it as lost when the time to live has passed since it last *sent* a renewal that was
//! answered, which is before Redis gives the lock to another one. Numbers are never below the time in microseconds, so that they grow also
//! when Redis has forgotten everything.

mod connection;
mod url;

use std::{fmt, sync::Arc, time::Duration};

use redis::Cmd;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use self::connection::{Connection, Failed};
pub use self::url::{BadUrl, RedisUrl};
use crate::{LockError, turns::Turn};

/// Of a name, the number of its holder.
const ACQUIRE: &str = "
if redis.call('GET', KEYS[3]) then return 0 end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) == false then
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local number, time = redis.call('INCR', KEYS[2]), redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if number < now then
    number = now
    redis.call('SET', KEYS[2], string.format('%.0f', now))
end
return number";
const RENEW: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('PEXPIRE', KEYS[1], ARGV[2])";
const RELEASE: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])";
/// The same where [`ACQUIRE`] was not answered: it may come yet, on a connection that was given up.
const LEAVE: &str = "
local released = 0
if redis.call('GET', KEYS[1]) == ARGV[1] then released = redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[3], 1, 'PX', ARGV[2])
return released";

/// After this time a request that has failed is made again.
const AGAIN: Duration = Duration::from_secs(1);

/// How locks in Redis are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// In front of every name. Whoever has the same one shares the locks.
    pub prefix: String,
    /// A lock of somebody who is gone is free after this time.
    pub ttl: Duration,
    /// A lock is renewed that often.
    pub refresh: Duration,
    /// Whoever waits looks that often.
    pub look: Duration,
    /// Redis answers within this time, or is not available.
    pub answer: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefix: "daiv-sandbox:session-lock:".to_owned(),
            ttl: Duration::from_secs(900),
            refresh: Duration::from_secs(30),
            look: Duration::from_millis(100),
            answer: Duration::from_secs(5),
        }
    }
}

/// Settings that are no good together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    #[error("locks are to be renewed every {refresh:?} and live for {ttl:?}; renew them more often than that")]
    RenewedTooLate { refresh: Duration, ttl: Duration },
    #[error("a time is zero or less than a millisecond; make it longer")]
    NoTime,
    #[error("the names of locks in Redis have no prefix; name one")]
    NoPrefix,
}

#[derive(Debug)]
pub(crate) struct Redis {
    connection: Connection,
    settings: Settings,
    /// Locks that are being released.
    releasing: TaskTracker,
}

/// A name and who wants it.
#[derive(Debug)]
struct Lock {
    redis: Arc<Redis>,
    name: String,
    token: String,
    /// It is ours until then.
    until: watch::Sender<Instant>,
}

/// A lock that is ours, or may be so. It is released when this is dropped.
struct Claim {
    lock: Arc<Lock>,
    runtime: Handle,
    /// What releases it, if it may be ours.
    release: Option<&'static str>,
    turn: Option<Turn>,
}

/// A lock that is ours, and is renewed.
pub(crate) struct Lease {
    claim: Claim,
    renewing: AbortHandle,
}

impl Redis {
    pub(crate) fn new(url: &RedisUrl, settings: Settings) -> Result<Self, BadSettings> {
        let Settings { ref prefix, ttl, refresh, look, answer } = settings;
        if prefix.is_empty() {
            return Err(BadSettings::NoPrefix);
        }
        if [ttl, refresh, look, answer].iter().any(|time| time.as_millis() == 0) {
            return Err(BadSettings::NoTime);
        }
        if refresh >= ttl {
            return Err(BadSettings::RenewedTooLate { refresh, ttl });
        }
        let releasing = TaskTracker::new();
        // So that it can be waited for.
        releasing.close();
        Ok(Self { connection: Connection::new(url.clone(), answer), settings, releasing })
    }

    /// For whoever has the turn of this process.
    pub(crate) async fn acquire(self: &Arc<Self>, turn: Turn, wait: Duration) -> Result<(u64, Lease), LockError> {
        let begun = Instant::now();
        let lock = Arc::new(Lock::new(Arc::clone(self), turn.key()));
        let mut claim = Claim { lock: Arc::clone(&lock), runtime: Handle::current(), release: None, turn: Some(turn) };
        loop {
            // Whoever leaves while it is asked for has got it, perhaps.
            claim.release = Some(LEAVE);
            let sent = Instant::now();
            match lock.ask(ACQUIRE).await {
                Ok(0) => claim.release = None,
                Ok(number) => {
                    claim.release = Some(RELEASE);
                    lock.until.send_replace(sent + self.settings.ttl);
                    let renewing = claim.runtime.spawn(lock.renew()).abort_handle();
                    return Ok((number, Lease { claim, renewing }));
                }
                Err(failed) => {
                    claim.release = failed.perhaps_done.then_some(LEAVE);
                    return Err(LockError::Unavailable(failed.reason));
                }
            }
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(LockError::Busy);
            }
            sleep(left.min(self.settings.look)).await;
        }
    }

    /// Everything that is done with a lock, with one that nobody else has.
    pub(crate) async fn check(self: &Arc<Self>) -> Result<(), LockError> {
        let mut lock = Lock::new(Arc::clone(self), "#check-");
        lock.name.push_str(&lock.token);
        for script in [ACQUIRE, RENEW, RELEASE] {
            lock.ask(script).await.map_err(|failed| LockError::Unavailable(failed.reason))?;
        }
        Ok(())
    }

    /// Why no locks are got for now, as far as is known.
    pub(crate) fn failing(&self) -> Option<String> {
        self.connection.failing()
    }

    /// Until what is being released is released, within the time of an answer.
    pub(crate) async fn settled(&self) {
        if timeout(self.settings.answer, self.releasing.wait()).await.is_err() {
            tracing::warn!("{} locks could not be released; they are free in {:?}", self.releasing.len(), self.settings.ttl);
        }
    }
}

impl Lock {
    fn new(redis: Arc<Redis>, name: &str) -> Self {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the kernel has randomness");
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { name: format!("{}{name}", redis.settings.prefix), redis, token, until: watch::channel(Instant::now()).0 }
    }

    /// Scripts do the same when they run twice for one token.
    async fn ask(&self, script: &str) -> Result<u64, Failed> {
        let Settings { prefix, ttl, .. } = &self.redis.settings;
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let mut command = Cmd::new();
        command.arg("EVAL").arg(script).arg(3).arg(&self.name).arg(format!("{prefix}#fence")).arg(format!("{prefix}#left:{}", self.token));
        command.arg(&self.token).arg(ttl);
        self.redis.connection.ask(&command).await
    }

    /// Until it is lost.
    async fn renew(self: Arc<Self>) {
        let Settings { ttl, refresh, .. } = self.redis.settings;
        let mut next = refresh;
        let why = loop {
            let until = *self.until.borrow();
            sleep_until(until.min(Instant::now() + next)).await;
            let sent = Instant::now();
            match timeout_at(until, self.ask(RENEW)).await {
                Ok(Ok(0)) => break "somebody else has it, or Redis has forgotten it",
                Ok(Ok(_)) => next = refresh,
                Ok(Err(_)) => {
                    next = refresh.min(AGAIN);
                    continue;
                }
                Err(_) => break "it could not be renewed in time",
            }
            // What has been said to be lost stays so.
            if !self.until.send_if_modified(|until| Instant::now() < *until && std::mem::replace(until, sent + ttl) < sent + ttl) {
                break "it was renewed too late";
            }
        };
        self.until.send_modify(|until| *until = Instant::now().min(*until));
        tracing::warn!("Lost the lock {}: {why}", self.name);
    }
}

impl Claim {
    /// Returns what ends when that was tried for the first time; if it has to be tried again, that is nobody's business.
    fn release(&mut self) -> Option<oneshot::Receiver<()>> {
        let script = self.release.take()?;
        let (trying, tried) = oneshot::channel::<()>();
        let (lock, turn) = (Arc::clone(&self.lock), self.turn.take());
        let release = async move {
            let given_up = Instant::now() + lock.redis.settings.ttl;
            let mut first = Some((turn, trying));
            loop {
                let answer = lock.ask(script).await;
                // The next one of this process may look, however it went.
                drop(first.take());
                match answer {
                    Err(failed) if failed.passes && Instant::now() < given_up => sleep(AGAIN).await,
                    _ => break,
                }
            }
        };
        drop(self.lock.redis.releasing.spawn_on(release, &self.runtime));
        Some(tried)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.release());
    }
}

impl Lease {
    pub(crate) fn name(&self) -> &str {
        &self.claim.lock.name
    }

    pub(crate) fn holds(&self) -> bool {
        Instant::now() < *self.claim.lock.until.borrow()
    }

    pub(crate) async fn lost(&self) {
        let mut until = self.claim.lock.until.subscribe();
        while self.holds() {
            let end = *until.borrow_and_update();
            // It changes, or it comes: both are looked at again. Its sender is here.
            drop(timeout_at(end, until.changed()).await);
        }
    }

    /// Until it is tried.
    pub(crate) async fn release(mut self) {
        self.renewing.abort();
        if let Some(tried) = self.claim.release() {
            // It sends nothing, it ends.
            tried.await.ok();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("lock", &self.claim.lock.name).finish_non_exhaustive()
    }
}
