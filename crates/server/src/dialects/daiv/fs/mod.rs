//! Work on files below `/workspace`, as newer clients ask for it. What goes wrong with a path or a file is a success with an `error` in it.

pub(super) mod change;
pub(super) mod look;
pub(super) mod read;

use axum::response::Response;
use caisson_core::Error;
use caisson_tree::MAX_PATH;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    answer::{has_ended, json},
    files::{Last, below, no_link, resolved},
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
    if given.len() > MAX_PATH {
        return Err(told(DaivFsCode::InvalidPath, format!("path has {} bytes, allowed are at most {MAX_PATH}", given.len())));
    }
    below(given, WORKSPACE, or_itself).map_err(|why| told(DaivFsCode::InvalidPath, why))
}

/// The folder that a path is in, whose links do not lead to another one, and the path below it.
fn root_of(real: &str) -> (&'static str, &str) {
    let root = ["/repo", "/skills", "/workspace/repo", "/workspace/skills", WORKSPACE]
        .into_iter()
        .find(|root| real.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
        .unwrap_or(WORKSPACE);
    (root, real.strip_prefix(root).unwrap_or(real).trim_start_matches('/'))
}

/// Where something is to be changed: the path without links, which do not lead out of the folder that it is in.
async fn place(session: &Session, given: &str, real: &str, last: Last) -> Result<String, Failed> {
    if ["/repo", "/skills"].contains(&real) {
        return Ok(real.to_owned());
    }
    let (root, rest) = root_of(real);
    let found = match no_link(&session.engine, session.id, root).await {
        Ok(()) => resolved(&session.engine, session.id, root, rest, last).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(Some(rest)) if !rest.is_empty() => Ok(format!("{root}/{rest}")),
        Ok(_) => Err(told(DaivFsCode::PermissionDenied, format!("Permission denied: {given} is behind a link that leads out of {root}"))),
        // What is below a file is not there; whoever looks at it says so.
        Err(Error::Conflict { code: "not_a_directory", .. }) if no_link(&session.engine, session.id, root).await.is_ok() => {
            Ok(real.to_owned())
        }
        Err(error) => Err(failed(session, given, error).await),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_short_and_below_their_folder() {
        let long = path(&format!("/workspace/{}", "a/".repeat(MAX_PATH)), false);
        assert!(matches!(long, Err(Failed::Told(DaivFsError { code: DaivFsCode::InvalidPath, .. }))));
        for (real, root, rest) in [
            ("/repo/a/b", "/repo", "a/b"),
            ("/workspace/repo/a", "/workspace/repo", "a"),
            ("/workspace/repos/a", "/workspace", "repos/a"),
            ("/workspace/repo", "/workspace", "repo"),
        ] {
            assert_eq!(root_of(real), (root, rest));
        }
    }
}
