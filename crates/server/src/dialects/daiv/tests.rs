//! The door and the shapes of refusals, on a machine that can make no sandbox.

use axum::{body::Body, extract::Request};
use caisson_core::Scope;
use caisson_engine::NewKey;
use serde_json::{Value, json};

use crate::{
    auth::hash,
    testing::{Answer, Bench, KEY},
};

const PATHS: [(&str, &str); 13] = [
    ("POST", "/session"),
    ("GET", "/session/x"),
    ("POST", "/session/x"),
    ("DELETE", "/session/x"),
    ("POST", "/session/x/seed"),
    ("POST", "/session/x/files"),
    ("PUT", "/session/x/egress"),
    ("POST", "/session/x/fs/ls"),
    ("POST", "/session/x/fs/read"),
    ("POST", "/session/x/fs/grep"),
    ("POST", "/session/x/fs/glob"),
    ("POST", "/session/x/fs/write"),
    ("POST", "/session/x/fs/edit"),
];

async fn ask(bench: &Bench, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    bench.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

#[track_caller]
fn refused(answer: &Answer, status: u16, detail: &str) {
    assert_eq!((answer.status, answer.text.as_str()), (status, json!({"detail": detail}).to_string().as_str()));
    assert_eq!(answer.headers["content-type"], "application/json");
}

#[tokio::test]
async fn r6_1_every_path_of_it_needs_a_key_first() {
    let bench = Bench::new().await;
    let bearer = format!("Bearer {KEY}");
    for (method, target) in PATHS {
        for target in [target.to_owned(), format!("{target}/"), format!("/api/v1{target}"), format!("/api/v1{target}/")] {
            for headers in [&[][..], &[("x-api-key", "")], &[("authorization", &bearer)]] {
                refused(&ask(&bench, method, &target, headers, "{}").await, 403, "API Key header is missing");
            }
            refused(&ask(&bench, method, &target, &[("x-api-key", "wrong")], "{}").await, 403, "Invalid API Key");
            let answer = ask(&bench, method, &target, &[("x-api-key", KEY)], "").await;
            assert!(![401, 403, 405].contains(&answer.status), "{method} {target}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn what_is_no_json_is_told_before_the_key() {
    let bench = Bench::new().await;
    let kind = ("content-type", "application/json");
    for (method, target) in PATHS {
        let answer = ask(&bench, method, target, &[kind], "{\"a\": ").await;
        if method == "POST" && target.ends_with("/seed") || !["POST", "PUT"].contains(&method) {
            refused(&answer, 403, "API Key header is missing");
        } else {
            let body: Value = serde_json::from_str(&answer.text).unwrap();
            assert_eq!((answer.status, &body["detail"][0]["type"]), (422, &json!("json_invalid")), "{method} {target}");
        }
        refused(&ask(&bench, method, target, &[("content-type", "text/plain")], "{").await, 403, "API Key header is missing");
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
        let reads = ask(&bench, method, target, &[("x-api-key", "reads")], "").await;
        assert_eq!(reads.status == 403, method != "GET", "{method} {target}: {}", reads.text);
        assert_ne!(ask(&bench, method, target, &[("x-api-key", "runs")], "").await.status, 403);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_its_words() {
    let bench = Bench::new().await;
    for target in ["/session/x/nothing", "/session/x/fs", "/session/x/fs/nothing", "/api/v1", "/api/v1/x/", "/-/x"] {
        refused(&ask(&bench, "GET", target, &[], "").await, 404, "Not Found");
    }
    for (method, target) in [("PUT", "/session"), ("PATCH", "/session/x"), ("GET", "/session/x/seed/"), ("POST", "/-/health/")] {
        refused(&ask(&bench, method, target, &[], "").await, 405, "Method Not Allowed");
    }
    // What is beside it is native.
    assert_eq!(bench.ask("GET", "/sessions", "").await.code(), "not_found");
}

#[tokio::test]
async fn health_and_version_are_for_everybody() {
    let bench = Bench::new().await;
    for target in ["/-/version", "/-/version/", "/api/v1/-/version/"] {
        let answer = ask(&bench, "GET", target, &[], "").await;
        assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"version":"v0.6.0"}"#), "{target}");
    }
    let answer = ask(&bench, "GET", "/api/v1/-/health/", &[], "").await;
    assert!(
        answer.status == 200 && answer.text == r#"{"status":"ok"}"# || answer.status == 503 && answer.text.contains("detail"),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn unknown_sessions_are_told_behind_faults() {
    let bench = Bench::new().await;
    let key = [("x-api-key", KEY)];
    let none = "Session not found or already closed";
    for id in ["x", "sbx0000000000000000000000000", "%00"] {
        refused(&ask(&bench, "POST", &format!("/session/{id}/"), &key, r#"{"commands": []}"#).await, 404, none);
        assert_eq!(ask(&bench, "POST", &format!("/session/{id}/"), &key, "{}").await.status, 422);
        refused(&ask(&bench, "GET", &format!("/session/{id}/"), &key, "").await, 404, none);
        let answer = ask(&bench, "DELETE", &format!("/session/{id}/"), &key, "").await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""));
        assert_eq!(ask(&bench, "DELETE", &format!("/session/{id}/?force=x"), &key, "").await.status, 422);
    }
    let neither = "At least one of repo_archive or skills_archive must be provided";
    refused(&ask(&bench, "POST", "/session/x/seed/", &key, "").await, 422, neither);
}
