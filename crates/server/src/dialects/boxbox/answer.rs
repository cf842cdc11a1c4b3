//! What every answer has in common, and what a failure is called here.

use axum::response::{IntoResponse, Response};
use caisson_core::Error;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;

/// What is kept of an execution that got no sandbox.
const NO_SANDBOX: &str = "no sandbox available";
const NOT_CLAIMED: &str = "failed to claim sandbox";

/// The body of every answer that is no success, but for paths and methods that there are not.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxboxError {
    /// Stable; meant to be compared
    error: String,
    message: String,
}

/// A value as JSON, with the line break that upstream ends it with.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut text = serde_json::to_string(value).expect("what is answered has text keys and finite figures");
    text.push('\n');
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

pub(super) fn refuse(error: &ApiError, _: &HeaderValue) -> Response {
    let (status, code, message) = error.parts();
    match (status, code) {
        (404, "not_routed") => {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            return (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, plain)], "404 page not found\n").into_response();
        }
        (405, "not_routed") => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
        _ => {}
    }
    let (error, message) = match (status, code) {
        (401, _) => ("unauthorized", "invalid or missing API key"),
        // The engine's codes are not those of clients.
        (500, "internal") => ("internal_error", message),
        (503, "unavailable") => ("no_sandbox_available", message),
        (429, "quota_exceeded") => ("rate_limit_exceeded", message),
        other => (other.1, message),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, &BoxboxError { error: error.to_owned(), message: message.to_owned() })
}

pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("invalid_request", message)
}

/// A header that is missing.
pub(super) fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("bad_request", message)
}

pub(super) fn unavailable(code: &'static str, message: &str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
}

pub(super) fn failed(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code, message)
}

/// What the client is told when there is no sandbox, and what is kept of that.
pub(super) fn unclaimed(error: &Error) -> (&'static str, ApiError) {
    let full = || unavailable("no_sandbox_available", "no sandbox available, please retry");
    match error {
        Error::Unavailable { retry_after, .. } => (NO_SANDBOX, full().after(*retry_after)),
        Error::OverQuota(exceeded) => (NO_SANDBOX, exceeded.retry_after.into_iter().fold(full(), ApiError::after)),
        _ => {
            tracing::error!("A sandbox for an execution cannot be made: {error}");
            (NOT_CLAIMED, failed("internal_error", NOT_CLAIMED))
        }
    }
}
