//! How long things may take.

use std::{
    env, thread,
    time::{Duration, Instant},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// An allowance, stretched by `CAISSON_SLOWER` on machines that need it.
#[must_use]
pub fn allowed(duration: Duration) -> Duration {
    let Some(text) = env::var_os("CAISSON_SLOWER") else { return duration };
    let factor = text.to_str().and_then(|text| text.parse::<f64>().ok()).filter(|factor| (1.0..=1000.0).contains(factor));
    duration.mul_f64(factor.expect("CAISSON_SLOWER is a number from 1 to 1000"))
}

/// Looks again and again until there is something to see; panics with `what` when there is nothing within the (stretched) limit.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    let limit = allowed(limit);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(PAUSE);
    }
}
