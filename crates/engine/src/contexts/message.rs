//! What a driver says: lines of JSON, bounded before anything is made of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::figures;

/// The longest line.
const MAX_LINE: usize = 8 << 20;
/// Media types of one thing that is shown, and how long their names are.
const MAX_TYPES: usize = 32;
const MAX_TYPE: usize = 200;
/// Characters of what an error is called and of what an interpreter calls itself.
const MAX_NAME: usize = 1000;
const MAX_VERSION: usize = 100;

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
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Failure {
    pub name: String,
    pub message: String,
    pub traceback: String,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Ready {
        version: String,
    },
    /// From here on an interrupt is for the code.
    Begun,
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
pub(super) enum Done {
    Ok,
    Error,
    Interrupted,
    Incomplete,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Ready {
        version: String,
    },
    Begun {},
    Display {
        data: BTreeMap<String, String>,
        #[serde(default)]
        omitted: BTreeMap<String, u64>,
    },
    Value {
        data: BTreeMap<String, String>,
        #[serde(default)]
        omitted: BTreeMap<String, u64>,
    },
    Error(Failure),
    Done {
        status: Done,
        #[serde(default)]
        exit_code: Option<i32>,
    },
}

/// Bytes into lines. Holds at most one incomplete line, and what came with its end.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// What of it has been taken.
    taken: usize,
    /// Up to here there is no end of a line.
    searched: usize,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.searched -= self.taken;
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line; an error says why there is none to be had any more.
    pub(super) fn next(&mut self) -> Result<Option<Message>, String> {
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
    let shown = |is_value, data: BTreeMap<String, String>, omitted: BTreeMap<String, u64>| {
        let names = data.keys().chain(omitted.keys());
        if data.len() + omitted.len() > MAX_TYPES || names.into_iter().any(|name| name.len() > MAX_TYPE) {
            return Err(format!("it showed something in more than {MAX_TYPES} ways, or in one with a very long name"));
        }
        Ok(Message::Shown(Shown { is_value, data, omitted }))
    };
    // The error's own text would quote what was said.
    match serde_json::from_slice(line).map_err(|_| "something else than its driver wrote to its control channel".to_owned())? {
        Line::Ready { version } => Ok(Message::Ready { version: figures::tamed(&version, MAX_VERSION) }),
        Line::Begun {} => Ok(Message::Begun),
        Line::Display { data, omitted } => shown(false, data, omitted),
        Line::Value { data, omitted } => shown(true, data, omitted),
        Line::Error(failure) => Ok(Message::Error(Failure { name: figures::tamed(&failure.name, MAX_NAME), ..failure })),
        Line::Done { status, exit_code } => match exit_code {
            None | Some(0..=255) => Ok(Message::Done { how: status, exit_code }),
            Some(code) => Err(format!("it told of an exit code of {code}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], piece: usize) -> Vec<Message> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            lines.push(piece);
            while let Some(message) = lines.next().unwrap() {
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
        let expect =
            [Message::Ready { version: "x\u{fffd}1".into() }, Message::Shown(shown), Message::Done { how: Done::Ok, exit_code: Some(3) }];
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
            "{\"type\":\"done\",\"status\":\"ok\",\"exit_code\":256}\n".to_owned(),
            "{\"type\":\"value\",\"data\":{\"text/plain\":[1]}}\n".to_owned(),
            format!("{{\"type\":\"value\",\"data\":{{{}}}}}\n", many.join(",")),
            format!("{{\"type\":\"value\",\"data\":{{\"{}\":\"\"}}}}\n", "x".repeat(MAX_TYPE + 1)),
        ] {
            let mut lines = Lines::default();
            lines.push(bad.as_bytes());
            assert!(lines.next().is_err(), "{bad:.60}");
        }
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE + 1]);
        assert!(lines.next().is_err(), "a line without an end");
    }
}
