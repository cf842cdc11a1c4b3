//! The Modbox API, as its clients use it: the published Python clients, the TypeScript client of this repository, and what the wire contract
//! says, row by row.

use std::{fs, path::Path, process::Command, time::Duration};

use caisson_tests::{Answer, Client, Request, Server, Setup, Value, eventually, json};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Of all sandboxes.
const OPERATORS: &str = "operators-key-of-sandboxes";

fn modbox() -> Server {
    Setup::default().env("SANDBOX_API_KEY", OPERATORS).start()
}

/// Somebody with a key of a tenant's, known by an address.
fn user(server: &Server, name: &str, scope: &str) -> Client {
    let key = server.post("/v1/keys", &json!({"tenant": name, "scope": scope, "note": format!("{name}@example.com")})).expect(201).json();
    Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..server.client.clone() }
}

#[track_caller]
fn post(client: &Client, target: &str, body: &Value) -> Answer {
    client.request("POST", target).json(body).send()
}

#[track_caller]
fn get(client: &Client, target: &str) -> Answer {
    client.request("GET", target).send()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    answer.refused(status, code);
    let body = answer.json();
    assert_eq!(body["error"]["request_id"].as_str(), answer.header("x-request-id"), "{body}");
    assert_eq!(body["detail"], if status == 422 { Value::Null } else { body["error"]["message"].clone() }, "{body}");
}

/// A sandbox that takes traffic: what provisioning answered.
#[track_caller]
fn running(client: &Client, body: &Value) -> Value {
    let made = post(client, "/sandboxes/provision", body).expect(201).json();
    let waited = post(client, &format!("/sandboxes/{}/wait", made["sandbox_id"].as_str().unwrap()), &json!({})).expect(200).json();
    assert_eq!((&waited["ready"], &waited["status"], &waited["reason"]), (&json!(true), &json!("running"), &Value::Null), "{waited}");
    made
}

/// A request to a sandbox's own API, with one of its keys.
fn inside(client: &Client, made: &Value, key: &str, method: &str, path: &str) -> Request {
    let client = Client { key: Some(key.to_owned()), ..client.clone() };
    client.request(method, &target(made, path))
}

fn target(made: &Value, path: &str) -> String {
    let url = made["endpoint"]["api_url"].as_str().unwrap();
    let target = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
    format!("/{target}{path}")
}

fn access_token(made: &Value) -> &str {
    made["endpoint"]["access_token"].as_str().unwrap()
}

#[track_caller]
fn exec(client: &Client, made: &Value, body: &Value) -> Value {
    let result = inside(client, made, access_token(made), "POST", "/exec").json(body).send().expect(200).json();
    let mut names: Vec<&String> = result.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["durationMs", "exitCode", "stderr", "stdout"]);
    assert!(result["durationMs"].is_u64(), "{result}");
    result
}

#[track_caller]
fn bash(client: &Client, made: &Value, command: &str) -> String {
    let result = exec(client, made, &json!({"command": command}));
    assert_eq!(result["exitCode"], 0, "{result:#}");
    result["stdout"].as_str().unwrap().to_owned()
}

/// Runs somebody else's client to its end.
#[track_caller]
fn client_says(server: &Server, mut command: Command, last: &str) {
    let (me, mate) = (user(server, "me", "admin"), user(server, "mate", "run"));
    // As a token, which is what clients have.
    let token = post(&me, "/api-tokens/", &json!({"description": "for a client"})).expect(201).json();
    command
        .env("URL", format!("http://{}", server.client.address))
        .env("MODBOX_BASE_URL", format!("http://{}", server.client.address))
        .env("TOKEN", me.key.as_ref().unwrap())
        .env("MODBOX_API_KEY", token["token"].as_str().unwrap())
        .env("SANDBOX_API_KEY", OPERATORS)
        .env("TEAMMATE", "mate@example.com")
        .env("TEAMMATES_TOKEN", mate.key.as_ref().unwrap());
    let ran = command.output().expect("it can be started");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.contains(last), "{:?}\n{out}\n{err}\n{}", ran.status, server.log());
}

