//! The client of a server's native API.

mod body;
mod connect;
mod encode;
mod events;
mod pages;
mod sandbox;
mod socket;

use std::{future::Future, io, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use caisson_server::ErrorBody;
use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::{
    body::{pieces, read_piece},
    connect::{ServerArgs, Target},
    encode::percent,
    events::{Event, Events},
    socket::Socket,
};

/// What a request carries.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The largest JSON answer that is read.
const MAX_ANSWER: usize = 256 << 20;
/// The largest error that is read.
const MAX_ERROR: usize = 1 << 20;

/// A server.
#[derive(Debug)]
pub(crate) struct Client {
    http: legacy::Client<HttpConnector, Body>,
    target: Target,
}

/// Does `work` with a client for the server that `args` name, in a runtime of its own.
pub(crate) fn talk<T, F: Future<Output = Result<T>>>(args: &ServerArgs, work: impl FnOnce(Client) -> F) -> Result<T> {
    talk_to(Target::find(args)?, work)
}

/// The same with a server that is known.
pub(crate) fn talk_to<T, F: Future<Output = Result<T>>>(target: Target, work: impl FnOnce(Client) -> F) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    // Boxed: what runs a future is made anew for each kind, and most of a build went into that.
    let result = runtime.block_on(async { work(Client::new(target)).await }.boxed_local());
    // A write to a pipe that nobody empties may go on for ever.
    runtime.shutdown_background();
    result
}

/// An answer of the server that is no success.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    message: String,
}

impl Client {
    /// Of a server that is known. To be called in a runtime.
    pub(crate) fn new(target: Target) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_nodelay(true);
        Self { http: legacy::Client::builder(TokioExecutor::new()).build(connector), target }
    }

    /// Sends a request and reads its JSON answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, method: Method, target: &str, body: Option<&impl Serialize>) -> Result<T> {
        read(self.request(method, target, None, body).await?).await
    }

    /// Sends a request whose answer says nothing more than that it went well.
    pub(crate) async fn done(&self, method: Method, target: &str) -> Result<()> {
        ended(self.request(method, target, None, None::<&()>).await?).await
    }

    /// The same with something to say.
    pub(crate) async fn tell(&self, method: Method, target: &str, body: &impl Serialize) -> Result<()> {
        ended(self.request(method, target, None, Some(body)).await?).await
    }

    /// Sends a request and returns its answer as a stream of events.
    pub(crate) async fn events(&self, method: Method, target: &str, body: &impl Serialize) -> Result<Events> {
        let answer = self.request(method, target, Some("text/event-stream"), Some(body)).await?;
        Ok(Events::new(answer.into_body()))
    }

    /// Asks for a stream of events.
    pub(crate) async fn follow(&self, target: &str) -> Result<Events> {
        let answer = self.request(Method::GET, target, Some("text/event-stream"), None::<&()>).await?;
        Ok(Events::new(answer.into_body()))
    }

    /// Sends bytes and reads the JSON answer.
    pub(crate) async fn post_bytes<T: DeserializeOwned>(&self, target: &str, bytes: Bytes) -> Result<T> {
        let mut request = self.target.request(Method::POST, target)?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        read(self.send(request.map(|()| Full::from(bytes).map_err(|never| match never {}).boxed_unsync())).await?).await
    }

    /// Asks for bytes.
    pub(crate) async fn get(&self, target: &str) -> Result<Response<Incoming>> {
        self.request(Method::GET, target, None, None::<&()>).await
    }

    /// Sends bytes; `length` where it is known.
    pub(crate) async fn put(&self, target: &str, length: Option<u64>, body: Body) -> Result<Response<Incoming>> {
        let mut request = self.target.request(Method::PUT, target)?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Some(length) = length {
            request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        self.send(request.map(|()| body)).await
    }

    /// Sends a body of some other type and reads the JSON answer.
    pub(crate) async fn post<T: DeserializeOwned>(&self, target: &str, kind: HeaderValue, body: Body) -> Result<T> {
        let mut request = self.target.request(Method::POST, target)?;
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        read(self.send(request.map(|()| body)).await?).await
    }

    /// Where the server is, for people.
    pub(crate) fn url(&self) -> &str {
        &self.target.url
    }

    async fn request(
        &self,
        method: Method,
        target: &str,
        accept: Option<&'static str>,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>> {
        let json = body.map(serde_json::to_vec).transpose().context("cannot write the request")?;
        self.request_json(method, target, accept, json).await
    }

    async fn request_json(
        &self,
        method: Method,
        target: &str,
        accept: Option<&'static str>,
        json: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>> {
        let mut request = self.target.request(method, target)?;
        if let Some(accept) = accept {
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        }
        if json.is_some() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let bytes = Full::from(json.unwrap_or_default());
        self.send(request.map(|()| bytes.map_err(|never| match never {}).boxed_unsync())).await
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let answer = match self.http.request(request).await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => bail!(
                "cannot reach the server at {}: {}; start one with `caisson serve`, or name another with --server or CAISSON_SERVER",
                self.target.url,
                root_cause(&error)
            ),
            Err(error) => bail!("the connection to the server at {} failed: {}", self.target.url, root_cause(&error)),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(answer).await.into())
    }

    async fn refusal(&self, answer: Response<Incoming>) -> Refusal {
        let status = answer.status();
        // An error that cannot be read is still one, and its status says which.
        let body = Limited::new(answer.into_body(), MAX_ERROR).collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        self.refused(status, &body)
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Refusal {
        let of_dialect = || serde_json::from_slice::<serde_json::Value>(body).ok()?["message"].as_str().map(str::to_owned);
        let mut message = match serde_json::from_slice::<ErrorBody>(body).ok().map(|body| body.error.message).or_else(of_dialect) {
            Some(message) => message,
            None => format!("the server at {} answered with {status}; is it a Caisson server?", self.target.url),
        };
        if status == StatusCode::UNAUTHORIZED {
            message = format!("the server at {} {}", self.target.url, self.target.why_unauthorized());
        }
        Refusal { status, message }
    }
}

/// An answer that says nothing, to its end.
async fn ended(answer: Response<Incoming>) -> Result<()> {
    answer.into_body().collect().await.map_err(|error| anyhow!("the server's answer broke off: {error}"))?;
    Ok(())
}

/// The JSON of an answer.
async fn read<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T> {
    let bytes = whole(answer).await?;
    serde_json::from_slice(&bytes).context("the server's answer makes no sense; is it a Caisson server of this version?")
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes> {
    let body =
        Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| anyhow!("the server's answer broke off: {error}"))?;
    Ok(body.to_bytes())
}

/// What lies at the bottom of an error of the HTTP library, whose own words say little.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
