//! What a driver says: lines of JSON, bounded before anything is made of them.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use crate::figures;

/// The longest line.
const MAX_LINE: usize = 8 << 20;
/// Media types of one thing that is shown, and how long their names are.
pub const MAX_TYPES: usize = 32;
pub const MAX_TYPE: usize = 200;
/// Characters of what an error is called, of why a kernel is lost, and of what an interpreter calls itself.
pub const MAX_NAME: usize = 1000;
pub const MAX_VERSION: usize = 100;

/// Something that a run shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The value of its last expression, rather than something shown on the way.
    pub is_value: bool,
    /// By media type: text, or base64 where the type is binary.
    pub data: BTreeMap<String, String>,
    /// What there was too much of, and how much.
    pub omitted: BTreeMap<String, u64>,
}

impl Shown {
    /// About how much it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.data.iter().map(|(name, content)| (name.len() + content.len()) as u64).sum()
    }

    /// The same with all its content called too much.
    pub(super) fn without_content(&self) -> Self {
        let lengths = self.data.iter().map(|(name, content)| (name.clone(), content.len() as u64));
        Self { is_value: self.is_value, data: BTreeMap::new(), omitted: self.omitted.clone().into_iter().chain(lengths).collect() }
    }
}

/// What a run raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub name: String,
    pub message: String,
    pub traceback: String,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Ready {
        version: String,
        /// The Jupyter kernel that it is.
        kernel: Option<String>,
    },
    /// The image has no kernel for the language, and there is nothing to have instead.
    NoKernel,
    /// What it is the driver of cannot be used any more.
    Lost {
        why: String,
    },
    /// From here on an interrupt is for the code.
    Begun {
        /// One may be missed, and does no harm twice.
        may_miss: bool,
    },
    Shown(Shown),
    Error(Failure),
    Done {
        how: Done,
        exit_code: Option<i32>,
    },
}

/// How code came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    Ok,
    Error,
    Interrupted,
    Incomplete,
}

/// What a line may hold, whatever it is: an enum with a tag would keep all of it, the unknown included, before anything is looked at.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: Kind,
    version: Option<String>,
    kernel: Option<String>,
    why: Option<String>,
    data: Option<Bundle<String>>,
    omitted: Option<Bundle<u64>>,
    name: Option<String>,
    message: Option<String>,
    traceback: Option<String>,
    status: Option<Done>,
    exit_code: Option<i32>,
    may_miss: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Ready,
    NoKernel,
    Lost,
    Begun,
    Display,
    Value,
    Error,
    Done,
}

/// Something by media type; no more is read than there may be.
struct Bundle<T>(BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bundle<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BundleVisitor(PhantomData))
    }
}

struct BundleVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for BundleVisitor<T> {
    type Value = Bundle<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up to {MAX_TYPES} media types")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut bundle = BTreeMap::new();
        while let Some((name, content)) = map.next_entry::<String, T>()? {
            if bundle.len() == MAX_TYPES || name.len() > MAX_TYPE {
                return Err(de::Error::invalid_length(bundle.len(), &self));
            }
            bundle.insert(name, content);
        }
        Ok(Bundle(bundle))
    }
}

/// Bytes into lines. Holds at most one incomplete line, and what came with its end.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// What of it has been taken.
    taken: usize,
    /// Up to here there is no end of a line.
    searched: usize,
}

impl Lines {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.searched -= self.taken;
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line; an error says why there is none to be had any more.
    pub fn next_message(&mut self) -> Result<Option<Message>, String> {
        let Some(found) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            if self.searched - self.taken > MAX_LINE {
                return Err(format!("it said more than {} at once", figures::bytes(MAX_LINE as u64)));
            }
            return Ok(None);
        };
        let end = self.searched + found;
        let message = read(&self.buffer[self.taken..end])?;
        (self.taken, self.searched) = (end + 1, end + 1);
        if self.taken == self.buffer.len() {
            // One large line is no reason to keep as much for ever.
            *self = Self::default();
        }
        Ok(Some(message))
    }
}

