//! Files inside the sandbox, as seen and changed by its agent.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use caisson_core::{FileStat, Listing};
use caisson_wire::{STAT_HEADER, path::encode};
use futures::{Stream, StreamExt, stream};
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{ANSWER_WITHIN, AgentClient, AgentError, Body, LOOK_WITHIN, SMALL_ANSWER, chain, convert, empty, full, json};
use crate::request::{ByteStream, FileAttributes};

/// The largest listing that is taken.
const MAX_LISTING: usize = 32 << 20;

impl AgentClient {
    /// Writes a file whose content is at hand.
    pub(crate) async fn put(&self, path: &[u8], mode: Option<u32>, content: Bytes) -> Result<FileStat, AgentError> {
        let uri = put_uri(path, FileAttributes { mode, modified_at: None });
        convert::stat(self.ask_json(ANSWER_WITHIN, Method::PUT, uri, full(content), SMALL_ANSWER).await?)
    }

    /// Writes a file from a stream.
    pub(crate) async fn put_stream(&self, path: &[u8], attributes: FileAttributes, content: ByteStream) -> Result<FileStat, AgentError> {
        convert::stat(self.upload(put_uri(path, attributes), content).await?)
    }

    /// Sends a stream, which may take as long as it takes. An agent that takes nothing more of it, or does not say how it went, is silent.
    pub(super) async fn upload<T: DeserializeOwned>(&self, uri: String, content: ByteStream) -> Result<T, AgentError> {
        // HTTP/2 tells us only that the request failed; what broke it is noted here.
        let broken: Arc<Mutex<Option<io::Error>>> = Arc::default();
        let note = Arc::clone(&broken);
        let pace = Arc::new(Pace::default());
        let frames = Paced { content, pace: Arc::clone(&pace) }.map(move |chunk| match chunk {
            Ok(data) => Ok(http_body::Frame::data(data)),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                *note.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(copy)
            }
        });
        let body: Body = StreamBody::new(frames).boxed_unsync();
        let exchange = async {
            let answer = match self.send(Method::PUT, uri, body).await {
                Err(AgentError::Lost(how)) => {
                    let ours = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return Err(ours.map_or(AgentError::Lost(how), AgentError::Upload));
                }
                other => other?,
            };
            json(&super::collect(answer.into_body(), SMALL_ANSWER).await?)
        };
        tokio::select! {
            // Losing means that the exchange has stood still for long enough; dropping it resets the stream.
            result = exchange => result,
            // Losing means that there is a result.
            () = pace.stands_still() => Err(AgentError::Silent(ANSWER_WITHIN)),
        }
    }

    /// The file's stat and its bytes, from `offset` on and at most `length`.
    pub(crate) async fn get(&self, path: &[u8], offset: u64, length: Option<u64>) -> Result<(FileStat, ByteStream), AgentError> {
        let mut uri = format!("/files?path={}&offset={offset}", encode(path));
        if let Some(length) = length {
            uri.push_str(&format!("&length={length}"));
        }
        let answer = super::in_time(ANSWER_WITHIN, self.send(Method::GET, uri, empty())).await?;
        let header = answer.headers().get(STAT_HEADER).ok_or_else(|| AgentError::Nonsense("a file without its stat".to_owned()))?;
        let stat = convert::stat(json(header.as_bytes())?)?;
        Ok((stat, content(answer.into_body(), length.unwrap_or(u64::MAX))))
    }

    pub(crate) async fn stat(&self, path: &[u8]) -> Result<FileStat, AgentError> {
        convert::stat(self.ask_json(LOOK_WITHIN, Method::GET, format!("/stat?path={}", encode(path)), empty(), SMALL_ANSWER).await?)
    }

    pub(crate) async fn list(&self, path: &[u8], depth: u32, limit: u32, after: Option<&[u8]>) -> Result<Listing, AgentError> {
        self.listing(format!("/list?path={}&depth={depth}", encode(path)), path, limit, after).await
    }

    /// Those in a directory that a pattern is about.
    pub(crate) async fn glob(&self, path: &[u8], pattern: &[u8], limit: u32, after: Option<&[u8]>) -> Result<Listing, AgentError> {
        self.listing(format!("/glob?path={}&pattern={}", encode(path), encode(pattern)), path, limit, after).await
    }

    async fn listing(&self, mut uri: String, path: &[u8], limit: u32, after: Option<&[u8]>) -> Result<Listing, AgentError> {
        uri.push_str(&format!("&limit={limit}"));
        if let Some(after) = after {
            uri.push_str(&format!("&after={}", encode(after)));
        }
        convert::listing(self.ask_json(ANSWER_WITHIN, Method::GET, uri, empty(), MAX_LISTING).await?, path, limit)
    }

    pub(crate) async fn delete(&self, path: &[u8], recursive: bool) -> Result<(), AgentError> {
        let uri = format!("/files?path={}&recursive={recursive}", encode(path));
        super::in_time(ANSWER_WITHIN, self.send(Method::DELETE, uri, empty())).await?;
        Ok(())
    }
}

/// The bytes of an answer, at most so many. After an error there is nothing more.
pub(super) fn content(body: Incoming, most: u64) -> ByteStream {
    let content = stream::unfold((body, most), |(mut body, left)| async move {
        loop {
            let data = match tokio::time::timeout(ANSWER_WITHIN, body.frame()).await {
                Err(_) => return Some((Err(io::ErrorKind::TimedOut.into()), (body, 0))),
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some((Err(io::Error::other(chain(&error))), (body, 0))),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            if data.len() as u64 > left {
                return Some((Err(io::Error::other("the agent sent more than was asked for")), (body, 0)));
            }
            if !data.is_empty() {
                let left = left - data.len() as u64;
                return Some((Ok(data), (body, left)));
            }
        }
    });
    let mut failed = false;
    let content = content.take_while(move |chunk| {
        let go_on = !failed;
        failed = chunk.is_err();
        std::future::ready(go_on)
    });
    Box::pin(content)
}

/// Who keeps whom waiting while a file is uploaded.
#[derive(Debug, Default)]
struct Pace {
    /// How often the agent's side has asked for more.
    asked: AtomicU64,
    /// Whether it is the client who has to come up with something.
    client_is_due: AtomicBool,
}

impl Pace {
    /// Returns once the agent's side has not moved for as long as an agent may take.
    async fn stands_still(&self) {
        let mut seen = self.asked.load(Ordering::Acquire);
        loop {
            tokio::time::sleep(ANSWER_WITHIN).await;
            let now = self.asked.load(Ordering::Acquire);
            if now == seen && !self.client_is_due.load(Ordering::Acquire) {
                return;
            }
            seen = now;
        }
    }
}

/// A body that keeps account of its pace.
struct Paced {
    content: ByteStream,
    pace: Arc<Pace>,
}

impl Stream for Paced {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.content.poll_next_unpin(cx);
        self.pace.asked.fetch_add(1, Ordering::AcqRel);
        self.pace.client_is_due.store(next.is_pending(), Ordering::Release);
        next
    }
}

fn put_uri(path: &[u8], attributes: FileAttributes) -> String {
    let mut uri = format!("/files?path={}", encode(path));
    // Decimal, like every number in a query.
    if let Some(mode) = attributes.mode {
        uri.push_str(&format!("&mode={mode}"));
    }
    if let Some(at) = attributes.modified_at {
        let ns = i64::try_from(at.as_nanosecond()).unwrap_or(if at.as_second() < 0 { i64::MIN } else { i64::MAX });
        uri.push_str(&format!("&mtime={ns}"));
    }
    uri
}