#[track_caller]
fn published_client(version: &str, script: &str) {
    let python = Path::new(TOP).join("target/modbox").join(version).join("bin/python");
    assert!(python.exists(), "there is no {}; run `tools/modbox-clients`", python.display());
    let server = modbox();
    let mut command = server.home().clean(&python);
    command.arg("-I").arg(Path::new(TOP).join("tests/modbox").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    client_says(&server, command, &format!("all calls of {version} went well"));
    server.finish();
}

#[test]
fn the_first_published_client_makes_every_call_it_has() {
    published_client("0.0.10", "old.py");
}

#[test]
fn the_newest_published_client_makes_every_call_it_has() {
    published_client("0.0.21", "new.py");
}

#[test]
fn the_examples_of_the_documents_run_against_our_typescript_client() {
    let server = modbox();
    let mut command = server.home().clean("node");
    command.arg("--test").arg(Path::new(TOP).join("sdk/modbox-compat/test/against-a-server.test.js"));
    client_says(&server, command, "# fail 0");
    server.finish();
}

#[test]
fn commands_are_answered_with_what_they_really_did() {
    let server = modbox();
    let me = user(&server, "me", "run");
    let made = running(&me, &json!({"env_vars": {"A": "b", "N": null}}));
    let inside_it = "id -un; pwd; echo $A ${N-absent}; test -w /workspace && echo there";
    assert_eq!(bash(&me, &made, inside_it), "root\n/workspace\nb absent\nthere\n");
    for (command, stdout) in [
        ("python -c 'print(6 * 7)'", "42\n"),
        ("python3 -c 'import sys; print(sys.version_info >= (3,))'", "True\n"),
        ("node -e 'console.log(6 * 7)'", "42\n"),
        ("x=1; echo $x | cat", "1\n"),
        ("printf 'package main\\nfunc main() { println(42) }\\n' > m.go && go run m.go 2>&1", "42\n"),
    ] {
        assert_eq!(bash(&me, &made, command), stdout, "{command}");
    }
    assert_eq!(bash(&me, &made, "echo kept > f; x=1"), "");
    assert_eq!(bash(&me, &made, "cat f; echo [$x]"), "kept\n[]\n", "files stay, variables do not");
    let of = |body: Value| exec(&me, &made, &body);
    assert_eq!(of(json!({"command": "exit 3", "unknown": [1]}))["exitCode"], 3);
    assert_eq!(of(json!({"command": "kill -9 $$"}))["exitCode"], 137);
    assert_eq!(of(json!({"command": "no-such-program"}))["exitCode"], 127);
    let slow = of(json!({"command": "echo begun; sleep 30", "timeout": 1}));
    assert_eq!((&slow["exitCode"], &slow["stdout"]), (&json!(124), &json!("begun\n")));
    assert!(slow["durationMs"].as_u64().unwrap() >= 1000, "{slow}");
    assert_eq!(of(json!({"command": "pwd; echo $A", "cwd": "/tmp", "env": {"A": "c", "B": null}}))["stdout"], "/tmp\nc\n");
    assert_eq!(of(json!({"command": "head -c 3000000 /dev/zero | tr '\\0' x"}))["stdout"].as_str().unwrap().len(), 3_000_000);
    let long = format!("echo {} | wc -c", "y".repeat(300_000));
    assert_eq!(of(json!({"command": long}))["stdout"], "300001\n", "longer than an argument may be");
    let ask = |body: &Value| inside(&me, &made, access_token(&made), "POST", "/exec").json(body).send();
    for body in [
        json!({}),
        json!({"command": ""}),
        json!({"command": 5}),
        json!({"command": null}),
        json!([]),
        json!({"command": "x", "cwd": "/no"}),
    ] {
        refused(&ask(&body), 422, "validation_error");
    }
    refused(&ask(&json!({"command": "x".repeat(11 << 20)})), 413, "payload_too_large");
    // Whoever hangs up has its command killed.
    let body = json!({"command": "touch /tmp/begun; sleep 77777"}).to_string();
    let request = inside(&me, &made, access_token(&made), "POST", "/exec").header("content-type", "application/json");
    let connection = request.begin(body.len(), body.as_bytes());
    eventually("its begin", Duration::from_secs(10), || (bash(&me, &made, "ls /tmp") == "begun\n").then_some(()));
    drop(connection);
    eventually("its end", Duration::from_secs(10), || {
        (exec(&me, &made, &json!({"command": "grep -la 7777[7] /proc/[0-9]*/cmdline"}))["stdout"] == "").then_some(())
    });
    server.finish();
}

#[test]
fn sandboxes_are_let_in_to_by_their_keys_alone() {
    let server = modbox();
    let (me, other) = (user(&server, "me", "run"), user(&server, "other", "run"));
    let reads = user(&server, "me", "read");
    let made = running(&me, &json!({"env_vars": {"SANDBOX_API_KEY": "its-own"}}));
    let second = running(&me, &json!({}));
    let status = |made: &Value, key: &str| inside(&me, made, key, "POST", "/exec").json(&json!({"command": "true"})).send();
    for key in ["its-own", access_token(&made), OPERATORS, me.key.as_ref().unwrap(), server.client.key.as_ref().unwrap()] {
        let expect = if server.client.key.as_deref() == Some(key) { 404 } else { 200 };
        assert_eq!(status(&made, key).status, expect, "the operator's own tenant is another");
    }
    for key in ["wrong", "its-owN", &access_token(&made)[1..], access_token(&second)] {
        refused(&status(&made, key), 401, "invalid_token");
    }
    refused(&status(&second, "its-own"), 401, "invalid_token");
    refused(&status(&made, reads.key.as_ref().unwrap()), 403, "insufficient_scope");
    // What is another's answers like what never was.
    let (theirs, never) = (status(&made, other.key.as_ref().unwrap()), {
        let mut unknown = made.clone();
        let id = made["sandbox_id"].as_str().unwrap();
        let url = made["endpoint"]["api_url"].as_str().unwrap().replace(id, "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10");
        unknown["endpoint"]["api_url"] = json!(url);
        status(&unknown, other.key.as_ref().unwrap())
    });
    refused(&theirs, 404, "sandbox_not_found");
    refused(&never, 404, "sandbox_not_found");
    let anonymous = Client { key: None, ..me.clone() };
    refused(&post(&anonymous, &target(&made, "/exec"), &json!({"command": "true"})), 401, "unauthenticated");
    // A key of one that is gone says that it is gone.
    let id = made["sandbox_id"].as_str().unwrap();
    me.request("DELETE", &format!("/sandboxes/{id}")).send().expect(200);
    for key in ["its-own", access_token(&made), OPERATORS, me.key.as_ref().unwrap()] {
        refused(&status(&made, key), 404, "sandbox_not_found");
    }
    refused(&status(&made, "wrong"), 401, "invalid_token");
    // Keys of sandboxes open nothing else.
    for key in [access_token(&second), OPERATORS] {
        let client = Client { key: Some(key.to_owned()), ..me.clone() };
        refused(&get(&client, "/sandboxes"), 401, "invalid_token");
        get(&client, "/v1/sandboxes").refused(401, "unauthorized");
    }
    server.finish();
}

#[test]
fn files_go_in_and_come_out() {
    let server = modbox();
    let me = user(&server, "me", "run");
    let made = running(&me, &json!({}));
    let ask = |method: &str, path: &str| inside(&me, &made, access_token(&made), method, &format!("/files{path}"));
    assert_eq!(ask("GET", "").send().expect(200).json(), json!({"files": []}));
    let form = |name: &str, content: &[u8]| {
        let mut body = format!("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n").into_bytes();
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n--b--\r\n");
        ask("POST", "/upload").header("content-type", "multipart/form-data; boundary=b").bytes(body).send()
    };
    let uploaded = form("../../etc/a b.txt", b"one\0two").expect(200).json();
    assert_eq!(uploaded, json!({"filename": "a b.txt", "path": "/workspace/uploads/a b.txt", "size": 7}));
    assert_eq!(bash(&me, &made, "wc -c < '/workspace/uploads/a b.txt'"), "7\n");
    form("empty", b"").expect(200);
    let listed = ask("GET", "").send().expect(200).json();
    let names: Vec<_> = listed["files"].as_array().unwrap().iter().map(|file| (file["filename"].clone(), file["size"].clone())).collect();
    assert_eq!(names, [(json!("a b.txt"), json!(7)), (json!("empty"), json!(0))]);
    assert!(listed["files"][0]["modifiedAt"].as_str().unwrap().ends_with('Z'), "{listed}");
    assert_eq!(ask("GET", "/a%20b.txt").send().expect(200).body, b"one\0two");
    assert_eq!(ask("GET", "/empty").send().expect(200).body, b"");
    assert_eq!(ask("DELETE", "/a%20b.txt").send().expect(200).json(), json!({"success": true}));
    for (method, name) in
        [("GET", "/a%20b.txt"), ("DELETE", "/a%20b.txt"), ("GET", "/..%2Fx"), ("GET", "/.."), ("GET", "/%2e%2e%2fetc%2fpasswd")]
    {
        refused(&ask(method, name).send(), 404, "not_found");
    }
    refused(&form("..", b"x"), 422, "validation_error");
    refused(&ask("POST", "/upload").bytes("x").send(), 422, "validation_error");
    form("large", &vec![b'x'; 50_000_000]).expect(200);
    refused(&form("larger", &vec![b'x'; 50_000_001]), 413, "payload_too_large");
    assert_eq!(bash(&me, &made, "ls /workspace/uploads; ls -A /tmp"), "empty\nlarge\n", "nothing is left of what was too large");
    server.finish();
}

#[test]
fn a_time_to_live_is_hard_and_counts_from_the_begin() {
    let server = modbox();
    let me = user(&server, "me", "run");
    let made = running(&me, &json!({"task_id": "short", "ttl_seconds": 60}));
    let detail = get(&me, "/sandboxes/short").expect(200).json();
    let id = made["sandbox_id"].as_str().unwrap();
    assert_eq!((&detail["id"], &detail["sandbox_url"]), (&json!(id), &made["endpoint"]["base_url"]));
    let native = server_id(&me);
    let seen = me.request("GET", &format!("/v1/sandboxes/{native}")).send().expect(200).json();
    assert_eq!((&seen["lifetime_s"], &seen["idle_timeout_s"]), (&json!(60), &Value::Null), "no idling ends it");
    // The same clock, made shorter through the sandbox's other name.
    me.request("PATCH", &format!("/v1/sandboxes/{native}")).json(&json!({"lifetime_s": 1})).send().expect(200);
    let ended = eventually("its end", Duration::from_secs(10), || {
        let detail = get(&me, "/sandboxes/detail/short").expect(200).json();
        (detail["status"] == "destroyed").then_some(detail)
    });
    assert!(ended["sandbox_url"].is_null() && ended["destroyed_at"].is_string(), "{ended}");
    let status = get(&me, "/sandboxes/status/short").expect(200).json();
    assert!(status["error"].as_str().unwrap().starts_with("lifetime"), "{status}");
    let none = post(&me, "/sandboxes", &json!({"task_id": "short"})).expect(201).json();
    assert_ne!(none["sandbox_id"], made["sandbox_id"], "the name is free again");
    assert_eq!(get(&me, "/sandboxes/short").expect(200).json()["expires_at"], Value::Null);
    server.finish();
}

/// What the server calls the only living sandbox of somebody's.
fn server_id(client: &Client) -> String {
    let page = get(client, "/v1/sandboxes?state=running").expect(200).json();
    page["data"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_sandbox_with_a_readiness_port_is_ready_when_that_answers() {
    let server = modbox();
    let me = user(&server, "me", "run");
    let image = json!({"name": "web", "image": "modbox/code-exec", "readiness_port": 8080});
    let image = post(&me, "/sandbox-images", &image).expect(201).json();
    let made = post(&me, "/sandboxes", &json!({"task_id": "web", "image_id": image["id"]})).expect(201).json();
    let waited = post(&me, "/sandboxes/wait", &json!({"task_id": "web", "timeout": 1})).expect(200).json();
    assert_eq!((&waited["ready"], &waited["reason"], &waited["status"]), (&json!(false), &json!("timeout"), &json!("provisioning")));
    assert!(waited["elapsed_seconds"].as_f64().unwrap() >= 1.0, "{waited}");
    assert!(get(&me, "/sandboxes/web").expect(200).json()["sandbox_url"].is_null());
    refused(&inside(&me, &made, access_token(&made), "POST", "/exec").json(&json!({"command": "true"})).send(), 409, "sandbox_not_ready");
    let native = server_id(&me);
    let start = |code: &str| {
        let body = json!({"language": "python", "code": code, "background": true, "timeout_s": null});
        post(&me, &format!("/v1/sandboxes/{native}/exec"), &body).expect(202).json()["id"].as_str().unwrap().to_owned()
    };
    let serve = |status: u16| {
        format!(
            "from http.server import *\nclass H(BaseHTTPRequestHandler):\n  def do_GET(self):\n    self.send_response({status}); \
             self.send_header('content-length', '0'); self.end_headers()\nHTTPServer(('127.0.0.1', 8080), H).serve_forever()"
        )
    };
    let failing = start(&serve(503));
    let waited = post(&me, "/sandboxes/wait", &json!({"task_id": "web", "timeout": 2})).expect(200).json();
    assert_eq!(waited["ready"], false, "it says that it is not ready");
    post(&me, &format!("/v1/executions/{failing}/kill"), &json!({}));
    let _well = start(&serve(204));
    let waited = post(&me, "/sandboxes/wait", &json!({"task_id": "web", "timeout": 60, "poll_interval": 60})).expect(200).json();
    assert_eq!(waited["ready"], true, "{waited}");
    assert_eq!(bash(&me, &made, "echo in"), "in\n");
    // Whoever waits for one that ends hears so at once.
    post(&me, "/sandboxes", &json!({"task_id": "never", "image_id": image["id"]})).expect(201);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| post(&me, "/sandboxes/never/wait", &json!({"timeout": 600})).expect(200).json());
        post(&me, "/sandboxes/destroy", &json!({"task_id": "never"})).expect(200);
        let waited = waiting.join().unwrap();
        assert_eq!((&waited["ready"], &waited["reason"]), (&json!(false), &json!("destroyed")), "{waited}");
    });
    server.finish();
}

