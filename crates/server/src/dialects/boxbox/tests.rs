//! The door and the shapes of refusals, on a machine that can make no sandbox.

use axum::{body::Body, extract::Request};
use caisson_core::{Scope, Uuid};
use caisson_engine::NewKey;
use serde_json::{Value, json};

use crate::{
    auth::hash,
    testing::{Answer, Bench, KEY},
};

const FINE: &str = r#"{"language": "bash", "path": "x", "code": "y"}"#;
const UNKNOWN: &str = "/executions/8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10";

async fn ask(bench: &Bench, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    bench.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

/// With a key, as a user that is nobody else's.
async fn as_user(bench: &Bench, user: &str, method: &str, target: &str, body: &str) -> Answer {
    ask(bench, method, target, &[("x-api-key", KEY), ("x-user-id", user), ("x-chat-id", "c")], body).await
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, message: &str) {
    let body: Value = serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {} {}", answer.status, answer.text));
    assert_eq!((answer.status, body), (status, json!({"error": code, "message": message})));
    assert!(answer.text.ends_with("}\n"));
    assert_eq!(answer.headers["content-type"], "application/json");
    of_every_answer(answer);
}

#[track_caller]
fn of_every_answer(answer: &Answer) {
    let told = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
    assert_eq!(told("access-control-allow-origin"), "*");
    assert_eq!(told("access-control-allow-methods"), "GET, POST, OPTIONS");
    assert_eq!(told("access-control-allow-headers"), "Content-Type, X-API-Key, X-User-ID, X-Chat-ID, Authorization");
    assert!(told("x-request-id").parse::<Uuid>().is_ok(), "{}", told("x-request-id"));
}

#[tokio::test]
async fn r6_1_every_path_of_it_needs_a_key_first() {
    let bench = Bench::new().await;
    let bearer = format!("Bearer {KEY}");
    for (method, target) in [("POST", "/execute"), ("GET", UNKNOWN), ("GET", "/executions/x")] {
        for headers in [&[][..], &[("x-api-key", "wrong")], &[("authorization", "Bearer wrong")], &[("x-boxed-api-key", KEY)]] {
            refused(&ask(&bench, method, target, headers, "").await, 401, "unauthorized", "invalid or missing API key");
        }
        let with_both = [("x-api-key", "wrong"), ("authorization", bearer.as_str())];
        refused(&ask(&bench, method, target, &with_both, "").await, 401, "unauthorized", "invalid or missing API key");
        for headers in [
            &[("x-api-key", KEY)][..],
            &[("authorization", bearer.as_str())],
            &[("authorization", KEY)],
            &[("x-api-key", ""), ("authorization", bearer.as_str())],
        ] {
            refused(&ask(&bench, method, target, headers, "").await, 400, "bad_request", "X-User-ID header is required");
        }
    }
}

#[tokio::test]
async fn r6_1_scopes_are_those_of_the_native_api() {
    let bench = Bench::new().await;
    let new = NewKey { hash: hash(b"reads"), tenant: "t".parse().unwrap(), scope: Scope::Read, note: String::new(), expires_at: None };
    bench.engine().add_key(new).await.unwrap();
    let headers = [("x-api-key", "reads"), ("x-user-id", "u"), ("x-chat-id", "c")];
    assert_eq!(ask(&bench, "POST", "/execute", &headers, FINE).await.status, 403);
    assert_eq!(ask(&bench, "GET", UNKNOWN, &headers, "").await.status, 404);
}

#[tokio::test]
async fn ids_come_before_the_rate_and_the_rate_before_the_body() {
    let bench = Bench::new().await;
    let user = [("x-api-key", KEY), ("x-user-id", "u")];
    for chat in [&[][..], &[("x-chat-id", "")]] {
        let answer = ask(&bench, "POST", "/execute", &[&user[..], chat].concat(), "{").await;
        refused(&answer, 400, "bad_request", "X-Chat-ID header is required");
    }
    let no_user = [("x-api-key", KEY), ("x-user-id", ""), ("x-chat-id", "c")];
    refused(&ask(&bench, "GET", UNKNOWN, &no_user, "").await, 400, "bad_request", "X-User-ID header is required");
    // None of these has cost a token.
    for _ in 0..20 {
        refused(&as_user(&bench, "u", "POST", "/execute", "{").await, 400, "invalid_request", "failed to parse request body");
    }
    let mut over = as_user(&bench, "u", "GET", UNKNOWN, "").await;
    while over.status == 404 {
        over = as_user(&bench, "u", "GET", UNKNOWN, "").await;
    }
    refused(&over, 429, "rate_limit_exceeded", "too many requests");
    assert_eq!(over.headers["retry-after"], "1");
    refused(&as_user(&bench, "v", "GET", UNKNOWN, "").await, 404, "not_found", "execution not found");
    for bad in ["..", "a/b", &"x".repeat(256)] {
        assert_eq!(as_user(&bench, bad, "GET", UNKNOWN, "").await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn ids_of_executions_are_uuids() {
    let bench = Bench::new().await;
    for (number, id) in ["x", "8f8b1c1e7a524c6e9d530c7a5a2f4e10", "%00", "sbx0000000000000000000000000"].into_iter().enumerate() {
        let answer = as_user(&bench, &number.to_string(), "GET", &format!("/executions/{id}"), "").await;
        refused(&answer, 400, "invalid_request", "invalid execution id");
    }
    let of_another_kind = "/executions/ffffffff-ffff-8fff-bfff-ffffffffffff";
    refused(&as_user(&bench, "u", "GET", of_another_kind, "").await, 404, "not_found", "execution not found");
}

#[tokio::test]
async fn an_execution_that_gets_no_sandbox_is_kept_under_the_id_of_its_request() {
    let bench = Bench::new().await;
    let id = "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10";
    let headers = [("x-api-key", KEY), ("x-user-id", "u"), ("x-chat-id", "c")];
    for _ in 0..2 {
        let named = [&headers[..], &[("x-request-id", id)]].concat();
        let answer = ask(&bench, "POST", "/execute", &named, FINE).await;
        assert_eq!((answer.status, answer.headers["x-request-id"].to_str().unwrap()), (500, id), "{}", answer.text);
        // The second one is another execution.
        let kept = ask(&bench, "GET", UNKNOWN, &headers, "").await;
        let kept: Value = serde_json::from_str(&kept.text).unwrap();
        let created_at = kept["created_at"].as_str().unwrap();
        let expect = json!({
            "id": id, "execution_id": id, "user_id": "u", "chat_id": "c", "language": "bash", "path": "x", "code": "y",
            "status": "failed", "exit_code": 1, "stdout": "", "stderr": "failed to claim sandbox", "execution_time_ms": 0,
            "timeout_seconds": 300, "created_at": created_at, "completed_at": kept["completed_at"],
        });
        assert_eq!(kept, expect);
        assert!(created_at <= kept["completed_at"].as_str().unwrap());
    }
    refused(&as_user(&bench, "v", "GET", UNKNOWN, "").await, 404, "not_found", "execution not found");
    // What clients call their requests otherwise is no name of an execution.
    let named = [&headers[..], &[("x-request-id", "ffffffff-ffff-8fff-bfff-ffffffffffff")]].concat();
    assert_eq!(ask(&bench, "POST", "/execute", &named, FINE).await.status, 500);
    let of_another_kind = "/executions/ffffffff-ffff-8fff-bfff-ffffffffffff";
    refused(&as_user(&bench, "u", "GET", of_another_kind, "").await, 404, "not_found", "execution not found");
}

#[tokio::test]
async fn what_is_not_there_is_told_to_everybody() {
    let bench = Bench::new().await;
    for target in ["/executions", "/executions/", "/execute/", "/execute/x", "/executions/a/b"] {
        let answer = ask(&bench, "GET", target, &[], "").await;
        assert_eq!((answer.status, answer.text.as_str()), (404, "404 page not found\n"), "{target}");
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        of_every_answer(&answer);
    }
    for (method, target, allowed) in [("GET", "/execute", "POST"), ("DELETE", "/execute", "POST"), ("POST", UNKNOWN, "GET")] {
        let answer = ask(&bench, method, target, &[], "").await;
        assert_eq!((answer.status, answer.text.as_str()), (405, ""), "{method} {target}");
        assert!(answer.headers["allow"].to_str().unwrap().contains(allowed), "{:?}", answer.headers);
        of_every_answer(&answer);
    }
}

#[tokio::test]
async fn browsers_may_ask_from_anywhere() {
    let bench = Bench::new().await;
    for target in ["/health", "/execute", "/executions", UNKNOWN, "/execute/x"] {
        let answer = ask(&bench, "OPTIONS", target, &[], "").await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{target}");
        of_every_answer(&answer);
    }
    for method in ["GET", "HEAD"] {
        let answer = ask(&bench, method, "/health", &[], "").await;
        assert_eq!(answer.status, 200);
        of_every_answer(&answer);
    }
    let named = ask(&bench, "GET", "/health", &[("x-request-id", "mine")], "").await;
    assert_eq!(named.headers["x-request-id"], "mine");
    // Nowhere else.
    for target in ["/healthz", "/v1/run", "/", "/v1/sandbox", "/sandboxes"] {
        let answer = ask(&bench, "OPTIONS", target, &[], "").await;
        assert_ne!(answer.status, 200, "{target}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{target}");
    }
}

#[tokio::test]
async fn bodies_are_taken_whatever_their_type_up_to_ten_mebibytes() {
    let bench = Bench::new().await;
    let headers = [("x-api-key", KEY), ("x-user-id", "u"), ("x-chat-id", "c"), ("content-type", "text/plain")];
    refused(&ask(&bench, "POST", "/execute", &headers, "{}").await, 400, "invalid_request", "language is required");
    let padded = |size: usize| format!("{}{{}}", " ".repeat(size - 2));
    refused(&ask(&bench, "POST", "/execute", &headers, &padded(10 << 20)).await, 400, "invalid_request", "language is required");
    let over = ask(&bench, "POST", "/execute", &headers, &padded((10 << 20) + 1)).await;
    refused(&over, 400, "invalid_request", "failed to parse request body");
    // Nothing can be made here.
    refused(&ask(&bench, "POST", "/execute", &headers, FINE).await, 500, "internal_error", "failed to claim sandbox");
}
