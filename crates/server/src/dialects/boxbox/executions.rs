//! Executions that were, or are.

use axum::{extract::Path, response::Response};
use caisson_core::Uuid;
use http::StatusCode;

use super::{
    answer::{invalid, json},
    record::BoxboxExecution,
    who::Who,
};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
};

/// An execution of this user and chat.
#[utoipa::path(get, path = "/executions/{id}", operation_id = "boxbox_get_execution", tag = "boxbox", params(("id" = String, Path)),
    responses((status = 200, description = "How far it is, or how it ended", body = BoxboxExecution)))]
pub(crate) async fn get(Caller(view): Caller, who: Who, Path(id): Path<String>) -> ApiResult<Response> {
    let uuid: Uuid = id.parse().map_err(|_| invalid("invalid execution id"))?;
    let unknown = || ApiError::new(StatusCode::NOT_FOUND, "not_found", "execution not found");
    let execution = BoxboxExecution::find(&view.engine, &view.boxbox.live, uuid, &who).await?.ok_or_else(unknown)?;
    Ok(json(StatusCode::OK, &execution))
}
