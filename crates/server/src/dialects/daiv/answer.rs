//! What every answer has in common, and what a failure is called here.

use axum::response::{IntoResponse, Response};
use caisson_core::{Error, Sandbox, SandboxId, State};
use caisson_engine::Engine;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{auth::NO_KEY, error::ApiError};

/// The code of a refusal whose body is a list of faults.
const FAULTS: &str = "unprocessable";

/// The body of every answer that is no success.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivError {
    /// What is wrong; where it is wrong in a body, a list of `{type, loc, msg, input}`
    #[schema(value_type = Object)]
    detail: Value,
}

pub(super) fn refuse(error: &ApiError, _: &HeaderValue) -> Response {
    let (status, code, message) = error.parts();
    let (status, detail) = match (status, code) {
        (422, FAULTS) => (422, error.details().cloned().unwrap_or_default()),
        (401, NO_KEY) => (403, "API Key header is missing".into()),
        (401, _) => (403, "Invalid API Key".into()),
        (404, "not_routed") => (404, "Not Found".into()),
        (405, "not_routed") => (405, "Method Not Allowed".into()),
        (status, _) => (status, message.into()),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, &DaivError { detail })
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("what is answered has text keys and finite figures");
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

pub(super) fn done() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

pub(super) fn refusal(status: StatusCode, detail: impl Into<String>) -> ApiError {
    ApiError::new(status, NAME, detail)
}

const NAME: &str = super::NAME;

pub(super) fn bad_request(detail: impl Into<String>) -> ApiError {
    refusal(StatusCode::BAD_REQUEST, detail)
}

/// A body that is understood and cannot be taken.
pub(super) fn unprocessable(detail: impl Into<String>) -> ApiError {
    refusal(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

/// A request with these faults.
pub(super) fn faulty(faults: Vec<Value>) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, FAULTS, "the request has faults").with_details(json!(faults))
}

pub(super) fn no_session() -> ApiError {
    refusal(StatusCode::NOT_FOUND, "Session not found or already closed")
}

pub(super) fn busy() -> ApiError {
    refusal(StatusCode::CONFLICT, "Session is busy")
}

/// A failure of the engine about a session. One whose sandbox has ended was never there.
pub(super) async fn failed(engine: &Engine, id: SandboxId, error: Error) -> ApiError {
    match &error {
        Error::Gone { .. } | Error::NotFound { kind: "sandbox", .. } => no_session(),
        Error::Unavailable { .. } | Error::Conflict { .. } if has_ended(engine, id).await => no_session(),
        _ => error.into(),
    }
}

/// Whether it has ended or is about to.
pub(super) async fn has_ended(engine: &Engine, id: SandboxId) -> bool {
    engine.sandbox(id).await.map_or(true, |sandbox| is_over(&sandbox))
}

pub(super) fn is_over(sandbox: &Sandbox) -> bool {
    sandbox.stop.is_none() && matches!(sandbox.state, State::Stopping | State::Ended)
}
