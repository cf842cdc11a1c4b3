//! Tenants: each sees its own, has what it may have, and is shut out when its key goes.

use std::{
    io::Read,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use caisson_tests::{Answer, Client, Request, Server, Setup, Value, allowed, eventually, foreign_key, is_foreign, json};

/// A caller with a key of its own.
struct Tenant {
    client: Client,
    key: Value,
}

impl Tenant {
    #[track_caller]
    fn new(server: &Server, name: &str) -> Self {
        Self::with(server, &json!({"tenant": name}))
    }

    #[track_caller]
    fn with(server: &Server, body: &Value) -> Self {
        let key = server.post("/v1/keys", body).expect(201).json();
        let client = Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..server.client.clone() };
        Self { client, key }
    }

    fn id(&self) -> &str {
        self.key["id"].as_str().unwrap()
    }

    fn request(&self, method: &str, target: &str) -> Request {
        self.client.request(method, target)
    }

    #[track_caller]
    fn get(&self, target: &str) -> Answer {
        self.request("GET", target).send()
    }

    #[track_caller]
    fn post(&self, target: &str, body: &Value) -> Answer {
        self.request("POST", target).json(body).send()
    }

    #[track_caller]
    fn sandbox(&self, body: &Value) -> String {
        self.post("/v1/sandboxes", body).expect(201).json()["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn background(&self, sandbox: &str, line: &str) -> String {
        let body = json!({"shell": line, "background": true, "timeout_s": null});
        self.post(&format!("/v1/sandboxes/{sandbox}/exec"), &body).expect(202).json()["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn quotas(&self, server: &Server, quotas: &Value) {
        let target = format!("/v1/tenants/{}", self.key["tenant"].as_str().unwrap());
        server.request("PATCH", &target).json(quotas).send().expect(200);
    }
}

/// Every operation of the API: method and path.
fn operations(server: &Server) -> Vec<(String, String)> {
    let document = server.get("/openapi.json").expect(200).json();
    let paths = document["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))).collect()
}

/// A request that would do something if the id were one's own.
fn attempt(tenant: &Tenant, method: &str, path: &str, id: &str) -> Answer {
    let target = path
        .replace("{id}", id)
        .replace("{realm}", "x")
        .replace("{user_id}", "x")
        .replace("{token}", "x")
        .replace("{filename}", "x")
        .replace("{port}", "80")
        .replace("{rest}", "x")
        .replace("{name}", "x")
        .replace("{tenant}", "x")
        .replace("{path}", "x")
        .replace("{context_id}", "ctx0123456789abcdefghjkmnpqr");
    let target = if path.contains("/files") && !path.starts_with("/modbox/") { format!("{target}?path=/workspace/x") } else { target };
    // Dialects have their own way to show a key, and of their programs.
    let request = match &tenant.client.key {
        Some(key) if is_foreign(path) => {
            let (header, before) = foreign_key(path).unwrap();
            tenant.request(method, &target).header(header, &format!("{before}{key}"))
        }
        _ => tenant.request(method, &target),
    };
    match (method, path.rsplit('/').next().unwrap()) {
        ("POST", "exec") if is_foreign(path) => request.json(&json!({"code": "echo > intruder", "language": "bash"})).send(),
        ("POST", "exec") => request.json(&json!({"shell": "echo > /workspace/intruder"})).send(),
        ("POST", "commit") => request.json(&json!({"name": "intruder:1"})).send(),
        ("POST", "signal") => request.json(&json!({"signal": "SIGKILL"})).send(),
        ("PATCH", _) => request.json(&json!({"lifetime_s": 1})).send(),
        ("PUT", _) if !is_foreign(path) => request.bytes("x").send(),
        _ => request.send(),
    }
}

#[test]
fn r6_2_what_is_anothers_answers_like_what_never_was() {
    let server = Server::start();
    let (mine, theirs) = (Tenant::new(&server, "mine"), Tenant::new(&server, "theirs"));
    let sandbox = mine.sandbox(&json!({"name": "box"}));
    let execution = mine.background(&sandbox, "sleep 1000");
    let done = mine.post(&format!("/v1/sandboxes/{sandbox}/exec"), &json!({"shell": "echo secret"})).expect(200).json();
    let done = done["id"].as_str().unwrap();
    let ended = mine.sandbox(&json!({}));
    mine.request("DELETE", &format!("/v1/sandboxes/{ended}")).send().expect(200);

    let mut not_found = 0;
    for (method, path) in operations(&server) {
        let (known, unknown): (&[&str], &str) =
            if ["/v1/sandboxes/{id}", "/v1/sandbox/{id}", "/session/{id}"].iter().any(|begin| path.starts_with(begin)) {
                (&[&sandbox, &ended], "sbx0123456789abcdefghjkmnpqr")
            } else if path.starts_with("/v1/executions/{id}") {
                (&[&execution, done], "exe0123456789abcdefghjkmnpqr")
            } else {
                continue;
            };
        let expect = attempt(&theirs, &method, &path, unknown);
        for id in known {
            // Their tenant, and the operator, whose tenant is another as well.
            let seen = attempt(&theirs, &method, &path, id);
            assert_eq!(seen.status, expect.status, "{method} {path}: {}", seen.text());
            assert_eq!(seen.text().replace(id, unknown), expect.text(), "{method} {path}");
            let names = |answer: &Answer| answer.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&seen), names(&expect), "{method} {path}");
        }
        not_found += u32::from(expect.status == 404);
    }
    assert!(not_found >= 12, "only {not_found} operations got as far as to look for it");
    let operator = server.get(&format!("/v1/sandboxes/{sandbox}"));
    operator.refused(404, "not_found");

    // Nothing of all that has had an effect, and to its owner it is there.
    assert_eq!(mine.get(&format!("/v1/executions/{execution}")).expect(200).json()["status"], "running");
    assert_eq!(mine.get(&format!("/v1/executions/{done}/output")).expect(200).text(), "secret\n");
    let seen = mine.get(&format!("/v1/sandboxes/{sandbox}")).expect(200).json();
    assert_eq!((&seen["state"], &seen["lifetime_s"]), (&json!("running"), &json!(86400)));
    mine.get(&format!("/v1/sandboxes/{sandbox}/files/stat?path=/workspace/intruder")).refused(404, "not_found");
    mine.get(&format!("/v1/sandboxes/{ended}")).refused(410, "gone");
    server.finish();
}

#[test]
fn r6_2_names_and_lists_are_each_tenants_own() {
    let server = Server::start();
    let (a, b) = (Tenant::new(&server, "a"), Tenant::new(&server, "b"));
    let body = json!({"name": "box", "metadata": {"k": "v"}});
    let (first, second) = (a.sandbox(&body), b.sandbox(&body));
    assert_ne!(first, second);
    assert_eq!(a.post("/v1/sandboxes", &body).expect(200).json()["id"], json!(first), "found again by its own tenant alone");
    for (tenant, own) in [(&a, &first), (&b, &second)] {
        for query in ["", "?name=box", "?metadata.k=v", "?state=running", "?limit=1"] {
            let page = tenant.get(&format!("/v1/sandboxes{query}")).expect(200).json();
            let ids: Vec<_> = page["data"].as_array().unwrap().iter().map(|sandbox| sandbox["id"].clone()).collect();
            assert_eq!((ids, &page["next_cursor"]), (vec![json!(own)], &Value::Null), "{query}");
        }
    }
    assert_eq!(server.get("/v1/sandboxes").expect(200).json()["data"], json!([]), "the operator's tenant has none");
    // A cursor of one tenant shows another nothing.
    let _more = a.sandbox(&json!({}));
    let cursor = a.get("/v1/sandboxes?limit=1").expect(200).json()["next_cursor"].as_str().unwrap().to_owned();
    let page = b.get(&format!("/v1/sandboxes?cursor={cursor}")).expect(200).json();
    assert!(!page.to_string().contains(&first), "{page}");
    a.request("DELETE", &format!("/v1/sandboxes/{first}")).send().expect(200);
    assert_eq!(b.post("/v1/sandboxes", &body).expect(200).json()["id"], json!(second));
    server.finish();
}

#[test]
fn r6_1_a_key_does_what_its_scope_allows() {
    let server = Server::start();
    let key = |scope: &str| Tenant::with(&server, &json!({"tenant": "team", "scope": scope}));
    let (read, run, admin) = (key("read"), key("run"), key("admin"));
    let sandbox = run.sandbox(&json!({}));
    let execution = run.background(&sandbox, "sleep 1000");
    let (mut looks, mut acts) = (0, 0);
    let unknown = "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10";
    for (method, path) in operations(&server) {
        if ["/-/health", "/-/version", "/health", "/healthz", "/readyz", "/docs", "/openapi.json", "/metrics"].contains(&path.as_str()) {
            continue;
        }
        let for_admins =
            ["/v1/keys", "/v1/tenants", "/v1/webhooks", "/v1/doctor", "/sandboxes/realm"].iter().any(|begin| path.starts_with(begin))
                || ((path.starts_with("/v1/images") || path.starts_with("/v1/templates")) && method != "GET")
                || path.ends_with("/commit");
        let id = if path.starts_with("/modbox/") {
            unknown
        } else if path.starts_with("/v1/executions") {
            "exe0123456789abcdefghjkmnpqr"
        } else {
            "sbx0123456789abcdefghjkmnpqr"
        };
        let may = |tenant: &Tenant| {
            let answer = attempt(tenant, &method, &path, id);
            if answer.status == 403 && !is_foreign(&path) {
                answer.refused(403, "forbidden");
            }
            answer.status != 403
        };
        if path != "/v1/doctor" {
            assert!(may(&admin), "{method} {path}");
        }
        assert_eq!(may(&run), !for_admins, "{method} {path}");
        assert_eq!(may(&read), !for_admins && method == "GET", "{method} {path}");
        if for_admins || method != "GET" { acts += 1 } else { looks += 1 }
    }
    assert!(looks >= 8 && acts >= 12, "{looks} {acts}");
    assert_eq!(read.get(&format!("/v1/sandboxes/{sandbox}")).expect(200).json()["state"], "running");
    assert_eq!(read.get(&format!("/v1/executions/{execution}")).expect(200).json()["status"], "running");
    let message = read.post("/v1/run", &json!({"shell": "true"})).refused(403, "forbidden");
    assert!(message.contains("`read`") && message.contains("`run`"), "{message}");
    let seen = run.get("/v1/whoami").expect(200).json();
    assert_eq!((&seen["scope"], &seen["tenant"]["name"], &seen["key_id"]), (&json!("run"), &json!("team"), &run.key["id"]));
    assert_eq!(server.get("/v1/whoami").expect(200).json()["key_id"], Value::Null, "the configured key has no id");
    server.finish();
}

/// Whatever comes until it ends or breaks off.
fn drain(mut body: impl Read) -> Result<Vec<u8>, std::io::Error> {
    let mut seen = Vec::new();
    body.read_to_end(&mut seen).map(|_| seen)
}

#[test]
fn r6_8_revoking_a_key_ends_its_streams_and_takes_effect_at_once() {
    let server = Server::start();
    let (tenant, bystander) = (Tenant::new(&server, "team"), Tenant::new(&server, "team"));
    let sandbox = tenant.sandbox(&json!({}));
    let line = "echo begun; sleep 1000";
    let execution = tenant.background(&sandbox, line);
    let output = format!("/v1/executions/{execution}/output?follow=true");
    let exec = format!("/v1/sandboxes/{sandbox}/exec");
    eventually("the first output", Duration::from_secs(10), || {
        (tenant.get(&format!("/v1/executions/{execution}/output")).expect(200).text() == "begun\n").then_some(())
    });
    let endless = json!({"shell": line, "timeout_s": null});
    let open = |request: Request| {
        let mut streaming = request.open();
        assert_eq!(streaming.status, 200);
        let mut byte = [0];
        streaming.body.read_exact(&mut byte).expect("it begins");
        streaming.body
    };
    let streams = vec![
        open(tenant.request("GET", &output)),
        open(tenant.request("GET", &output).header("accept", "text/event-stream")),
        open(tenant.request("POST", &exec).header("accept", "text/event-stream").json(&endless)),
    ];
    let mut others = open(bystander.request("GET", &output));
    let bearer = format!("Bearer {}", tenant.client.key.as_ref().unwrap());
    let mut socket = server.try_socket(&format!("/v1/executions/{execution}/stream"), &[("authorization", &bearer)]).unwrap();
    assert_eq!(socket.control("start")["id"], execution);
    thread::scope(|scope| {
        // This one waits for an answer that is far away.
        let waiting = scope.spawn(|| tenant.request("POST", &exec).json(&endless).try_send());
        eventually("three programs", Duration::from_secs(10), || {
            let running = bystander.get(&format!("/v1/sandboxes/{sandbox}/executions?status=running")).expect(200).json();
            (running["data"].as_array().unwrap().len() == 3).then_some(())
        });
        server.request("DELETE", &format!("/v1/keys/{}", tenant.id())).send().expect(204);
        tenant.get("/v1/sandboxes").refused(401, "unauthorized");
        for stream in streams {
            assert!(drain(stream).is_err(), "it breaks off, so that nobody takes it for the whole");
        }
        waiting.join().unwrap().expect("it is answered").refused(401, "unauthorized");
        assert_eq!(socket.to_the_end().3, 1008, "the WebSocket is closed for a reason");
    });
    // What was begun goes on, for the tenant's other keys.
    assert_eq!(bystander.get(&format!("/v1/executions/{execution}")).expect(200).json()["status"], "running");
    bystander.request("DELETE", &format!("/v1/sandboxes/{sandbox}")).send().expect(200);
    let mut rest = String::new();
    others.read_to_string(&mut rest).expect("the other key's stream ends in order");
    assert_eq!(rest, "egun\n");
    server.request("DELETE", &format!("/v1/keys/{}", tenant.id())).send().refused(404, "not_found");
    server.finish();
}

#[test]
fn r6_8_a_key_expires_with_its_streams() {
    let server = Server::start();
    let keeper = Tenant::new(&server, "team");
    let sandbox = keeper.sandbox(&json!({}));
    let execution = keeper.background(&sandbox, "sleep 1000");
    let brief = Tenant::with(&server, &json!({"tenant": "team", "expires_in_s": allowed(Duration::from_secs(2)).as_secs_f64()}));
    assert!(brief.key["expires_at"].is_string(), "{}", brief.key);
    let stream = brief.request("GET", &format!("/v1/executions/{execution}/output?follow=true")).open();
    assert_eq!(stream.status, 200);
    assert!(drain(stream.body).is_err(), "it breaks off");
    brief.get("/v1/sandboxes").refused(401, "unauthorized");
    server.finish();
}

#[test]
fn keys_are_shown_once_kept_hashed_and_outlive_the_server() {
    let mut server = Server::start();
    let kept = Tenant::with(&server, &json!({"tenant": "team", "note": "dashboard"}));
    let revoked = Tenant::new(&server, "team");
    kept.quotas(&server, &json!({"sandboxes": 3}));
    let text = kept.client.key.clone().unwrap();
    assert!(text.starts_with("caisson_") && text.len() == 48, "{text}");
    let listed = server.get("/v1/keys?tenant=team").expect(200);
    assert!(!listed.text().contains(&text) && listed.text().contains("dashboard"), "{}", listed.text());
    let (first, rest) = (server.get("/v1/keys?limit=1").expect(200).json(), "next_cursor");
    assert_eq!(first["data"][0]["id"], revoked.key["id"], "newest first");
    let second = server.get(&format!("/v1/keys?limit=1&cursor={}", first[rest].as_str().unwrap())).expect(200).json();
    assert_eq!((&second["data"][0]["id"], &second[rest]), (&kept.key["id"], &Value::Null));
    server.request("DELETE", &format!("/v1/keys/{}", revoked.id())).send().expect(204);
    for again in [false, true] {
        if again {
            assert!(server.stop().success());
            server.start_again();
        }
        revoked.get("/v1/sandboxes").refused(401, "unauthorized");
        let seen = kept.get("/v1/whoami").expect(200).json();
        assert_eq!((&seen["tenant"]["name"], &seen["tenant"]["quotas"]["sandboxes"]), (&json!("team"), &json!(3)));
    }
    server.kill();
    for entry in std::fs::read_dir(server.home().data()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(text.len()).any(|part| part == text.as_bytes()), "the key is in {}", entry.path().display());
    }
    assert!(!server.log().contains(&text), "the key is in the log");
    server.start_again();
    server.finish();
}

