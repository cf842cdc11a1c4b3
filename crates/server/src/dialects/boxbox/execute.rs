//! A program from its request to its answer.

use std::sync::Arc;

use axum::{Extension, response::Response};
use caisson_core::Uuid;
use http::StatusCode;

use super::{
    answer::{invalid, json},
    body::BoxboxExecute,
    record::BoxboxExecuted,
    run::{Run, tree},
    who::Who,
};
use crate::{caller::Caller, error::ApiResult, request_id::RequestId};

/// Runs a program in a sandbox of its own.
///
/// One that fails is a success here: look at `exit_code`, which is 124 after `timeout_seconds`. Files of the chat that are named are there
/// before; files that it makes or changes are copied to the chat after. When the client hangs up, the execution goes on. Whoever gives the
/// request a UUID of version 4 as its `X-Request-ID` can look at the execution under it meanwhile.
#[utoipa::path(post, path = "/execute", operation_id = "boxbox_execute", tag = "boxbox", request_body = BoxboxExecute,
    responses((status = 200, description = "It has ended", body = BoxboxExecuted)))]
pub(crate) async fn execute(
    Caller(view): Caller,
    who: Who,
    Extension(RequestId(request)): Extension<RequestId>,
    body: BoxboxExecute,
) -> ApiResult<Response> {
    let settings = &view.config.boxbox;
    let job = body.checked(settings)?;
    let tree = tree(&view.engine, &who).map_err(|error| invalid(format!("X-User-ID and X-Chat-ID name no place for files: {error}")))?;
    let slot = view.boxbox.turn(settings, &view.stopping, &who.user).await?;
    let (app, engine) = (Arc::clone(view.app()), view.engine.clone());
    let image = settings.image.borrow().clone();
    let wanted = request.to_str().ok().and_then(|id| id.parse().ok()).filter(|id: &Uuid| id.free_bits().is_some());
    let run = async move {
        let executed = Run { app, engine, who, tree, job, image, wanted }.carry_out().await;
        drop(slot);
        executed
    };
    Ok(json(StatusCode::OK, &view.patiently(run).await??))
}
