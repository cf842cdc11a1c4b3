//! Values in queries.

use std::fmt::Write;

/// Bytes percent-encoded for a query, whatever they are.
pub(crate) fn percent(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_means_something_is_escaped() {
        assert_eq!(percent(b"/a b/c&d=%+#?\xff\0"), "/a%20b/c%26d%3D%25%2B%23%3F%FF%00");
        assert_eq!(percent("ä~-._".as_bytes()), "%C3%A4~-._");
    }
}
