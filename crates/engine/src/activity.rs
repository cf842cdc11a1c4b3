//! Whether somebody uses a sandbox, and when somebody last did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

/// Set in `uses` once nobody may begin any more.
const CLOSED: u64 = 1 << 63;
/// What one use of each kind is in `uses`. Of the first two there are as many as [`Activity::begin_within`] lets in, which is few.
const INSIDE: u64 = 1;
const RESTING: u64 = 1 << 16;
const OUTSIDE: u64 = 1 << 32;

/// Counts the uses that are going on. Beginning a use and declaring the sandbox idle exclude one another, so no request is
/// accepted by a sandbox that has just decided to end.
#[derive(Debug)]
pub(crate) struct Activity {
    uses: AtomicU64,
    born: Instant,
    born_at: Timestamp,
    last_us: AtomicU64,
}

/// Why a use cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoUse {
    /// Nothing new is taken.
    Closed,
    /// As many as may be go on already.
    Full,
}

/// A use that is going on; over when dropped.
#[derive(Debug)]
pub(crate) struct Use {
    activity: Arc<Activity>,
    /// What it is in `uses`.
    weight: u64,
}

/// Uses that something inside is asked for.
fn inside(uses: u64) -> u64 {
    uses % RESTING + uses % OUTSIDE / RESTING
}

/// Uses that keep the sandbox from being idle.
fn working(uses: u64) -> u64 {
    uses % RESTING + (uses & !CLOSED) / OUTSIDE
}

impl Activity {
    pub(crate) fn new(born_at: Timestamp) -> Self {
        Self { uses: AtomicU64::new(0), born: Instant::now(), born_at, last_us: AtomicU64::new(0) }
    }

    /// A use of which there may be any number, such as looking on. `None` when the sandbox takes nothing new.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Use> {
        self.count(OUTSIDE, |_| true).ok()
    }

    /// A use of what is inside, where no more than `most` may go on at one time.
    pub(crate) fn begin_within(self: &Arc<Self>, most: u16) -> Result<Use, NoUse> {
        self.count(INSIDE, |uses| inside(uses) < most.into())
    }

    fn count(self: &Arc<Self>, weight: u64, may: impl Fn(u64) -> bool) -> Result<Use, NoUse> {
        let one_more = |uses: u64| (uses & CLOSED == 0 && may(uses)).then_some(uses + weight);
        match self.uses.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => {
                self.touch();
                Ok(Use { activity: Arc::clone(self), weight })
            }
            Err(uses) if uses & CLOSED == 0 => Err(NoUse::Full),
            Err(_) => Err(NoUse::Closed),
        }
    }

    /// Notes that somebody asked for something.
    pub(crate) fn touch(&self) {
        let us = u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_us.fetch_max(us, Ordering::AcqRel);
    }

    /// Takes nothing new from now on.
    pub(crate) fn close(&self) {
        self.uses.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Takes nothing new from now on, unless it is in use.
    pub(crate) fn close_if_unused(&self) -> bool {
        let close = |uses: u64| (uses & CLOSED == 0 && working(uses) == 0).then_some(uses | CLOSED);
        self.uses.fetch_update(Ordering::AcqRel, Ordering::Acquire, close).is_ok()
    }

    pub(crate) fn in_use(&self) -> bool {
        working(self.uses.load(Ordering::Acquire)) > 0
    }

    /// When it was last used; now, while it is.
    pub(crate) fn last_used(&self) -> Instant {
        if self.in_use() { Instant::now() } else { self.born + Duration::from_micros(self.last_us.load(Ordering::Acquire)) }
    }

    /// The same for records.
    pub(crate) fn last_active_at(&self) -> Timestamp {
        self.born_at.checked_add(self.last_used() - self.born).unwrap_or(Timestamp::MAX)
    }

    /// By the clock of records.
    pub(crate) fn born_at(&self) -> Timestamp {
        self.born_at
    }

    pub(crate) fn born(&self) -> Instant {
        self.born
    }
}

impl Use {
    /// From now on it keeps the sandbox from being idle no more; it still counts as one of those there may be.
    pub(crate) fn rest(&mut self) {
        self.activity.touch();
        self.activity.uses.fetch_add(RESTING - self.weight, Ordering::AcqRel);
        self.weight = RESTING;
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.activity.touch();
        self.activity.uses.fetch_sub(self.weight, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_use_means_not_idle() {
        let activity = Arc::new(Activity::new(Timestamp::UNIX_EPOCH));
        let first = activity.begin().unwrap();
        assert!(!activity.close_if_unused());
        drop(first);
        assert!(activity.close_if_unused());
        assert!(activity.begin().is_none());
        assert!(!activity.in_use());
    }

    #[test]
    fn uses_can_be_bounded() {
        let activity = Arc::new(Activity::new(Timestamp::UNIX_EPOCH));
        // Whoever looks on takes nobody's place.
        let looking_on = [activity.begin().unwrap(), activity.begin().unwrap()];
        let first = activity.begin_within(1).unwrap();
        assert_eq!(activity.begin_within(1).unwrap_err(), NoUse::Full);
        drop(looking_on);
        assert!(activity.in_use());
        drop(first);
        assert!(!activity.in_use());
        drop(activity.begin_within(1).unwrap());
        activity.close();
        assert_eq!(activity.begin_within(1).unwrap_err(), NoUse::Closed);
    }

    #[test]
    fn a_use_that_rests_counts_and_keeps_nothing_alive() {
        let activity = Arc::new(Activity::new(Timestamp::UNIX_EPOCH));
        let mut resting = activity.begin_within(2).unwrap();
        resting.rest();
        resting.rest();
        assert!(!activity.in_use());
        let working = activity.begin_within(2).unwrap();
        assert!(activity.in_use() && !activity.close_if_unused());
        assert_eq!(activity.begin_within(2).unwrap_err(), NoUse::Full);
        drop(working);
        assert!(activity.close_if_unused());
        assert!(activity.begin().is_none() && !activity.close_if_unused());
        drop(resting);
        assert_eq!(activity.uses.load(Ordering::Acquire), CLOSED);
    }

    #[test]
    fn a_use_may_outlast_the_closing() {
        let activity = Arc::new(Activity::new(Timestamp::UNIX_EPOCH));
        let last = activity.begin().unwrap();
        activity.close();
        assert!(activity.in_use() && activity.begin().is_none());
        drop(last);
        assert!(!activity.in_use() && !activity.close_if_unused());
    }
    #[tokio::test(start_paused = true)]
    async fn its_clock_is_the_one_that_time_limits_are_waited_for_by() {
        let activity = Arc::new(Activity::new(Timestamp::UNIX_EPOCH));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((activity.born().elapsed().as_secs(), activity.last_used() - activity.born()), (60, Duration::ZERO));
        activity.touch();
        assert_eq!(activity.last_active_at().as_second(), 60);
    }
}
