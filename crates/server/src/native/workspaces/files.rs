//! One file of a workspace.

use axum::{
    Json as Reply,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use caisson_core::OnlyIf;
use caisson_engine::{Engine, NewWorkspaceFile, Tree, WorkspaceFile};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::json;

use super::place::File;
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
    native::{
        files::{content, exactly, mode},
        range::{self, Wanted},
        types::WorkspaceFileBody,
    },
    params::Params,
};

const MODE: HeaderName = HeaderName::from_static("x-caisson-mode");
const DIGEST: HeaderName = HeaderName::from_static("x-caisson-sha256");
/// The longest media type that is taken.
const MEDIA_TYPE: usize = 127;

/// Reads a file, or one range of it.
///
/// `HEAD` tells the same without the content. With `If-None-Match` and the `ETag` that the file has, the answer is 304.
#[utoipa::path(get, path = "/v1/workspaces/{name}/files/{*path}", operation_id = "read_workspace_file", tag = "workspaces",
    params(
        ("name" = String, Path, description = "The workspace; a `/` in it is `%2F`"),
        ("path" = String, Path, description = "The name of the file, with slashes"),
        ("range" = Option<String>, Header, description = "One range of bytes"),
        ("if-none-match" = Option<String>, Header, description = "Versions that the client has"),
    ),
    responses(
        (status = 200, description = "The content; `x-caisson-mode` has the permission bits, and `ETag` changes with the content", content_type = "application/octet-stream"),
        (status = 206, description = "The range", content_type = "application/octet-stream"),
        (status = 304, description = "The client has it"),
    ))]
pub(crate) async fn read(
    Caller(app): Caller,
    File { tree, name }: File,
    params: Params,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    params.finish()?;
    answer(&app.engine, &tree, &name, &method, &headers).await
}

/// The file as an answer.
pub(super) async fn answer(engine: &Engine, tree: &Tree, name: &str, method: &Method, headers: &HeaderMap) -> ApiResult<Response> {
    let looks_first = *method == Method::HEAD || headers.contains_key(header::RANGE) || headers.contains_key(header::IF_NONE_MATCH);
    let mut part = None;
    if looks_first {
        let file = engine.workspace_file(tree, name).await?;
        if headers.get(header::IF_NONE_MATCH).is_some_and(|known| names(known, &file.etag)) {
            return Ok((StatusCode::NOT_MODIFIED, described(&file)).into_response());
        }
        if *method == Method::HEAD {
            let mut head = described(&file);
            head.insert(header::CONTENT_LENGTH, file.size.into());
            return Ok((head, Body::empty()).into_response());
        }
        // Of another version than the client has, it wants all.
        let same = headers.get(header::IF_RANGE).is_none_or(|known| names(known, &file.etag));
        match range::wanted(headers.get(header::RANGE).filter(|_| same).map(HeaderValue::as_bytes), file.size) {
            Wanted::All => {}
            Wanted::Part(range) => part = Some((range, file.size)),
            Wanted::Unsatisfiable => {
                let message = format!("nothing of the range is in the file, which has {} bytes", file.size);
                let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message);
                let refusal = error.with_details(json!({"size": file.size}));
                return Ok(([(header::CONTENT_RANGE, format!("bytes */{}", file.size))], refusal).into_response());
            }
        }
    }
    let (offset, length) = part.as_ref().map_or((0, None), |(range, _)| (range.start, Some(range.end - range.start)));
    let (file, content) = engine.read_workspace_file(tree, name, offset, length).await?;
    let mut head = described(&file);
    let (status, length) = match part {
        Some((range, size)) => {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            head.insert(header::CONTENT_RANGE, HeaderValue::from_str(&text).expect("figures are a header value"));
            (StatusCode::PARTIAL_CONTENT, range.end - range.start)
        }
        None => (StatusCode::OK, file.size),
    };
    head.insert(header::CONTENT_LENGTH, length.into());
    Ok((status, head, Body::from_stream(exactly(content, length))).into_response())
}

fn described(file: &WorkspaceFile) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // What others have put there may have any type, and whatever it is, it is no page of ours.
    let media_type = HeaderValue::from_str(&file.media_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    let text = |text: String| HeaderValue::from_str(&text).ok();
    let moment = DateTimePrinter::new().timestamp_to_rfc9110_string(&file.modified_at).ok();
    let noted = [
        (header::ETAG, text(quoted(&file.etag))),
        (header::LAST_MODIFIED, moment.and_then(text)),
        (MODE, file.mode.and_then(|mode| text(format!("{mode:04o}")))),
        (DIGEST, file.digest.and_then(|digest| text(digest.hex()))),
    ];
    headers.extend(noted.into_iter().filter_map(|(name, value)| Some((name, value?))));
    headers
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// Whether a list of versions has this one. Weak ones are as good here, as there is nothing between equal and different.
fn names(header: &HeaderValue, etag: &str) -> bool {
    let text = header.to_str().unwrap_or_default();
    text.trim() == "*" || text.split(',').any(|one| one.trim().trim_start_matches("W/") == quoted(etag))
}

/// Writes a file. The body is its content; it appears whole or not at all.
///
/// With `If-None-Match: *` only where none is there, with `If-Match` only over that version; otherwise the answer is 412.
#[utoipa::path(put, path = "/v1/workspaces/{name}/files/{*path}", operation_id = "write_workspace_file", tag = "workspaces",
    params(
        ("name" = String, Path, description = "The workspace; a `/` in it is `%2F`. It comes into being with its first file"),
        ("path" = String, Path, description = "The name of the file, with slashes"),
        ("mode" = Option<String>, Query, description = "Permission bits in octal; 0644 when absent"),
        ("if-match" = Option<String>, Header, description = "The `ETag` of the version to be replaced, or `*` for any"),
        ("if-none-match" = Option<String>, Header, description = "`*`: only where there is no such file"),
    ),
    request_body(content_type = "application/octet-stream", description = "The content. `Content-Type` is kept; where it says nothing, the name does"),
    responses((status = 200, description = "The file as it is now", body = WorkspaceFileBody)))]
