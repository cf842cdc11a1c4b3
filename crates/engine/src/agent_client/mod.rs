//! The engine's side of the agent protocol: an HTTP/2 client over one duplex stream.
//!
//! Every byte that comes back is hostile: sizes, counts, text and time are bounded here, and what does not fit is
//! [`AgentError::Nonsense`], which ends the sandbox.

mod checkpoint;
mod convert;
mod exec;
mod files;
mod trees;
mod tunnel;
mod watch;

use std::{collections::BTreeMap, convert::Infallible, io, time::Duration};

use bytes::Bytes;
use caisson_core::{AgentStream, Given};
use caisson_wire::{Bind, Bound, GivenList, Health, Refusal, VERSION, Which};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioIo;
use serde_json::error::Category;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

pub(crate) use self::{
    checkpoint::{Ask, Found},
    exec::{ExecFrame, ExecStream, FrameSender},
    tunnel::TunnelStream,
};

/// How long an agent may take over work whose size the sandbox decides: files read, written, listed, removed.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take over a look at one name.
const LOOK_WITHIN: Duration = Duration::from_secs(15);
/// Unread bytes of one answer that the agent may have on the way.
const STREAM_WINDOW: u32 = 1 << 20;
/// Unread bytes of all answers together; larger than one stream's, so that a slow reader does not stop the others.
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME_SIZE: u32 = 256 << 10;
/// A header carries one file's stat: two names of 4096 bytes, percent-encoded.
const HEADERS: u32 = 64 << 10;
/// Answers that are read whole: refusals and the like.
const SMALL_ANSWER: usize = 256 << 10;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// It says why.
    #[error("the agent refused: {}", .0.message)]
    Refused(Refusal),
    /// Its stream or this exchange ended.
    #[error("the agent's stream ended: {0}")]
    Lost(String),
    /// It broke the protocol.
    #[error("the agent broke the protocol: {0}")]
    Nonsense(String),
    /// It let the time go by.
    #[error("the agent did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// What we were to send broke off on our side.
    #[error("the upload broke off")]
    Upload(#[source] io::Error),
    /// More than the engine takes in one answer; nothing is wrong with the agent.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// A handle on one agent; cheap to clone. Everything goes over one connection.
#[derive(Debug, Clone)]
pub(crate) struct AgentClient {
    requests: http2::SendRequest<Body>,
}

/// Begins to speak HTTP/2 on the stream. Does not wait for the agent: requests sent at once travel with the greeting.
/// The receiver hears how the connection ended.
pub(crate) async fn connect(stream: AgentStream, tasks: &TaskTracker) -> Result<(AgentClient, oneshot::Receiver<String>), AgentError> {
    let (requests, connection) = http2::Builder::new(Tracked(tasks.clone()))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| AgentError::Lost(chain(&error)))?;
    let (end, ended) = oneshot::channel();
    tasks.spawn(async move {
        let how = match connection.await {
            Ok(()) => "it was closed".to_owned(),
            Err(error) => chain(&error),
        };
        // Nobody listens any more once the sandbox has been taken down.
        end.send(how).ok();
    });
    Ok((AgentClient { requests }, ended))
}

impl AgentClient {
    /// Whether it is there and speaks our version.
    pub(crate) async fn health(&self, within: Duration) -> Result<(), AgentError> {
        let health: Health = self.ask_json(within, Method::GET, "/health".to_owned(), empty(), SMALL_ANSWER).await?;
        if health.version == VERSION {
            Ok(())
        } else {
            Err(AgentError::Nonsense(format!("it speaks version {}, we speak {VERSION}", health.version)))
        }
    }

    /// Tells it what was not known when it was launched. Once in its life.
    pub(crate) async fn bind(&self, env: &BTreeMap<String, String>, open_files: u32, within: Duration) -> Result<(), AgentError> {
        let env = env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let body = serde_json::to_vec(&Bind { env, open_files: open_files.into() }).expect("wire types are plain data");
        let _: Bound = self.ask_json(within, Method::POST, "/bind".to_owned(), full(body.into()), SMALL_ANSWER).await?;
        Ok(())
    }

    /// Which of these programs it finds.
    pub(crate) async fn which(&self, names: Vec<String>) -> Result<Vec<String>, AgentError> {
        let body = serde_json::to_vec(&Which { names: names.clone() }).expect("wire types are plain data");
        let found: caisson_wire::Found =
            self.ask_json(LOOK_WITHIN, Method::POST, "/which".to_owned(), full(body.into()), SMALL_ANSWER).await?;
        Ok(names.into_iter().filter(|name| found.names.contains(name)).collect())
    }

    /// What its sandbox had before any program ran.
    pub(crate) async fn given(&self) -> Result<Vec<Given>, AgentError> {
        let list: GivenList = self.ask_json(LOOK_WITHIN, Method::GET, "/given".to_owned(), empty(), SMALL_ANSWER).await?;
        Ok(convert::given(list))
    }

    /// A whole exchange with an answer in JSON of at most `max` bytes.
    async fn ask_json<T: serde::de::DeserializeOwned>(
        &self,
        within: Duration,
        method: Method,
        uri: String,
        body: Body,
        max: usize,
    ) -> Result<T, AgentError> {
        in_time(within, async {
            let answer = self.send(method, uri, body).await?;
            json(&collect(answer.into_body(), max).await?)
        })
        .await
    }

    /// Sends the request and returns the answer's head; a refusal is an error.
    async fn send(&self, method: Method, uri: String, body: Body) -> Result<Response<Incoming>, AgentError> {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::HOST, "agent")
            .body(body)
            .map_err(|error| AgentError::Nonsense(format!("a request cannot be built: {error}")))?;
        let answer = self.requests.clone().send_request(request).await.map_err(|error| AgentError::Lost(chain(&error)))?;
        if answer.status().as_u16() < 400 {
            return Ok(answer);
        }
        let status = answer.status();
        let body = collect(answer.into_body(), SMALL_ANSWER).await?;
        let refusal = json(&body).map_err(|_| AgentError::Nonsense(format!("status {status} without a reason")))?;
        Err(AgentError::Refused(refusal))
    }
}

async fn in_time<T>(within: Duration, exchange: impl Future<Output = Result<T, AgentError>>) -> Result<T, AgentError> {
    tokio::time::timeout(within, exchange).await.map_err(|_| AgentError::Silent(within))?
}

async fn collect(body: Incoming, max: usize) -> Result<Bytes, AgentError> {
    match Limited::new(body, max).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(AgentError::TooLarge(max)),
        Err(error) => Err(AgentError::Lost(chain(&*error))),
    }
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, AgentError> {
    serde_json::from_slice(bytes).map_err(|error| {
        // The error's own text would quote what the agent sent.
        let what = match error.classify() {
            Category::Io | Category::Eof => "JSON that breaks off",
            Category::Syntax => "broken JSON",
            Category::Data => "JSON of another shape",
        };
        AgentError::Nonsense(what.to_owned())
    })
}

fn empty() -> Body {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// An error with its causes: hyper's own text stops at the first level.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    crate::figures::tamed(&text, 500)
}

/// Runs hyper's own tasks where shutdown waits for them.
#[derive(Debug, Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

#[cfg(test)]
mod tests;
