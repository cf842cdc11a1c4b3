//! When to try again.

use std::time::Duration;

use http::{HeaderMap, header};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

/// After the first failure.
const SHORTEST: Duration = Duration::from_secs(1);
/// After many, and whatever the receiver asks for.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// How long to wait after so many failures in a row: twice as long as before each time, and between half of it and all of it, by chance
/// (`random`), so that receivers that come back are not asked by everybody at once. Longer, where the receiver has asked for it.
pub(super) fn pause(failures: u32, random: u8, asked: Option<Duration>) -> Duration {
    let doubled = SHORTEST.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LONGEST);
    let pause = doubled.mul_f64(0.5 + f64::from(random) / 510.0);
    pause.max(asked.unwrap_or_default().min(LONGEST))
}

/// What the receiver asks for: seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = DateTimeParser::new().parse_timestamp(text).ok()?;
    now.duration_until(at).try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let second = Duration::from_secs(1);
        for (failures, most) in [(1, 1), (2, 2), (3, 4), (4, 8), (12, 2048), (13, 3600), (14, 3600), (1000, 3600), (u32::MAX, 3600)] {
            assert_eq!(pause(failures, 255, None), second * most, "{failures}");
            assert_eq!(pause(failures, 0, None), second * most / 2, "{failures}");
        }
        assert_eq!(pause(0, 255, None), second);
        assert_eq!(pause(1, 255, Some(second * 30)), second * 30);
        assert_eq!(pause(9, 255, Some(second)), second * 256, "it cannot ask for less");
        assert_eq!(pause(1, 0, Some(Duration::MAX)), LONGEST, "nor for ever");
    }

    #[test]
    fn receivers_ask_in_seconds_or_with_a_date() {
        let now: Timestamp = "1994-11-06T08:49:07Z".parse().unwrap();
        let asked = |text: &str| retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]), now);
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(30)));
        for nothing in ["", "-1", "soon", "1.5", "Sun, 06 Nov 1994 08:48:37 GMT", "99999999999999999999"] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
