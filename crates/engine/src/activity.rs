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
pub(crate) struct Use(Arc<Activity>);

impl Activity {
    pub(crate) fn new(born_at: Timestamp) -> Self {
        Self { uses: AtomicU64::new(0), born: Instant::now(), born_at, last_us: AtomicU64::new(0) }
    }

    /// `None` when the sandbox takes nothing new.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Use> {
        self.begin_within(u64::MAX).ok()
    }

    /// The same where no more than `most` uses may go on at one time.
    pub(crate) fn begin_within(self: &Arc<Self>, most: u64) -> Result<Use, NoUse> {
        let one_more = |uses: u64| (uses & CLOSED == 0 && uses < most).then_some(uses + 1);
        match self.uses.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => {
                self.touch();
                Ok(Use(Arc::clone(self)))
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
        self.uses.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(crate) fn in_use(&self) -> bool {
        self.uses.load(Ordering::Acquire) & !CLOSED > 0
    }

    /// When it was last used; now, while it is.
    pub(crate) fn last_used(&self) -> Instant {
        if self.in_use() { Instant::now() } else { self.born + Duration::from_micros(self.last_us.load(Ordering::Acquire)) }
    }

    /// The same for records.
    pub(crate) fn last_active_at(&self) -> Timestamp {
        self.born_at.checked_add(self.last_used() - self.born).unwrap_or(Timestamp::MAX)
    }

    pub(crate) fn born(&self) -> Instant {
        self.born
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.touch();
        self.0.uses.fetch_sub(1, Ordering::AcqRel);
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
        let first = activity.begin_within(1).unwrap();
        assert_eq!(activity.begin_within(1).unwrap_err(), NoUse::Full);
        drop(activity.begin().unwrap());
        drop(first);
        drop(activity.begin_within(1).unwrap());
        activity.close();
        assert_eq!(activity.begin_within(1).unwrap_err(), NoUse::Closed);
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