#[test]
fn all_of_it_outlives_the_server() {
    let mut server = modbox();
    let me = user(&server, "me", "run");
    let registry = json!({"name": "hub", "server": "s.example", "username": "u", "password": "a-password-to-be-found"});
    let registry = post(&me, "/registries", &registry).expect(201).json();
    let image = json!({"name": "mine", "image": "modbox/ubuntu", "registry_id": registry["id"]});
    let image = post(&me, "/sandbox-images", &image).expect(201).json();
    let team = post(&me, "/workspaces", &json!({"name": "team"})).expect(201).json();
    let token = post(&me, "/api-tokens/", &json!({})).expect(201).json();
    let made = running(&me, &json!({"task_id": "box"}));
    assert_eq!(bash(&me, &made, "echo said"), "said\n");
    server.stop();
    server.start_again();
    let by_token = Client { key: Some(token["token"].as_str().unwrap().to_owned()), ..me.clone() };
    for client in [&me, &by_token] {
        assert_eq!(get(client, "/registries").expect(200).json()["registries"][0], registry);
        assert_eq!(get(client, &format!("/sandbox-images/{}", image["id"].as_str().unwrap())).expect(200).json(), image);
        assert_eq!(get(client, &format!("/workspaces/{}", team["id"].as_str().unwrap())).expect(200).json(), team);
        assert_eq!(get(client, "/sandboxes/box").expect(200).json()["status"], "destroyed");
        let seen = get(client, "/sandboxes/box/monitoring").expect(200).json();
        assert_eq!(seen["logs"][0]["log"], "said", "{seen}");
        assert!(!seen["metrics"].as_array().unwrap().is_empty(), "{seen}");
    }
    refused(&inside(&me, &made, access_token(&made), "POST", "/exec").json(&json!({"command": "true"})).send(), 404, "sandbox_not_found");
    // Neither the password nor a token is anywhere on the disk, nor in the log.
    for secret in ["a-password-to-be-found", token["token"].as_str().unwrap(), access_token(&made)] {
        let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!holds(&server.records()), "{secret} is in the database");
        assert!(!holds(&fs::read(server.home().path().join("log")).unwrap()), "{secret} is in the log");
    }
    server.finish();
}

