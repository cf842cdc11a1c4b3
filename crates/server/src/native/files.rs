//! Files inside a sandbox, streamed.

use std::{io, time::Duration};

use axum::{
    Json as Reply,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use caisson_core::{FileStat, SandboxId};
use caisson_engine::{ByteStream, FileAttributes};
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use serde_json::json;

use super::{
    cursor,
    id::Id,
    range::{self, Wanted},
    types::{FileBody, ListingBody, Mode, printable_path},
};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
    params::Params,
};

const MODE: HeaderName = HeaderName::from_static("x-caisson-mode");
/// Levels and entries of a listing when the request says nothing, and at most.
const DEPTH: u32 = 1;
pub(crate) const MAX_DEPTH: u32 = 64;
pub(super) const ENTRIES: u32 = 1000;
pub(crate) const MAX_ENTRIES: u32 = 10_000;

pub(super) fn path(params: &mut Params) -> ApiResult<Vec<u8>> {
    path_in(params, "path")
}

pub(super) fn path_in(params: &mut Params, name: &str) -> ApiResult<Vec<u8>> {
    params.bytes(name)?.ok_or_else(|| ApiError::bad_request("invalid_parameter", format!("parameter `{name}` is missing")))
}

pub(super) fn mode(params: &mut Params) -> ApiResult<Option<u32>> {
    Ok(params.parsed::<Mode>("mode", "permission bits in octal, 0 to 0777")?.map(|mode| mode.0))
}

/// Writes a file. The body is its content; directories on the way are made.
///
/// The file appears whole or not at all: what is there stays untouched until the whole body has come. A link is written through.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files", operation_id = "write_file", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("mode" = Option<String>, Query, description = "Permission bits in octal; when absent, those of the file that is replaced, or 0644"),
        ("modified_at" = Option<String>, Query, description = "The time of modification that it gets, in RFC 3339; now, when absent"),
    ),
    request_body(content_type = "application/octet-stream", description = "The content"),
    responses((status = 200, description = "The file as it is now", body = FileBody)))]
pub(crate) async fn write(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params, request: Request) -> ApiResult<Reply<FileBody>> {
    let path = path(&mut params)?;
    let modified_at: Option<Timestamp> = params.parsed("modified_at", "a moment such as 2026-01-31T12:00:00Z")?;
    let attributes = FileAttributes { mode: mode(&mut params)?, modified_at };
    params.finish()?;
    let content = content(request.into_body(), app.config.body_stall);
    let stat = app.engine.write_file(id, &path, attributes, content).await?;
    Ok(Reply(FileBody::from(&stat)))
}

/// The body as the engine takes it. A client that stalls is an error like one that hangs up.
pub(crate) fn content(body: Body, stall: Duration) -> ByteStream {
    let frames = stream::unfold(body, move |mut body| async move {
        let next = match tokio::time::timeout(stall, body.frame()).await {
            Ok(frame) => frame?.map_err(io::Error::other),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing of the body came for {} s", stall.as_secs()))),
        };
        Some((next, body))
    });
    Box::pin(frames.try_filter_map(async |frame| Ok(frame.into_data().ok())))
}

/// Reads a file, or one range of it.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files", operation_id = "read_file", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("range" = Option<String>, Header, description = "One range of bytes"),
    ),
    responses(
        (status = 200, description = "The content; `x-caisson-mode` has the permission bits, and `ETag` changes with the content", content_type = "application/octet-stream"),
        (status = 206, description = "The range", content_type = "application/octet-stream"),
    ))]
