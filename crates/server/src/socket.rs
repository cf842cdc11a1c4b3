//! A client's connection: cut when it stands still, and never left without words.
//!
//! What is no HTTP is refused by hyper before any handler hears of it, with a bare status line. [`Socket`] sees that line go by and puts
//! our own answer in its place. It knows hyper's line from our answers by [`Traffic`]: between the end of one answer and the next request
//! nobody else writes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};

use crate::{error::ApiError, request_id};

/// What goes on on one connection.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// Requests whose answers are not complete.
    open: AtomicUsize,
    /// Whether nothing of ours has been written since the last flush.
    clean: AtomicBool,
    /// When the last answer was complete, or the connection began.
    idle_since: Mutex<Instant>,
}

/// A request that is being answered; over when dropped.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Traffic>);

impl Traffic {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), clean: AtomicBool::new(true), idle_since: Mutex::new(Instant::now()) })
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Answering {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.clean.store(false, Ordering::Release);
        Answering(Arc::clone(self))
    }

    /// For how long there has been no request.
    pub(crate) fn idle(&self) -> Duration {
        if self.open.load(Ordering::Acquire) > 0 {
            return Duration::ZERO;
        }
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn is_silent(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0 && self.clean.load(Ordering::Acquire)
    }

    fn flushed(&self) {
        if self.open.load(Ordering::Acquire) == 0 {
            self.clean.store(true, Ordering::Release);
        }
    }
}

impl Answering {
    /// Keeps the request open until the body has been taken or dropped.
    pub(crate) fn until_the_end_of(self, body: Body) -> Body {
        Body::new(Watched { body, _answering: self })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The connection that a request came over, for whoever keeps it beyond its answer.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) traffic: Arc<Traffic>,
    /// One of the connections that there may be.
    pub(crate) permit: Arc<OwnedSemaphorePermit>,
}

/// A connection that is kept. While it is, everything that is written to it is ours: a WebSocket carries bytes of programs, and what
/// they make look like an answer of hyper's must stay as it is.
#[derive(Debug)]
pub(crate) struct Held {
    _answering: Answering,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Connection {
    pub(crate) fn hold(&self) -> Held {
        Held { _answering: self.traffic.begin(), _permit: Arc::clone(&self.permit) }
    }
}

struct Watched {
    body: Body,
    _answering: Answering,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    traffic: Arc<Traffic>,
    /// A client that takes nothing for this long is cut.
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// An answer of ours in place of hyper's, as far as it has not been written.
    instead: Bytes,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, traffic: Arc<Traffic>, stall: Duration) -> Self {
        Self { stream, traffic, stall, stalled: None, instead: Bytes::new() }
    }

    /// `Ready` once nothing of the other answer is left to write.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.instead);
            match ready!(self.in_time(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.instead.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Turns waiting into an error once it has lasted too long.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stall = self.stall;
        let clock = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(clock.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if self.traffic.is_silent()
            && let Some(first) = bufs.iter().find(|buf| !buf.is_empty())
            && let Some(answer) = own_words(first)
        {
            self.instead = answer;
            // What cannot be written now goes with the flush.
            if let Poll::Ready(Err(error)) = self.poll_instead(cx) {
                return Poll::Ready(Err(error));
            }
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        self.traffic.flushed();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What we say where hyper would only give a status.
fn own_words(head: &[u8]) -> Option<Bytes> {
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let status = StatusCode::from_bytes(status).ok().filter(StatusCode::is_client_error)?;
    let (code, message) = match status {
        StatusCode::URI_TOO_LONG => ("uri_too_long", "the request's address is too long"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ("headers_too_large", "the request's headers are too many or too long"),
        _ => (
            "malformed_request",
            "the request is not well-formed HTTP; look at its first line, header names, `Content-Length` and `Transfer-Encoding`",
        ),
    };
    let body = serde_json::to_string(&ApiError::new(status, code, message).body()).ok()?;
    let id = request_id::generate();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n{}: {}\r\n\
         x-content-type-options: nosniff\r\n\r\n{body}",
        body.len(),
        request_id::HEADER,
        id.to_str().unwrap_or_default(),
    );
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_are_put_into_words() {
        let text = |head: &[u8]| own_words(head).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        let answer = text(b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n").unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
        let body: crate::ErrorBody = serde_json::from_str(body).unwrap();
        assert_eq!(body.error.code, "headers_too_large");
        for other in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 4", b"", b"\0\0\x12\x04", b"HTTP/2 400"]
        {
            assert_eq!(text(other), None);
        }
    }

    #[test]
    fn hypers_words_are_known_from_ours() {
        let traffic = Traffic::new();
        assert!(traffic.is_silent());
        let first = traffic.begin();
        let second = traffic.begin();
        drop(first);
        traffic.flushed();
        assert!(!traffic.is_silent(), "the second is not complete");
        drop(second);
        assert!(!traffic.is_silent(), "its last bytes may still be on their way");
        traffic.flushed();
        assert!(traffic.is_silent());
    }
}
