//! The door, the envelope, and what needs no sandbox, on a machine that can make none.

use axum::{body::Body, extract::Request};
use caisson_core::Scope;
use caisson_engine::NewKey;
use serde_json::{Value, json};

use crate::{
    auth::hash,
    testing::{Answer, Bench, KEY},
};

const PATHS: [(&str, &str); 14] = [
    ("POST", "/sandboxes/provision"),
    ("POST", "/sandboxes"),
    ("GET", "/sandboxes"),
    ("POST", "/sandboxes/wait"),
    ("GET", "/sandboxes/detail/a/b"),
    ("GET", "/sandboxes/status/a"),
    ("DELETE", "/sandboxes/a"),
    ("GET", "/sandboxes/a/monitoring"),
    ("GET", "/sandbox-images"),
    ("POST", "/registries"),
    ("GET", "/workspaces"),
    ("POST", "/api-tokens/"),
    ("POST", "/modbox/8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10/modbox/api/exec"),
    ("GET", "/modbox/x/modbox/api/files"),
];

async fn ask(bench: &Bench, key: &str, method: &str, target: &str, body: &Value) -> Answer {
    let mut request = Request::builder().method(method).uri(target).header("x-request-id", "req-1");
    if !key.is_empty() {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    bench.send(request.body(body).unwrap()).await
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) -> Value {
    let body: Value = serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {}", answer.text));
    assert_eq!((answer.status, &body["error"]["code"]), (status, &json!(code)), "{body}");
    assert_eq!((&body["error"]["request_id"], &answer.headers["x-request-id"].to_str().unwrap()), (&json!("req-1"), &"req-1"));
    let message = &body["error"]["message"];
    assert!(message.as_str().is_some_and(|message| !message.is_empty()));
    assert_eq!(&body["detail"], if status == 422 { &Value::Null } else { message }, "{body}");
    assert!(body["error"]["retryable"].is_boolean());
    body
}

async fn key(bench: &Bench, text: &str, tenant: &str, scope: Scope, note: &str) {
    let new = NewKey { hash: hash(text.as_bytes()), tenant: tenant.parse().unwrap(), scope, note: note.to_owned(), expires_at: None };
    bench.engine().add_key(new).await.unwrap();
}

#[tokio::test]
async fn r6_1_every_path_of_it_needs_a_token_first() {
    let bench = Bench::roomy().await;
    for (method, target) in PATHS.into_iter().chain([("PUT", "/sandboxes"), ("GET", "/modbox/x"), ("GET", "/sandboxes/a/b/c")]) {
        refused(&ask(&bench, "", method, target, &Value::Null).await, 401, "unauthenticated");
        refused(&ask(&bench, "wrong", method, target, &Value::Null).await, 401, "invalid_token");
        let by_header = Request::builder().method(method).uri(target).header("x-api-key", KEY).header("x-request-id", "req-1");
        refused(&bench.send(by_header.body(Body::empty()).unwrap()).await, 401, "unauthenticated");
        let answer = ask(&bench, KEY, method, target, &Value::Null).await;
        assert_ne!(answer.status, 401, "{method} {target}: {}", answer.text);
    }
    refused(&ask(&bench, KEY, "GET", "/sandboxes/a/b/c", &Value::Null).await, 404, "not_found");
    refused(&ask(&bench, KEY, "PUT", "/sandboxes", &Value::Null).await, 405, "method_not_allowed");
    let health = ask(&bench, "", "GET", "/health", &Value::Null).await;
    assert_eq!((health.status, serde_json::from_str::<Value>(&health.text).unwrap()["status"].clone()), (200, json!("ok")));
}

#[tokio::test]
async fn r6_1_scopes_and_roles_are_enough_or_not() {
    let bench = Bench::roomy().await;
    key(&bench, "reads", "team", Scope::Read, "").await;
    key(&bench, "runs", "team", Scope::Run, "").await;
    for (method, target) in PATHS.into_iter().filter(|(_, target)| !target.starts_with("/modbox/")) {
        let reads = ask(&bench, "reads", method, target, &Value::Null).await;
        if method == "GET" {
            assert_ne!(reads.status, 403, "{method} {target}");
        } else {
            refused(&reads, 403, "insufficient_scope");
        }
        assert_ne!(ask(&bench, "runs", method, target, &Value::Null).await.status, 403, "{method} {target}");
    }
    refused(&ask(&bench, "runs", "GET", "/sandboxes/realm/any", &Value::Null).await, 403, "forbidden");
    assert_eq!(ask(&bench, KEY, "GET", "/sandboxes/realm/any", &Value::Null).await.status, 200);
}

#[tokio::test]
async fn workspaces_are_headers_and_have_roles() {
    let bench = Bench::roomy().await;
    key(&bench, "ann", "ann", Scope::Run, "Ann@example.com").await;
    key(&bench, "ben", "ben", Scope::Run, "ben@example.com").await;
    let made = ask(&bench, "ann", "POST", "/workspaces", &json!({"name": "shared", "description": null})).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made: Value = serde_json::from_str(&made.text).unwrap();
    let id = made["id"].as_str().unwrap();
    assert_eq!((&made["created_by"], &made["members"][0]["role"]), (&json!("ann@example.com"), &json!("owner")));
    let within = async |key: &str, workspace: &str, method: &str, target: &str, body: &Value| {
        let request = Request::builder().method(method).uri(target).header("authorization", format!("Bearer {key}"));
        let request = request.header("x-workspace-id", workspace).header("x-request-id", "req-1");
        bench.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    let list = ("GET", "/sandboxes", json!({}));
    refused(&within("ben", "nonsense", list.0, list.1, &list.2).await, 422, "validation_error");
    refused(&within("ben", "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10", list.0, list.1, &list.2).await, 404, "workspace_not_found");
    refused(&within("ben", id, list.0, list.1, &list.2).await, 403, "workspace_forbidden");
    let members = format!("/workspaces/{id}/members");
    refused(&ask(&bench, "ben", "POST", &members, &json!({"email": "ben@example.com"})).await, 403, "workspace_forbidden");
    refused(&ask(&bench, "ann", "POST", &members, &json!({"email": "nobody@example.com"})).await, 404, "member_not_found");
    refused(&ask(&bench, "ann", "POST", &members, &json!({"email": "ben"})).await, 422, "validation_error");
    refused(&ask(&bench, "ann", "POST", &members, &json!({"email": "ben@example.com", "role": "owner"})).await, 422, "validation_error");
    let added = ask(&bench, "ann", "POST", &members, &json!({"email": "Ben@Example.com", "role": "viewer"})).await;
    assert_eq!(added.status, 201, "{}", added.text);
    let added: Value = serde_json::from_str(&added.text).unwrap();
    refused(&ask(&bench, "ann", "POST", &members, &json!({"email": "ben@example.com"})).await, 409, "conflict");
    assert_eq!(within("ben", id, list.0, list.1, &list.2).await.status, 200);
    refused(&within("ben", id, "POST", "/sandboxes", &json!({})).await, 403, "insufficient_role");
    refused(
        &within("ben", id, "POST", "/registries", &json!({"name": "n", "server": "s", "username": "u", "password": "p"})).await,
        403,
        "insufficient_role",
    );
    let ben = format!("{members}/{}", added["user_id"].as_str().unwrap());
    refused(&ask(&bench, "ben", "PUT", &ben, &json!({"role": "admin"})).await, 403, "insufficient_role");
    assert_eq!(ask(&bench, "ann", "PUT", &ben, &json!({"role": "admin"})).await.status, 200);
    let all: Value = serde_json::from_str(&ask(&bench, "ben", "GET", &members, &Value::Null).await.text).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 2);
    let ann = format!("{members}/{}", all[0]["user_id"].as_str().unwrap());
    refused(&ask(&bench, "ben", "DELETE", &ann, &Value::Null).await, 403, "forbidden");
    refused(&ask(&bench, "ben", "DELETE", &format!("/workspaces/{id}"), &Value::Null).await, 403, "insufficient_role");
    let mine: Value = serde_json::from_str(&ask(&bench, "ben", "GET", "/workspaces", &Value::Null).await.text).unwrap();
    let roles: Vec<_> = mine["workspaces"].as_array().unwrap().iter().map(|workspace| workspace["my_role"].clone()).collect();
    assert_eq!((&mine["total"], roles), (&json!(2), vec![json!("owner"), json!("admin")]));
    assert_eq!(ask(&bench, "ben", "DELETE", &ben, &Value::Null).await.status, 204, "oneself");
    refused(&ask(&bench, "ben", "GET", &members, &Value::Null).await, 403, "workspace_forbidden");
    assert_eq!(ask(&bench, "ann", "DELETE", &format!("/workspaces/{id}"), &Value::Null).await.status, 204);
    refused(&ask(&bench, "ann", "GET", &format!("/workspaces/{id}"), &Value::Null).await, 404, "workspace_not_found");
    let home = mine["workspaces"][0]["id"].as_str().unwrap();
    refused(&ask(&bench, "ben", "DELETE", &format!("/workspaces/{home}"), &Value::Null).await, 409, "conflict");
}

#[tokio::test]
async fn passwords_are_never_told_and_images_are_checked() {
    let bench = Bench::roomy().await;
    let registry = json!({"name": "n", "server": "s", "username": "u", "password": "hunter2hunter2", "email": "a@b.example", "new": 1});
    let made = ask(&bench, KEY, "POST", "/registries", &registry).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = serde_json::from_str::<Value>(&made.text).unwrap()["id"].as_str().unwrap().to_owned();
    let target = format!("/registries/{id}");
    let changed = ask(&bench, KEY, "PUT", &target, &json!({"password": "hunter3hunter3", "enabled": false, "name": null})).await;
    let (got, list) = (ask(&bench, KEY, "GET", &target, &Value::Null).await, ask(&bench, KEY, "GET", "/registries", &Value::Null).await);
    for answer in [&made, &changed, &got, &list] {
        assert!(answer.status < 300 && !answer.text.contains("hunter") && !answer.text.contains("password"), "{}", answer.text);
    }
    assert!(got.text.contains("\"enabled\":false") && got.text.contains("\"name\":\"n\""), "{}", got.text);
    for (body, field) in [
        (json!({}), "body.name"),
        (json!({"name": "", "image": "i"}), "body.name"),
        (json!({"name": "n", "image": "i:latest"}), "body.image"),
        (json!({"name": "n", "image": "i", "memory_mb": 255}), "body.memory_mb"),
        (json!({"name": "n", "image": "i", "memory_mb": 8193}), "body.memory_mb"),
        (json!({"name": "n", "image": "i", "readiness_port": 0}), "body.readiness_port"),
        (json!({"name": "n", "image": "i", "ttl_seconds": 59}), "body.ttl_seconds"),
        (json!({"name": "n", "image": "i", "registry_id": "x"}), "body.registry_id"),
        (json!({"name": 5}), "body.name"),
    ] {
        let body = refused(&ask(&bench, KEY, "POST", "/sandbox-images", &body).await, 422, "validation_error");
        assert_eq!(body["error"]["details"][0]["field"], field, "{body}");
    }
    let unknown = json!({"name": "n", "image": "i", "registry_id": "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10"});
    refused(&ask(&bench, KEY, "POST", "/sandbox-images", &unknown).await, 404, "registry_not_found");
    let image = json!({"name": "mine", "image": "localhost:5000/x", "registry_id": id, "readiness_port": 80, "memory_mb": 512});
    let made: Value = serde_json::from_str(&ask(&bench, KEY, "POST", "/sandbox-images", &image).await.text).unwrap();
    assert_eq!((&made["registry_name"], &made["tag"], &made["enabled"]), (&json!("n"), &json!("latest"), &json!(true)), "{made}");
    let list: Value = serde_json::from_str(&ask(&bench, KEY, "GET", "/sandbox-images?enabled_only=true", &Value::Null).await.text).unwrap();
    let names: Vec<_> = list["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["modbox/code-exec", "modbox/ubuntu", "mine"], "there is no browser here");
    let default = format!("/sandbox-images/{}", list["images"][0]["id"].as_str().unwrap());
    for method in ["PUT", "DELETE"] {
        refused(&ask(&bench, KEY, method, &default, &Value::Null).await, 403, "image_immutable");
    }
    assert_eq!(ask(&bench, KEY, "DELETE", &format!("/registries/{id}"), &Value::Null).await.status, 204, "also one that is named");
    refused(&ask(&bench, KEY, "GET", &target, &Value::Null).await, 404, "registry_not_found");
}

#[tokio::test]
async fn tokens_are_shown_once_and_end() {
    let bench = Bench::roomy().await;
    key(&bench, "ann", "ann", Scope::Run, "ann@example.com").await;
    key(&bench, "ben", "ben", Scope::Run, "ben@example.com").await;
    let made = ask(&bench, "ann", "POST", "/api-tokens/", &json!({"description": "for tests"})).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made: Value = serde_json::from_str(&made.text).unwrap();
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(token.starts_with("mbx_") && token.starts_with(made["token_prefix"].as_str().unwrap()), "{made}");
    let list = ask(&bench, token, "GET", "/api-tokens", &Value::Null).await;
    assert!(list.text.contains(id) && !list.text.contains(token), "{}", list.text);
    let workspaces: Value = serde_json::from_str(&ask(&bench, token, "GET", "/workspaces", &Value::Null).await.text).unwrap();
    assert_eq!(workspaces["workspaces"][0]["created_by"], "ann@example.com");
    for named in [token, id, "nonsense"] {
        refused(&ask(&bench, "ben", "DELETE", &format!("/api-tokens/{named}"), &Value::Null).await, 404, "api_key_not_found");
    }
    assert_eq!(ask(&bench, "ann", "DELETE", &format!("/api-tokens/{token}"), &Value::Null).await.status, 204, "by itself");
    refused(&ask(&bench, token, "GET", "/sandboxes", &Value::Null).await, 401, "invalid_token");
    refused(&ask(&bench, "ann", "DELETE", &format!("/api-tokens/{id}"), &Value::Null).await, 404, "api_key_not_found");
    let reads =
        ask(&bench, "ann", "POST", "/api-tokens", &json!({"scopes": ["sandboxes:read"], "expires_at": "2999-01-01T00:00:00Z"})).await;
    let reads: Value = serde_json::from_str(&reads.text).unwrap();
    let token = reads["token"].as_str().unwrap();
    refused(&ask(&bench, token, "POST", "/sandboxes", &Value::Null).await, 403, "insufficient_scope");
    assert_eq!(reads["expires_at"], "2999-01-01T00:00:00.000Z");
    assert_eq!(
        ask(&bench, "ann", "DELETE", &format!("/api-tokens/{}", reads["id"].as_str().unwrap()), &Value::Null).await.status,
        204,
        "by its id"
    );
    refused(&ask(&bench, "ann", "POST", "/api-tokens", &json!({"expires_at": "2000-01-01T00:00:00Z"})).await, 422, "validation_error");
}

#[tokio::test]
async fn what_cannot_be_right_is_said_by_field() {
    let bench = Bench::roomy().await;
    for (target, body, field) in [
        ("/sandboxes/provision", json!({"task_id": ""}), "body.task_id"),
        ("/sandboxes/provision", json!({"task_id": "x".repeat(256)}), "body.task_id"),
        ("/sandboxes", json!({"image_id": "x"}), "body.image_id"),
        ("/sandboxes", json!({"image": ""}), "body.image"),
        ("/sandboxes", json!({"ttl_seconds": 59}), "body.ttl_seconds"),
        ("/sandboxes", json!({"ttl_seconds": 86401}), "body.ttl_seconds"),
        ("/sandboxes", json!({"env_vars": {"CAISSON_X": "1"}}), "body.env_vars"),
        ("/sandboxes", json!({"env_vars": {"a": 1}}), "body.env_vars.a"),
        ("/sandboxes/wait", json!({}), "body.task_id"),
        ("/sandboxes/wait", json!({"task_id": "a", "timeout": 0}), "body.timeout"),
        ("/sandboxes/wait", json!({"task_id": "a", "timeout": 601}), "body.timeout"),
        ("/sandboxes/wait", json!({"task_id": "a", "poll_interval": 61}), "body.poll_interval"),
        ("/sandboxes/destroy", json!({}), "body.task_id"),
    ] {
        let body = refused(&ask(&bench, KEY, "POST", target, &body).await, 422, "validation_error");
        assert_eq!(body["error"]["details"][0]["field"], field, "{target}: {body}");
    }
    refused(&ask(&bench, KEY, "POST", "/sandboxes", &json!({"image": "modbox/chromium"})).await, 404, "image_not_found");
    refused(
        &ask(&bench, KEY, "POST", "/sandboxes", &json!({"image": "x", "image_id": "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10"})).await,
        404,
        "image_not_found",
    );
    refused(&ask(&bench, KEY, "GET", "/sandboxes?status=dead", &Value::Null).await, 422, "validation_error");
    for target in ["/sandboxes/wait", "/sandboxes/destroy"] {
        refused(&ask(&bench, KEY, "POST", target, &json!({"task_id": "nobody"})).await, 404, "sandbox_not_found");
    }
    for target in [
        "/sandboxes/nobody",
        "/sandboxes/detail/no/body",
        "/sandboxes/status/nobody",
        "/sandboxes/nobody/monitoring",
        "/sandbox/monitoring/nobody",
    ] {
        refused(&ask(&bench, KEY, "GET", target, &Value::Null).await, 404, "sandbox_not_found");
    }
    for query in ["limit=0", "limit=10001", "limit=x", "stream=both", "include=all", "since=yesterday"] {
        refused(&ask(&bench, KEY, "GET", &format!("/sandboxes/nobody/monitoring?{query}"), &Value::Null).await, 400, "validation_error");
    }
    let plain = Request::builder()
        .method("POST")
        .uri("/sandboxes")
        .header("authorization", format!("Bearer {KEY}"))
        .header("x-request-id", "req-1");
    let plain = plain.header("content-type", "text/plain").body(Body::from("{}")).unwrap();
    refused(&bench.send(plain).await, 415, "unsupported_media_type");
    let list = ask(&bench, KEY, "GET", "/sandboxes?realm=any&status=running", &Value::Null).await;
    assert_eq!((list.status, list.text.as_str()), (200, r#"{"sandboxes":[],"total":0}"#));
    // Nothing comes up here, and the answer comes before that is known.
    let begun = ask(&bench, KEY, "POST", "/sandboxes", &json!({"task_id": "a/b", "unknown": true, "env_vars": null})).await;
    assert_eq!(begun.status, 201, "{}", begun.text);
    let waited: Value = serde_json::from_str(&ask(&bench, KEY, "POST", "/sandboxes/wait", &json!({"task_id": "a/b"})).await.text).unwrap();
    assert_eq!((&waited["ready"], &waited["reason"], &waited["status"]), (&json!(false), &json!("destroyed"), &json!("destroyed")));
    let status: Value = serde_json::from_str(&ask(&bench, KEY, "GET", "/sandboxes/status/a/b", &Value::Null).await.text).unwrap();
    assert!(status["error"].as_str().unwrap().starts_with("launch_failed"), "{status}");
}
