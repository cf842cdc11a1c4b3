//! JSON in, leniently: unknown fields are passed over, and no body is an empty one.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::answer::{bad_request, refusal};
use crate::{
    app::App,
    error::{ApiError, ApiResult},
    json,
};

/// A request body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        if request.body().size_hint().exact() == Some(0) {
            return Ok(Self(T::default()));
        }
        if !is_json(request.headers()) {
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type"));
        }
        parse(&json::whole(request.into_body(), app).await?).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn parse<T: DeserializeOwned + Default>(bytes: &[u8]) -> ApiResult<T> {
    match bytes.trim_ascii() {
        b"" | b"null" => return Ok(T::default()),
        // A list would be taken for the fields in their order.
        [b'[', ..] => return Err(bad_request("Unmarshal type error: expected=object, got=array, field=, offset=0")),
        _ => {}
    }
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let offset = offset(bytes, error.line(), error.column());
    let whole = error.to_string();
    let reason = whole.split(" at line ").next().unwrap_or_default();
    if error.classify() != Category::Data {
        return Err(bad_request(format!("Syntax error: offset={offset}, error={reason}")));
    }
    let named = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(bytes)).err();
    let field = named.map(|error| error.path().to_string()).filter(|path| path != ".").unwrap_or_default();
    Err(bad_request(format!("Unmarshal type error: {reason}, field={field}, offset={offset}")))
}

/// The place of a line and column, both of which count from 1.
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let before: usize = bytes.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    before + column
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Example {
        timeout: Option<i64>,
    }

    fn text(body: &str) -> String {
        parse::<Example>(body.as_bytes()).expect_err("it is refused").parts().2.to_owned()
    }

    #[test]
    fn unknown_fields_and_nothing_are_fine() {
        for body in ["", "  \n", "null", "{}", r#"{"timeout": null, "timeout_ms": 3, "x": [{}]}"#] {
            assert_eq!(parse::<Example>(body.as_bytes()).unwrap(), Example { timeout: None }, "{body}");
        }
        assert_eq!(parse::<Example>(br#"{"timeout": 7}"#).unwrap().timeout, Some(7));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert!(text("{\n x").starts_with("Syntax error: offset=4, error="), "{}", text("{\n x"));
        assert!(text(r#"{"timeout": "x"}"#).starts_with("Unmarshal type error: "), "{}", text(r#"{"timeout": "x"}"#));
        for body in [r#"{"timeout": 1.5}"#, r#"{"timeout": "x"}"#, r#"{"timeout": true}"#] {
            assert!(text(body).contains("field=timeout"), "{}", text(body));
        }
        for body in ["[]", "[1]", "3", "\"x\"", &"[".repeat(100_000), &"{\"a\":".repeat(100_000), "{\"timeout\": 1e999}"] {
            text(body);
        }
    }
}
