//! Quantities as people read them.

use std::time::Duration;

/// `256 MiB`, `1 GiB`, `1000 bytes`: the largest unit that shows the figure exactly.
pub(crate) fn bytes(value: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if value >= 1 << shift && value.is_multiple_of(1 << shift) {
            return format!("{} {unit}", value >> shift);
        }
    }
    format!("{value} bytes")
}

/// `2 s`, `0.25 s`: seconds, to the millisecond.
pub(crate) fn seconds(value: Duration) -> String {
    let text = format!("{:.3}", value.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `once`, `7 times`.
pub(crate) fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// Text that came out of a sandbox, made harmless for terminals and logs and cut to `max` characters.
pub(crate) fn tamed(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Arguments of at most `max` bytes in all, not counting the marks that say what is missing.
pub(crate) fn shortened(arguments: Vec<String>, max: usize) -> Vec<String> {
    let mut left = max;
    let (mut shown, count) = (Vec::new(), arguments.len());
    for (index, mut argument) in arguments.into_iter().enumerate() {
        if left == 0 {
            shown.push(format!("[... {} more arguments ...]", count - index));
            break;
        }
        if argument.len() > left {
            let keep = argument.floor_char_boundary(left);
            let mark = format!("[... {} more bytes ...]", argument.len() - keep);
            argument.truncate(keep);
            argument.push_str(&mark);
            left = 0;
        } else {
            // An empty one costs as well.
            left -= argument.len().max(1).min(left);
        }
        shown.push(argument);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_exact() {
        assert_eq!(bytes(256 << 20), "256 MiB");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes((1 << 20) + 1), "1048577 bytes");
        assert_eq!(seconds(Duration::from_secs(20)), "20 s");
        assert_eq!(seconds(Duration::from_millis(250)), "0.25 s");
    }

    #[test]
    fn long_arguments_are_cut_and_say_so() {
        let of = |words: &[&str]| shortened(words.iter().map(|w| (*w).to_owned()).collect(), 6);
        assert_eq!(of(&["abc", "def"]), ["abc", "def"]);
        assert_eq!(of(&["ab", "cdefg", "h", "i"]), ["ab", "cdef[... 1 more bytes ...]", "[... 2 more arguments ...]"]);
        assert_eq!(of(&["abcdeä"]), ["abcde[... 2 more bytes ...]"]);
        assert_eq!(shortened(vec![String::new(); 1000], 6).len(), 7);
    }

    #[test]
    fn terminals_are_not_hijacked() {
        assert_eq!(tamed("a\u{1b}[2Jb\n", 100), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(tamed("äöü", 2), "äö");
    }
}
