//! Those who should not get in: without a key, from a web page, from behind a proxy.

use std::{fs, path::Path};

use caisson_tests::{Answer, Client, Server, Setup, Value, foreign_key, is_foreign, is_of_boxbox, is_of_daiv, json, raw, raw_request};

const METHODS: [&str; 8] = ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE"];

/// Every path that the running server describes, filled in, with the description of each method.
fn paths(server: &Server, sandbox: &str, execution: &str) -> Vec<(String, Value)> {
    let document = server.get("/openapi.json").expect(200).json();
    let paths = document["paths"].as_object().expect("there are paths").clone();
    let filled = |path: &str| {
        let path =
            path.replace("/sandboxes/{id}", &format!("/sandboxes/{sandbox}")).replace("/sandbox/{id}", &format!("/sandbox/{sandbox}"));
        path.replace("/executions/{id}", &format!("/executions/{execution}"))
            .replace("{port}", "8000")
            .replace("{rest}", "x/y")
            .replace("{path}", "x/y")
    };
    paths.iter().map(|(path, item)| (filled(path), item.clone())).collect()
}

fn header_of_boxed(target: &str) -> bool {
    foreign_key(target).is_some_and(|(header, _)| header == "x-boxed-api-key")
}

/// Whether pages of other origins may ask, as the contract of boxbox has it. They need its key, which no browser sends by itself.
fn invites(target: &str) -> bool {
    is_of_boxbox(target) || target == "/health"
}

fn anonymous(server: &Server) -> Client {
    Client { key: None, ..server.client.clone() }
}

/// Whether a description says that a key is needed, always or unless the client is on this machine.
fn wants_key(operation: &Value) -> Option<bool> {
    let choices = operation["security"].as_array()?;
    Some(choices.iter().all(|choice| choice.as_object().is_some_and(|schemes| !schemes.is_empty())))
}

#[test]
fn r6_1_every_route_that_the_server_describes_needs_a_key_but_the_public_ones() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let execution = sandbox.exec(&json!({"shell": "echo secret"}))["id"].as_str().unwrap().to_owned();
    let key = server.client.key.clone().unwrap();
    let (mut public, mut keyed) = (Vec::new(), 0);
    for (target, item) in paths(&server, &sandbox.id, &execution) {
        for method in METHODS {
            // What answers GET answers HEAD, and of a port every method.
            let described = item.get(if method == "HEAD" || target.contains("/ports/") { "get" } else { method }.to_lowercase());
            let ask = |name: &str, value: &str| {
                anonymous(&server).request(method, &target).header(name, value).header("content-length", "0").send()
            };
            let Some(operation) = described else {
                let (header, before) = foreign_key(&target).unwrap_or(("x-api-key", ""));
                let answer = ask(header, &format!("{before}{key}"));
                if method == "OPTIONS" && invites(&target) {
                    assert_eq!((answer.status, answer.body.len()), (200, 0), "{target}");
                    continue;
                }
                assert_eq!(answer.status, 405, "{method} {target} is in no description: {}", answer.text());
                continue;
            };
            match wants_key(operation) {
                Some(true) => {
                    let wrong = [
                        ("x-nothing", ""),
                        ("x-api-key", "wrong"),
                        ("x-api-key", ""),
                        ("authorization", "Bearer wrong"),
                        ("authorization", &format!("Basic {key}")),
                        ("authorization", &format!("Bearer {}", &key[1..])),
                        ("authorization", &format!("Bearer {key}x")),
                        ("cookie", &format!("key={key}; x-api-key={key}; authorization=Bearer {key}")),
                        ("proxy-authorization", &format!("Bearer {key}")),
                    ]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()));
                    for (name, value) in wrong {
                        let answer = ask(&name, &value);
                        let status = if is_of_daiv(&target) { 403 } else { 401 };
                        assert_eq!(answer.status, status, "{method} {target} with {name}: {value}");
                        if method != "HEAD" && header_of_boxed(&target) {
                            assert_eq!(answer.json()["message"], "invalid or missing API key", "{method} {target}");
                        } else if method != "HEAD" && is_of_daiv(&target) {
                            let detail = answer.json()["detail"].clone();
                            assert!(detail == "API Key header is missing" || detail == "Invalid API Key", "{method} {target}: {detail}");
                        } else if method != "HEAD" && is_of_boxbox(&target) {
                            assert_eq!(answer.json()["error"], "unauthorized", "{method} {target}");
                        } else if method != "HEAD" && is_foreign(&target) {
                            let code = answer.json()["error"]["code"].clone();
                            assert!(code == "unauthenticated" || code == "invalid_token", "{method} {target}: {code}");
                        } else if method != "HEAD" {
                            answer.refused(401, "unauthorized");
                        }
                        keyed += 1;
                    }
                }
                Some(false) => assert_eq!(ask("x-nothing", "").status, 200, "{method} {target}: nearby, and so without a key"),
                // Signed links have their key in the path, and this is none.
                None if target.starts_with("/v1/shared/") => assert_eq!(ask("x-nothing", "").status, 401, "{method} {target}"),
                None => {
                    assert_eq!(ask("x-nothing", "").status, 200, "{method} {target}");
                    public.push(target.clone());
                }
            }
        }
    }
    public.dedup();
    assert_eq!(
        public,
        ["/-/health", "/-/version", "/docs", "/health", "/healthz", "/openapi.json", "/readyz"],
        "a new public route has to be meant"
    );
    assert!(keyed > 150, "only {keyed} attempts");
    // None of it had an effect.
    assert_eq!(sandbox.shell("echo fine"), "fine\n");
    assert_eq!(server.get("/v1/sandboxes").expect(200).json()["data"].as_array().unwrap().len(), 1);
    server.finish();
}

