//! Workspaces: durable file trees, kept where the operator says.

pub(crate) mod files;
pub(crate) mod links;
mod place;
pub(crate) mod sync;

use std::sync::Arc;

use axum::Json as Reply;

use self::place::Workspace;
use super::{cursor, sandboxes::limit};
use crate::{
    caller::Caller,
    error::ApiResult,
    native::types::{DeletedWorkspaceBody, PageBody, WorkspaceBody, WorkspaceFileBody},
    params::Params,
};

/// Lists the workspaces that have files.
#[utoipa::path(get, path = "/v1/workspaces", operation_id = "list_workspaces", tag = "workspaces",
    params(
        ("limit" = Option<u32>, Query, description = "Entries on the page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of workspaces", body = PageBody<WorkspaceBody>)))]
pub(crate) async fn list(Caller(app): Caller, mut params: Params) -> ApiResult<Reply<PageBody<WorkspaceBody>>> {
    let (limit, after) = (limit(&mut params)?, cursor::given_text(&mut params)?);
    params.finish()?;
    let page = app.engine.workspaces(limit, after.as_deref()).await?;
    let data = page.data.into_iter().map(|name| WorkspaceBody { name }).collect();
    Ok(Reply(PageBody { data, next_cursor: page.next_cursor.map(|name| cursor::encode(name.as_bytes())) }))
}

/// Lists files of a workspace in the order of their names. One without files is an empty list.
#[utoipa::path(get, path = "/v1/workspaces/{name}/files", operation_id = "list_workspace_files", tag = "workspaces",
    params(
        ("name" = String, Path, description = "The workspace; a `/` in it is `%2F`"),
        ("prefix" = Option<String>, Query, description = "Only files whose names begin with this"),
        ("limit" = Option<u32>, Query, description = "Entries on the page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of files", body = PageBody<WorkspaceFileBody>)))]
pub(crate) async fn list_files(
    Caller(app): Caller,
    Workspace(tree): Workspace,
    mut params: Params,
) -> ApiResult<Reply<PageBody<WorkspaceFileBody>>> {
    let prefix = params.text("prefix")?.unwrap_or_default();
    let (limit, after) = (limit(&mut params)?, cursor::given_text(&mut params)?);
    params.finish()?;
    let page = app.engine.workspace_files(&tree, &prefix, limit, after.as_deref()).await?;
    let data = page.data.iter().map(WorkspaceFileBody::from).collect();
    Ok(Reply(PageBody { data, next_cursor: page.next_cursor.map(|name| cursor::encode(name.as_bytes())) }))
}

/// Removes all files of a workspace, and with them the workspace.
#[utoipa::path(delete, path = "/v1/workspaces/{name}", operation_id = "delete_workspace", tag = "workspaces",
    params(("name" = String, Path, description = "The workspace; a `/` in it is `%2F`")),
    responses((status = 200, description = "How many files are gone; none where there was no such workspace", body = DeletedWorkspaceBody)))]
pub(crate) async fn delete(Caller(app): Caller, Workspace(tree): Workspace, params: Params) -> ApiResult<Reply<DeletedWorkspaceBody>> {
    params.finish()?;
    let owner = Arc::clone(&app);
    let files = app.owned(async move { owner.engine.delete_workspace(&tree).await }).await??;
    Ok(Reply(DeletedWorkspaceBody { files }))
}
