//! How much has gone, and how fast it may.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use caisson_core::EgressLimits;
use tokio::{sync::watch, time::Instant};

/// So much of a second may go at once.
const AT_ONCE: f64 = 0.25;

/// What has gone both ways, for a limit and a rate.
#[derive(Debug, Default)]
pub(super) struct Meter {
    gone: AtomicU64,
    /// Whether the limit is reached.
    spent: watch::Sender<bool>,
    /// How many bytes have gone before their time, when it was last looked at.
    ahead: Mutex<Option<(Instant, f64)>>,
}

impl Meter {
    /// Counts bytes; returns how long to wait before more.
    pub(super) fn passed(&self, count: usize, limits: EgressLimits) -> Option<Duration> {
        let gone = self.gone.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        if limits.max_bytes.is_some_and(|max| gone >= max) {
            self.spent.send_if_modified(|spent| !std::mem::replace(spent, true));
        }
        let rate = limits.bytes_per_second? as f64;
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (since, bytes) = ahead.unwrap_or((now, 0.0));
        let bytes = (bytes - since.elapsed().as_secs_f64() * rate).max(-rate * AT_ONCE) + count as f64;
        *ahead = Some((now, bytes));
        (bytes > 0.0).then(|| Duration::from_secs_f64(bytes / rate))
    }

    pub(super) fn is_spent(&self) -> bool {
        *self.spent.borrow()
    }

    /// Returns when the limit is reached.
    pub(super) async fn when_spent(&self) {
        // It is never closed.
        self.spent.subscribe().wait_for(|spent| *spent).await.ok();
    }

    /// From now on.
    pub(super) fn hold(&self, limits: EgressLimits) {
        let gone = self.gone.load(Ordering::Relaxed);
        self.spent.send_replace(limits.max_bytes.is_some_and(|max| gone >= max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_goes_is_counted_and_paced() {
        let meter = Meter::default();
        let limits = EgressLimits { max_bytes: Some(3000), bytes_per_second: Some(1000) };
        let wait = meter.passed(1000, limits).unwrap();
        assert!((0.9..=1.0).contains(&wait.as_secs_f64()), "{wait:?}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(meter.passed(250, limits), None, "a quarter of a second was saved, and no more");
        assert!(meter.passed(1000, limits).is_some() && !meter.is_spent());
        meter.passed(750, limits);
        meter.when_spent().await;
        assert!(meter.is_spent());
        meter.hold(EgressLimits { max_bytes: Some(4000), bytes_per_second: None });
        assert!(!meter.is_spent() && meter.passed(999, EgressLimits::default()).is_none());
    }
}