#[test]
fn r6_1_a_key_is_no_parameter() {
    let server = Server::start();
    let key = server.client.key.clone().unwrap();
    for name in ["key", "api_key", "apikey", "access_token", "token", "X-API-Key", "authorization"] {
        anonymous(&server).request("GET", &format!("/v1/sandboxes?{name}={key}")).send().refused(401, "unauthorized");
        anonymous(&server).request("GET", &format!("/v1/{key}/sandboxes")).send().refused(404, "not_found");
    }
    server.finish();
}

/// Everything in files below a directory.
fn contents(directory: &Path) -> Vec<u8> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { contents(&path) } else { fs::read(path).unwrap_or_default() }).collect()
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// One request over HTTP/2 with these headers beside the necessary ones.
fn over_http2(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(":path", "/v1/sandboxes"), (":authority", "localhost")].iter().chain(headers) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short enough for one byte"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    let length = u8::try_from(block.len()).expect("short enough for one byte");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(&[0, 0, length, 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

#[test]
fn r6_1_keys_are_in_no_log_no_record_and_no_answer() {
    let wrong = "a-wrong-key-that-somebody-mistyped";
    for format in ["text", "json"] {
        let mut server = Setup::default().env("CAISSON_LOG", "trace").env("CAISSON_LOG_FORMAT", format).start();
        let key = server.client.key.clone().unwrap();
        let sandbox = server.sandbox(&json!({}));
        let mut answers: Vec<Answer> = vec![sandbox.try_exec(&json!({"shell": "echo hello"})), sandbox.get(), server.get("/metrics")];
        for shown in [key.as_str(), wrong] {
            for (name, value) in
                [("x-api-key", shown.to_owned()), ("authorization", format!("Bearer {shown}")), ("authorization", format!("Basic {shown}"))]
            {
                for target in ["/v1/sandboxes?limit=0", "/v1/sandboxes/x", "/nothing", "/v1/run"] {
                    answers.push(anonymous(&server).request("GET", target).header(name, &value).send());
                    answers.push(anonymous(&server).request("POST", target).header(name, &value).bytes("{").send());
                }
            }
            for name in ["key", "api_key", "access_token"] {
                answers.push(server.get(&format!("/v1/sandboxes?{name}={shown}")));
                answers.push(anonymous(&server).request("GET", &format!("/v1/sandboxes?{name}={shown}")).send());
            }
            let answer = raw(server.client.address, &over_http2(&[("x-api-key", shown)]));
            assert!(!answer.is_empty() && !has(&answer, shown));
        }
        assert!(server.stop().success());
        for answer in &answers {
            let headers = answer.headers.iter().any(|(name, value)| name.contains(&key) || value.contains(&key) || value.contains(wrong));
            assert!(!headers && !has(&answer.body, &key) && !has(&answer.body, wrong), "{} {}", answer.status, answer.text());
        }
        let log = fs::read(server.home().path().join("log")).unwrap();
        assert!(has(&log, "was answered with 401") && log.len() > 10_000, "the log tells nothing");
        let data = [contents(&server.home().data()), server.records()].concat();
        assert!(has(&data, &sandbox_id(&answers)), "the records tell nothing");
        for secret in [key.as_str(), wrong] {
            assert!(!has(&log, secret), "a key is in the log as {format}");
            assert!(!has(&data, secret), "a key is among the data");
        }
        server.finish();
    }
}

