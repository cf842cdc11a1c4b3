//! Files put in. What is under way has another name, so that a file is there whole or not at all.

use std::io;

use axum::{extract::Request, response::Response};
use caisson_core::SandboxId;
use caisson_engine::Engine;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    answer::{Named, bad_request, json},
    files::unreadable,
    sandboxes::MODE,
};
use crate::{
    caller::Caller,
    dialects::{multipart::Multipart, upload},
    error::{ApiError, ApiResult},
    native::files::content,
};

/// Where files go when nothing is said.
const FOLDER: &str = "/uploads";
/// The longest path that Linux takes.
const MAX_FOLDER: usize = 4096;

/// The form of an upload.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it is read part by part")]
pub(crate) struct BoxedUpload {
    /// The content, with a file name
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// The folder, `/uploads` when absent
    path: Option<String>,
}

/// What has been put in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxedUploaded {
    path: String,
    status: &'static str,
}

/// Puts a file into a folder, which is made when it is not there.
#[utoipa::path(post, path = "/v1/sandbox/{id}/files", operation_id = "boxed_upload", tag = "boxed", params(("id" = String, Path)),
    request_body(content = BoxedUpload, content_type = "multipart/form-data"),
    responses((status = 200, description = "It is there", body = BoxedUploaded)))]
pub(crate) async fn upload(Caller(app): Caller, named: Named, headers: HeaderMap, request: Request) -> ApiResult<Response> {
    let id = named.living(&app.engine).await?;
    let body = content(request.into_body(), app.config.body_stall);
    let form = Multipart::new(&headers, body).ok_or_else(|| bad_request("file required"))?;
    let engine = app.engine.clone();
    // In a task of its own, so that nothing that is under way is left when the client hangs up.
    let path = app.owned(async move { take(&engine, id, form).await }).await??;
    Ok(json(StatusCode::OK, &BoxedUploaded { path, status: "uploaded" }))
}

async fn take(engine: &Engine, id: SandboxId, form: Multipart) -> ApiResult<String> {
    let under_way = upload::under_way("boxed");
    let taken = parts(engine, id, form, &under_way).await;
    let moved = match taken {
        Ok(target) => match engine.move_file(id, under_way.as_bytes(), target.as_bytes(), true).await {
            Ok(_) => return Ok(target),
            Err(error) => Err(unreadable(engine, id, "failed to upload", error).await),
        },
        Err(refusal) => Err(refusal),
    };
    // It may not have come so far, or be gone with its sandbox.
    engine.delete_file(id, under_way.as_bytes(), false).await.ok();
    moved
}

/// Takes the form apart; the file is under way then. Returns where it is to go.
async fn parts(engine: &Engine, id: SandboxId, mut form: Multipart, under_way: &str) -> ApiResult<String> {
    let (mut name, mut folder) = (None, None);
    while let Some(head) = form.next().await.map_err(cut)? {
        match (head.name.as_str(), head.file_name.as_deref().and_then(upload::base_name)) {
            ("file", Some(base)) if name.is_none() => {
                put(engine, id, &mut form, under_way).await?;
                name = Some(base.to_owned());
            }
            ("path", _) if folder.is_none() => {
                let mut text = Vec::new();
                while let Some(piece) = form.data().await.map_err(cut)? {
                    text.extend_from_slice(&piece);
                    if text.len() > MAX_FOLDER {
                        return Err(bad_request("path is longer than 4096 bytes"));
                    }
                }
                let text = String::from_utf8(text).map_err(|_| bad_request("path is not UTF-8"))?;
                folder = Some(text).filter(|text| !text.is_empty());
            }
            _ => {}
        }
    }
    form.rest().await.map_err(cut)?;
    let name = name.ok_or_else(|| bad_request("file required"))?;
    let folder = folder.unwrap_or_else(|| FOLDER.to_owned());
    let folder = folder.trim_end_matches('/');
    // One that is there may be named in ways that nothing can be made by, such as `.`.
    if !folder.is_empty() && engine.stat_file(id, folder.as_bytes()).await.is_err() {
        let made = engine.make_directory(id, folder.as_bytes(), true, None).await;
        if let Err(error) = made {
            return Err(unreadable(engine, id, "failed to upload", error).await);
        }
    }
    Ok(format!("{folder}/{name}"))
}

/// Writes the present part.
async fn put(engine: &Engine, id: SandboxId, form: &mut Multipart, path: &str) -> ApiResult<()> {
    match upload::put(engine, id, form, path, MODE, u64::MAX).await {
        Ok(_) => Ok(()),
        Err(error) => Err(unreadable(engine, id, "failed to upload", error).await),
    }
}

fn cut(error: io::Error) -> ApiError {
    bad_request(format!("the upload cannot be read: {error}"))
}
