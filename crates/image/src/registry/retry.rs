//! When to ask again.

use std::time::Duration;

use http::{HeaderMap, header};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

/// Attempts in all.
const TRIES: u32 = 5;
const SHORTEST: Duration = Duration::from_millis(250);
/// A registry that asks for more is not waited for: whoever wants the image may decide that.
const LONGEST_ASKED: Duration = Duration::from_secs(30);

/// How long to wait after so many failures in a row, if it is worth it: twice as long each time, give or take a half by chance, so that not
/// all come back at once.
pub(super) fn pause(failures: u32, asked: Option<Duration>) -> Option<Duration> {
    if failures >= TRIES || asked.is_some_and(|asked| asked > LONGEST_ASKED) {
        return None;
    }
    let doubled = SHORTEST * (1 << failures.saturating_sub(1).min(10));
    let mut random = [0];
    // Without chance it is the longest.
    let share = if getrandom::fill(&mut random).is_ok() { f64::from(random[0]) / 255.0 } else { 1.0 };
    Some(doubled.mul_f64(0.5 + share / 2.0).max(asked.unwrap_or_default()))
}

/// What the registry asks for: seconds, or a date.
pub(super) fn asked(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(now.duration_until(at).try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        for (failures, least, most) in [(1, 125, 250), (2, 250, 500), (4, 1000, 2000)] {
            let pause = pause(failures, None).unwrap().as_millis();
            assert!((least..=most).contains(&pause), "{failures}: {pause}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(pause(1, Some(second * 3)), Some(second * 3));
        assert_eq!((pause(5, None), pause(1, Some(second * 31))), (None, None));
    }

    #[test]
    fn registries_ask_in_seconds_or_with_a_date() {
        let now: Timestamp = "1994-11-06T08:49:07Z".parse().unwrap();
        let asked = |text: &str| asked(&HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]), now);
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:48:37 GMT"), Some(Duration::ZERO));
        assert_eq!((asked("soon"), asked("-1")), (None, None));
    }
}
