//! JSON in, strictly: known fields only, and every refusal says where.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde::de::{self, DeserializeOwned};
use serde_json::{error::Category, json};

use crate::{
    app::App,
    error::{ApiError, ApiResult},
};

/// A whole body may take so many times as long as one piece of it.
const WHOLE_BODY: u32 = 10;

/// A request body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        check_type(request.headers())?;
        parse(&whole(request.into_body(), app).await?).map(Self)
    }
}

/// The whole of a body, within the limits on size and time. One that trickles in is not for ever either.
pub(crate) async fn whole(body: Body, app: &App) -> ApiResult<Bytes> {
    whole_within(body, app, app.config.body_limit).await
}

/// The same with a limit of its own on the size.
pub(crate) async fn whole_within(body: Body, app: &App, limit: usize) -> ApiResult<Bytes> {
    let within = app.config.body_stall * WHOLE_BODY;
    tokio::time::timeout(within, read(body, app, limit)).await.map_err(|_| {
        let message = format!("the body was not complete within {} s", within.as_secs());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    })?
}

/// A body without a type is taken for JSON. One that is announced as something else is something else: browsers may post forms and
/// plain text across origins without asking, for one.
pub(crate) fn check_type(headers: &HeaderMap) -> ApiResult<()> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let is_json = kind == "application/json" || kind.strip_suffix("+json").is_some_and(|kind| kind.starts_with("application/"));
    let charset = parts.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    let is_utf8 = charset.is_none_or(|(_, charset)| charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8"));
    if is_json && is_utf8 {
        return Ok(());
    }
    let message = format!("the body is announced as `{text}`; send JSON in UTF-8 with `Content-Type: application/json`");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

async fn read(mut body: Body, app: &App, limit: usize) -> ApiResult<Bytes> {
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes; put large files with `PUT /v1/sandboxes/{{id}}/files`");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message).with_details(json!({"limit_bytes": limit}))
    };
    let announced = body.size_hint();
    if announced.lower() > limit as u64 {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(app.config.body_stall, body.frame()).await.map_err(|_| {
            let message = format!("nothing of the body came for {} s", app.config.body_stall.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request("body_incomplete", "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > limit {
            return Err(too_large());
        }
        // Nearly every body comes in one piece, which then needs no copy.
        match first.take() {
            None if all.is_empty() => first = Some(data),
            None => all.extend_from_slice(&data),
            Some(begin) => {
                all.reserve(usize::try_from(announced.lower()).unwrap_or(0).max(begin.len() + data.len()));
                all.extend_from_slice(&begin);
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    // A list would be taken for the fields in their order.
    if let Some(at) = bytes.iter().position(|byte| !byte.is_ascii_whitespace())
        && bytes[at] == b'['
        && serde_json::from_slice::<de::IgnoredAny>(bytes).is_ok()
    {
        let before = &bytes[..at];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = at + 1 - before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let message = "the body is a list; send a JSON object";
        return Err(ApiError::bad_request("invalid_request", message).with_details(json!({"line": line, "column": column})));
    }
    serde_json::from_slice(bytes).map_err(|error| refusal::<T>(bytes, &error))
}

fn refusal<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    let answer = match error.classify() {
        _ if is_figure(error) => place_it::<T>(bytes, error),
        Category::Data => place_it::<T>(bytes, error),
        Category::Eof if bytes.is_empty() => ApiError::bad_request("invalid_json", "the body is empty; send a JSON object"),
        _ => ApiError::bad_request("invalid_json", format!("the body is not JSON: {error}")),
    };
    answer.with_details(json!({"line": line, "column": column}))
}

/// A figure that no double holds is well-formed all the same.
fn is_figure(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("number out of range")
}

/// Names the field that is wrong.
fn place_it<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> ApiError {
    // The way to the place is worth parsing a second time, once it is known to be wrong.
    let path = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(bytes))
        .err()
        .map(|error| error.path().to_string())
        .filter(|path| path != ".");
    let place = path.map(|path| format!("`{path}`: ")).unwrap_or_default();
    ApiError::bad_request("invalid_request", format!("{place}{error}"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::native::types::RunBody;

    #[track_caller]
    fn refused(text: &[u8]) -> (String, String, serde_json::Value) {
        let error = parse::<RunBody>(text).expect_err("it is refused").body().error;
        (error.code, error.message, error.details.expect("it says where"))
    }

    #[test]
    fn r6_3_bad_json_is_refused_with_its_place() {
        let (code, message, details) = refused(b"{\n  \"shell\": \"true\",\n}");
        assert_eq!((code.as_str(), &details), ("invalid_json", &json!({"line": 3, "column": 1})), "{message}");
        for text in ["", "{", "[1", "{\"shell\": \"a\"} x", "{\"shell\": \"\\ud800\"}", "nonsense", &"[".repeat(100_000)] {
            assert!(["invalid_json", "invalid_request"].contains(&refused(text.as_bytes()).0.as_str()), "{text:.50}");
        }
        for text in ["{\"shell\": NaN}", "{\"timeout_s\": Infinity}", "{'shell': 1}", "{\"timeout_s\": 01}", "\u{feff}{}"] {
            assert_eq!(refused(text.as_bytes()).0, "invalid_json", "{text}");
        }
        assert_eq!(refused(b"{\"shell\": \"\xff\"}").0, "invalid_json", "not UTF-8");
    }

    #[test]
    fn unknown_and_wrong_fields_are_named() {
        for (text, name) in [
            (r#"{"shell": "true", "timeout": 3}"#, "timeout"),
            (r#"{"shell": "true", "limits": {"memory_mb": 3}}"#, "limits.memory_mb"),
            (r#"{"cmd": ["a", 3]}"#, "cmd[1]"),
            (r#"{"files": [{"path": "a", "content": "", "mode": "9"}]}"#, "files[0].mode"),
            (r#"{"shell": "a", "shell": "b"}"#, "shell"),
            (r#" ["true"]"#, "list"),
            (r#"{"shell": "a", "limits": [1]}"#, "limits"),
            (r#"{"shell": "a", "files": [["a", "b"]]}"#, "files[0]"),
            (r#"{"shell": "a", "timeout_s": 1e999}"#, "timeout_s"),
            (r#"{"shell": "a", "limits": {"pids": -1e999}}"#, "limits.pids"),
            (r#"{"shell": "a", "env": {"A": "1", "A": "2"}}"#, "env"),
        ] {
            let (code, message, _) = refused(text.as_bytes());
            assert_eq!(code, "invalid_request");
            assert!(message.contains(name), "{text}: {message}");
        }
    }

    #[test]
    fn only_json_is_taken_for_json() {
        for (kind, ok) in [
            ("application/json; charset=utf-8", true),
            ("Application/JSON;charset=\"UTF-8\"", true),
            ("application/merge-patch+json", true),
            ("application/json; charset=latin-1", false),
            ("text/plain", false),
            ("", false),
            ("application/x-www-form-urlencoded", false),
            ("Multipart/Form-Data; boundary=x", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(check_type(&headers).is_ok(), ok, "{kind}");
        }
        assert!(check_type(&HeaderMap::new()).is_ok());
    }
}
