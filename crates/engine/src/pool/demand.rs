//! How many warm sandboxes what has been asked for lately needs.

use std::time::Duration;

use caisson_core::Warmth;
use tokio::time::Instant;

/// Over about this long what was asked for counts; it fades, and does not end at once.
const WINDOW: f64 = 60.0;
/// So much more is kept than what is asked for while one is made: they are made one after the other, and not evenly asked for.
const SAFETY: f64 = 2.0;
/// Requests a second below which nothing is kept: one request is remembered for about a minute and a half.
const FORGOTTEN: f64 = 1.0 / 240.0;
/// Seconds that making one takes, until it is known.
const FIRST_GUESS: f64 = 0.05;
/// How much the last one made says about the next.
const LATEST: f64 = 0.3;

/// What was asked for of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    at: Instant,
    /// Requests a second.
    rate: f64,
    /// The most requests that came while one could have been made.
    peak: f64,
    interval: Instant,
    in_interval: f64,
    /// Seconds that making one takes.
    make: f64,
}

impl Demand {
    pub(crate) fn new(now: Instant) -> Self {
        Self { at: now, rate: 0.0, peak: 0.0, interval: now, in_interval: 0.0, make: FIRST_GUESS }
    }

    /// Somebody asks for one.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.fade(now);
        self.rate += 1.0 / WINDOW;
        if (now - self.interval).as_secs_f64() > self.make {
            (self.interval, self.in_interval) = (now, 0.0);
        }
        self.in_interval += 1.0;
        self.peak = self.peak.max(self.in_interval);
    }

    /// One was made, in this time.
    pub(crate) fn made(&mut self, took: Duration) {
        self.make += LATEST * (took.as_secs_f64() - self.make);
    }

    /// How many there should be.
    pub(crate) fn target(&mut self, now: Instant, warmth: &Warmth) -> u32 {
        self.fade(now);
        let wanted = if self.rate < FORGOTTEN { 0.0 } else { (self.rate * self.make * SAFETY).max(self.peak) };
        // Both bounds are small, and what is between them fits.
        let wanted = wanted.ceil().clamp(0.0, f64::from(warmth.max));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and a u32")]
        let wanted = wanted as u32;
        wanted.max(warmth.min).min(warmth.max)
    }

    /// Requests a second, now.
    pub(crate) fn rate(&mut self, now: Instant) -> f64 {
        self.fade(now);
        self.rate
    }

    fn fade(&mut self, now: Instant) {
        let left = (-(now.saturating_duration_since(self.at)).as_secs_f64() / WINDOW).exp();
        self.at = self.at.max(now);
        self.rate *= left;
        self.peak *= left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn warmth(min: u32, max: u32) -> Warmth {
        Warmth { min, max, ..Warmth::default() }
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let now = Instant::now();
        let mut demand = Demand::new(now);
        assert_eq!(demand.target(now, &warmth(0, 8)), 0);
        assert_eq!(demand.target(now, &warmth(2, 8)), 2);
        demand.asked(now);
        assert_eq!(demand.target(now + 60 * SECOND, &warmth(0, 8)), 1, "one is kept for whoever comes back");
        assert_eq!(demand.target(now + 120 * SECOND, &warmth(0, 8)), 0, "and not for ever");
        assert_eq!(demand.target(now + 120 * SECOND, &warmth(3, 8)), 3);
    }

    #[test]
    fn what_is_asked_for_at_once_is_kept_and_fades() {
        let now = Instant::now();
        let mut demand = Demand::new(now);
        for _ in 0..5 {
            demand.asked(now);
        }
        assert_eq!(demand.target(now, &warmth(0, 8)), 5);
        assert_eq!(demand.target(now, &warmth(0, 3)), 3);
        let later = demand.target(now + 60 * SECOND, &warmth(0, 8));
        assert!((1..4).contains(&later), "{later}");
        assert_eq!(demand.target(now + 600 * SECOND, &warmth(0, 8)), 0);
    }

    #[test]
    fn a_rate_needs_more_where_making_takes_longer() {
        let now = Instant::now();
        let of = |make: Duration| {
            let mut demand = Demand::new(now);
            for _ in 0..50 {
                demand.made(make);
            }
            // Four a second for four minutes.
            for n in 0..960 {
                demand.asked(now + n * SECOND / 4);
            }
            demand.target(now + 240 * SECOND, &warmth(0, 100))
        };
        assert_eq!(of(Duration::from_millis(20)), 1);
        let slow = of(Duration::from_secs(3));
        assert!((20..30).contains(&slow), "{slow}");
    }

    #[test]
    fn a_clock_that_stands_still_harms_nothing() {
        let now = Instant::now() + SECOND;
        let mut demand = Demand::new(now);
        demand.asked(now);
        demand.asked(now - SECOND);
        assert!(demand.target(now - SECOND, &warmth(0, 9)) >= 1 && demand.rate(now) > 0.0);
    }
}
