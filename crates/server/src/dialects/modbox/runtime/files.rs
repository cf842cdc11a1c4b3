//! Files: what was put in, by its name.

use std::io;

use axum::{
    Json,
    body::Body,
    extract::{Path, Request},
    response::{IntoResponse, Response},
};
use caisson_core::{Error, FileKind, FileStat, Sandbox};
use caisson_engine::Engine;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Named, failed};
use crate::{
    caller::Caller,
    dialects::{
        modbox::{
            NAME, UPLOADS,
            answer::{invalid_field, refusal},
        },
        multipart::Multipart,
        upload::{self, base_name},
    },
    error::{ApiError, ApiResult},
    native::{
        files::{content, exactly},
        types::time,
    },
};

/// Bytes of one file.
const MOST: u64 = 50_000_000;
const MODE: u32 = 0o644;
/// Files of one list.
const LISTED: u32 = 10_000;

/// The form of an upload.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it is read part by part")]
pub(crate) struct ModboxUpload {
    /// The content, with a file name; at most 50 MB
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// What was put in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxUploaded {
    filename: String,
    path: String,
    size: u64,
}

/// What was put in and is there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxFiles {
    files: Vec<ModboxFile>,
}

/// A file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModboxFile {
    filename: String,
    path: String,
    size: u64,
    modified_at: String,
}

/// That it is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxFileDeleted {
    success: bool,
}

impl From<FileStat> for ModboxFile {
    fn from(stat: FileStat) -> Self {
        let path = String::from_utf8_lossy(&stat.path).into_owned();
        let filename = path.rsplit('/').next().unwrap_or_default().to_owned();
        Self { filename, path, size: stat.size, modified_at: time(stat.modified_at) }
    }
}

/// The path of an upload.
fn path(filename: &str) -> ApiResult<String> {
    match base_name(filename) {
        Some(base) if base == filename => Ok(format!("{UPLOADS}/{filename}")),
        _ => Err(none(filename)),
    }
}

fn none(filename: &str) -> ApiError {
    refusal(StatusCode::NOT_FOUND, "not_found", format!("there is no file `{filename}`"))
}

/// Why a file cannot be read, written or deleted.
async fn unreachable(engine: &Engine, sandbox: &Sandbox, filename: &str, error: Error) -> ApiError {
    match &error {
        Error::NotFound { kind: "file", .. } => none(filename),
        // A folder, which is no file.
        Error::Conflict { code: "is_a_directory" | "not_a_file" | "directory_not_empty", .. } => none(filename),
        Error::TooLarge { message } => refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message.clone()),
        Error::Invalid { message, .. } => invalid_field("body.file", message.clone()),
        _ => failed(engine, sandbox, error).await,
    }
}

/// Puts a file into `/workspace/uploads`. It appears whole or not at all.
#[utoipa::path(post, path = "/modbox/{id}/modbox/api/files/upload", operation_id = "modbox_upload", tag = "modbox", params(("id" = String, Path)),
    request_body(content = ModboxUpload, content_type = "multipart/form-data"),
    responses((status = 200, description = "It is there", body = ModboxUploaded)))]
pub(crate) async fn upload(Caller(app): Caller, named: Named, headers: HeaderMap, request: Request) -> ApiResult<Json<ModboxUploaded>> {
    let sandbox = named.running(&app.engine).await?;
    let body = content(request.into_body(), app.config.body_stall);
    let form = Multipart::new(&headers, body).ok_or_else(|| invalid_field("body", "is no form; send `multipart/form-data`"))?;
    let engine = app.engine.clone();
    // In a task of its own, so that nothing that is under way is left when the client hangs up.
    app.owned(async move { take(&engine, &sandbox, form).await }).await?.map(Json)
}

async fn take(engine: &Engine, sandbox: &Sandbox, form: Multipart) -> ApiResult<ModboxUploaded> {
    let under_way = upload::under_way(NAME);
    let taken = match parts(engine, sandbox, form, &under_way).await {
        Ok((filename, size)) => {
            let path = format!("{UPLOADS}/{filename}");
            match settle(engine, sandbox, &under_way, &path).await {
                Ok(()) => return Ok(ModboxUploaded { filename, path, size }),
                Err(error) => Err(unreachable(engine, sandbox, &filename, error).await),
            }
        }
        Err(refusal) => Err(refusal),
    };
    // It may not have come so far, or be gone with its sandbox.
    engine.delete_file(sandbox.id, under_way.as_bytes(), false).await.ok();
    taken
}

