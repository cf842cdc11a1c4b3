//! What a program has said, on its way to the client as a part of JSON: never more in memory than a piece of it, however much it is.

use std::io;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use caisson_core::Stream;
use caisson_engine::{Captured, Engine, ExecutionResult};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument;

use super::utf8::Text;
use crate::app::App;

/// So much of each output is answered whole. Of more, it is the begin and the end.
const MAX_OUTPUT: u64 = 16 << 20;
/// Bytes of output taken at one time. Written as JSON they may be six times as long.
const PIECE: usize = 64 << 10;
/// Pieces that wait for a slow client.
const PIECES: usize = 2;

/// An answer whose body is what is told. What fails behind its head breaks it off.
pub(super) fn answer<F: Future<Output = io::Result<()>> + Send + 'static>(
    app: &App,
    tell: impl FnOnce(Out) -> F + Send + 'static,
) -> Response {
    let (sender, receiver) = mpsc::channel(PIECES);
    app.tasks.spawn(
        async move {
            if let Err(error) = tell(Out(sender.clone())).await {
                tracing::debug!("A result breaks off: {error}");
                // It may be the client that has gone.
                sender.send(Err(error)).await.ok();
            }
        }
        .in_current_span(),
    );
    Response::new(Body::from_stream(ReceiverStream::new(receiver)))
}

/// All that it wrote to one stream, or, where that is too much or not kept, how it begins and how it ends. Says whether that ends within a line.
pub(super) async fn said(
    engine: &Engine,
    result: &ExecutionResult,
    stream: Stream,
    captured: &Captured,
    notes: &mut Vec<String>,
    out: &Out,
) -> io::Result<bool> {
    up_to(MAX_OUTPUT, engine, result, stream, captured, notes, out).await
}

/// The same, where nothing is too much.
pub(super) async fn all_said(
    engine: &Engine,
    result: &ExecutionResult,
    stream: Stream,
    captured: &Captured,
    notes: &mut Vec<String>,
    out: &Out,
) -> io::Result<bool> {
    up_to(u64::MAX, engine, result, stream, captured, notes, out).await
}

async fn up_to(
    most: u64,
    engine: &Engine,
    result: &ExecutionResult,
    stream: Stream,
    captured: &Captured,
    notes: &mut Vec<String>,
    out: &Out,
) -> io::Result<bool> {
    let total = captured.total_bytes;
    let mut told = Told { out, text: Text::default(), within_a_line: false };
    let mut next = 0;
    while captured.truncated() && total <= most && next < total {
        match engine.output(result.execution.id, stream, next, PIECE).await.map_err(io::Error::other)? {
            Some(piece) if piece.offset == next && !piece.data.is_empty() => {
                told.more(&piece.data).await?;
                next += piece.data.len() as u64;
            }
            // The rest is not kept.
            _ => break,
        }
    }
    let rest = Rest::behind(next, captured);
    told.more(rest.head).await?;
    if rest.missing > 0 {
        let (head, tail) = (rest.begin, rest.tail.len());
        notes.push(format!("of {total} bytes on {} these are the first {head} and the last {tail}", stream.as_str()));
        // A character that was cut has no rest there.
        told.end().await?;
    }
    told.more(rest.tail).await?;
    told.end().await?;
    Ok(told.within_a_line)
}

/// What is left to be told of what was captured, when so many bytes have been.
#[derive(Debug, PartialEq, Eq)]
struct Rest<'a> {
    head: &'a [u8],
    /// How many bytes have been told then.
    begin: u64,
    /// How many are nowhere.
    missing: u64,
    tail: &'a [u8],
}

impl<'a> Rest<'a> {
    fn behind(next: u64, captured: &'a Captured) -> Self {
        let from =
            |bytes: &'a [u8], skipped: u64| usize::try_from(skipped).ok().and_then(|skipped| bytes.get(skipped..)).unwrap_or_default();
        let begin = next.max(captured.head.len() as u64);
        let tail_at = captured.total_bytes.saturating_sub(captured.tail.len() as u64);
        Self {
            head: from(&captured.head, next),
            begin,
            missing: tail_at.saturating_sub(begin),
            tail: from(&captured.tail, begin.saturating_sub(tail_at)),
        }
    }
}

/// One stream on its way.
struct Told<'a> {
    out: &'a Out,
    text: Text,
    within_a_line: bool,
}

impl Told<'_> {
    async fn more(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            let text = self.text.push(piece);
            self.put(&text).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> io::Result<()> {
        let text = self.text.finish();
        self.put(&text).await
    }

    async fn put(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.within_a_line = !text.ends_with('\n');
        self.out.text(text).await
    }
}

/// Where the pieces of the body are put in.
pub(super) struct Out(mpsc::Sender<io::Result<Bytes>>);

impl Out {
    /// JSON as it is. Waits while the client is slow.
    pub(super) async fn put(&self, json: impl Into<Bytes>) -> io::Result<()> {
        self.0.send(Ok(json.into())).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Text within a string.
    pub(super) async fn text(&self, text: &str) -> io::Result<()> {
        let mut json = serde_json::to_string(text)?;
        json.pop();
        self.put(Bytes::from(json).slice(1..)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_from_the_log_is_told_once() {
        let captured = |total_bytes| Captured { head: Bytes::from_static(b"abcd"), tail: Bytes::from_static(b"wxyz"), total_bytes };
        for (next, total, head, begin, missing, tail) in [
            (0, 20, "abcd", 4, 12, "wxyz"),
            (2, 20, "cd", 4, 12, "wxyz"),
            (9, 20, "", 9, 7, "wxyz"),
            (16, 20, "", 16, 0, "wxyz"),
            (18, 20, "", 18, 0, "yz"),
            (20, 20, "", 20, 0, ""),
            (0, 8, "abcd", 4, 0, "wxyz"),
        ] {
            let captured = captured(total);
            let expect = Rest { head: head.as_bytes(), begin, missing, tail: tail.as_bytes() };
            assert_eq!(Rest::behind(next, &captured), expect, "{next} of {total}");
        }
        let whole = Captured { head: Bytes::from_static(b"ab"), tail: Bytes::new(), total_bytes: 2 };
        assert_eq!(Rest::behind(0, &whole), Rest { head: b"ab", begin: 2, missing: 0, tail: b"" });
    }

    #[tokio::test]
    async fn text_is_escaped_piece_by_piece_and_never_torn() {
        let (sender, mut receiver) = mpsc::channel(100);
        let out = Out(sender);
        let written = "\"\\\0\u{e4}\n".repeat(50_000);
        let mut told = Told { out: &out, text: Text::default(), within_a_line: false };
        // In the middle of a character.
        told.more(&written.as_bytes()[..4]).await.unwrap();
        told.more(&written.as_bytes()[4..]).await.unwrap();
        told.end().await.unwrap();
        assert!(!told.within_a_line);
        drop(out);
        let mut json = b"\"".to_vec();
        while let Some(piece) = receiver.recv().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= 6 * (PIECE + 4), "{}", piece.len());
            json.extend_from_slice(&piece);
        }
        json.push(b'"');
        assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), written);
    }
}
