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
use serde::de::DeserializeOwned;
use serde_json::{error::Category, json};

use crate::{
    app::App,
    error::{ApiError, ApiResult},
};

/// A request body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        refuse_forms(request.headers())?;
        let bytes = read(request.into_body(), app).await?;
        parse(&bytes).map(Self)
    }
}

/// Browsers may post forms across origins without asking; nobody else means JSON by these types.
fn refuse_forms(headers: &HeaderMap) -> ApiResult<()> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if ["application/x-www-form-urlencoded", "multipart/form-data"].iter().any(|form| kind.eq_ignore_ascii_case(form)) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("the body is announced as `{kind}`; send JSON with `Content-Type: application/json`"),
        ));
    }
    Ok(())
}

async fn read(mut body: Body, app: &App) -> ApiResult<Bytes> {
    let limit = app.config.body_limit;
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
    serde_json::from_slice(bytes).map_err(|error| refusal::<T>(bytes, &error))
}

fn refusal<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    let answer = match error.classify() {
        Category::Data => {
            // The way to the place is worth parsing a second time, once it is known to be wrong.
            let path = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(bytes))
                .err()
                .map(|error| error.path().to_string())
                .filter(|path| path != ".");
            let place = path.map(|path| format!("`{path}`: ")).unwrap_or_default();
            ApiError::bad_request("invalid_request", format!("{place}{error}"))
        }
        Category::Eof if bytes.is_empty() => ApiError::bad_request("invalid_json", "the body is empty; send a JSON object"),
        _ => ApiError::bad_request("invalid_json", format!("the body is not JSON: {error}")),
    };
    answer.with_details(json!({"line": line, "column": column}))
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
    fn bad_json_is_refused_with_its_place() {
        let (code, message, details) = refused(b"{\n  \"shell\": \"true\",\n}");
        assert_eq!((code.as_str(), &details), ("invalid_json", &json!({"line": 3, "column": 1})), "{message}");
        for text in ["", "{", "[1", "{\"shell\": \"a\"} x", "{\"shell\": \"\\ud800\"}", "nonsense", &"[".repeat(100_000)] {
            assert!(["invalid_json", "invalid_request"].contains(&refused(text.as_bytes()).0.as_str()), "{text:.50}");
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
            (r#"{"shell": "a", "env": {"A": "1", "A": "2"}}"#, "env"),
        ] {
            let (code, message, _) = refused(text.as_bytes());
            assert_eq!(code, "invalid_request");
            assert!(message.contains(name), "{text}: {message}");
        }
    }

    #[test]
    fn any_type_but_a_form_is_taken_for_json() {
        for (kind, ok) in [
            ("application/json; charset=utf-8", true),
            ("text/plain", true),
            ("application/x-www-form-urlencoded", false),
            ("Multipart/Form-Data; boundary=x", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(refuse_forms(&headers).is_ok(), ok, "{kind}");
        }
        assert!(refuse_forms(&HeaderMap::new()).is_ok());
    }
}
