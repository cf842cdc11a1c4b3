//! Server-sent events.

use anyhow::{Result, anyhow, bail};
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// An event that is longer than this is not the server's.
const MAX_EVENT: usize = 64 << 20;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// A stream of events as it comes.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    parser: Parser,
}

impl Events {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, parser: Parser::default() }
    }

    /// The next event; `None` at the end of the answer. Cancel-safe: what was not returned is returned the next time.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.parser.next()? {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| anyhow!("the connection to the server broke: {error}"))?;
            if let Ok(data) = frame.into_data() {
                self.parser.push(&data)?;
            }
        }
    }
}

/// Bytes into events.
#[derive(Debug, Default)]
struct Parser {
    buffer: BytesMut,
    /// Up to here there is no end of an event.
    searched: usize,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > MAX_EVENT {
            bail!("the server sent an event of more than {} MiB", MAX_EVENT >> 20);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole event. Comments are skipped.
    fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let Some(found) = self.buffer[self.searched..].windows(2).position(|pair| pair == b"\n\n") else {
                self.searched = self.buffer.len().saturating_sub(1);
                return Ok(None);
            };
            let block = self.buffer.split_to(self.searched + found);
            self.buffer.advance(2);
            self.searched = 0;
            let text = std::str::from_utf8(&block).map_err(|_| anyhow!("the server sent an event that is not UTF-8"))?;
            let event = parse(text);
            if !event.name.is_empty() {
                return Ok(Some(event));
            }
        }
    }
}

fn parse(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.name = value.to_owned(),
            "data" => {
                if !event.data.is_empty() {
                    event.data.push('\n');
                }
                event.data.push_str(value);
            }
            _ => {}
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let text = ": keep-alive\n\nid: 7\nevent: stdout\ndata: {\"text\":\"a\"}\n\nevent: result\ndata: 1\ndata: 2\n\nevent: rest";
        for size in 1..text.len() {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                parser.push(piece).unwrap();
                while let Some(event) = parser.next().unwrap() {
                    events.push((event.name, event.data));
                }
            }
            let expect = [("stdout", "{\"text\":\"a\"}"), ("result", "1\n2")];
            assert_eq!(events, expect.map(|(name, data)| (name.to_owned(), data.to_owned())), "in pieces of {size}");
        }
    }

    #[test]
    fn endless_events_are_refused() {
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; MAX_EVENT]).unwrap();
        assert!(parser.push(b"x").is_err());
        parser.buffer = BytesMut::from(&b"\xff\n\n"[..]);
        parser.searched = 0;
        assert!(parser.next().is_err());
    }
}
