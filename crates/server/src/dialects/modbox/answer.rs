//! The envelope of every answer that is no success.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{auth::NO_KEY, error::ApiError};

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxError {
    error: ModboxFailure,
    /// The message again, for older clients; null with 422, where they expect something else
    detail: Option<String>,
}

/// The same for programs and for people.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxFailure {
    /// Stable; meant to be compared
    code: String,
    message: String,
    hint: Option<String>,
    docs_url: Option<String>,
    /// As in `X-Request-Id`
    request_id: Option<String>,
    /// Whether the same request may succeed later
    retryable: bool,
    details: Option<Vec<ModboxProblem>>,
}

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ModboxProblem {
    /// Such as `body.task_id`
    pub(super) field: Option<String>,
    pub(super) issue: String,
}

/// What clients compare.
const CODES: [&str; 23] = [
    "unauthenticated",
    "invalid_token",
    "forbidden",
    "insufficient_role",
    "insufficient_scope",
    "workspace_forbidden",
    "image_immutable",
    "image_disabled",
    "sandbox_name_conflict",
    "provisioning_failed",
    "sandbox_not_found",
    "image_not_found",
    "registry_not_found",
    "workspace_not_found",
    "member_not_found",
    "api_key_not_found",
    "not_found",
    "conflict",
    "image_cache_in_use",
    "sandbox_not_ready",
    "validation_error",
    "rate_limited",
    "internal_error",
];

pub(super) fn refuse(error: &ApiError, id: &HeaderValue) -> Response {
    let (status, code) = called(error);
    let (_, _, message) = error.parts();
    let details = error.details().and_then(|details| Vec::<ModboxProblem>::deserialize(details).ok());
    let failure = ModboxFailure {
        code: code.to_owned(),
        message: message.to_owned(),
        hint: None,
        docs_url: None,
        request_id: id.to_str().ok().filter(|id| !id.is_empty()).map(str::to_owned),
        retryable: matches!(status, 408 | 429 | 500 | 502) || code == "sandbox_not_ready",
        details,
    };
    let detail = (status != 422).then(|| failure.message.clone());
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(ModboxError { error: failure, detail })).into_response()
}

/// Status and code as clients know them. What is not ours is the engine's, or of all APIs.
fn called(error: &ApiError) -> (u16, &str) {
    let (status, code, _) = error.parts();
    match (status, code) {
        (401, NO_KEY) => (401, "unauthenticated"),
        (401, _) => (401, "invalid_token"),
        (status, code) if CODES.contains(&code) => (status, code),
        (400 | 422, _) => (422, "validation_error"),
        (403, _) => (403, "forbidden"),
        (404, _) => (404, "not_found"),
        (405, _) => (405, "method_not_allowed"),
        (408, _) => (408, "request_timeout"),
        (409, _) => (409, "conflict"),
        (410, _) => (404, "sandbox_not_found"),
        (413, _) => (413, "payload_too_large"),
        (415, _) => (415, "unsupported_media_type"),
        (429, _) => (429, "rate_limited"),
        (501, _) => (400, "provisioning_failed"),
        (502 | 503, _) => (502, "upstream_error"),
        _ => (500, "internal_error"),
    }
}

pub(super) fn refusal(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(status, code, message)
}

/// A sandbox of this name, whatever kind of name it is, that is not there.
pub(super) fn no_sandbox(name: &str) -> ApiError {
    refusal(StatusCode::NOT_FOUND, "sandbox_not_found", format!("there is no sandbox `{name}` in this workspace"))
}

/// For requests that cannot be right.
pub(super) fn invalid(problems: Vec<ModboxProblem>) -> ApiError {
    let told: Vec<String> = problems
        .iter()
        .map(|problem| match &problem.field {
            Some(field) => format!("{field}: {}", problem.issue),
            None => problem.issue.clone(),
        })
        .collect();
    let details = serde_json::to_value(&problems).unwrap_or_default();
    refusal(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", told.join("; ")).with_details(details)
}

/// The same for one field.
pub(super) fn invalid_field(field: &str, issue: impl Into<String>) -> ApiError {
    invalid(vec![ModboxProblem { field: Some(field.to_owned()), issue: issue.into() }])
}
