//! Secrets on their way back: what a host says that has one in it does not come in as it is. No I/O.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use bytes::Bytes;

/// Shorter parts of a value are too common to look for.
const SHORTEST_PART: usize = 6;
/// In place of each byte of a secret.
const MASK: u8 = b'*';
const START: u32 = 0;

/// What is looked for: all of it at once, byte by byte, whatever it is (Aho and Corasick, "Efficient string matching", 1975).
pub(super) struct Needles {
    /// From the start, where most of what comes stays.
    first: [u32; 256],
    /// From other states by a byte.
    ways: HashMap<(u32, u8), u32>,
    states: Vec<State>,
}

impl Default for Needles {
    fn default() -> Self {
        Self { first: [START; 256], ways: HashMap::new(), states: Vec::new() }
    }
}

/// How much of what is looked for has come.
#[derive(Clone, Copy, Default)]
struct State {
    /// The longest other beginning of something that ends here too.
    fallback: u32,
    /// The length of this one.
    depth: u32,
    /// The length of the longest that ends here as a whole.
    ends: u32,
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Needles").finish_non_exhaustive()
    }
}

impl Needles {
    /// Values as they are sent, and the forms in which hosts repeat them: what is behind the scheme, what that is in Base64, and both as they
    /// stand in addresses, in JSON and in HTML.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut forms = BTreeSet::new();
        for value in values.filter(|value| !value.is_empty()) {
            forms.insert(value.to_owned());
            let mut parts = vec![value.to_owned()];
            if let Some((_, token)) = value.split_once(' ') {
                parts.push(token.trim().to_owned());
                let plain = STANDARD.decode(token.trim()).or_else(|_| STANDARD_NO_PAD.decode(token.trim()));
                if let Some(plain) = plain.ok().and_then(|plain| String::from_utf8(plain).ok()) {
                    parts.extend(plain.split_once(':').map(|(_, password)| password.to_owned()));
                    parts.push(plain);
                }
            }
            for part in parts {
                let address = in_address(&part);
                let more = [
                    address.to_ascii_lowercase(),
                    address.replace("%20", "+"),
                    address,
                    part.replace('/', "\\/"),
                    escaped(&part, "\"\\&+<>='/", |byte| format!("\\u{byte:04x}")),
                    escaped(&part, "\"&<>'", |byte| format!("&#{byte};")),
                    escaped(&part, "\"&+<>='/`", |byte| format!("&#x{byte:X};")),
                    part.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;"),
                    STANDARD.encode(&part),
                    STANDARD_NO_PAD.encode(&part),
                    URL_SAFE.encode(&part),
                    URL_SAFE_NO_PAD.encode(&part),
                    part,
                ];
                forms.extend(more.into_iter().filter(|form| form.len() >= SHORTEST_PART));
            }
        }
        Self::from(&forms)
    }

    fn from(forms: &BTreeSet<String>) -> Self {
        let mut ways = HashMap::new();
        let mut states = vec![State::default()];
        let mut order = vec![Vec::new()];
        for form in forms {
            let mut at = START;
            for byte in form.bytes() {
                at = *ways.entry((at, byte)).or_insert_with(|| {
                    let depth = states[at as usize].depth + 1;
                    states.push(State { depth, ..State::default() });
                    order.push(Vec::new());
                    let new = u32::try_from(states.len() - 1).unwrap_or(u32::MAX);
                    order[at as usize].push((byte, new));
                    new
                });
            }
            let state = &mut states[at as usize];
            state.ends = state.depth;
        }
        let mut needles = Self { first: [START; 256], ways, states };
        for &(byte, next) in &order[START as usize] {
            needles.first[usize::from(byte)] = next;
        }
        // Shorter ones first, which longer ones fall back to.
        let mut queue = VecDeque::from([START]);
        while let Some(at) = queue.pop_front() {
            for &(byte, next) in &order[at as usize] {
                let fallback = if at == START { START } else { needles.step(needles.states[at as usize].fallback, byte) };
                let ends = needles.states[fallback as usize].ends;
                let state = &mut needles.states[next as usize];
                state.fallback = fallback;
                state.ends = state.ends.max(ends);
                queue.push_back(next);
            }
        }
        if forms.is_empty() { Self::default() } else { needles }
    }

    fn step(&self, mut at: u32, byte: u8) -> u32 {
        while at != START {
            match self.ways.get(&(at, byte)) {
                Some(next) => return *next,
                None => at = self.states[at as usize].fallback,
            }
        }
        self.first[usize::from(byte)]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Whether one of them is in it.
    pub(super) fn is_in(&self, bytes: &[u8]) -> bool {
        let mut at = START;
        !self.is_empty()
            && bytes.iter().any(|byte| {
                at = self.step(at, *byte);
                self.states[at as usize].ends > 0
            })
    }
}

/// What comes in of a body, piece by piece. It stays as long as it is.
pub(super) struct Masked<'a> {
    needles: &'a Needles,
    at: u32,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
}

impl<'a> Masked<'a> {
    pub(super) fn new(needles: &'a Needles) -> Self {
        Self { needles, at: START, held: Vec::new() }
    }

    /// What may go on of what has come by now.
    pub(super) fn take(&mut self, piece: Bytes) -> Bytes {
        if self.needles.is_empty() {
            return piece;
        }
        for byte in piece {
            self.at = self.needles.step(self.at, byte);
            self.held.push(byte);
            let end = self.held.len();
            self.held[end - self.needles.states[self.at as usize].ends as usize..].fill(MASK);
        }
        let kept = self.needles.states[self.at as usize].depth as usize;
        let rest = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, rest).into()
    }

    /// The rest, at the end.
    pub(super) fn end(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }
}

/// With some characters written otherwise.
fn escaped(text: &str, which: &str, how: impl Fn(u32) -> String) -> String {
    text.chars().map(|c| if which.contains(c) { how(c.into()) } else { c.to_string() }).collect()
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
        let text = "{\"a\": \"Bearer abc-12345/x\", \"b\": \"abc-12345/x\", \"c\": \"abc-12345%2Fx\", \"d\": \"user:password password\", \"e\": \"YWJjLTEyMzQ1L3g=\", \"f\": \"abc-12345\\/x\", \"g\": \"abc-12345&#x2F;x YWJjLTEyMzQ1L3g abc-12345%2fx\"}";
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
