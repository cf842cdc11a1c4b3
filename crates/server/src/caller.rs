//! Whoever asks, and what of the server they see.

use std::{
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::request::Parts,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use caisson_core::{KeyId, Scope};
use caisson_engine::{Credential, Engine};
use futures::future::BoxFuture;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use jiff::Timestamp;

use crate::{
    app::App,
    auth,
    error::{ApiError, ApiResult},
};

/// What a handler works with: the application, and the engine as the caller's tenant sees it. There is no other way to an engine from
/// a handler, so none can forget whose request it answers.
#[derive(Debug)]
pub(crate) struct View {
    app: Arc<App>,
    pub(crate) engine: Engine,
    pub(crate) scope: Scope,
    /// Absent for the configured key, and where none is needed.
    credential: Option<Arc<Credential>>,
    /// When what let the caller in expires, where that is no key.
    until: Option<Timestamp>,
}

impl View {
    pub(crate) fn new(app: &Arc<App>, engine: Engine, scope: Scope, credential: Option<Arc<Credential>>) -> Self {
        Self { app: Arc::clone(app), engine, scope, credential, until: None }
    }

    /// The same, for whoever was let in until then.
    pub(crate) fn until(self, expiry: Timestamp) -> Self {
        Self { until: Some(expiry), ..self }
    }

    /// The same for whoever may also see what is another tenant's. The caller has shown that.
    pub(crate) fn with_engine(self, engine: Engine) -> Self {
        Self { engine, ..self }
    }

    /// For what makes views of its own.
    pub(crate) fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// The key that was shown, when it is one of those that can be revoked.
    pub(crate) fn key(&self) -> Option<KeyId> {
        self.credential.as_ref().map(|credential| credential.key.id)
    }

    /// What is noted about that key, and when it expires.
    pub(crate) fn key_note(&self) -> Option<(&str, Option<Timestamp>)> {
        self.credential.as_ref().map(|credential| (credential.key.note.as_str(), credential.key.expires_at))
    }

    /// Returns when the caller's key or link is not valid any more. Whatever goes on behind an answer for the caller has to end then; the bodies
    /// of answers do so by themselves.
    pub(crate) async fn shut_out(&self) {
        let revoked = async {
            match &self.credential {
                Some(credential) => credential.invalid().await,
                None => std::future::pending().await,
            }
        };
        let expired = async {
            match self.until {
                Some(expiry) => expired(expiry).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = revoked => {}
            () = expired => {}
        }
    }

    /// Answers for as long as the caller's key or link is valid; then the wait or the stream breaks off.
    pub(crate) async fn while_valid(self: Arc<Self>, answering: impl Future<Output = Response>) -> Response {
        if self.credential.is_none() && self.until.is_none() {
            return answering.await;
        }
        let response = tokio::select! {
            biased;
            // First, so that whoever revokes the own key hears of it.
            response = answering => response,
            // What has begun goes on in tasks of its own.
            () = self.shut_out() => return self.refusal().into_response(),
        };
        response.map(|body| {
            // One whose length is known may take just as long.
            if body.is_end_stream() {
                return body;
            }
            breaking_off(body, async move { self.shut_out().await }, "the key or the link is not valid any more")
        })
    }

    fn refusal(&self) -> ApiError {
        if self.until.is_some() {
            let message = "the link has expired; ask whoever gave it to you for a new one";
            return ApiError::new(StatusCode::UNAUTHORIZED, "token_expired", message);
        }
        auth::not_valid()
    }
}

/// Returns at this time. The clock of the host may be set meanwhile: it is looked at again.
async fn expired(at: Timestamp) {
    while let Ok(left) = Timestamp::now().duration_until(at).try_into()
        && left != Duration::ZERO
    {
        tokio::time::sleep(left).await;
    }
}

impl Deref for View {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

/// The caller of a route that needs a key.
pub(crate) struct Caller(pub(crate) Arc<View>);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        let view = parts.extensions.get::<Arc<View>>().cloned();
        view.map(Self).ok_or_else(|| {
            tracing::error!("A route that anybody may use asked whose request it answers");
            ApiError::internal()
        })
    }
}

/// The same body, which breaks off at that.
pub(crate) fn breaking_off(body: Body, end: impl Future<Output = ()> + Send + 'static, why: &'static str) -> Body {
    Body::new(Breaking { body, end: Box::pin(end), why })
}

/// A body that breaks off when it is not for its reader any more.
struct Breaking {
    body: Body,
    end: BoxFuture<'static, ()>,
    why: &'static str,
}

impl http_body::Body for Breaking {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(self.why))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
