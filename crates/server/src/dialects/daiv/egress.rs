//! Ways out of a session, of which there are none: what asks for one is refused by name.

use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use super::{
    answer::{bad_request, refusal},
    body::Fields,
    check::Check,
    record::Named,
};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
};

pub(super) fn not_there() -> ApiError {
    bad_request("egress requires the egress proxy, which is not configured on this deployment")
}

/// Whether a request for a session has a block of it.
pub(super) fn is_asked_for(check: &mut Check<'_>) -> bool {
    check.may("egress", |value| Ok(value.clone())).is_some_and(|value: Value| !value.is_null())
}

/// Replaces the ways out of a session, of which there are none.
#[utoipa::path(put, path = "/session/{id}/egress", operation_id = "daiv_egress", tag = "daiv", params(("id" = String, Path)),
    request_body = Object, responses((status = 409, description = "There are none to replace")))]
pub(crate) async fn replace(Caller(app): Caller, named: Named, _: Fields) -> ApiResult<Response> {
    match named.open_if_there(&app).await? {
        Some(_) => Err(refusal(StatusCode::CONFLICT, "Session has no egress proxy; nothing to refresh")),
        None => Err(refusal(StatusCode::NOT_FOUND, "Session not found")),
    }
}
