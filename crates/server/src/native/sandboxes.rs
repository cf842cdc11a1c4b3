//! Sandboxes: make, find, change, end.

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, SandboxFilter, SandboxId, State as Stage};
use caisson_engine::Created;
use http::StatusCode;

use super::{id::Id, images, templates};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
    json::Json,
    native::types::{CreateBody, PageBody, SandboxBody, UpdateBody, UsageBody},
    params::Params,
};

/// Entries on one page when the request says nothing, and at most.
const PAGE: u32 = 100;
pub(crate) const MAX_PAGE: u32 = 1000;

/// Makes a sandbox, or finds the living one of that name.
#[utoipa::path(post, path = "/v1/sandboxes", operation_id = "create_sandbox", tag = "sandboxes", request_body = CreateBody, responses(
    (status = 201, description = "A new sandbox", body = SandboxBody),
    (status = 200, description = "The living sandbox of that name", body = SandboxBody),
))]
pub(crate) async fn create(Caller(app): Caller, Json(mut body): Json<CreateBody>) -> ApiResult<Response> {
    let policy = body.pull.take();
    let request = match templates::named(&app, body.template.take()).await? {
        Some(template) => template.create(body)?,
        None => body.into_request()?,
    };
    images::pull::provide(&app, &request.spec.image, policy).await?;
    let engine = app.engine.clone();
    let (status, sandbox) = match app.owned(async move { engine.create(request).await }).await?? {
        Created::New(sandbox) => (StatusCode::CREATED, sandbox),
        Created::Existing(sandbox) => (StatusCode::OK, sandbox),
    };
    Ok((status, Reply(SandboxBody::from(&sandbox))).into_response())
}

/// Lists sandboxes, newest first; ended ones are remembered for a week.
#[utoipa::path(get, path = "/v1/sandboxes", operation_id = "list_sandboxes", tag = "sandboxes",
    params(
        ("state" = Option<Vec<String>>, Query, description = "`creating`, `running`, `stopping` or `ended`; may repeat"),
        ("name" = Option<String>, Query, description = "Only of this name"),
        ("metadata.KEY" = Option<String>, Query, description = "Only those whose label KEY has this value; may repeat with other keys"),
        ("limit" = Option<u32>, Query, description = "Entries on the page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of sandboxes", body = PageBody<SandboxBody>)))]
pub(crate) async fn list(Caller(app): Caller, mut params: Params) -> ApiResult<Reply<PageBody<SandboxBody>>> {
    let filter = SandboxFilter {
        states: params.choices("state", &Stage::ALL.map(Stage::as_str))?,
        metadata: params.prefixed("metadata.")?,
        name: params.text("name")?,
        limit: limit(&mut params)?,
        cursor: params.text("cursor")?,
    };
    params.finish()?;
    let page = app.engine.sandboxes(&filter).await?;
    Ok(Reply(PageBody::new(&page)))
}

/// How many entries a page is to have.
pub(super) fn limit(params: &mut Params) -> ApiResult<u32> {
    let what = format!("a whole number from 1 to {MAX_PAGE}");
    match params.parsed::<u32>("limit", &what)? {
        None => Ok(PAGE),
        Some(limit) if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
        Some(limit) => Err(ApiError::bad_request("invalid_parameter", format!("parameter `limit` is {limit}, expected {what}"))),
    }
}

/// A sandbox with what it has used. An ended one is 410 with its tombstone.
#[utoipa::path(get, path = "/v1/sandboxes/{id}", operation_id = "get_sandbox", tag = "sandboxes",
    params(("id" = String, Path)), responses((status = 200, description = "The sandbox", body = SandboxBody)))]
pub(crate) async fn get(Caller(app): Caller, Id(id): Id<SandboxId>, params: Params) -> ApiResult<Reply<SandboxBody>> {
    params.finish()?;
    let sandbox = app.engine.sandbox(id).await?;
    let mut body = SandboxBody::from(&sandbox);
    match (sandbox.state, sandbox.tombstone) {
        (Stage::Ended, Some(tombstone)) => return Err(Error::Gone { id: id.to_string(), tombstone }.into()),
        // What cannot be measured (any more) is left out.
        (Stage::Running, _) => body.usage = app.engine.usage(id).await.ok().as_ref().map(UsageBody::from),
        _ => {}
    }
    Ok(Reply(body))
}

/// Changes time limits, labels and network of a living sandbox.
#[utoipa::path(patch, path = "/v1/sandboxes/{id}", operation_id = "update_sandbox", tag = "sandboxes",
    params(("id" = String, Path)), request_body = UpdateBody, responses((status = 200, description = "The sandbox", body = SandboxBody)))]
pub(crate) async fn update(Caller(app): Caller, Id(id): Id<SandboxId>, Json(body): Json<UpdateBody>) -> ApiResult<Reply<SandboxBody>> {
    let update = body.into_update()?;
    let engine = app.engine.clone();
    let sandbox = app.owned(async move { engine.update(id, update).await }).await??;
    Ok(Reply(SandboxBody::from(&sandbox)))
}

/// Stops a sandbox with `storage` `disk`. Answers when nothing of it runs; its files stay, and whatever needs it starts it again.
///
/// One that is stopped already stays so. One in memory is refused (409 `not_stoppable`).
#[utoipa::path(post, path = "/v1/sandboxes/{id}/stop", operation_id = "stop_sandbox", tag = "sandboxes",
    params(("id" = String, Path)), responses((status = 200, description = "The stopped sandbox", body = SandboxBody)))]
pub(crate) async fn stop(Caller(app): Caller, Id(id): Id<SandboxId>, params: Params) -> ApiResult<Reply<SandboxBody>> {
    params.finish()?;
    let engine = app.engine.clone();
    let sandbox = app.owned(async move { engine.stop(id).await }).await??;
    Ok(Reply(SandboxBody::from(&sandbox)))
}

/// Ends a sandbox and everything in it. Answers when that is done.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", operation_id = "delete_sandbox", tag = "sandboxes",
    params(("id" = String, Path)), responses((status = 200, description = "The ended sandbox with its tombstone", body = SandboxBody)))]
pub(crate) async fn delete(Caller(app): Caller, Id(id): Id<SandboxId>, params: Params) -> ApiResult<Reply<SandboxBody>> {
    params.finish()?;
    let engine = app.engine.clone();
    let sandbox = app.owned(async move { engine.destroy(id).await }).await??;
    Ok(Reply(SandboxBody::from(&sandbox)))
}
