//! Spans of time.

use std::time::Duration;

use caisson_core::TimeLimits;
use caisson_server::native::types::Number;

const FORM: &str = "expected a time such as 30, 1.5s, 500ms, 10m, 2h or 7d (seconds where there is no unit)";

/// A time limit; `none` means no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeLimit(pub(crate) Option<Duration>);

impl TimeLimit {
    /// As the API takes it: absent where nothing was said, null for no limit.
    pub(crate) fn to_field(limit: Option<Self>) -> Option<Option<Number>> {
        limit.map(|Self(limit)| limit.map(Number::from))
    }
}

impl std::str::FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let limit = duration(text).map_err(|error| format!("{error}, or `none` for no limit"))?;
        if limit < Duration::from_millis(1) || limit > TimeLimits::MAX {
            return Err(format!("allowed is 1ms to {}d, or `none` for no limit", TimeLimits::MAX.as_secs() / 86_400));
        }
        Ok(Self(Some(limit)))
    }
}

/// A span from text like `30`, `1.5s`, `500ms`, `10m`, `2h` or `7d`. An error says what would be right.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (figure, unit) = text.split_at(digits);
    let seconds = match unit.trim_start() {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(FORM.to_owned()),
    };
    let figure: f64 = figure.parse().map_err(|_| FORM.to_owned())?;
    Duration::try_from_secs_f64(figure * seconds).map_err(|_| FORM.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        for (text, ms) in
            [("30", 30_000), ("1.5", 1500), ("1.5s", 1500), ("500ms", 500), ("10m", 600_000), ("2h", 7_200_000), ("7d", 604_800_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1", "1y", "1m30s", "inf", "nan", "1e3", "."] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_may_be_none_but_not_nothing() {
        assert_eq!("none".parse(), Ok(TimeLimit(None)));
        assert_eq!("1ms".parse(), Ok(TimeLimit(Some(Duration::from_millis(1)))));
        for text in ["0", "0.0001", "367d", "never"] {
            assert!(text.parse::<TimeLimit>().is_err(), "{text}");
        }
    }
}
