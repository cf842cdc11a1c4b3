//! Making directories, moving and copying inside a sandbox.

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::SandboxId;
use http::StatusCode;

use super::{
    files::{mode, path, path_in},
    id::Id,
    types::{CopiedBody, FileBody},
};
use crate::{caller::Caller, error::ApiResult, params::Params};

/// Makes a directory.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/mkdir", operation_id = "make_directory", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("parents" = Option<bool>, Query, description = "Make those it is in too, and take one that is there already"),
        ("mode" = Option<String>, Query, description = "Permission bits of a new one in octal; 0755 when absent"),
    ),
    responses(
        (status = 201, description = "The new directory", body = FileBody),
        (status = 200, description = "The directory that was there, with `parents`", body = FileBody),
    ))]
pub(crate) async fn mkdir(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Response> {
    let (path, parents, mode) = (path(&mut params)?, params.flag("parents")?, mode(&mut params)?);
    params.finish()?;
    let (stat, existed) = app.engine.make_directory(id, &path, parents, mode).await?;
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Reply(FileBody::from(&stat))).into_response())
}

/// Gives a file, link or directory another path. Directories on the way to it are made.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/move", operation_id = "move_file", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("from" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("to" = String, Query, description = "The whole new path, likewise"),
        ("replace" = Option<bool>, Query, description = "Take the place of what is there: a file, a link, an empty directory"),
    ),
    responses((status = 200, description = "It, as it is now", body = FileBody)))]
pub(crate) async fn rename(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Reply<FileBody>> {
    let (from, to, replace) = ends(&mut params)?;
    params.finish()?;
    let engine = app.engine.clone();
    let stat = app.owned(async move { engine.move_file(id, &from, &to, replace).await }).await??;
    Ok(Reply(FileBody::from(&stat)))
}

/// Copies a file, a link as a link, or a directory with everything in it.
///
/// The copy appears whole or not at all. Permission bits, times, links and holes are kept; owners are not. Sockets, fifos and devices are
/// left out, and told.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/copy", operation_id = "copy_file", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("from" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("to" = String, Query, description = "The whole path of the copy, likewise; directories on the way are made"),
        ("replace" = Option<bool>, Query, description = "Take the place of what is there: a file, a link, an empty directory"),
    ),
    responses((status = 200, description = "The copy, and what it is made of", body = CopiedBody)))]
pub(crate) async fn copy(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Reply<CopiedBody>> {
    let (from, to, replace) = ends(&mut params)?;
    params.finish()?;
    let engine = app.engine.clone();
    let copied = app.owned(async move { engine.copy_file(id, &from, &to, replace).await }).await??;
    Ok(Reply(CopiedBody::from(&copied)))
}

fn ends(params: &mut Params) -> ApiResult<(Vec<u8>, Vec<u8>, bool)> {
    Ok((path_in(params, "from")?, path_in(params, "to")?, params.flag("replace")?))
}
