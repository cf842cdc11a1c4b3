//! Server-sent events: encoding, and output as text wherever it is text.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use caisson_core::Stream;
use caisson_engine::OutputChunk;
use futures::StreamExt;
use http::{HeaderMap, header};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    error::{ApiError, ApiResult},
    native::types::OutputEvent,
};

/// A comment goes out after this long without an event, so that nothing between here and the client takes the connection for dead.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that wait for a slow client; the producer waits after that. Written as JSON, a piece of output may be six times as long.
const QUEUE: usize = 4;

/// Whether the client asks for events.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    let types = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    types.map(|kind| kind.split(';').next().unwrap_or_default().trim()).any(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
}

/// Where a client that comes back goes on; `what` says what the ids of this stream are.
pub(crate) fn last_event_id(headers: &HeaderMap, what: &str) -> ApiResult<Option<u64>> {
    let Some(last) = headers.get("last-event-id") else { return Ok(None) };
    let number = last.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| ApiError::bad_request("invalid_parameter", format!("header `Last-Event-ID` is not {what}")))
}

/// Where events are put in; their other end is the answer.
pub(crate) struct Events(mpsc::Sender<Bytes>);

/// The client has hung up.
pub(crate) struct HungUp;

/// An answer that is made of what is put into the other end.
pub(crate) fn channel() -> (Events, Response) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>));
    (Events(sender), (headers, body).into_response())
}

impl Events {
    /// Waits while the client is slow.
    pub(crate) async fn send(&self, name: &str, id: Option<u64>, data: &impl Serialize) -> Result<(), HungUp> {
        self.0.send(encode(name, id, data)).await.map_err(|_| HungUp)
    }

    /// Waits for `work`; comments go out meanwhile. Work that must not be cancelled has to run elsewhere.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> Result<T, HungUp> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                // Losing is harmless: the work is polled on in the next round, or nobody is there to see what it yields.
                done = &mut work => return Ok(done),
                () = self.0.closed() => return Err(HungUp),
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    self.0.send(Bytes::from_static(b": keep-alive\n\n")).await.map_err(|_| HungUp)?;
                }
            }
        }
    }
}

/// One event. JSON has no raw line breaks, so one `data` line is enough.
fn encode(name: &str, id: Option<u64>, data: &impl Serialize) -> Bytes {
    let mut text = Vec::with_capacity(256);
    if let Some(id) = id {
        text.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    text.extend_from_slice(b"event: ");
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b"\ndata: ");
    serde_json::to_writer(&mut text, data).expect("what is sent has text keys and finite figures");
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// Turns pieces of output into events: text where it is UTF-8, base64 where it is not, characters never torn.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    stdout: Pending,
    stderr: Pending,
}

/// The begin of a character whose rest has not come yet.
#[derive(Debug, Default)]
struct Pending {
    offset: u64,
    bytes: Vec<u8>,
}

impl Pieces {
    /// What can be told after this piece.
    pub(crate) fn push(&mut self, stream: Stream, chunk: &OutputChunk) -> Vec<OutputEvent> {
        let pending = self.of(stream);
        let mut events = Vec::new();
        // Behind a gap the rest of the character will never come.
        if !pending.bytes.is_empty() && pending.offset + pending.bytes.len() as u64 != chunk.offset {
            events.extend(pending.flush());
        }
        let (offset, mut bytes) = if pending.bytes.is_empty() {
            (chunk.offset, chunk.data.to_vec())
        } else {
            let mut bytes = std::mem::take(&mut pending.bytes);
            bytes.extend_from_slice(&chunk.data);
            (pending.offset, bytes)
        };
        if let Some(whole) = torn_at(&bytes) {
            *pending = Pending { offset: offset + whole as u64, bytes: bytes.split_off(whole) };
        }
        if !bytes.is_empty() {
            events.push(event(offset, bytes));
        }
        events
    }

    /// What is left when nothing more will come.
    pub(crate) fn finish(&mut self) -> Vec<(Stream, OutputEvent)> {
        [Stream::Stdout, Stream::Stderr].into_iter().filter_map(|stream| Some((stream, self.of(stream).flush()?))).collect()
    }

    fn of(&mut self, stream: Stream) -> &mut Pending {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Pending {
    fn flush(&mut self) -> Option<OutputEvent> {
        let bytes = std::mem::take(&mut self.bytes);
        (!bytes.is_empty()).then(|| event(self.offset, bytes))
    }
}

fn event(offset: u64, bytes: Vec<u8>) -> OutputEvent {
    match String::from_utf8(bytes) {
        Ok(text) => OutputEvent { offset, text: Some(text), base64: None },
        Err(error) => OutputEvent { offset, text: None, base64: Some(STANDARD.encode(error.as_bytes())) },
    }
}

/// Where the last character begins, if it is incomplete.
pub(crate) fn torn_at(bytes: &[u8]) -> Option<usize> {
    let begin = bytes.len() - bytes.iter().rev().take(3).position(|b| b & 0xC0 == 0xC0)? - 1;
    match std::str::from_utf8(&bytes[begin..]) {
        Err(error) if error.error_len().is_none() => Some(begin),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line_of_data() {
        let text = encode("stdout", Some(7), &json!({"text": "a\nb\r\u{2028}\n\nevent: x"}));
        assert_eq!(text, "id: 7\nevent: stdout\ndata: {\"text\":\"a\\nb\\r\u{2028}\\n\\nevent: x\"}\n\n");
    }

    #[test]
    fn events_are_asked_for_by_type() {
        for (accept, yes) in
            [("text/event-stream", true), ("application/json, Text/Event-Stream;q=0.9", true), ("*/*", false), ("application/json", false)]
        {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wanted(&headers), yes, "{accept}");
        }
    }

    /// Whatever the cuts, the pieces put together are the bytes, and text is told as text.
    #[test]
    fn characters_are_never_torn() {
        let text = "aä łódź 🦀\n";
        for size in 1..text.len() {
            let (mut pieces, mut told) = (Pieces::default(), String::new());
            for (i, part) in text.as_bytes().chunks(size).enumerate() {
                for event in pieces.push(Stream::Stdout, &OutputChunk { offset: (i * size) as u64, data: Bytes::copy_from_slice(part) }) {
                    assert_eq!(event.offset, told.len() as u64);
                    told.push_str(&event.text.expect("text stays text"));
                }
            }
            assert!(pieces.finish().is_empty());
            assert_eq!(told, text, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_text_comes_in_base64_to_the_byte() {
        let mut pieces = Pieces::default();
        let chunk = |offset, data: &'static [u8]| OutputChunk { offset, data: Bytes::from_static(data) };
        let event = pieces.push(Stream::Stderr, &chunk(0, b"a\xffb")).remove(0);
        assert_eq!((event.text, event.base64.as_deref()), (None, Some("Yf9i")));
        // The begin of a character in front of a gap is told before what follows the gap.
        assert!(pieces.push(Stream::Stderr, &chunk(3, b"\xf0\x9f")).is_empty());
        let events = pieces.push(Stream::Stderr, &chunk(100, b"tail\xc3"));
        assert_eq!((events[0].offset, events[0].base64.as_deref()), (3, Some("8J8=")));
        assert_eq!((events[1].offset, events[1].text.as_deref()), (100, Some("tail")));
        let (stream, last) = pieces.finish().remove(0);
        assert_eq!((stream, last.offset, last.base64.as_deref()), (Stream::Stderr, 104, Some("ww==")));
    }
}
