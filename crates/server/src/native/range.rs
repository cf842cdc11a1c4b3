//! Single byte ranges (RFC 9110 §14).

use std::ops::Range;

/// What a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: no range, or one that need not be understood.
    All,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing of the range exists.
    Unsatisfiable,
}

/// What of `size` bytes is wanted. Several ranges at once and other units count as none, as the standard allows.
pub(crate) fn wanted(header: Option<&[u8]>, size: u64) -> Wanted {
    let Some(range) = header.and_then(|value| std::str::from_utf8(value).ok()).and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::All };
    let part = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Wanted::All,
    };
    if part.is_empty() { Wanted::Unsatisfiable } else { Wanted::Part(part) }
}

/// Digits only; figures that no file reaches count as the largest there is.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, size: u64, expect: Wanted) {
        assert_eq!(wanted(Some(header.as_bytes()), size), expect, "{header} of {size}");
    }

    #[test]
    fn single_ranges_are_served() {
        check("bytes=0-0", 10, Wanted::Part(0..1));
        check("bytes=2-4", 10, Wanted::Part(2..5));
        check("bytes=2-", 10, Wanted::Part(2..10));
        check("bytes=-3", 10, Wanted::Part(7..10));
        check("bytes=-30", 10, Wanted::Part(0..10));
        check("bytes=5-100", 10, Wanted::Part(5..10));
        check("bytes=5-99999999999999999999999", 10, Wanted::Part(5..10));
    }

    #[test]
    fn what_is_not_there_is_refused() {
        check("bytes=10-", 10, Wanted::Unsatisfiable);
        check("bytes=10-20", 10, Wanted::Unsatisfiable);
        check("bytes=-0", 10, Wanted::Unsatisfiable);
        check("bytes=0-", 0, Wanted::Unsatisfiable);
        check("bytes=18446744073709551615-18446744073709551615", 10, Wanted::Unsatisfiable);
    }

    #[test]
    fn what_need_not_be_understood_is_everything() {
        for header in ["", "bytes", "bytes=", "bytes=a-b", "bytes=4-2", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2", "bytes=-", "bytes=1"] {
            check(header, 10, Wanted::All);
        }
        assert_eq!(wanted(None, 10), Wanted::All);
        assert_eq!(wanted(Some(b"bytes=\xff-"), 10), Wanted::All);
    }
}
