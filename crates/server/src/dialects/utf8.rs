//! Bytes into text as they come: a character that is cut waits for its rest.

/// The begin of a character whose rest is still to come: at most three bytes.
#[derive(Debug, Default)]
pub(super) struct Text {
    pending: Vec<u8>,
}

impl Text {
    /// All that is complete. What can be no text is told as U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let cut = incomplete(&self.pending);
        let rest = self.pending.split_off(self.pending.len() - cut);
        let complete = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&complete).into_owned()
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// How many bytes at the end are the begin of a character.
fn incomplete(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    // Only what may still become a character is an invalid part that reaches to the end and is shorter than its first byte says.
    let Some(invalid) = last.map(|chunk| chunk.invalid()).filter(|invalid| !invalid.is_empty()) else { return 0 };
    match std::str::from_utf8(invalid) {
        Err(error) if error.error_len().is_none() => invalid.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_same_wherever_it_is_cut() {
        let bytes = "aä€🦀z".as_bytes();
        for size in 1..bytes.len() {
            let mut text = Text::default();
            let mut told = String::new();
            for piece in bytes.chunks(size) {
                told += &text.push(piece);
                assert!(!told.contains('\u{fffd}'), "{size}: {told}");
            }
            told += &text.finish();
            assert_eq!(told.as_bytes(), bytes, "{size}");
        }
    }

    #[test]
    fn what_is_no_text_is_told_at_once() {
        let mut text = Text::default();
        assert_eq!(text.push(b"a\xff"), "a\u{fffd}");
        assert_eq!(text.push(b"\xe2\x82"), "");
        assert_eq!(text.push(b"x"), "\u{fffd}x");
        assert_eq!(text.push(b"\xf0\x9f\xa6"), "");
        assert_eq!((text.finish().as_str(), text.finish().as_str()), ("\u{fffd}", ""));
    }
}
