//! Checkpoints of directories, and patches since.

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::SandboxId;
use caisson_engine::PatchRequest;
use http::header;

use super::{
    id::Id,
    types::{CheckpointBody, CheckpointRequestBody},
};
use crate::{caller::Caller, error::ApiResult, json::Json, openapi::Octets, params::Params};

/// What a patch is told as.
const PATCH: &str = "text/x-patch";

/// Keeps the state of a directory, so that a patch can say what has changed since.
///
/// With `patch`, the answer has what has changed since the checkpoint before. Both are of one state: what is written meanwhile is in the next patch.
/// Files and links count, with their contents, the execute bit and names of any bytes; whatever is called `.git` is left out, and nothing in the
/// directory is run. Contents are kept out of everybody's reach inside and take of the sandbox's disk. After an error the checkpoint
/// is the one that it was.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/checkpoint", operation_id = "make_checkpoint", tag = "files",
    params(("id" = String, Path, description = "The sandbox")), request_body = CheckpointRequestBody,
    responses((status = 200, description = "The checkpoint", body = CheckpointBody)))]
pub(crate) async fn checkpoint(
    Caller(app): Caller,
    Id(id): Id<SandboxId>,
    Json(body): Json<CheckpointRequestBody>,
) -> ApiResult<Reply<CheckpointBody>> {
    let engine = app.engine.clone();
    // A checkpoint that has moved on needs somebody who has the patch.
    let made = app.owned(async move { engine.checkpoint(id, &body.into()).await }).await??;
    Ok(Reply(made.into()))
}

/// What has changed in a directory since its checkpoint, as a patch that `git apply` takes.
///
/// It is that of `git diff -M --binary --full-index`, and empty when nothing has changed. The checkpoint stays as it is.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/patch", operation_id = "read_patch", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = Option<String>, Query, description = "The directory, absolute or relative to the work dir, which it is when absent"),
        ("gitignore" = Option<bool>, Query, description = "Whether what its `.gitignore` files say is left out, as in a repository; `true` when absent"),
    ),
    responses((status = 200, description = "The patch", content((inline(Octets) = "text/x-patch")))))]
pub(crate) async fn patch(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Response> {
    let path = params.text("path")?;
    let gitignore = params.parsed("gitignore", "`true` or `false`")?.unwrap_or(true);
    params.finish()?;
    let patch = app.engine.patch(id, &PatchRequest { path, gitignore, utf8: false }).await?;
    Ok(([(header::CONTENT_TYPE, PATCH)], patch).into_response())
}