async fn settle(engine: &Engine, sandbox: &Sandbox, under_way: &str, path: &str) -> caisson_core::Result<()> {
    engine.make_directory(sandbox.id, UPLOADS.as_bytes(), true, None).await?;
    engine.move_file(sandbox.id, under_way.as_bytes(), path.as_bytes(), true).await?;
    Ok(())
}

/// Takes the form apart; the file is under way then.
async fn parts(engine: &Engine, sandbox: &Sandbox, mut form: Multipart, under_way: &str) -> ApiResult<(String, u64)> {
    let mut taken = None;
    while let Some(head) = form.next().await.map_err(cut)? {
        match head.file_name.as_deref().and_then(base_name) {
            Some(base) if head.name == "file" && taken.is_none() => {
                let size = match upload::put(engine, sandbox.id, &mut form, under_way, MODE, MOST).await {
                    Ok(size) => size,
                    Err(error) => return Err(unreachable(engine, sandbox, base, error).await),
                };
                taken = Some((base.to_owned(), size));
            }
            _ => {}
        }
    }
    form.rest().await.map_err(cut)?;
    taken.ok_or_else(|| invalid_field("body.file", "is missing, or has no file name"))
}

fn cut(error: io::Error) -> ApiError {
    invalid_field("body", format!("cannot be read: {error}"))
}

/// Lists what was put into `/workspace/uploads`, by name.
#[utoipa::path(get, path = "/modbox/{id}/modbox/api/files", operation_id = "modbox_list_files", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "What is there", body = ModboxFiles)))]
pub(crate) async fn list(Caller(app): Caller, named: Named) -> ApiResult<Json<ModboxFiles>> {
    let sandbox = named.running(&app.engine).await?;
    let entries = match app.engine.list_files(sandbox.id, UPLOADS.as_bytes(), 1, LISTED, None).await {
        Ok(listing) => listing.entries,
        // Nothing was put in so far.
        Err(Error::NotFound { kind: "file", .. }) => Vec::new(),
        Err(error) => return Err(failed(&app.engine, &sandbox, error).await),
    };
    let files = entries.into_iter().filter(|stat| stat.kind == FileKind::File).map(ModboxFile::from).collect();
    Ok(Json(ModboxFiles { files }))
}

/// A file as it is.
#[utoipa::path(get, path = "/modbox/{id}/modbox/api/files/{filename}", operation_id = "modbox_download", tag = "modbox",
    params(("id" = String, Path), ("filename" = String, Path)),
    responses((status = 200, description = "The content", content_type = "application/octet-stream")))]
pub(crate) async fn download(Caller(app): Caller, named: Named, Path((_sandbox, filename)): Path<(String, String)>) -> ApiResult<Response> {
    let path = path(&filename)?;
    let sandbox = named.running(&app.engine).await?;
    let (stat, content) = match app.engine.read_file(sandbox.id, path.as_bytes(), 0, None).await {
        Ok(read) => read,
        Err(error) => return Err(unreachable(&app.engine, &sandbox, &filename, error).await),
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, stat.size.into());
    Ok((headers, Body::from_stream(exactly(content, stat.size))).into_response())
}

/// Deletes a file.
#[utoipa::path(delete, path = "/modbox/{id}/modbox/api/files/{filename}", operation_id = "modbox_delete_file", tag = "modbox",
    params(("id" = String, Path), ("filename" = String, Path)),
    responses((status = 200, description = "It is gone", body = ModboxFileDeleted)))]
pub(crate) async fn delete(
    Caller(app): Caller,
    named: Named,
    Path((_sandbox, filename)): Path<(String, String)>,
) -> ApiResult<Json<ModboxFileDeleted>> {
    let path = path(&filename)?;
    let sandbox = named.running(&app.engine).await?;
    match app.engine.delete_file(sandbox.id, path.as_bytes(), false).await {
        Ok(()) => Ok(Json(ModboxFileDeleted { success: true })),
        Err(error) => Err(unreachable(&app.engine, &sandbox, &filename, error).await),
    }
}
