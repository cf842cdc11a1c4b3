//! Sandboxes: one of them, and its end.

use std::sync::Arc;

use axum::{Json, extract::Path};
use caisson_core::{Error, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::Body,
    check::Problems,
    lookup,
    member::{Member, Role},
    record::ModboxSandbox,
};
use crate::error::ApiResult;

/// Whose end is asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxDestroy {
    /// Or the UUID
    task_id: Option<String>,
}

/// That it is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxDestroyed {
    success: bool,
    error: Option<String>,
}

/// A sandbox by its UUID or `task_id`, living or not.
#[utoipa::path(get, path = "/sandboxes/detail/{*id}", operation_id = "modbox_get_sandbox", tag = "modbox",
    params(("id" = String, Path, description = "May have slashes")), responses((status = 200, description = "The sandbox", body = ModboxSandbox)))]
pub(crate) async fn detail(member: Member, Path(id): Path<String>) -> ApiResult<Json<ModboxSandbox>> {
    let sandbox = lookup::find(&member.engine, &id).await?;
    Ok(Json(ModboxSandbox::new(&member.view, &sandbox)))
}

/// The same.
#[utoipa::path(get, path = "/sandboxes/{id}", operation_id = "modbox_get_sandbox_canonical", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "The sandbox", body = ModboxSandbox)))]
pub(crate) async fn get(member: Member, id: Path<String>) -> ApiResult<Json<ModboxSandbox>> {
    detail(member, id).await
}

/// Ends a sandbox and everything in it. Answers when that is done, as often as it is asked.
#[utoipa::path(post, path = "/sandboxes/destroy", operation_id = "modbox_destroy_sandbox", tag = "modbox", request_body = ModboxDestroy,
    responses((status = 200, description = "It is gone", body = ModboxDestroyed)))]
pub(crate) async fn destroy(member: Member, Body(body): Body<ModboxDestroy>) -> ApiResult<Json<ModboxDestroyed>> {
    let mut problems = Problems::default();
    let task_id = problems.required("task_id", body.task_id, 1..=255);
    problems.done()?;
    end(member, &task_id).await
}

/// The same.
#[utoipa::path(delete, path = "/sandboxes/{id}", operation_id = "modbox_delete_sandbox", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "It is gone", body = ModboxDestroyed)))]
pub(crate) async fn delete(member: Member, Path(id): Path<String>) -> ApiResult<Json<ModboxDestroyed>> {
    end(member, &id).await
}

async fn end(member: Member, name: &str) -> ApiResult<Json<ModboxDestroyed>> {
    member.at_least(Role::Member)?;
    let sandbox = lookup::find(&member.engine, name).await?;
    if sandbox.state != State::Ended {
        let (app, engine, id) = (Arc::clone(member.view.app()), member.engine.clone(), sandbox.id);
        match app.owned(async move { engine.destroy(id).await }).await? {
            Ok(_) | Err(Error::Gone { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(ModboxDestroyed { success: true, error: None }))
}
