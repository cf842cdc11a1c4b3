//! Text that came from elsewhere, made harmless for terminals.

/// The text with everything escaped that a terminal might obey, and everything that shows nothing or reorders what it shows.
pub(crate) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The same for bytes that are text as a rule; what is not UTF-8 in them shows as `\xff`.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&text(chunk.valid()));
        out.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    out
}

/// The same for JSON, where it stays the same text: what is harmful stands in strings alone, which may have it escaped.
pub(crate) fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // All of them have four digits.
        if is_harmful(c) && c != '\n' { out.push_str(&format!("\\u{:04x}", u32::from(c))) } else { out.push(c) }
    }
    out
}

/// Whether a terminal might do more with it than show it.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_5_json_stays_the_same_text() {
        let value = serde_json::json!({"łódź": "a\u{1b}[2J\r\n\u{7f}\u{9b}1m\u{202e}\u{feff}🦀", "b": [1]});
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = json(&text);
            assert!(shown.chars().all(|c| !is_harmful(c) || c == '\n') && shown.contains("🦀"), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn ordinary_text_stays() {
        assert_eq!(text("łódź 🦀 `x`"), "łódź 🦀 `x`");
    }

    #[test]
    fn bytes_that_are_no_text_show() {
        assert_eq!(bytes("ł\u{1b}[2J 🦀".as_bytes()), "ł\\u{1b}[2J 🦀");
        assert_eq!(bytes(b"a\xff\xfe\xc5b"), "a\\xff\\xfe\\xc5b");
    }

    #[test]
    fn r6_5_terminals_are_not_hijacked() {
        assert_eq!(text("a\u{1b}[2J\r\n\u{9b}1m"), "a\\u{1b}[2J\\r\\n\\u{9b}1m");
        assert_eq!(text("abc\u{202e}fdp.exe\u{feff}"), "abc\\u{202e}fdp.exe\\u{feff}");
    }
}
