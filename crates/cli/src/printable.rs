//! Text that came from elsewhere, made harmless for terminals.

/// The text with everything escaped that a terminal might obey, and everything that shows nothing or reorders what it shows.
pub(crate) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_stays() {
        assert_eq!(text("łódź 🦀 `x`"), "łódź 🦀 `x`");
    }

    #[test]
    fn terminals_are_not_hijacked() {
        assert_eq!(text("a\u{1b}[2J\r\n\u{9b}1m"), "a\\u{1b}[2J\\r\\n\\u{9b}1m");
        assert_eq!(text("abc\u{202e}fdp.exe\u{feff}"), "abc\\u{202e}fdp.exe\\u{feff}");
    }
}