pub(crate) async fn read(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params, headers: HeaderMap) -> ApiResult<Response> {
    let path = path(&mut params)?;
    params.finish()?;
    let mut part = None;
    if let Some(header) = headers.get(header::RANGE) {
        // Not `stat`, which does not follow links: what is read does.
        let size = app.engine.read_file(id, &path, 0, Some(0)).await?.0.size;
        match range::wanted(Some(header.as_bytes()), size) {
            Wanted::All => {}
            Wanted::Part(range) => part = Some((range, size)),
            Wanted::Unsatisfiable => {
                let message = format!("nothing of the range is in `{}`, which has {size} bytes", printable_path(&path));
                let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message);
                let answer = error.with_details(json!({"size": size}));
                return Ok(([(header::CONTENT_RANGE, format!("bytes */{size}"))], answer).into_response());
            }
        }
    }
    let (offset, length) = part.as_ref().map_or((0, None), |(range, _)| (range.start, Some(range.end - range.start)));
    let (stat, content) = app.engine.read_file(id, &path, offset, length).await?;
    let mut answer = HeaderMap::new();
    describe(&mut answer, &stat);
    let status = match part {
        Some((range, size)) => {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            answer.insert(header::CONTENT_RANGE, HeaderValue::from_str(&text).expect("figures are a header value"));
            answer.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
            StatusCode::PARTIAL_CONTENT
        }
        // What the kernel makes up when it is read (`/proc`) has no size of its own and is sent without one.
        None if stat.size > 0 => {
            answer.insert(header::CONTENT_LENGTH, stat.size.into());
            StatusCode::OK
        }
        None => StatusCode::OK,
    };
    let announced = length.or((stat.size > 0).then_some(stat.size));
    let body = match announced {
        Some(length) => Body::from_stream(exactly(content, length)),
        None => Body::from_stream(content),
    };
    Ok((status, answer, body).into_response())
}

fn describe(headers: &mut HeaderMap, stat: &FileStat) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let mode = HeaderValue::from_str(&format!("{:04o}", stat.mode)).expect("octal digits are a header value");
    headers.insert(MODE, mode);
    let tag = format!("\"{:x}-{:x}-{:x}\"", stat.size, stat.modified_at.as_nanosecond(), stat.inode);
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).expect("figures are a header value"));
    // Moments that the format cannot express are left out.
    let modified = DateTimePrinter::new().timestamp_to_rfc9110_string(&stat.modified_at).ok();
    if let Some(value) = modified.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(header::LAST_MODIFIED, value);
    }
}

/// The first `length` bytes of a content. A file that grows is cut there; one that has shrunk breaks the answer off, so that nobody
/// takes the part for the whole.
pub(crate) fn exactly(content: ByteStream, length: u64) -> impl futures::Stream<Item = io::Result<Bytes>> {
    stream::unfold((content, length), |(mut content, left)| async move {
        if left == 0 {
            return None;
        }
        let piece = match content.next().await {
            Some(Ok(mut bytes)) => {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                Ok(bytes)
            }
            Some(Err(error)) => Err(error),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")),
        };
        let left = match &piece {
            Ok(bytes) => left - bytes.len() as u64,
            Err(_) => 0,
        };
        Some((piece, (content, left)))
    })
}

/// Deletes a file, a link or an empty directory; with `recursive` a directory with everything in it.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files", operation_id = "delete_file", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("recursive" = Option<bool>, Query, description = "Whether a directory goes with everything in it"),
    ),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<StatusCode> {
    let (path, recursive) = (path(&mut params)?, params.flag("recursive")?);
    params.finish()?;
    app.engine.delete_file(id, &path, recursive).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is known of one directory entry; links are not followed.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/stat", operation_id = "stat_file", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
    ),
    responses((status = 200, description = "The entry", body = FileBody)))]
pub(crate) async fn stat(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Reply<FileBody>> {
    let path = path(&mut params)?;
    params.finish()?;
    Ok(Reply(FileBody::from(&app.engine.stat_file(id, &path).await?)))
}

/// What is in a directory, depth first, each directory sorted by the bytes of the names.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/list", operation_id = "list_files", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("depth" = Option<u32>, Query, description = "Levels: 1 (when absent) to 64"),
        ("limit" = Option<u32>, Query, description = "Entries: 1 to 10000, 1000 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "The entries", body = ListingBody)))]
pub(crate) async fn list(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Reply<ListingBody>> {
    let path = path(&mut params)?;
    let depth = bounded(&mut params, "depth", DEPTH, MAX_DEPTH)?;
    let limit = bounded(&mut params, "limit", ENTRIES, MAX_ENTRIES)?;
    let after = cursor::given(&mut params)?;
    params.finish()?;
    Ok(Reply(ListingBody::from(&app.engine.list_files(id, &path, depth, limit, after.as_deref()).await?)))
}

pub(super) fn bounded(params: &mut Params, name: &str, default: u32, max: u32) -> ApiResult<u32> {
    let what = format!("a whole number from 1 to {max}");
    match params.parsed::<u32>(name, &what)? {
        None => Ok(default),
        Some(value) if (1..=max).contains(&value) => Ok(value),
        Some(value) => Err(ApiError::bad_request("invalid_parameter", format!("parameter `{name}` is {value}, expected {what}"))),
    }
}
