//! JSON in, leniently: what is null is absent, and unknown fields are passed over, which the log tells.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use http::StatusCode;
use serde::de::DeserializeOwned;

use super::answer::{ModboxProblem, invalid, invalid_field, refusal};
use crate::{
    app::App,
    error::{ApiError, ApiResult},
    json,
};

/// Bytes of a body, but for programs.
const MOST: usize = 1 << 20;
/// Unknown fields that the log tells of one body, and characters of each.
const TOLD: usize = 8;
const SHOWN: usize = 64;

/// A request body of at most [`MOST`] bytes.
pub(crate) struct Body<T>(pub(crate) T);

/// One of at most so many.
pub(crate) struct BodyWithin<T, const MOST: usize>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        BodyWithin::<T, MOST>::from_request(request, app).await.map(|BodyWithin(value)| Self(value))
    }
}

impl<T: DeserializeOwned + Default, const MOST: usize> FromRequest<Arc<App>> for BodyWithin<T, MOST> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        json::check_type(request.headers())?;
        let bytes = json::whole(request.into_body(), app).await?;
        if bytes.len() > MOST {
            let message = format!("the body has {} bytes, and {MOST} are allowed here", bytes.len());
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned + Default>(bytes: &[u8]) -> ApiResult<T> {
    match bytes.trim_ascii() {
        b"" | b"null" => return Ok(T::default()),
        // A list would be taken for the fields in their order.
        [b'{', ..] => {}
        _ => return Err(invalid_field("body", "is no JSON object")),
    }
    let mut passed_over = Vec::new();
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_ignored::deserialize(&mut from, |path| {
        if passed_over.len() < TOLD {
            passed_over.push(path.to_string().chars().take(SHOWN).flat_map(char::escape_default).collect::<String>());
        }
    });
    match parsed.and_then(|value| from.end().map(|()| value)) {
        Ok(value) => {
            if !passed_over.is_empty() {
                tracing::info!("Fields of a request are passed over, because nothing is known of them: {}", passed_over.join(", "));
            }
            Ok(value)
        }
        Err(error) => Err(refused::<T>(bytes, &error)),
    }
}

/// Names the field that is wrong, for which the body is read a second time.
fn refused<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> ApiError {
    if !error.is_data() {
        return invalid_field("body", format!("is not JSON: {error}"));
    }
    let named = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(bytes)).err();
    let path = named.map(|error| error.path().to_string()).filter(|path| path != ".");
    let field = path.map_or_else(|| "body".to_owned(), |path| format!("body.{path}"));
    invalid(vec![ModboxProblem { field: Some(field), issue: error.to_string() }])
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Example {
        timeout: Option<i64>,
    }

    #[test]
    fn null_is_absent_and_unknown_fields_are_fine() {
        for body in ["", " \n", "null", "{}", r#"{"timeout": null, "x": [{}]}"#] {
            assert_eq!(parse::<Example>(body.as_bytes()).unwrap(), Example { timeout: None }, "{body}");
        }
        assert_eq!(parse::<Example>(br#"{"timeout": 7}"#).unwrap().timeout, Some(7));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        for (body, field) in [
            (r#"{"timeout": "x"}"#, "body.timeout"),
            (r#"{"timeout": 1.5}"#, "body.timeout"),
            ("{", "body"),
            ("[]", "body"),
            ("3", "body"),
            ("{} x", "body"),
            (&"{\"timeout\":".repeat(100_000), "body"),
        ] {
            let error = parse::<Example>(body.as_bytes()).expect_err("it is refused");
            assert_eq!(error.parts().0, 422, "{body:.50}");
            assert!(error.details().unwrap()[0]["field"].as_str().unwrap().starts_with(field), "{error:?}");
        }
    }
}
