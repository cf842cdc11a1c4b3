//! What goes wrong, as HTTP.

use std::{error::Error as _, time::Duration};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, Exceeded, Tombstone};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::native::types::time;

/// The body of every answer that is no success.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong, for programs and for people.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable; meant to be compared.
    pub code: String,
    /// Says what to do; meant to be read.
    pub message: String,
    /// More about some codes: `reason`, `message` and `at` of an ended sandbox (`gone`), `line` and `column` of bad JSON, `quota`, `limit`
    /// and `used` of a tenant's quota (`quota_exceeded`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<Value>,
}

/// An answer that is no success.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Option<Value>,
    retry_after: Option<Duration>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: printable(&message.into()), details: None, retry_after: None }
    }

    /// To be asked again after so long.
    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// A request that cannot be right.
    pub(crate) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A failure of ours that the log tells about already.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log has the cause beside this request's id")
    }

    /// The same under another code.
    pub(crate) fn called(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// More about it, for programs.
    pub(crate) fn details(&self) -> Option<&Value> {
        self.details.as_ref()
    }

    /// Whether what was asked has been done, and only its record is missing yet.
    pub(crate) fn is_about_a_record(&self) -> bool {
        self.code == "unrecorded"
    }

    /// Status, code and message.
    pub(crate) fn parts(&self) -> (u16, &str, &str) {
        (self.status.as_u16(), self.code, &self.message)
    }

    /// As it stands in bodies and event streams.
    pub(crate) fn body(self) -> ErrorBody {
        ErrorBody { error: ErrorDetail { code: self.code.to_owned(), message: self.message, details: self.details } }
    }
}

/// The one place that says which failure is which status.
impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::Gone { .. } => StatusCode::GONE,
            Error::Conflict { .. } => StatusCode::CONFLICT,
            Error::QuotaExceeded { .. } | Error::OverQuota(_) => StatusCode::TOO_MANY_REQUESTS,
            Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Unavailable { .. } | Error::Unrecorded { .. } | Error::BlobUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Error::PreconditionFailed { .. } => StatusCode::PRECONDITION_FAILED,
            Error::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match status {
            StatusCode::INTERNAL_SERVER_ERROR => tracing::error!(error = %Chain(&error), "A request failed: {}", Chain(&error)),
            StatusCode::SERVICE_UNAVAILABLE => tracing::warn!(error = %Chain(&error), "A request has to be repeated: {}", Chain(&error)),
            _ => {}
        }
        let mut answer = Self::new(status, error.code(), error.to_string());
        match &error {
            Error::Gone { tombstone, .. } => answer.details = Some(epitaph(tombstone)),
            Error::OverQuota(exceeded) => {
                let Exceeded { quota, limit, used, .. } = exceeded;
                answer.details = Some(json!({"quota": quota.as_str(), "limit": limit, "used": used}));
                answer.retry_after = exceeded.retry_after;
            }
            Error::Unavailable { retry_after, .. } | Error::BlobUnavailable { retry_after, .. } => answer.retry_after = Some(*retry_after),
            _ => {}
        }
        answer
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after);
        let mut response = (status, Json(self.clone().body())).into_response();
        // A dialect says the same in its own words.
        response.extensions_mut().insert(self);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
        }
        response
    }
}

fn epitaph(tombstone: &Tombstone) -> Value {
    json!({"reason": tombstone.reason.as_str(), "message": printable(&tombstone.message), "at": time(tombstone.at)})
}

/// So much of a message is told, in bytes; what it quotes may be as long as a body.
const LONGEST: usize = 4000;

/// Messages quote what clients sent, and end up in terminals.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(LONGEST));
    for c in text.chars() {
        if shown.len() > LONGEST {
            shown.push_str("...");
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// An error with its causes.
struct Chain<'a>(&'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use caisson_core::{Quota, TombstoneReason};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_status_and_code() {
        let tombstone = Tombstone { reason: TombstoneReason::IdleTimeout, message: "idle for 15 min".into(), at: Timestamp::UNIX_EPOCH };
        let retry_after = Some(Duration::from_secs(7));
        let rate = Exceeded { quota: Quota::ExecutionsPerMinute, limit: 5, used: 5, asked: 1, retry_after };
        let table = [
            (Error::invalid("unknown_language", "m"), 400, "unknown_language"),
            (Error::invalid("unsupported", "m"), 400, "unsupported"),
            (Error::unsupported("m"), 501, "unsupported"),
            (Error::not_found("sandbox", "x"), 404, "not_found"),
            (Error::Gone { id: "x".into(), tombstone }, 410, "gone"),
            (Error::conflict("execution_running", "m"), 409, "execution_running"),
            (Error::QuotaExceeded { message: "m".into() }, 429, "quota_exceeded"),
            (Error::OverQuota(rate), 429, "quota_exceeded"),
            (Error::TooLarge { message: "m".into() }, 413, "too_large"),
            (Error::Unrecorded { execution: "x".into() }, 503, "unrecorded"),
            (Error::Unavailable { message: "m".into(), retry_after: Duration::from_secs(3), cause: None }, 503, "unavailable"),
            (Error::BlobUnavailable { message: "m".into(), retry_after: Duration::from_secs(3), cause: None }, 503, "blob_unavailable"),
            (Error::PreconditionFailed { message: "m".into() }, 412, "precondition_failed"),
            (Error::internal("m", "secret cause"), 500, "internal"),
        ];
        for (error, status, code) in table {
            let answer = ApiError::from(error);
            assert_eq!((answer.parts().0, answer.parts().1), (status, code));
            assert!(!answer.message.contains("secret"), "causes stay in the log");
            let retry = answer.retry_after;
            let response = answer.into_response();
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), retry.is_some());
        }
    }

    #[test]
    fn a_tombstone_says_why_and_when() {
        let tombstone = Tombstone { reason: TombstoneReason::OutOfMemory, message: "64 MiB".into(), at: Timestamp::UNIX_EPOCH };
        let body = ApiError::from(Error::Gone { id: "sbx1".into(), tombstone }).body();
        assert_eq!(body.error.details, Some(json!({"reason": "oom", "message": "64 MiB", "at": "1970-01-01T00:00:00.000Z"})));
    }

    #[test]
    fn r6_5_messages_do_not_send_bodies_back() {
        let long = ApiError::bad_request("x", "ä".repeat(1 << 20)).message;
        assert!(long.len() < LONGEST + 10 && long.ends_with("ä..."), "{}", long.len());
    }

    #[test]
    fn r6_5_messages_carry_no_control_characters() {
        assert_eq!(ApiError::bad_request("x", "a\u{1b}[31m\nb").message, "a\\u{1b}[31m\\nb");
    }
}
