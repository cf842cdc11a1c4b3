//! How long things may take.

use std::{
    env, thread,
    time::{Duration, Instant},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// By how much this machine is slower than those that the suites are written for.
fn slower() -> f64 {
    let Some(text) = env::var_os("CAISSON_SLOWER") else { return 1.0 };
    let factor = text.to_str().and_then(|text| text.parse::<f64>().ok()).filter(|factor| (1.0..=1000.0).contains(factor));
    factor.expect("CAISSON_SLOWER is a number from 1 to 1000")
}

/// An allowance, stretched by `CAISSON_SLOWER` on machines that need it.
#[must_use]
pub fn allowed(duration: Duration) -> Duration {
    duration.mul_f64(slower())
}

/// How many rounds or sandboxes a test makes: `count`, divided by `CAISSON_SLOWER`, at least one.
///
/// For tests that need *many* to show what they show, and no certain number: what leaks or goes wrong with each of ten thousand rounds does so
/// with each of a thousand, and figures that must stay flat are compared within one run. The slow machine is there for its other kernel and
/// its other control groups; the full count is made where the machine is fast. A test whose meaning is the number itself
/// (a limit, a table that must not overflow) does not use this.
#[must_use]
pub fn fewer(count: usize) -> usize {
    let fewer = (count as f64 / slower()) as usize;
    fewer.max(1)
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
