//! Amounts of bytes.

/// How amounts are written, for messages.
const FORM: &str = "expected bytes such as 64M, 1.5G or 512MiB (K, M, G, T count in 1024s; KB, MB, GB, TB in 1000s)";

/// Bytes from text like `64M`, `1G`, `512MiB`, `10MB` or `4096`. An error says what would be right.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (figure, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(FORM.to_owned()),
    };
    if let Ok(whole) = figure.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| "this is more than any machine has".to_owned());
    }
    let bytes = figure.parse::<f64>().map_err(|_| FORM.to_owned())? * factor as f64;
    // Not exactly representable any more, and far beyond what exists.
    if bytes < 9e15 { Ok(bytes.round() as u64) } else { Err("this is more than any machine has".to_owned()) }
}

/// Bytes as people read them: the largest unit that keeps the figure short.
pub(crate) fn shown(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// Bytes in lists, to a tenth: `7.5 MiB`.
pub(crate) fn roughly(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift {
            return format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1G", 1 << 30),
            ("1.5G", 3 << 29),
            ("10MB", 10_000_000),
            ("2T", 2 << 40),
            ("7b", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "M", "-1", "+1", "1X", "1..5G", ".", "64 M M", "0x10", "1e3", "99999999999T", "18446744073709551616", "9999999.5T"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_have_round_figures() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (7_864_320, "7.5 MiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(roughly(bytes), text);
        }
    }
}