pub(crate) async fn write(Caller(app): Caller, File { tree, name }: File, mut params: Params, request: Request) -> ApiResult<Response> {
    let mode = mode(&mut params)?;
    params.finish()?;
    let only_if = condition(request.headers())?;
    let new = NewWorkspaceFile { mode, media_type: media_type(request.headers())? };
    let content = content(request.into_body(), app.config.body_stall);
    let file = app.engine.write_workspace_file(&tree, &name, new, content, only_if).await?;
    let etag = HeaderValue::from_str(&quoted(&file.etag)).ok().map(|etag| (header::ETAG, etag));
    Ok((HeaderMap::from_iter(etag), Reply(WorkspaceFileBody::from(&file))).into_response())
}

/// Removes a file.
#[utoipa::path(delete, path = "/v1/workspaces/{name}/files/{*path}", operation_id = "delete_workspace_file", tag = "workspaces",
    params(
        ("name" = String, Path, description = "The workspace; a `/` in it is `%2F`"),
        ("path" = String, Path, description = "The name of the file, with slashes"),
        ("if-match" = Option<String>, Header, description = "The `ETag` of the version to be removed, or `*` for any"),
    ),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(Caller(app): Caller, File { tree, name }: File, params: Params, headers: HeaderMap) -> ApiResult<StatusCode> {
    params.finish()?;
    let only_if = condition(&headers)?;
    app.engine.delete_workspace_file(&tree, &name, only_if).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What has to be there.
fn condition(headers: &HeaderMap) -> ApiResult<OnlyIf> {
    let invalid = |message: &str| Err(ApiError::bad_request("unsupported", message));
    let given = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default().trim());
    match (given(header::IF_MATCH), given(header::IF_NONE_MATCH)) {
        (None, None) => Ok(OnlyIf::Always),
        (Some("*"), None) => Ok(OnlyIf::Present),
        (None, Some("*")) => Ok(OnlyIf::Absent),
        (Some(etag), None) => match etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(plain) if !plain.is_empty() && !plain.contains(['"', ',']) => Ok(OnlyIf::Matches(plain.to_owned())),
            _ => invalid("`If-Match` is `*` or one `ETag` in quotes, as an earlier answer had it"),
        },
        (None, Some(_)) => invalid("`If-None-Match` is `*` for a change: only where there is no such file"),
        (Some(_), Some(_)) => invalid("give `If-Match` or `If-None-Match`, not both"),
    }
}

/// What the client says that it is. Types that programs send without having been told are as good as none.
fn media_type(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    let text = given.to_str().unwrap_or_default().trim();
    if matches!(text, "application/octet-stream" | "application/x-www-form-urlencoded") {
        return Ok(None);
    }
    let plain = |c: u8| c.is_ascii_graphic() || c == b' ';
    if text.len() > MEDIA_TYPE || !text.contains('/') || !text.bytes().all(plain) {
        return Err(ApiError::bad_request(
            "invalid_media_type",
            format!("`Content-Type` is a media type of at most {MEDIA_TYPE} characters"),
        ));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &'static str, value: &str, expect: Option<OnlyIf>) {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())]);
        assert_eq!(condition(&headers).ok(), expect, "{name}: {value}");
    }

    #[test]
    fn conditions_are_taken_or_refused() {
        check("if-match", "\"abc-1\"", Some(OnlyIf::Matches("abc-1".to_owned())));
        check("if-match", "*", Some(OnlyIf::Present));
        check("if-none-match", "*", Some(OnlyIf::Absent));
        check("x-other", "*", Some(OnlyIf::Always));
        for value in ["abc", "\"\"", "W/\"a\"", "\"a\", \"b\"", ""] {
            check("if-match", value, None);
        }
        check("if-none-match", "\"a\"", None);
    }

    #[test]
    fn versions_are_found_in_lists() {
        let known = |text: &'static str| names(&HeaderValue::from_static(text), "a");
        assert!(known("*") && known("\"a\"") && known("\"b\", W/\"a\""));
        assert!(!known("a") && !known("\"b\"") && !known(""));
    }
}