#[test]
fn what_is_anothers_was_never_there() {
    let server = modbox();
    let (mine, theirs) = (user(&server, "mine", "run"), user(&server, "theirs", "run"));
    let made = running(&mine, &json!({"task_id": "box"}));
    let image = post(&mine, "/sandbox-images", &json!({"name": "i", "image": "modbox/ubuntu"})).expect(201).json();
    let registry = json!({"name": "r", "server": "s", "username": "u", "password": "p"});
    let registry = post(&mine, "/registries", &registry).expect(201).json();
    let token = post(&mine, "/api-tokens", &json!({})).expect(201).json();
    let unknown = "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10";
    let id = |value: &Value, field: &str| value[field].as_str().unwrap().to_owned();
    let (sandbox, image, registry, token) = (id(&made, "sandbox_id"), id(&image, "id"), id(&registry, "id"), id(&token, "id"));
    for (method, path, known, body) in [
        ("GET", "/sandboxes/detail/{}", &sandbox, json!({})),
        ("GET", "/sandboxes/{}", &sandbox, json!({})),
        ("GET", "/sandboxes/status/{}", &sandbox, json!({})),
        ("GET", "/sandboxes/{}/status", &sandbox, json!({})),
        ("GET", "/sandboxes/{}/monitoring", &sandbox, json!({})),
        ("GET", "/sandbox/monitoring/{}", &sandbox, json!({})),
        ("POST", "/sandboxes/{}/wait", &sandbox, json!({})),
        ("DELETE", "/sandboxes/{}", &sandbox, json!({})),
        ("GET", "/sandbox-images/{}", &image, json!({})),
        ("PUT", "/sandbox-images/{}", &image, json!({"name": "x"})),
        ("DELETE", "/sandbox-images/{}", &image, json!({})),
        ("GET", "/sandbox-images/{}/cache", &image, json!({})),
        ("DELETE", "/sandbox-images/{}/cache", &image, json!({})),
        ("GET", "/registries/{}", &registry, json!({})),
        ("PUT", "/registries/{}", &registry, json!({"name": "x"})),
        ("DELETE", "/registries/{}", &registry, json!({})),
        ("DELETE", "/api-tokens/{}", &token, json!({})),
    ] {
        let ask = |id: &str| theirs.request(method, &path.replace("{}", id)).header("x-request-id", "same").json(&body).send();
        let (seen, never) = (ask(known), ask(unknown));
        assert_eq!(seen.status, 404, "{method} {path}: {}", seen.text());
        assert_eq!(seen.text().replace(known.as_str(), unknown), never.text(), "{method} {path}");
    }
    let destroy = post(&theirs, "/sandboxes/destroy", &json!({"task_id": "box"}));
    refused(&destroy, 404, "sandbox_not_found");
    refused(&post(&theirs, "/sandboxes", &json!({"image_id": image})), 404, "image_not_found");
    refused(&post(&theirs, "/sandbox-images", &json!({"name": "i", "image": "x", "registry_id": registry})), 404, "registry_not_found");
    assert_eq!(get(&theirs, "/sandboxes").expect(200).json(), json!({"sandboxes": [], "total": 0}));
    running(&theirs, &json!({"task_id": "box"}));
    assert_eq!(get(&mine, "/sandboxes/box").expect(200).json()["status"], "running", "nothing of all that had an effect");
    let all = get(&server.client, "/sandboxes/realm/all?status=running").expect(200).json();
    assert_eq!((&all["total"], all["sandboxes"].as_array().unwrap().len()), (&json!(2), 2));
    refused(&get(&mine, "/sandboxes/realm/all"), 403, "forbidden");
    server.finish();
}

