//! What every answer has in common, and what a failure is called here.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, Sandbox, SandboxId, State};
use caisson_engine::Engine;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use std::convert::Infallible;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};

/// The body of every answer that is no success. Both fields have the same text: upstream uses now the one and now the other.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxedError {
    message: String,
    error: String,
}

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");

/// A value as JSON, with the line break that upstream ends it with.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut text = serde_json::to_string(value).expect("what is answered has text keys and finite figures");
    text.push('\n');
    (status, [(header::CONTENT_TYPE, JSON)], text).into_response()
}

pub(super) fn refuse(error: &ApiError, _: &HeaderValue) -> Response {
    let (status, code, message) = error.parts();
    let text = match (status, code) {
        (401, _) => "invalid or missing API key",
        (415, _) => "Unsupported Media Type",
        _ => message,
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, &BoxedError { message: text.to_owned(), error: text.to_owned() })
}

/// A refusal with this text.
pub(super) fn refusal(status: StatusCode, text: impl Into<String>) -> ApiError {
    ApiError::new(status, "boxed", text)
}

pub(super) fn bad_request(text: impl Into<String>) -> ApiError {
    refusal(StatusCode::BAD_REQUEST, text)
}

pub(super) fn no_sandbox() -> ApiError {
    refusal(StatusCode::NOT_FOUND, "sandbox not found")
}

/// A failure of the engine about a sandbox. One that has ended was never there.
pub(super) async fn failed(engine: &Engine, id: SandboxId, error: Error) -> ApiError {
    match &error {
        Error::Gone { .. } | Error::NotFound { kind: "sandbox", .. } => no_sandbox(),
        Error::Unavailable { .. } | Error::Conflict { .. } if has_ended(engine, id).await => no_sandbox(),
        _ => error.into(),
    }
}

/// Whether it has ended or is about to.
pub(super) async fn has_ended(engine: &Engine, id: SandboxId) -> bool {
    let is_over = |sandbox: Sandbox| sandbox.stop.is_none() && matches!(sandbox.state, State::Stopping | State::Ended);
    engine.sandbox(id).await.map_or(true, is_over)
}

/// The sandbox that a path names. What is wrong with the rest of a request is told first.
pub(crate) struct Named(Option<SandboxId>);

impl Named {
    /// Its id. What cannot be one is nobody's.
    pub(super) fn id(&self) -> ApiResult<SandboxId> {
        self.0.ok_or_else(no_sandbox)
    }

    /// Its id, if it lives.
    pub(super) async fn living(&self, engine: &Engine) -> ApiResult<SandboxId> {
        let id = self.id()?;
        if has_ended(engine, id).await { Err(no_sandbox()) } else { Ok(id) }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        Ok(Self(params.iter().flatten().find_map(|(name, value)| (name == "id").then(|| value.parse().ok()).flatten())))
    }
}
