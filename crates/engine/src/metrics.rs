//! Counters of what happened, as plain numbers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use caisson_core::{ExecutionStatus, State, TombstoneReason};

use crate::egress::EgressSnapshot;

/// Upper bounds in seconds of the buckets of every histogram; one more bucket takes the rest.
pub const BUCKETS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// How often something took how long.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    pub count: u64,
    pub sum_seconds: f64,
    /// Not cumulated, in the order of [`BUCKETS`], the rest last.
    pub buckets: [u64; BUCKETS.len() + 1],
}

/// The engine in numbers, since its start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Sandboxes now; ended ones are in `ended`.
    pub sandboxes: Vec<(State, u64)>,
    /// Sandboxes that ended, by reason.
    pub ended: Vec<(TombstoneReason, u64)>,
    /// Sandboxes whose agent answered.
    pub launches: u64,
    pub launch_failures: u64,
    /// Executions that ended, and those running now.
    pub executions: Vec<(ExecutionStatus, u64)>,
    /// From the request until the agent answered.
    pub launch_seconds: Histogram,
    pub execution_seconds: Histogram,
    /// Bytes written by programs on both streams.
    pub output_bytes: u64,
    /// Sandboxes that nobody owns yet, those that are coming up and going down included.
    pub pooled: u64,
    /// Requests that wait for room.
    pub waiting: u64,
    pub pool: PoolSnapshot,
    pub egress: EgressSnapshot,
}

/// The warm pool in numbers: now, and since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolSnapshot {
    pub warm: u64,
    pub target: u64,
    /// Requests that got a warm sandbox, and those that could have had one and found none.
    pub hits: u64,
    pub misses: u64,
    /// Programs that a ready interpreter went on with.
    pub ready: u64,
    pub made: u64,
    pub failed: u64,
    /// Ended without anybody having had them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    ended: [AtomicU64; TombstoneReason::ALL.len()],
    launch_failures: AtomicU64,
    executions: [AtomicU64; ExecutionStatus::ALL.len()],
    launch: Durations,
    execution: Durations,
    output_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Durations {
    sum_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len() + 1],
}

impl Metrics {
    pub(crate) fn launched(&self, after: Duration) {
        self.launch.add(after);
    }

    pub(crate) fn launch_failed(&self) {
        self.launch_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sandbox_ended(&self, reason: TombstoneReason) {
        let index = TombstoneReason::ALL.iter().position(|r| *r == reason);
        self.ended[index.expect("ALL holds every reason")].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn execution_ended(&self, status: ExecutionStatus, after: Duration) {
        let index = ExecutionStatus::ALL.iter().position(|s| *s == status);
        self.executions[index.expect("ALL holds every status")].fetch_add(1, Ordering::Relaxed);
        self.execution.add(after);
    }

    pub(crate) fn output(&self, bytes: usize) {
        self.output_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The numbers now, given what only the registry knows.
    pub(crate) fn snapshot(&self, sandboxes: Vec<(State, u64)>, running: u64) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let launch_seconds = self.launch.histogram();
        let executions = ExecutionStatus::ALL
            .into_iter()
            .zip(&self.executions)
            .map(|(status, counter)| (status, if status == ExecutionStatus::Running { running } else { load(counter) }))
            .collect();
        Snapshot {
            sandboxes,
            ended: TombstoneReason::ALL.into_iter().zip(self.ended.iter().map(load)).collect(),
            launches: launch_seconds.count,
            launch_failures: load(&self.launch_failures),
            executions,
            launch_seconds,
            execution_seconds: self.execution.histogram(),
            output_bytes: load(&self.output_bytes),
            ..Snapshot::default()
        }
    }
}

impl Durations {
    fn add(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn histogram(&self) -> Histogram {
        let mut buckets = [0; BUCKETS.len() + 1];
        for (to, from) in buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        Histogram { count: buckets.iter().sum(), sum_seconds: sum.as_secs_f64(), buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_once() {
        let metrics = Metrics::default();
        for ms in [0, 1, 3, 1_000_000] {
            metrics.launched(Duration::from_millis(ms));
        }
        metrics.execution_ended(ExecutionStatus::Lost, Duration::from_secs(1));
        metrics.sandbox_ended(TombstoneReason::Lifetime);
        let seen = metrics.snapshot(vec![(State::Running, 3)], 7);
        assert_eq!((seen.launches, seen.launch_seconds.sum_seconds), (4, 1000.004));
        assert_eq!((seen.launch_seconds.buckets[0], seen.launch_seconds.buckets[2], seen.launch_seconds.buckets[BUCKETS.len()]), (2, 1, 1));
        assert!(seen.executions.contains(&(ExecutionStatus::Lost, 1)) && seen.executions.contains(&(ExecutionStatus::Running, 7)));
        assert!(seen.ended.contains(&(TombstoneReason::Lifetime, 1)));
    }
}
