//! Bodies of JSON, read as upstream reads them: what they are is found out here, and what is in them by [`super::check`].

use std::{sync::Arc, time::Duration};

use axum::extract::{FromRequest, Request};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Map, Value, json};

use super::{
    answer::{bad_request, faulty},
    check::fault,
};
use crate::{
    app::App,
    error::{ApiError, ApiResult},
    json,
};

/// Values of one body. Made into values they are many times as long as the shortest text of them.
const MOST_VALUES: usize = 100_000;
/// So much of a body is looked at before there is a key, and so long.
const BEFORE_KEY: usize = 64 << 10;
const BEFORE_KEY_WITHIN: Duration = Duration::from_secs(2);

/// The fields of a body.
pub(crate) struct Fields(pub(super) Map<String, Value>);

impl FromRequest<Arc<App>> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        let is_json = says_json(request.headers());
        let bytes = json::whole(request.into_body(), app).await?;
        fields(&bytes, is_json)
    }
}

/// The refusal of a body that cannot be JSON, which is told to everybody.
pub(super) fn unreadable(app: &Arc<App>, request: Request) -> BoxFuture<'_, Option<ApiError>> {
    Box::pin(async move {
        let takes_json = matches!(*request.method(), Method::POST | Method::PUT) && !request.uri().path().ends_with("/seed");
        if !takes_json || !says_json(request.headers()) {
            return None;
        }
        let whole = json::whole_within(request.into_body(), app, BEFORE_KEY);
        let bytes = tokio::time::timeout(BEFORE_KEY_WITHIN, whole).await.ok()?.ok()?;
        if bytes.is_empty() { None } else { parse(&bytes).err() }
    })
}

fn says_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.strip_prefix("application/").is_some_and(|kind| kind == "json" || kind.ends_with("+json"))
}

fn fields(bytes: &[u8], is_json: bool) -> ApiResult<Fields> {
    let value = match (bytes.is_empty(), is_json) {
        (true, _) => Value::Null,
        (false, false) => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        (false, true) => parse(bytes)?,
    };
    match value {
        Value::Object(fields) => Ok(Fields(fields)),
        Value::Null => Err(faulty(vec![fault("missing", json!(["body"]), "Field required", Value::Null)])),
        other => {
            let message = "Input should be a valid dictionary or object to extract fields from";
            Err(faulty(vec![fault("model_attributes_type", json!(["body"]), message, other)]))
        }
    }
}

fn parse(bytes: &[u8]) -> ApiResult<Value> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Err(bad_request("There was an error parsing the body")) };
    if values(bytes) > MOST_VALUES {
        let message = format!("the body has more than {MOST_VALUES} values; send fewer at one time");
        return Err(super::answer::refusal(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    serde_json::from_str(text).map_err(|error| {
        let before = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(|line| line.chars().count()).sum::<usize>();
        let why = error.to_string();
        let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why);
        let mut fault = fault("json_invalid", json!(["body", before + error.column().saturating_sub(1)]), "JSON decode error", json!({}));
        fault["ctx"] = json!({"error": why});
        faulty(vec![fault])
    })
}

/// At least as many values as there are in a text.
fn values(bytes: &[u8]) -> usize {
    let (mut count, mut within, mut escaped) = (1, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if within => escaped = true,
            b'"' => within = !within,
            b',' | b'[' | b'{' if !within => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(bytes: &[u8], is_json: bool) -> Value {
        let error = fields(bytes, is_json).err().unwrap();
        assert_eq!(error.parts().0, 422);
        error.details().unwrap().clone()
    }

    #[test]
    fn what_is_no_object_is_told_as_upstream_tells_it() {
        let missing = json!([{"type": "missing", "loc": ["body"], "msg": "Field required", "input": null}]);
        for (bytes, is_json) in [(&b""[..], true), (b"", false), (b"null", true)] {
            assert_eq!(detail(bytes, is_json), missing);
        }
        let message = "Input should be a valid dictionary or object to extract fields from";
        for (bytes, is_json, input) in [
            (&b"[1]"[..], true, json!([1])),
            (b"\"x\"", true, json!("x")),
            (b"{\"base_image\": \"x\"}", false, json!("{\"base_image\": \"x\"}")),
        ] {
            let expect = json!([{"type": "model_attributes_type", "loc": ["body"], "msg": message, "input": input}]);
            assert_eq!(detail(bytes, is_json), expect);
        }
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for (text, at) in [("{", 0), ("{\"a\": }", 6), ("{\"a\": 1,\n\"ä\" 2}", 13)] {
            let detail = detail(text.as_bytes(), true);
            let fault = &detail[0];
            assert_eq!((&fault["type"], &fault["msg"], &fault["input"]), (&json!("json_invalid"), &json!("JSON decode error"), &json!({})));
            let offset = fault["loc"][1].as_u64().unwrap();
            assert!(fault["loc"][0] == "body" && offset.abs_diff(at) <= 1, "{text}: {fault}");
            assert!(fault["ctx"]["error"].as_str().is_some_and(|why| !why.is_empty() && !why.contains("line")), "{fault}");
        }
        assert_eq!(fields(b"\"\xff\"", true).err().unwrap().parts().0, 400);
        assert!(detail("[".repeat(5000).as_bytes(), true)[0]["type"] == "json_invalid");
    }

    #[test]
    fn r6_3_bodies_of_very_many_values_are_refused_before_they_are_made() {
        assert_eq!(values(br#"{"a,[{": "\",", "b": [1, 2]}"#), 5);
        let text = format!("[{}0]", "0,".repeat(MOST_VALUES));
        assert_eq!(fields(text.as_bytes(), true).err().unwrap().parts().0, 413);
    }

    #[test]
    fn types_of_content_are_upstreams() {
        for (kind, is_json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/plain", false),
            ("text/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
            assert_eq!(says_json(&headers), is_json, "{kind}");
        }
        assert!(says_json(&HeaderMap::new()));
    }
}
