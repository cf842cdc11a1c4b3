//! Work on files below `/workspace`, as newer clients ask for it. What goes wrong with a path or a file is a success with an `error` in it.

pub(super) mod change;
pub(super) mod look;
pub(super) mod read;

use axum::response::Response;
use caisson_core::Error;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    answer::{has_ended, json},
    files::below,
    layout::WORKSPACE,
    record::Session,
};
use crate::error::{ApiError, ApiResult};

/// Why it could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DaivFsCode {
    InvalidPath,
    NotFound,
    NotADirectory,
    IsADirectory,
    NotATextFile,
    StringNotFound,
    MultipleOccurrences,
    AlreadyExists,
    TooLarge,
    InvalidOffset,
    PermissionDenied,
    ExecFailed,
    InvalidPattern,
}

/// What could not be done.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct DaivFsError {
    code: DaivFsCode,
    message: String,
}

impl DaivFsError {
    fn new(code: DaivFsCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Why an operation has no result.
enum Failed {
    /// The client is told in the answer.
    Told(DaivFsError),
    /// There is no such answer.
    Refused(ApiError),
}

impl From<DaivFsError> for Failed {
    fn from(error: DaivFsError) -> Self {
        Self::Told(error)
    }
}

fn told(code: DaivFsCode, message: impl Into<String>) -> Failed {
    Failed::Told(DaivFsError::new(code, message))
}

/// The path of a request, if it may be named; `or_itself` is for what may be about `/workspace` as well.
fn path(given: &str, or_itself: bool) -> Result<String, Failed> {
    below(given, WORKSPACE, or_itself).map_err(|why| told(DaivFsCode::InvalidPath, why))
}

/// The failure of an engine's operation on a file, where it is none that the operation itself knows.
async fn failed(session: &Session, path: &str, error: Error) -> Failed {
    if has_ended(&session.engine, session.id).await {
        return Failed::Refused(super::answer::no_session());
    }
    match error {
        Error::Invalid { code: "permission_denied", .. } => told(DaivFsCode::PermissionDenied, format!("Permission denied: {path}")),
        Error::Invalid { message, .. }
        | Error::Conflict { message, .. }
        | Error::QuotaExceeded { message }
        | Error::TooLarge { message } => told(DaivFsCode::ExecFailed, message),
        Error::NotFound { kind: "file", .. } => told(DaivFsCode::NotFound, format!("No such file: {path}")),
        error => Failed::Refused(error.into()),
    }
}

/// The answer: a result, or what could not be done.
fn answer<T: Serialize>(result: Result<T, Failed>, without: impl FnOnce(DaivFsError) -> T) -> ApiResult<Response> {
    match result {
        Ok(result) => Ok(json(StatusCode::OK, &result)),
        Err(Failed::Told(error)) => Ok(json(StatusCode::OK, &without(error))),
        Err(Failed::Refused(refusal)) => Err(refusal),
    }
}
