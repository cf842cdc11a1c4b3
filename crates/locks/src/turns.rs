//! Locks of one process: who asks first is first, and a name that nobody uses takes no memory.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex as TableMutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// All names that somebody holds or waits for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<Table>);

#[derive(Debug)]
struct Table {
    /// References to a lock are made and given up only while this is locked, those of guards aside, which go before those of their places.
    locks: TableMutex<HashMap<Arc<str>, Arc<Mutex<()>>>>,
    last_number: AtomicU64,
}

/// Whoever has this is alone with a name. The next one may when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    // Fields are dropped in this order.
    _alone: OwnedMutexGuard<()>,
    place: Place,
}

/// A place in the line of a name, or at its head.
#[derive(Debug)]
struct Place {
    table: Arc<Table>,
    key: Arc<str>,
    /// There until it is dropped.
    lock: Option<Arc<Mutex<()>>>,
}

impl Default for Table {
    fn default() -> Self {
        // From the clock, so that numbers grow over a restart as well.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let last_number = AtomicU64::new(u64::try_from(since.as_micros()).unwrap_or_default());
        Self { locks: TableMutex::default(), last_number }
    }
}

impl Turns {
    /// `None` when the time is over.
    pub(crate) async fn take(&self, key: &str, wait: Duration) -> Option<Turn> {
        let place = Place::new(Arc::clone(&self.0), key);
        let lock = place.lock.as_ref()?;
        // Only whoever finds it taken waits, so that no time is enough for a lock that is free.
        let alone = match Arc::clone(lock).try_lock_owned() {
            Ok(alone) => alone,
            Err(_) => tokio::time::timeout(wait, Arc::clone(lock).lock_owned()).await.ok()?,
        };
        Some(Turn { _alone: alone, place })
    }

    /// Greater than all before.
    pub(crate) fn number(&self) -> u64 {
        self.0.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Turn {
    pub(crate) fn key(&self) -> &str {
        &self.place.key
    }
}

impl Table {
    fn locks(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Mutex<()>>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn new(table: Arc<Table>, key: &str) -> Self {
        let key: Arc<str> = key.into();
        let lock = Arc::clone(table.locks().entry(Arc::clone(&key)).or_default());
        Self { table, key, lock: Some(lock) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut locks = self.table.locks();
        drop(self.lock.take());
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use futures::{future::join_all, poll};
    use tokio::time::Instant;

    use super::*;
    use crate::{LockError, Locks};

    const LONG: Duration = Duration::from_secs(3600);

    fn names(locks: &Locks) -> usize {
        locks.turns.0.locks().len()
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_names_are_apart() {
        let locks = Locks::in_process();
        let held = locks.acquire("a", Duration::ZERO).await.unwrap();
        let begun = Instant::now();
        assert_eq!(locks.acquire("a", Duration::from_secs(1)).await.unwrap_err(), LockError::Busy);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        assert_eq!(locks.clone().acquire("a", Duration::ZERO).await.unwrap_err(), LockError::Busy);
        let other = locks.acquire("b", Duration::ZERO).await.unwrap();
        assert!(held.holds() && other.fence() > held.fence());
        assert!(poll!(Box::pin(held.lost())).is_pending());
        let fence = held.fence();
        held.release().await;
        let next = locks.acquire("a", Duration::ZERO).await.unwrap();
        assert!(next.fence() > fence && !format!("{next:?}").is_empty());
        drop((next, other));
        assert_eq!(names(&locks), 0);
    }

    #[tokio::test]
    async fn who_waits_is_served_in_order_and_who_left_is_not() {
        let locks = Locks::in_process();
        let held = locks.acquire("a", Duration::ZERO).await.unwrap();
        let mut first = Box::pin(locks.acquire("a", LONG));
        let mut left = Box::pin(locks.acquire("a", LONG));
        let mut second = Box::pin(locks.acquire("a", LONG));
        assert!(poll!(&mut first).is_pending() && poll!(&mut left).is_pending() && poll!(&mut second).is_pending());
        drop(left);
        drop(held);
        assert!(poll!(&mut second).is_pending());
        let held = first.await.unwrap();
        assert!(poll!(&mut second).is_pending());
        let fence = held.fence();
        drop(held);
        assert!(second.await.unwrap().fence() > fence);
        assert_eq!(names(&locks), 0);
    }

    /// The lock is theirs already when they leave.
    #[tokio::test]
    async fn who_leaves_when_it_is_their_turn_gives_it_on() {
        let locks = Locks::in_process();
        let held = locks.acquire("a", Duration::ZERO).await.unwrap();
        let mut next = Box::pin(locks.acquire("a", LONG));
        assert!(poll!(&mut next).is_pending());
        drop(held);
        drop(next);
        assert_eq!(names(&locks), 0);
        drop(locks.acquire("a", Duration::ZERO).await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_at_once_are_never_two_at_once() {
        let locks = Locks::in_process();
        let inside: Arc<[AtomicBool; 3]> = Arc::default();
        let work = (0..300_usize).map(|n| {
            let (locks, inside) = (locks.clone(), Arc::clone(&inside));
            tokio::spawn(async move {
                let (key, wait) = (n % 3, if n % 5 == 0 { Duration::from_micros(50) } else { LONG });
                let Ok(held) = locks.acquire(&key.to_string(), wait).await else { return 0 };
                assert!(!inside[key].swap(true, Ordering::SeqCst), "{key} is taken");
                tokio::task::yield_now().await;
                assert!(inside[key].swap(false, Ordering::SeqCst));
                held.fence()
            })
        });
        let mut fences: Vec<u64> = join_all(work).await.into_iter().map(Result::unwrap).filter(|fence| *fence > 0).collect();
        let got = fences.len();
        fences.sort_unstable();
        fences.dedup();
        assert!(got >= 240 && fences.len() == got, "{got} got it");
        assert_eq!(names(&locks), 0);
    }
}