fn sandbox_id(answers: &[Answer]) -> String {
    answers[1].json()["id"].as_str().expect("it has an id").to_owned()
}

#[test]
fn r6_4_no_answer_invites_other_origins() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let execution = sandbox.exec(&json!({"shell": "echo x"}))["id"].as_str().unwrap().to_owned();
    for (target, item) in paths(&server, &sandbox.id, &execution).into_iter().filter(|(target, _)| !invites(target)) {
        for origin in ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:8080"] {
            let preflight = anonymous(&server)
                .request("OPTIONS", &target)
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "authorization, content-type")
                .send();
            let asks_first = target.contains("/ports/") || (is_foreign(&target) && !is_of_daiv(&target));
            assert_eq!(preflight.status, if asks_first { 401 } else { 405 }, "{target}");
            let mut answers = vec![preflight];
            if item.get("get").is_some() && !target.contains("doctor") {
                answers.push(server.request("GET", &target).header("origin", origin).send());
                answers.push(anonymous(&server).request("GET", &target).header("origin", origin).send());
            }
            for answer in answers {
                let inviting: Vec<_> = answer.headers.iter().filter(|(name, _)| name.starts_with("access-control-")).collect();
                assert!(inviting.is_empty(), "{target}: {inviting:?}");
                assert!(answer.header("set-cookie").is_none(), "{target}");
            }
        }
    }
    server.finish();
}