#[test]
fn addresses_are_names_where_there_is_a_domain() {
    let server = Setup::default().env("CAISSON_PUBLIC_DOMAIN", "localhost").start();
    let me = user(&server, "me", "run");
    let made = running(&me, &json!({"env_vars": {"SANDBOX_API_KEY": "its-own"}}));
    let url = get(&me, &format!("/sandboxes/{}", made["sandbox_id"].as_str().unwrap())).expect(200).json()["sandbox_url"].clone();
    let (id, port) = (made["sandbox_id"].as_str().unwrap(), me.address.port());
    assert_eq!(url, json!(format!("http://modbox-{id}.localhost:{port}")));
    let host = format!("modbox-{id}.localhost:{port}");
    let ask = |key: &str, path: &str| {
        let client = Client { key: Some(key.to_owned()), ..me.clone() };
        client.request("POST", path).header("host", &host).json(&json!({"command": "echo by name"})).send()
    };
    assert_eq!(ask("its-own", "/modbox/api/exec").expect(200).json()["stdout"], "by name\n");
    refused(&ask("wrong", "/modbox/api/exec"), 401, "invalid_token");
    // Nothing else of the API is to be had under such a name.
    for path in ["/sandboxes", "/v1/sandboxes", "/../../sandboxes", "/v1/run"] {
        let answer = ask(me.key.as_ref().unwrap(), path);
        assert!([400, 404, 405].contains(&answer.status), "{path}: {}", answer.text());
    }
    server.finish();
}

