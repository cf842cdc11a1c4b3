//! What tenants have, against what they may have. Kept under the registry's lock, so that no two requests share the last of something.

use std::time::{Duration, Instant};

use caisson_core::{Exceeded, Holdings, Quota, Quotas, Sandbox, Storage};

/// Within which executions are counted.
const SECONDS: usize = 60;

/// What one sandbox takes of its tenant's quotas, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
}

impl Share {
    /// What a stopped sandbox gives back, and takes again when it is started: its disk stays its own.
    pub(crate) fn without_disk(self) -> Self {
        Self { disk_bytes: 0, ..self }
    }

    pub(crate) fn of(sandbox: &Sandbox) -> Self {
        let limits = &sandbox.spec.limits;
        let disk_bytes = match sandbox.spec.storage {
            Storage::Disk => limits.disk_bytes,
            // Its files are memory, and counted there.
            Storage::Memory => 0,
        };
        Self { memory_bytes: limits.memory_bytes, disk_bytes }
    }
}

/// What one tenant has.
#[derive(Debug, Default)]
pub(crate) struct Account {
    sandboxes: u64,
    memory_bytes: u64,
    disk_bytes: u64,
    executions: LastMinute,
}

impl Account {
    /// Takes a share for a new sandbox, or nothing.
    pub(crate) fn take(&mut self, share: Share, quotas: &Quotas) -> Result<(), Exceeded> {
        let within = |quota, limit: Option<u64>, used: u64, asked: u64| match limit {
            Some(limit) if used.saturating_add(asked) > limit => Err(Exceeded { quota, limit, used, asked, retry_after: None }),
            _ => Ok(()),
        };
        within(Quota::Sandboxes, quotas.sandboxes, self.sandboxes, 1)?;
        within(Quota::MemoryBytes, quotas.memory_bytes, self.memory_bytes, share.memory_bytes)?;
        // Who takes nothing of it may come even where it was made smaller than what is in use.
        if share.disk_bytes > 0 {
            within(Quota::DiskBytes, quotas.disk_bytes, self.disk_bytes, share.disk_bytes)?;
        }
        self.sandboxes += 1;
        self.memory_bytes += share.memory_bytes;
        self.disk_bytes += share.disk_bytes;
        Ok(())
    }

    /// Gives a share back.
    pub(crate) fn give_back(&mut self, share: Share) {
        self.sandboxes = self.sandboxes.saturating_sub(1);
        self.memory_bytes = self.memory_bytes.saturating_sub(share.memory_bytes);
        self.disk_bytes = self.disk_bytes.saturating_sub(share.disk_bytes);
    }

    /// Takes the disk of a sandbox that was stopped before there were quotas to ask.
    pub(crate) fn hold_disk(&mut self, bytes: u64) {
        self.disk_bytes = self.disk_bytes.saturating_add(bytes);
    }

    /// Gives the disk of a stopped sandbox back.
    pub(crate) fn give_back_disk(&mut self, bytes: u64) {
        self.disk_bytes = self.disk_bytes.saturating_sub(bytes);
    }

    /// Counts an execution, or refuses it.
    pub(crate) fn execute(&mut self, quotas: &Quotas, now: Instant) -> Result<(), Exceeded> {
        self.may_execute(quotas, now)?;
        self.executions.add(now);
        Ok(())
    }

