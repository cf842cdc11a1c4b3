//! The door and the shapes of refusals, on a machine that can make no sandbox.

use axum::{body::Body, extract::Request};
use caisson_core::Scope;
use caisson_engine::NewKey;
use serde_json::Value;

use crate::{
    auth::hash,
    testing::{Answer, Bench, KEY},
};

const PATHS: [(&str, &str); 8] = [
    ("POST", "/v1/sandbox"),
    ("GET", "/v1/sandbox"),
    ("DELETE", "/v1/sandbox/sbx0000000000000000000000000"),
    ("POST", "/v1/sandbox/x/exec"),
    ("GET", "/v1/sandbox/x/files"),
    ("POST", "/v1/sandbox/x/files"),
    ("GET", "/v1/sandbox/x/files/content"),
    ("GET", "/v1/sandbox/x/interact"),
];

async fn ask(bench: &Bench, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    bench.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

#[track_caller]
fn refused(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    let body: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!((body["message"].as_str(), body["error"].as_str()), (Some(text), Some(text)));
    assert_eq!(body.as_object().unwrap().len(), 2);
    assert!(answer.text.ends_with("}\n"));
    assert_eq!(answer.headers["content-type"], "application/json; charset=UTF-8");
}

#[tokio::test]
async fn r6_1_every_path_of_it_needs_a_key_first() {
    let bench = Bench::new().await;
    let bearer = format!("Bearer {KEY}");
    let long_since = [("PUT", "/v1/sandbox"), ("GET", "/v1/sandbox/x"), ("GET", "/v1/sandbox/x/nothing"), ("POST", "/v1/sandbox/")];
    for (method, target) in PATHS.into_iter().chain(long_since) {
        for headers in [&[][..], &[("x-boxed-api-key", "wrong")], &[("authorization", &bearer)], &[("x-api-key", KEY)]] {
            refused(&ask(&bench, method, target, headers, "").await, 401, "invalid or missing API key");
        }
        let by_query = format!("{target}?api_key={}", KEY.replace(' ', "%20"));
        for (target, headers) in [(target, &[("x-boxed-api-key", KEY)][..]), (&by_query, &[]), (&by_query, &[("x-boxed-api-key", "")])] {
            let answer = ask(&bench, method, target, headers, "").await;
            assert_ne!(answer.status, 401, "{method} {target}: {}", answer.text);
        }
        // The header goes before the query.
        refused(&ask(&bench, method, &by_query, &[("x-boxed-api-key", "wrong")], "").await, 401, "invalid or missing API key");
    }
}

#[tokio::test]
async fn r6_1_scopes_are_those_of_the_native_api() {
    let bench = Bench::new().await;
    for (text, scope) in [("reads", Scope::Read), ("runs", Scope::Run)] {
        let new = NewKey { hash: hash(text.as_bytes()), tenant: "other".parse().unwrap(), scope, note: String::new(), expires_at: None };
        bench.engine().add_key(new).await.unwrap();
    }
    for (method, target) in PATHS {
        let reads = ask(&bench, method, target, &[("x-boxed-api-key", "reads")], "").await;
        assert_eq!(reads.status == 403, method != "GET", "{method} {target}: {}", reads.text);
        assert_ne!(ask(&bench, method, target, &[("x-boxed-api-key", "runs")], "").await.status, 403);
    }
    let upgrade = [("x-boxed-api-key", "reads"), ("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(ask(&bench, "GET", "/v1/sandbox/x/interact", &upgrade, "").await.status, 403);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_its_words() {
    let bench = Bench::new().await;
    let key = [("x-boxed-api-key", KEY)];
    for target in ["/v1/sandbox/", "/v1/sandbox/x/nothing", "/v1/sandbox/x/files/", "/v1/sandbox/x/files/content/y"] {
        refused(&ask(&bench, "GET", target, &key, "").await, 404, "Not Found");
    }
    for (method, target) in
        [("GET", "/v1/sandbox/x"), ("PUT", "/v1/sandbox"), ("GET", "/v1/sandbox/x/exec"), ("DELETE", "/v1/sandbox/x/files")]
    {
        refused(&ask(&bench, method, target, &key, "").await, 405, "Method Not Allowed");
    }
    // What is beside it is native.
    assert_eq!(bench.ask("GET", "/v1/sandboxe", "").await.code(), "not_found");
}

#[tokio::test]
async fn bodies_and_ids_are_looked_at_in_order() {
    let bench = Bench::new().await;
    let json = [("x-boxed-api-key", KEY), ("content-type", "application/json")];
    let exec = "/v1/sandbox/x/exec";
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let headers = [("x-boxed-api-key", KEY), ("content-type", kind)];
        refused(&ask(&bench, "POST", exec, &headers, "{}").await, 415, "Unsupported Media Type");
    }
    refused(&ask(&bench, "POST", exec, &json, r#"{"language": "cobol"}"#).await, 400, "unsupported language: cobol");
    refused(&ask(&bench, "POST", exec, &json, "{}").await, 404, "sandbox not found");
    refused(&ask(&bench, "POST", exec, &json[..1], "").await, 404, "sandbox not found");
    refused(&ask(&bench, "GET", "/v1/sandbox/x/files/content", &json, "").await, 400, "path required");
    for (method, target) in [
        ("DELETE", "/v1/sandbox/x"),
        ("GET", "/v1/sandbox/%00/files"),
        ("GET", "/v1/sandbox/sbx0000000000000000000000000/files"),
        ("POST", "/v1/sandbox/x/files"),
    ] {
        refused(&ask(&bench, method, target, &json, "").await, 404, "sandbox not found");
    }
    let answer = ask(&bench, "GET", "/v1/sandbox/x/interact", &json, "").await;
    assert_eq!((answer.status, answer.text.as_str()), (400, "Bad Request"));
    for body in ["{", "[]", r#"{"timeout": "x"}"#, r#"{"timeout": 1.5}"#, r#"{"metadata": 5}"#] {
        assert_eq!(ask(&bench, "POST", "/v1/sandbox", &json, body).await.status, 400, "{body}");
    }
    assert_eq!(ask(&bench, "POST", "/v1/sandbox", &json, &"x".repeat(2000)).await.status, 413);
    let over = "failed to create sandbox: invalid sandbox configuration: timeout cannot exceed 30 minutes";
    refused(&ask(&bench, "POST", "/v1/sandbox", &json, r#"{"timeout": 1801}"#).await, 400, over);
    for policy in [r#"{"enable_internet": true}"#, r#"{"allow_domains": ["x"]}"#] {
        let answer = ask(&bench, "POST", "/v1/sandbox", &json, &format!(r#"{{"network_policy": {policy}}}"#)).await;
        assert!(answer.status == 400 && answer.text.contains("network_policy"), "{}", answer.text);
    }
    // Nothing can be made here, and all of this would have been.
    for body in [
        "",
        "{}",
        "null",
        r#"{"template": "x", "timeout": -1, "network_policy": {"enable_internet": false, "allow_domains": []}, "new": 1}"#,
    ] {
        let answer = ask(&bench, "POST", "/v1/sandbox", &json, body).await;
        assert!([500, 501].contains(&answer.status), "{} {}", answer.status, answer.text);
    }
}

#[tokio::test]
async fn lists_are_never_null() {
    let bench = Bench::new().await;
    let answer = ask(&bench, "GET", "/v1/sandbox", &[("x-boxed-api-key", KEY)], "").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "{\"sandboxes\":[]}\n"));
}
