//! What is typed: everything is the program's, but for one way out.

/// Watches for `~.` at the beginning of a line, as `ssh` does.
#[derive(Debug)]
pub(super) struct Keys {
    line_begins: bool,
    /// A `~` that may be the first half.
    held: bool,
}

/// What has been typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// For the program.
    Bytes(Vec<u8>),
    /// The way out.
    Leave,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self { line_begins: true, held: false }
    }

    pub(super) fn typed(&mut self, bytes: &[u8]) -> Typed {
        let mut out = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            if std::mem::take(&mut self.held) {
                if byte == b'.' {
                    return Typed::Leave;
                }
                // `~~` is one of them.
                if byte != b'~' {
                    out.push(b'~');
                }
            } else if byte == b'~' && self.line_begins {
                self.held = true;
                self.line_begins = false;
                continue;
            }
            out.push(byte);
            self.line_begins = matches!(byte, b'\r' | b'\n');
        }
        Typed::Bytes(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&str], expect: &str, leaves: bool) {
        let (mut keys, mut all) = (Keys::new(), Vec::new());
        for piece in pieces {
            match keys.typed(piece.as_bytes()) {
                Typed::Bytes(bytes) => all.extend(bytes),
                Typed::Leave => {
                    assert!(leaves, "{pieces:?}");
                    return;
                }
            }
        }
        assert!(!leaves, "{pieces:?}");
        assert_eq!(String::from_utf8(all).unwrap(), expect, "{pieces:?}");
    }

    #[test]
    fn only_a_tilde_and_a_dot_on_a_new_line_leave() {
        check(&["~."], "", true);
        check(&["ls\r~", "."], "", true);
        check(&["ls\r", "~", "x"], "ls\r~x", false);
        check(&["ls ~."], "ls ~.", false);
        check(&["~~."], "~.", false);
        check(&["~/bin\r"], "~/bin\r", false);
        check(&["ä~.\r"], "ä~.\r", false);
    }
}
