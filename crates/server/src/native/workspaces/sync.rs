//! Files of workspaces in living sandboxes.

use axum::Json as Reply;
use caisson_core::SandboxId;

use crate::{
    caller::Caller,
    error::ApiResult,
    json::Json,
    native::{
        id::Id,
        types::{PulledBody, PushedBody, SyncRequestBody},
    },
};

/// Puts files of a workspace into a living sandbox.
///
/// They go over what is in their places, each whole or not at all. When one of them is not in the workspace, the answer is 404 and nothing is written. It
/// goes on when the client hangs up.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/workspace/pull", operation_id = "pull_workspace", tag = "workspaces",
    params(("id" = String, Path, description = "The sandbox")), request_body = SyncRequestBody,
    responses((status = 200, description = "What was put there, and what was not", body = PulledBody)))]
pub(crate) async fn pull(Caller(app): Caller, Id(id): Id<SandboxId>, Json(body): Json<SyncRequestBody>) -> ApiResult<Reply<PulledBody>> {
    let request = body.into_request(app.engine.tenant())?;
    let engine = app.engine.clone();
    let pulled = app.owned(async move { engine.pull_workspace(id, &request).await }).await??;
    Ok(Reply(PulledBody::from(&pulled)))
}

/// Writes files of a living sandbox into a workspace, as far as they are others than those that are there.
///
/// The last writer of each file wins. When one of them is not in the sandbox, the answer is 404 and nothing is written. What storage does not
/// take is told as failed, and is not tried again. It goes on when the client hangs up.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/workspace/push", operation_id = "push_workspace", tag = "workspaces",
    params(("id" = String, Path, description = "The sandbox")), request_body = SyncRequestBody,
    responses((status = 200, description = "What was written, and what was not", body = PushedBody)))]
pub(crate) async fn push(Caller(app): Caller, Id(id): Id<SandboxId>, Json(body): Json<SyncRequestBody>) -> ApiResult<Reply<PushedBody>> {
    let request = body.into_request(app.engine.tenant())?;
    let engine = app.engine.clone();
    let pushed = app.owned(async move { engine.push_workspace(id, &request).await }).await??;
    Ok(Reply(PushedBody::from(&pushed)))
}
