//! Executions that were, or are.

use std::sync::Arc;

use axum::{
    extract::{Path, Request},
    response::Response,
};
use caisson_core::Uuid;
use futures::future::BoxFuture;
use http::StatusCode;

use super::{
    answer::{invalid, json},
    record::{BoxboxExecution, Note},
    who::Who,
};
use crate::{
    caller::{Caller, View},
    error::{ApiError, ApiResult},
    peers::Whose,
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

/// The execution that a request is about. It runs on another server unless it is seen here.
pub(super) fn about<'a>(view: &'a Arc<View>, request: &'a mut Request) -> BoxFuture<'a, ApiResult<Option<Whose>>> {
    Box::pin(async move {
        let id = request.uri().path().strip_prefix("/executions/").and_then(|id| id.parse::<Uuid>().ok());
        match id.filter(|id| view.boxbox.live.find(view.engine.tenant(), *id).is_none()) {
            Some(id) => Note::server(&view.engine, id).await,
            None => Ok(None),
        }
    })
}