    /// Whether another execution is allowed.
    pub(crate) fn may_execute(&mut self, quotas: &Quotas, now: Instant) -> Result<(), Exceeded> {
        let used = self.executions.count(now);
        match quotas.executions_per_minute {
            Some(limit) if used >= limit => {
                let retry_after = Some(self.executions.below(limit, now));
                Err(Exceeded { quota: Quota::ExecutionsPerMinute, limit, used, asked: 1, retry_after })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn holdings(&mut self, now: Instant) -> Holdings {
        Holdings {
            sandboxes: self.sandboxes,
            executions_per_minute: self.executions.count(now),
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
            // Storage knows.
            workspace_bytes: None,
        }
    }
}

/// How often something happened in each of the last sixty seconds and in the present one: never less than within any minute.
#[derive(Debug)]
struct LastMinute {
    begin: Instant,
    /// The present second, counted from `begin`.
    second: u64,
    counts: [u64; SECONDS + 1],
}

impl Default for LastMinute {
    fn default() -> Self {
        Self { begin: Instant::now(), second: 0, counts: [0; SECONDS + 1] }
    }
}

impl LastMinute {
    fn add(&mut self, now: Instant) {
        self.turn(now);
        let slot = Self::slot(self.second);
        self.counts[slot] += 1;
    }

    fn count(&mut self, now: Instant) -> u64 {
        self.turn(now);
        self.counts.iter().sum()
    }

    /// How long until fewer than `limit` are counted; a minute where that never comes.
    fn below(&mut self, limit: u64, now: Instant) -> Duration {
        let mut left = self.count(now);
        let into_the_second = now.saturating_duration_since(self.begin).subsec_nanos();
        for ahead in 1..=SECONDS as u64 {
            // The second that is overwritten next is the oldest.
            left -= self.counts[Self::slot(self.second + ahead)];
            if left < limit {
                return Duration::from_secs(ahead).saturating_sub(Duration::from_nanos(into_the_second.into()));
            }
        }
        Duration::from_secs(SECONDS as u64)
    }

    /// Forgets what is older than a minute.
    fn turn(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.begin).as_secs();
        for passed in 1..=second.saturating_sub(self.second).min(self.counts.len() as u64) {
            let slot = Self::slot(self.second + passed);
            self.counts[slot] = 0;
        }
        self.second = self.second.max(second);
    }

    fn slot(second: u64) -> usize {
        usize::try_from(second % (SECONDS as u64 + 1)).expect("it is below sixty-one")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(memory_bytes: u64, disk_bytes: u64) -> Share {
        Share { memory_bytes, disk_bytes }
    }

    #[test]
    fn what_is_taken_can_be_given_back() {
        let quotas = Quotas { sandboxes: Some(2), memory_bytes: Some(100), disk_bytes: Some(10), ..Quotas::default() };
        let mut account = Account::default();
        account.take(share(60, 0), &quotas).unwrap();
        let refused = account.take(share(41, 0), &quotas).unwrap_err();
        assert_eq!((refused.quota, refused.limit, refused.used, refused.asked), (Quota::MemoryBytes, 100, 60, 41));
        assert_eq!(account.take(share(1, 11), &quotas).unwrap_err().quota, Quota::DiskBytes);
        account.take(share(40, 10), &quotas).unwrap();
        assert_eq!(account.take(share(0, 0), &quotas).unwrap_err().quota, Quota::Sandboxes);
        account.give_back(share(60, 0));
        account.take(share(60, 0), &quotas).unwrap();
        account.take(share(u64::MAX, u64::MAX), &Quotas { sandboxes: None, memory_bytes: Some(1 << 50), ..quotas }).unwrap_err();
        account.take(share(1 << 40, 1 << 40), &Quotas::default()).unwrap();
    }

    #[test]
    fn who_is_stopped_keeps_its_disk_alone() {
        let quotas = Quotas { sandboxes: Some(1), memory_bytes: Some(100), disk_bytes: Some(10), ..Quotas::default() };
        let mut account = Account::default();
        let whole = share(60, 10);
        account.take(whole, &quotas).unwrap();
        account.give_back(whole.without_disk());
        assert_eq!(account.take(whole, &quotas).unwrap_err().quota, Quota::DiskBytes);
        account.take(whole.without_disk(), &quotas).unwrap();
        account.give_back(whole);
        account.hold_disk(10);
        assert_eq!((account.sandboxes, account.memory_bytes, account.disk_bytes), (0, 0, 10));
        account.give_back_disk(10);
        account.take(whole, &quotas).unwrap();
    }

    #[test]
    fn disk_is_for_those_who_ask_for_it() {
        let none = Quotas { disk_bytes: Some(0), ..Quotas::default() };
        let mut account = Account::default();
        account.take(share(1, 0), &none).unwrap();
        assert_eq!(account.take(share(1, 1), &none).unwrap_err().limit, 0);
    }

    #[test]
    fn executions_are_counted_over_a_minute() {
        let quotas = Quotas { executions_per_minute: Some(3), ..Quotas::default() };
        let mut account = Account::default();
        let begin = Instant::now();
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        for seconds in [0.1, 10.2, 10.9] {
            account.execute(&quotas, at(seconds)).unwrap();
        }
        let refused = account.execute(&quotas, at(30.0)).unwrap_err();
        assert_eq!((refused.limit, refused.used), (3, 3));
        let after = refused.retry_after.unwrap();
        assert!((Duration::from_secs(29)..=Duration::from_secs(32)).contains(&after), "{after:?}");
        assert!(account.execute(&quotas, at(59.9)).is_err(), "it is not a minute yet");
        account.execute(&quotas, at(30.0) + after).unwrap();
        assert!(account.execute(&quotas, at(62.0)).is_err(), "the other two are not gone");
        assert_eq!(account.holdings(at(62.0)).executions_per_minute, 3);
        assert_eq!(account.holdings(at(1000.0)).executions_per_minute, 0);
    }

    #[test]
    fn whoever_may_do_nothing_is_told_a_minute() {
        let quotas = Quotas { executions_per_minute: Some(0), ..Quotas::default() };
        let refused = Account::default().execute(&quotas, Instant::now()).unwrap_err();
        assert_eq!((refused.used, refused.retry_after), (0, Some(Duration::from_secs(60))));
    }

    #[test]
    fn a_clock_that_stands_still_loses_nothing() {
        let quotas = Quotas { executions_per_minute: Some(2), ..Quotas::default() };
        let mut account = Account::default();
        let now = Instant::now() + Duration::from_secs(5);
        account.execute(&quotas, now).unwrap();
        account.execute(&quotas, now - Duration::from_secs(3)).unwrap();
        assert!(account.execute(&quotas, now).is_err());
    }
}
