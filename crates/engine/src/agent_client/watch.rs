//! Searching in files, and watching them.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use caisson_core::FileEvent;
use caisson_wire::{Grep, MAX_WATCH_LINE, path::encode};
use futures::{Stream, stream};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{ANSWER_WITHIN, AgentClient, AgentError, chain, convert, empty, full, json};
use crate::search::{GrepRequest, Grepped};

/// The largest answer to a search that is taken.
const MAX_FOUND: usize = 32 << 20;

impl AgentClient {
    pub(crate) async fn grep(&self, path: &[u8], request: &GrepRequest) -> Result<Grepped, AgentError> {
        let globs = |globs: &[Vec<u8>]| globs.iter().map(|glob| encode(glob)).collect();
        let body = Grep {
            path: encode(path),
            pattern: request.pattern.clone(),
            literal: request.literal,
            ignore_case: request.ignore_case,
            include: globs(&request.include),
            exclude: globs(&request.exclude),
            context: request.context,
            max_matches: request.max_matches,
            max_bytes: request.max_bytes,
            max_ms: u64::try_from(request.max_time.as_millis()).unwrap_or(u64::MAX),
        };
        let body = serde_json::to_vec(&body).expect("wire types are plain data");
        let within = request.max_time + Duration::from_secs(10);
        let found = self.ask_json(within, Method::POST, "/grep".to_owned(), full(body.into()), MAX_FOUND).await?;
        convert::grepped(found, path, request)
    }

    /// Events as they come. An error, also that they end, is the last item.
    pub(crate) async fn watch(
        &self,
        path: &[u8],
        recursive: bool,
    ) -> Result<impl Stream<Item = Result<FileEvent, AgentError>> + use<>, AgentError> {
        let uri = format!("/watch?path={}&recursive={recursive}", encode(path));
        let answer = super::in_time(ANSWER_WITHIN, self.send(Method::GET, uri, empty())).await?;
        let lines = Lines { body: answer.into_body(), buffer: BytesMut::new(), root: path.to_vec() };
        Ok(stream::unfold(Some(lines), |lines| async move {
            let mut lines = lines?;
            let event = lines.next().await;
            let lines = event.is_ok().then_some(lines);
            Some((event, lines))
        }))
    }
}

/// An answer that is read line by line.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
    root: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<FileEvent, AgentError> {
        loop {
            if let Some(length) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(length);
                self.buffer.advance(1);
                return convert::file_event(json(&line)?, &self.root);
            }
            if self.buffer.len() > MAX_WATCH_LINE {
                return Err(AgentError::Nonsense("an event without an end".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(AgentError::Lost(chain(&error))),
                None => return Err(AgentError::Lost("the watch ended".to_owned())),
            }
        }
    }
}
