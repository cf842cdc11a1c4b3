//! How often a user may ask.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use caisson_core::Tenant;

/// Requests that a user may make at once.
const BURST: f64 = 20.0;
/// And so many a second for ever.
const PER_SECOND: f64 = 10.0;
/// When it is worth to ask again.
pub(super) const REFILL: Duration = Duration::from_secs(1);
/// Buckets at one time. Full ones are as good as none.
const MOST: usize = 10_000;

/// A bucket of tokens for each user of a tenant.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<(Tenant, String), Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn tokens_at(&self, now: Instant) -> f64 {
        (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND).min(BURST)
    }
}

impl Rates {
    /// Takes a token, if there is one.
    pub(super) fn admits(&self, tenant: &Tenant, user: &str, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST {
            buckets.retain(|_, bucket| bucket.tokens_at(now) < BURST);
        }
        let key = (tenant.clone(), user.to_owned());
        if buckets.len() >= MOST && !buckets.contains_key(&key) {
            // Thousands of users within two seconds are one who makes names up.
            return false;
        }
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: BURST, at: now });
        let tokens = bucket.tokens_at(now);
        let admitted = tokens >= 1.0;
        *bucket = Bucket { tokens: if admitted { tokens - 1.0 } else { tokens }, at: now };
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_ten_a_second() {
        let (rates, tenant, begin) = (Rates::default(), Tenant::default(), Instant::now());
        let admitted = |user: &str, at: Duration, asked: usize| (0..asked).filter(|_| rates.admits(&tenant, user, begin + at)).count();
        assert_eq!(admitted("a", Duration::ZERO, 50), 20);
        assert_eq!(admitted("b", Duration::ZERO, 1), 1, "everybody has a bucket");
        assert_eq!(admitted("a", Duration::from_millis(99), 5), 0);
        assert_eq!(admitted("a", Duration::from_millis(1150), 50), 11, "what is refused costs nothing");
        assert_eq!(admitted("a", Duration::from_secs(1000), 50), 20, "no more than a burst is saved");
        assert!(rates.admits(&"other".parse().unwrap(), "a", begin + Duration::from_secs(1000)), "another tenant's user is another");
    }

    #[test]
    fn names_that_are_made_up_do_not_fill_memory() {
        let (rates, tenant, begin) = (Rates::default(), Tenant::default(), Instant::now());
        let admitted = (0..MOST + 10).filter(|user| rates.admits(&tenant, &user.to_string(), begin)).count();
        assert_eq!(admitted, MOST);
        assert!(rates.admits(&tenant, "0", begin), "who was there before stays");
        assert!(rates.admits(&tenant, "new", begin + Duration::from_secs(2)), "full buckets make room");
        assert!(rates.0.lock().unwrap().len() < 10);
    }
}
