//! Texts as Python shows them.

use std::fmt::Write;

/// `repr` of a text that may have bytes that are none, as `surrogateescape` has them.
pub(super) fn repr(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    let mut shown = String::from(quote);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => shown.push_str("\\\\"),
                '\n' => shown.push_str("\\n"),
                '\r' => shown.push_str("\\r"),
                '\t' => shown.push_str("\\t"),
                c if c == quote => {
                    shown.push('\\');
                    shown.push(c);
                }
                ' ' => shown.push(' '),
                c if c.is_control() || c.is_whitespace() || is_format(c) => escape(&mut shown, c.into()),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            escape(&mut shown, 0xDC00 + u32::from(*byte));
        }
    }
    shown.push(quote);
    shown
}

/// What changes how its surroundings are shown.
fn is_format(c: char) -> bool {
    matches!(u32::from(c), 0xAD | 0x600..=0x605 | 0x61C | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F | 0xE000..=0xF8FF | 0xFEFF)
}

fn escape(shown: &mut String, code: u32) {
    let written = match code {
        0..=0xFF => write!(shown, "\\x{code:02x}"),
        0x100..=0xFFFF => write!(shown, "\\u{code:04x}"),
        _ => write!(shown, "\\U{code:08x}"),
    };
    written.expect("a text takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_python_does() {
        for (text, shown) in [
            (&b"/etc/x"[..], "'/etc/x'"),
            (b"it's", "\"it's\""),
            (b"it's \"x\"", "'it\\'s \"x\"'"),
            (b"a\\b\n\r\t\0\x7f", "'a\\\\b\\n\\r\\t\\x00\\x7f'"),
            ("ä\u{a0}\u{202e}\u{1f980}".as_bytes(), "'ä\\xa0\\u202e\u{1f980}'"),
            (b"\xff", "'\\udcff'"),
            (b"", "''"),
        ] {
            assert_eq!(repr(text), shown);
        }
    }
}
