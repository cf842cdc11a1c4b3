//! Event streams (`text/event-stream`), one event after the other.

use std::io::{BufRead, BufReader};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::client::Body;

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    pub name: String,
    pub id: Option<u64>,
    pub data: Value,
}

impl Event {
    /// The bytes of a piece of output.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match (&self.data["text"], &self.data["base64"]) {
            (Value::String(text), _) => text.clone().into_bytes(),
            (_, Value::String(base64)) => STANDARD.decode(base64).expect("it is base64"),
            _ => panic!("an event without output: {self:?}"),
        }
    }
}

/// The events of an answer, as they come.
#[derive(Debug)]
pub struct Events {
    lines: BufReader<Body>,
}

impl Events {
    pub(crate) fn new(body: Body) -> Self {
        Self { lines: BufReader::new(body) }
    }

    /// All that are still to come, and the bytes of both outputs.
    #[track_caller]
    pub fn to_the_end(self) -> (Vec<Event>, Vec<u8>, Vec<u8>) {
        let events: Vec<Event> = self.collect();
        let output = |name: &str| events.iter().filter(|event| event.name == name).flat_map(Event::bytes).collect();
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        (events, stdout, stderr)
    }

    /// The next event of this name; others before it are passed over.
    #[track_caller]
    pub fn until(&mut self, name: &str) -> Event {
        self.find(|event| event.name == name).unwrap_or_else(|| panic!("the stream ended without an event `{name}`"))
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (String::new(), None, String::new());
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).expect("the stream goes on or ends in order") == 0 {
                return None;
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut name),
                Some(("id", value)) => id = Some(value.parse().expect("ids are offsets")),
                Some(("data", value)) => data.push_str(value),
                Some((other, _)) => assert!(other.is_empty(), "an unknown field in the stream: {line}"),
                None => {
                    assert!(line == "\n", "a line that is no field: {line}");
                    if !name.is_empty() {
                        return Some(Event { name, id, data: serde_json::from_str(&data).expect("data is JSON") });
                    }
                }
            }
        }
    }
}
