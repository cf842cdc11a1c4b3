//! One request over one connection, into a sandbox or to another server.
//!
//! The connection is driven by whoever waits for the answer, and then by whoever reads its body: when they go, it goes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, Version, header};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tracing::Instrument;

use crate::{
    caller::View,
    socket::{Connection, Held},
};

/// Of an answer. What has more is no answer.
const MAX_HEADERS: usize = 100;
const HEAD_BYTES: usize = 64 << 10;
/// How long one side of a WebSocket may take to hear that the other has gone.
const LINGER: Duration = Duration::from_secs(2);

/// What went wrong, for whoever asked.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Self(text)
    }
}

/// A client that wants a WebSocket.
pub(crate) struct Wanted {
    upgrade: OnUpgrade,
    held: Option<Held>,
}

impl Wanted {
    /// What a request says of it. Other protocols are not asked for inside: we would not know what passes.
    pub(crate) fn of(request: &mut Request) -> Option<Self> {
        let headers = request.headers();
        let wants = request.version() == Version::HTTP_11
            && request.method() == Method::GET
            && has(headers, &header::CONNECTION, "upgrade")
            && has(headers, &header::UPGRADE, "websocket");
        let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wants)?;
        // The connection is one of those there may be for as long as the WebSocket goes on.
        Some(Self { upgrade, held: request.extensions().get::<Connection>().map(Connection::hold) })
    }
}

fn has(headers: &HeaderMap, name: &http::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
}

type Driver = BoxFuture<'static, Result<(), hyper::Error>>;

/// Sends the request and returns with the head of the answer; its body is still to come.
pub(crate) async fn exchange(
    caller: &Arc<View>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request,
    wanted: Option<Wanted>,
) -> Result<Response, Failure> {
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(HEAD_BYTES);
    let (mut sender, connection) = builder.handshake::<_, Body>(TokioIo::new(stream)).await?;
    let mut driver: Driver = Box::pin(connection.with_upgrades());
    let mut ended = false;
    let mut sending = std::pin::pin!(sender.send_request(request));
    let response = loop {
        tokio::select! {
            biased;
            response = &mut sending => break response?,
            // What it has brought is found by the other arm. How it ended as well.
            _ = &mut driver, if !ended => ended = true,
        }
    };
    let driver = (!ended).then_some(driver);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| Body::new(Passing { body, driver })));
    }
    let Some(wanted) = wanted else { return Err(Failure("it changed to a protocol that was not asked for".to_owned())) };
    let (head, _) = response.into_parts();
    let mut head = Response::from_parts(head, Body::empty());
    if !has(head.headers(), &header::UPGRADE, "websocket") {
        return Err(Failure("it changed to a protocol that is no WebSocket".to_owned()));
    }
    let inside = head.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| Failure("it did not let go of the connection".to_owned()))?;
    let valid = Arc::clone(caller);
    caller.tasks.spawn(
        async move {
            // However it ends, both sides have heard of it.
            tokio::select! {
                carried = carry(wanted.upgrade, inside, driver) => drop(carried),
                () = valid.shut_out() => {}
            }
            drop(wanted.held);
        }
        .in_current_span(),
    );
    Ok(head.into_response())
}

/// Carries a WebSocket's bytes until one side has gone.
async fn carry(client: OnUpgrade, inside: OnUpgrade, driver: Option<Driver>) -> Result<(), hyper::Error> {
    if let Some(driver) = driver {
        // Hands the connection over.
        driver.await?;
    }
    let (client, inside): (Upgraded, Upgraded) = tokio::try_join!(client, inside)?;
    let ((from_client, to_client), (from_inside, to_inside)) = (split(TokioIo::new(client)), split(TokioIo::new(inside)));
    let (mut go_in, mut come_out) = (std::pin::pin!(one_way(from_client, to_inside)), std::pin::pin!(one_way(from_inside, to_client)));
    // What is still under way in the other direction is heard, for a moment. Whoever is late is cut.
    tokio::select! {
        () = &mut go_in => drop(tokio::time::timeout(LINGER, come_out).await),
        () = &mut come_out => drop(tokio::time::timeout(LINGER, go_in).await),
    }
    Ok(())
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    // An error is an end like any other: the other direction finds the same.
    copy(&mut from, &mut to).await.ok();
    to.shutdown().await.ok();
}

/// An answer's body, which drives its connection. Trailers are left out: nobody asked for them.
struct Passing {
    body: Incoming,
    driver: Option<Driver>,
}

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if !frame.is_data() => {}
                Poll::Ready(next) => {
                    if next.is_none() {
                        self.driver = None;
                    }
                    return Poll::Ready(next);
                }
                Poll::Pending => match self.driver.as_mut().map(|driver| driver.as_mut().poll(cx)) {
                    // What it has brought last is found by looking again.
                    Some(Poll::Ready(_)) => self.driver = None,
                    Some(Poll::Pending) | None => return Poll::Pending,
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