#[test]
fn r6_4_a_server_without_keys_serves_no_web_page() {
    let server = Setup::default().without_key().env("CAISSON_AUTH", "none").start();
    assert_eq!(server.python("print(1)"), "1\n");
    let address = server.client.address;
    for (name, value) in [
        ("host", "evil.example"),
        ("host", "evil.example:8080"),
        ("host", "127.0.0.1.evil.example"),
        ("host", "localhost.evil.example"),
        ("host", "0.0.0.0"),
        ("host", "user@localhost"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1.evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        for (method, target) in
            [("POST", "/v1/run"), ("GET", "/v1/sandboxes"), ("POST", "/v1/sandboxes"), ("GET", "/metrics"), ("GET", "/healthz")]
        {
            server.request(method, target).header(name, value).json(&json!({"shell": "true"})).send().refused(403, "forbidden");
        }
    }
    // Forms and plain text may be posted across origins without asking; they are no JSON.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        server
            .request("POST", "/v1/run")
            .header("content-type", kind)
            .bytes(r#"{"shell": "true"}"#)
            .send()
            .refused(415, "unsupported_media_type");
    }
    // Two hosts, of which somebody in between may believe the other.
    let body = "content-type: application/json\r\ncontent-length: 17\r\nconnection: close\r\n\r\n{\"shell\": \"true\"}";
    for head in [
        format!("POST http://evil.example/v1/run HTTP/1.1\r\nhost: {address}\r\n"),
        format!("POST http://{address}/v1/run HTTP/1.1\r\nhost: evil.example\r\n"),
        format!("POST /v1/run HTTP/1.1\r\nhost: {address}\r\nhost: evil.example\r\n"),
        "POST /v1/run HTTP/1.1\r\nhost: \r\n".to_owned(),
        "POST /v1/run HTTP/1.0\r\n".to_owned(),
    ] {
        let answer = String::from_utf8_lossy(&raw_request(address, format!("{head}{body}").as_bytes())).into_owned();
        assert!(answer.starts_with("HTTP/1.") && answer.contains(" 403 "), "{head:?}: {answer}");
    }
    assert_eq!(server.get("/v1/sandboxes").expect(200).json()["data"].as_array().unwrap().len(), 1, "only ours ran");
    server.finish();
}

#[test]
fn r6_4_what_programs_write_is_never_a_page() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let page = "<!doctype html><script>alert(document.domain)</script><svg onload=alert(1)>";
    sandbox.write(b"page.html", page.as_bytes()).expect(200);
    sandbox.write(b"image.svg", page.as_bytes()).expect(200);
    let execution = sandbox.exec(&json!({"cmd": ["cat", "page.html"]}))["id"].as_str().unwrap().to_owned();
    let html = |request: caisson_tests::Request| request.header("accept", "text/html,application/xhtml+xml,*/*;q=0.8").send();
    let get = |target: &str| html(server.request("GET", target));
    let output = format!("/v1/executions/{execution}/output");
    let cases = [
        (get(&output), "application/octet-stream"),
        (get(&sandbox.target("/files?path=page.html")), "application/octet-stream"),
        (get(&sandbox.target("/files?path=image.svg")), "application/octet-stream"),
        (html(server.request("GET", &sandbox.target("/files?path=page.html")).header("range", "bytes=0-50")), "application/octet-stream"),
        (server.request("GET", &output).header("accept", "text/event-stream, text/html").send(), "text/event-stream"),
        (html(sandbox.request("POST", "/exec").json(&json!({"cmd": ["cat", "page.html"]}))), "application/json"),
        (html(server.request("POST", "/v1/run").json(&json!({"shell": "echo '<script>'"}))), "application/json"),
        (get(&sandbox.target("/files/list?path=.")), "application/json"),
        (get(&format!("/v1/executions/{execution}")), "application/json"),
        (get("/openapi.json"), "application/json"),
        (get("/docs"), "text/html; charset=utf-8"),
        (get("/metrics"), "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        // What goes wrong quotes what was asked for.
        (get("/v1/<script>alert(1)</script>"), "application/json"),
        (get("/v1/sandboxes?<script>=1"), "application/json"),
        (get("/v1/sandboxes/<script>"), "application/json"),
        (get("/v1/run"), "application/json"),
        (get(&sandbox.target("/files?path=<script>")), "application/json"),
        (html(server.request("POST", "/v1/run").json(&json!({"language": "<script>", "code": "x"}))), "application/json"),
        (html(server.request("POST", "/v1/run").header("content-type", "<script>").bytes("{}")), "application/json"),
        (html(anonymous(&server).request("GET", "/v1/sandboxes")), "application/json"),
    ];
    for (answer, kind) in cases {
        assert_eq!(answer.header("content-type"), Some(kind), "{:.200}", answer.text());
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{:.200}", answer.text());
    }
    let malformed = String::from_utf8_lossy(&raw(server.client.address, b"GET /<script> HTTP/9\r\n\r\n")).into_owned();
    assert!(malformed.contains("content-type: application/json") && malformed.contains("nosniff"), "{malformed}");
    server.finish();
}

/// A proxy can say of a request what it likes; so can whoever is no proxy.
#[test]
fn r6_7_what_proxies_say_is_not_trusted() {
    let server = Server::start();
    let stranger = anonymous(&server);
    stranger.request("GET", "/metrics").send().expect(200);
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=127.0.0.1;host=localhost"),
        ("via", "1.1 proxy"),
        ("host", "caisson.example"),
    ] {
        stranger.request("GET", "/metrics").header(name, value).send().refused(401, "unauthorized");
    }
    let claims = [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1;host=localhost;proto=https"),
        ("x-forwarded-host", "localhost"),
        ("x-forwarded-user", "root"),
        ("x-original-url", "/healthz"),
        ("x-rewrite-url", "/healthz"),
        ("x-http-method-override", "GET"),
    ];
    for (name, value) in claims {
        stranger.request("GET", "/v1/sandboxes").header(name, value).send().refused(401, "unauthorized");
        let answer = server.request("GET", "/v1/sandboxes").header(name, "192.0.2.77").send().expect(200);
        assert!(answer.header("location").is_none());
    }
    let log = server.log();
    assert!(log.contains("peer=127.0.0.1:") && !log.contains("192.0.2.77"), "{log}");
    server.finish();

    let open = Setup::default().without_key().env("CAISSON_AUTH", "none").start();
    for (name, value) in claims {
        let request = open.request("GET", "/v1/sandboxes").header("host", "evil.example").header(name, value);
        request.send().refused(403, "forbidden");
    }
    open.finish();
}