fn read(line: &[u8]) -> Result<Message, String> {
    if line.len() > MAX_LINE {
        return Err(format!("it said more than {} at once", figures::bytes(MAX_LINE as u64)));
    }
    // The error's own text would quote what was said.
    let line = serde_json::from_slice(line).ok();
    let message = line.and_then(message).ok_or_else(|| "something else than its driver wrote to its control channel".to_owned())?;
    match message {
        Message::Done { exit_code: Some(code), .. } if !(0..=255).contains(&code) => Err(format!("it told of an exit code of {code}")),
        message => Ok(message),
    }
}

/// What a line says, if it has all that belongs to its kind.
fn message(line: Line) -> Option<Message> {
    let shown = |is_value, data: Option<Bundle<String>>, omitted: Option<Bundle<u64>>| {
        let omitted = omitted.map(|omitted| omitted.0).unwrap_or_default();
        Some(Message::Shown(Shown { is_value, data: data?.0, omitted }))
    };
    match line.kind {
        Kind::Ready => Some(Message::Ready {
            version: figures::tamed(&line.version?, MAX_VERSION),
            kernel: line.kernel.map(|kernel| figures::tamed(&kernel, MAX_VERSION)),
        }),
        Kind::NoKernel => Some(Message::NoKernel),
        Kind::Lost => Some(Message::Lost { why: figures::tamed(&line.why?, MAX_NAME) }),
        Kind::Begun => Some(Message::Begun { may_miss: line.may_miss.unwrap_or_default() }),
        Kind::Display => shown(false, line.data, line.omitted),
        Kind::Value => shown(true, line.data, line.omitted),
        Kind::Error => {
            let name = figures::tamed(&line.name?, MAX_NAME);
            Some(Message::Error(Failure { name, message: line.message?, traceback: line.traceback? }))
        }
        Kind::Done => Some(Message::Done { how: line.status?, exit_code: line.exit_code }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], piece: usize) -> Vec<Message> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            lines.push(piece);
            while let Some(message) = lines.next_message().unwrap() {
                all.push(message);
            }
        }
        all
    }

    #[test]
    fn lines_are_found_however_they_are_cut() {
        let text = "{\"type\":\"ready\",\"version\":\"x\\n1\"}\n{\"type\":\"value\",\"data\":{\"text/plain\":\"ä\"}}\n\
                    {\"type\":\"done\",\"status\":\"ok\",\"exit_code\":3}\n{\"type\":\"done\"";
        let shown = Shown { is_value: true, data: BTreeMap::from([("text/plain".into(), "ä".into())]), omitted: BTreeMap::new() };
        let expect = [
            Message::Ready { version: "x\u{fffd}1".into(), kernel: None },
            Message::Shown(shown),
            Message::Done { how: Done::Ok, exit_code: Some(3) },
        ];
        for piece in 1..text.len() {
            assert_eq!(all(text.as_bytes(), piece), expect, "in pieces of {piece}");
        }
    }

    #[test]
    fn r5_4_what_user_code_says_in_its_drivers_place_is_refused() {
        let many: Vec<String> = (0..=MAX_TYPES).map(|n| format!("\"{n}\":\"\"")).collect();
        for bad in [
            "\n".to_owned(),
            "{}\n".to_owned(),
            "\u{0}\u{0}\n".to_owned(),
            "[]\n".to_owned(),
            "{\"type\":\"explode\"}\n".to_owned(),
            "{\"type\":\"value\"}\n".to_owned(),
            "{\"type\":\"error\",\"name\":\"x\"}\n".to_owned(),
            "{\"type\":\"done\",\"status\":\"ok\",\"exit_code\":256}\n".to_owned(),
            "{\"type\":\"value\",\"data\":{\"text/plain\":[1]}}\n".to_owned(),
            format!("{{\"type\":\"value\",\"data\":{{{}}}}}\n", many.join(",")),
            format!("{{\"type\":\"value\",\"data\":{{\"{}\":\"\"}}}}\n", "x".repeat(MAX_TYPE + 1)),
        ] {
            let mut lines = Lines::default();
            lines.push(bad.as_bytes());
            assert!(lines.next_message().is_err(), "{bad:.60}");
        }
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE + 1]);
        assert!(lines.next_message().is_err(), "a line without an end");
    }
}