#[test]
fn quotas_name_quota_limit_and_use() {
    let server = Server::start();
    let (tenant, other) = (Tenant::new(&server, "team"), Tenant::new(&server, "other"));
    let told = |answer: &Answer, quota: &str, limit: u64, used: u64| {
        let message = answer.refused(429, "quota_exceeded");
        for word in [quota.to_owned(), limit.to_string(), used.to_string()] {
            assert!(message.contains(&word), "no {word} in `{message}`");
        }
        assert_eq!(answer.json()["error"]["details"], json!({"quota": quota, "limit": limit, "used": used}));
    };
    let memory = 64 << 20;
    let small = json!({"limits": {"memory_bytes": memory}});

    tenant.quotas(&server, &json!({"sandboxes": 2}));
    let first = tenant.sandbox(&small);
    let _second = tenant.sandbox(&small);
    told(&tenant.post("/v1/sandboxes", &small), "sandboxes", 2, 2);
    told(&tenant.post("/v1/run", &json!({"shell": "true"})), "sandboxes", 2, 2);
    let _others = other.sandbox(&small);
    tenant.request("DELETE", &format!("/v1/sandboxes/{first}")).send().expect(200);
    let third = tenant.sandbox(&small);

    tenant.quotas(&server, &json!({"sandboxes": null, "memory_bytes": 3 * memory}));
    told(&tenant.post("/v1/sandboxes", &json!({"limits": {"memory_bytes": memory + 1}})), "memory_bytes", 3 * memory, 2 * memory);
    let _fourth = tenant.sandbox(&small);

    tenant.quotas(&server, &json!({"memory_bytes": null, "disk_bytes": 32 << 20}));
    let on_disk = |bytes: u64| json!({"storage": "disk", "limits": {"memory_bytes": memory, "disk_bytes": bytes}});
    told(&tenant.post("/v1/sandboxes", &on_disk(64 << 20)), "disk_bytes", 32 << 20, 0);
    let _in_memory = tenant.sandbox(&small);

    tenant.quotas(&server, &json!({"disk_bytes": null, "executions_per_minute": 3}));
    let exec = format!("/v1/sandboxes/{third}/exec");
    for _ in 0..3 {
        tenant.post(&exec, &json!({"shell": "true"})).expect(200);
    }
    for (target, body) in [(exec.as_str(), json!({"shell": "true"})), ("/v1/run", json!({"shell": "true"}))] {
        let refused = tenant.post(target, &body);
        told(&refused, "executions_per_minute", 3, 3);
        assert!((1..=60).contains(&refused.figure("retry-after")), "{:?}", refused.headers);
    }
    let seen = server.get("/v1/tenants/team").expect(200).json();
    assert_eq!(seen["use"]["executions_per_minute"], 3, "what is refused does not count: {seen:#}");
    assert_eq!((&seen["use"]["sandboxes"], &seen["use"]["memory_bytes"]), (&json!(4), &json!(4 * memory)));
    other.post("/v1/run", &json!({"shell": "true"})).expect(200);
    let names: Vec<Value> =
        server.get("/v1/tenants").expect(200).json()["data"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["default", "other", "team"]);
    server.finish();
}