#[test]
fn names_that_are_no_images_here_are_said_to_be_none() {
    let server = Setup::default().env("CAISSON_IMAGE_ALIASES", "registry.example/team/x=host").start();
    let me = user(&server, "me", "run");
    for image in ["modbox/code-exec", "modbox/code-exec:latest", "docker.io/modbox/ubuntu", "registry.example/team/x:latest", "host"] {
        let made = post(&me, "/sandboxes", &json!({"image": image})).expect(201).json();
        let id = made["sandbox_id"].as_str().unwrap();
        assert_eq!(get(&me, &format!("/sandboxes/{id}")).expect(200).json()["image"], image);
        me.request("DELETE", &format!("/sandboxes/{id}")).send().expect(200);
    }
    for image in ["modbox/chromium", "ubuntu:24.04", "modbox/code-exec:v2"] {
        let answer = post(&me, "/sandboxes", &json!({"image": image}));
        refused(&answer, 404, "image_not_found");
        assert!(answer.text().contains("CAISSON_IMAGE_ALIASES"), "{}", answer.text());
    }
    let images = get(&me, "/sandbox-images").expect(200).json();
    let browser = images["images"].as_array().unwrap().iter().find(|image| image["name"] == "modbox/chromium").unwrap();
    assert_eq!(browser["enabled"], false, "{browser}");
    refused(&post(&me, "/sandboxes", &json!({"image_id": browser["id"]})), 400, "image_disabled");
    server.finish();
}

#[test]
fn quotas_hold_in_every_workspace_that_somebody_makes() {
    let server = modbox();
    let me = user(&server, "me", "run");
    server.request("PATCH", "/v1/tenants/me").json(&json!({"sandboxes": 1})).send().expect(200);
    let team = post(&me, "/workspaces", &json!({"name": "team"})).expect(201).json();
    for workspace in [None, Some(team["id"].as_str().unwrap())] {
        let make = || {
            let request = me.request("POST", "/sandboxes");
            let request = workspace.map_or_else(|| me.request("POST", "/sandboxes"), |id| request.header("x-workspace-id", id));
            request.json(&json!({})).send()
        };
        make().expect(201);
        refused(&make(), 429, "rate_limited");
    }
    me.request("DELETE", &format!("/workspaces/{}", team["id"].as_str().unwrap())).send().expect(204);
    let realm = get(&server.client, "/sandboxes/realm/all?status=running").expect(200).json();
    assert!(realm["total"].as_u64().unwrap() <= 1, "what was in the workspace has ended: {realm}");
    server.finish();
}
