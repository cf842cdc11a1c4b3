//! Secrets on their way back: what a host says that has one in it does not come in as it is. No I/O.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use memchr::memmem;

/// Shorter parts of a value are too common to look for.
const SHORTEST_PART: usize = 6;
/// In place of each byte of a secret.
const MASK: u8 = b'*';

/// What is looked for, the longest first.
#[derive(Debug, Default)]
pub(super) struct Needles(Vec<Vec<u8>>);

impl Needles {
    /// Values as they are sent, and the forms in which hosts repeat them: what is behind the scheme, what that is in Base64, and both as they
    /// stand in addresses.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut forms = BTreeSet::new();
        for value in values.filter(|value| !value.is_empty()) {
            forms.insert(value.as_bytes().to_vec());
            let mut parts = vec![value.to_owned()];
            if let Some((_, token)) = value.split_once(' ') {
                parts.push(token.trim().to_owned());
                if let Some(plain) = STANDARD.decode(token.trim()).ok().and_then(|plain| String::from_utf8(plain).ok()) {
                    parts.extend(plain.split_once(':').map(|(_, password)| password.to_owned()));
                    parts.push(plain);
                }
            }
            for part in parts {
                for form in [in_address(&part), STANDARD.encode(&part), part] {
                    if form.len() >= SHORTEST_PART {
                        forms.insert(form.into_bytes());
                    }
                }
            }
        }
        let mut forms: Vec<Vec<u8>> = forms.into_iter().collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        Self(forms)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is in it.
    pub(super) fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|needle| memmem::find(bytes, needle).is_some())
    }

    /// From where on it may be the beginning of one that goes on later.
    fn begun(&self, bytes: &[u8]) -> usize {
        let longest = self.0.first().map_or(0, Vec::len);
        let from = bytes.len().saturating_sub(longest.saturating_sub(1));
        let may_begin = |at: &usize| self.0.iter().any(|needle| needle.len() > bytes.len() - at && needle.starts_with(&bytes[*at..]));
        (from..bytes.len()).find(may_begin).unwrap_or(bytes.len())
    }
}

/// What comes in of a body, piece by piece. It stays as long as it is.
#[derive(Debug)]
pub(super) struct Masked<'a> {
    needles: &'a Needles,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
    /// Whether there was one.
    pub(super) found: bool,
}

impl<'a> Masked<'a> {
    pub(super) fn new(needles: &'a Needles) -> Self {
        Self { needles, held: Vec::new(), found: false }
    }

    /// What may go on of what has come by now.
    pub(super) fn take(&mut self, piece: Bytes) -> Bytes {
        if self.needles.is_empty() {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        self.hide();
        let rest = self.held.split_off(self.needles.begun(&self.held));
        std::mem::replace(&mut self.held, rest).into()
    }

    /// The rest, at the end.
    pub(super) fn end(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }

    fn hide(&mut self) {
        for needle in &self.needles.0 {
            let mut at = 0;
            while let Some(found) = memmem::find(&self.held[at..], needle) {
                self.held[at + found..at + found + needle.len()].fill(MASK);
                at += found + needle.len();
                self.found = true;
            }
        }
    }
}

/// As a text stands in an address or a form.
fn in_address(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(needles: &Needles, text: &[u8], cut: usize) -> Vec<u8> {
        let mut masked = Masked::new(needles);
        let mut out: Vec<u8> = text.chunks(cut.max(1)).flat_map(|piece| masked.take(Bytes::copy_from_slice(piece)).to_vec()).collect();
        out.extend_from_slice(&masked.end());
        out
    }

    #[test]
    fn r3_4_a_secret_is_hidden_in_whatever_pieces_it_comes() {
        let needles = Needles::of(["Bearer abc-12345/x", "Basic dXNlcjpwYXNzd29yZA=="].into_iter());
        let text = "{\"a\": \"Bearer abc-12345/x\", \"b\": \"abc-12345/x\", \"c\": \"abc-12345%2Fx\", \"d\": \"user:password password\", \"e\": \"YWJjLTEyMzQ1L3g=\"}";
        for cut in 1..text.len() {
            let out = String::from_utf8(masked(&needles, text.as_bytes(), cut)).unwrap();
            assert_eq!(out.len(), text.len());
            for hidden in ["abc-", "12345", "password", "YWJj"] {
                assert!(!out.contains(hidden), "{cut}: {out}");
            }
            assert!(out.starts_with("{\"a\": \"*******") && out.ends_with("\"}"), "{out}");
        }
        assert!(needles.is_in(b"Location: /x?t=abc-12345%2Fx") && !needles.is_in(b"Location: /x?t=abc-1234"));
        assert_eq!(masked(&Needles::default(), b"abc", 1), b"abc");
    }

    #[test]
    fn what_cannot_be_a_secret_any_more_goes_on_at_once() {
        let needles = Needles::of(["abcabcabd"].into_iter());
        let mut masked = Masked::new(&needles);
        assert_eq!(&masked.take("xyz".into())[..], b"xyz");
        assert_eq!(&masked.take("abcab".into())[..], b"");
        assert_eq!(&masked.take("cabcabdx".into())[..], b"abc*********x"[..3].iter().chain(b"*********x").copied().collect::<Vec<_>>());
        assert_eq!(&masked.take("abc".into())[..], b"");
        assert_eq!(&masked.end()[..], b"abc");
    }

    proptest! {
        #[test]
        fn r3_4_no_body_brings_a_secret(before in "[ab]{0,20}", after in "[ab]{0,20}", cut in 1usize..9) {
            let needles = Needles::of(["abbabaabbaa"].into_iter());
            let text = format!("{before}abbabaabbaa{after}");
            let out = masked(&needles, text.as_bytes(), cut);
            prop_assert!(!needles.is_in(&out) && out.len() == text.len());
        }
    }
}