/// A one-shot is answered before its sandbox is gone, which must not look like another living one.
#[test]
fn whoever_runs_one_after_the_other_needs_room_for_one() {
    let server = Server::start();
    let tenant = Tenant::new(&server, "team");
    tenant.quotas(&server, &json!({"sandboxes": 1}));
    for n in 0..25 {
        let ran = tenant.post("/v1/run", &json!({"shell": format!("echo {n}")})).expect(200).json();
        assert_eq!(ran["stdout"], format!("{n}\n"));
    }
    server.finish();
}

#[test]
fn r6_6_a_tenant_at_its_limit_keeps_no_other_from_its_work() {
    let server = Server::start();
    let (greedy, modest) = (Tenant::new(&server, "greedy"), Tenant::new(&server, "modest"));
    greedy.quotas(&server, &json!({"sandboxes": 2, "executions_per_minute": 20}));
    let (over, refused) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answer = greedy.post("/v1/run", &json!({"shell": "while :; do :; done", "timeout_s": 600}));
                    if answer.status == 200 {
                        // One of the two that had room; its sandbox was ended below.
                        break;
                    }
                    answer.refused(429, "quota_exceeded");
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Two of them run for as long as the other works; the rest is refused again and again.
        let begun = eventually("refusals", Duration::from_secs(20), || Some(refused.load(Ordering::Relaxed)).filter(|count| *count > 0));
        for n in 0..20 {
            let ran = modest.post("/v1/run", &json!({"shell": format!("echo {n}")})).expect(200).json();
            assert_eq!(ran["stdout"], format!("{n}\n"));
        }
        let meanwhile = refused.load(Ordering::Relaxed) - begun;
        over.store(true, Ordering::Relaxed);
        assert!(meanwhile > 0, "the greedy one asked all the time");
        // Those that run are ended, so that their callers come home.
        for sandbox in greedy.get("/v1/sandboxes?state=running").expect(200).json()["data"].as_array().unwrap() {
            greedy.request("DELETE", &format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap())).send();
        }
    });
    server.finish();
}

#[test]
fn keys_mean_nothing_where_everybody_is_let_in() {
    let server = Setup::default().without_key().env("CAISSON_AUTH", "none").start();
    let message = server.post("/v1/keys", &json!({})).refused(409, "keys_not_used");
    assert!(message.contains("CAISSON_AUTH"), "{message}");
    let seen = server.get("/v1/whoami").expect(200).json();
    assert_eq!((&seen["tenant"]["name"], &seen["scope"]), (&json!("default"), &json!("admin")));
    server.finish();
}
