//! The reverse proxy into sandboxes, with real programs on both sides.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::process::CommandExt,
    process::Child,
    time::{Duration, Instant},
};

use caisson_tests::{Client, Heard, Request, Sandbox, Server, Setup, Value, allowed, eventually, json, meant_to_lack, needs};

const SERVES: &str = include_str!("../probes/serves.py");
const PAGE: &str = include_str!("../probes/page.js");
const PORT: u16 = 8000;
const WITHIN: Duration = Duration::from_secs(20);
const DOMAIN: &str = "box.example";

/// Something that listens in a sandbox.
struct Port<'a> {
    sandbox: &'a Sandbox<'a>,
    number: u16,
}

impl<'a> Port<'a> {
    /// Starts it as a daemon, which is no use of the sandbox by itself, and waits until it listens.
    #[track_caller]
    fn serve(sandbox: &'a Sandbox<'a>, address: &str) -> Self {
        sandbox.write(b"serves.py", SERVES.as_bytes()).expect(200);
        let line = format!("python3 serves.py {address} {PORT} </dev/null >log 2>&1 & echo started");
        assert_eq!(sandbox.shell(&line), "started\n");
        let port = Self { sandbox, number: PORT };
        port.listens();
        port
    }

    /// The real thing of every introduction.
    #[track_caller]
    fn files(sandbox: &'a Sandbox<'a>) -> Self {
        assert_eq!(sandbox.shell("python3 -m http.server 8001 </dev/null >log 2>&1 & echo started"), "started\n");
        let port = Self { sandbox, number: 8001 };
        port.listens();
        port
    }

    #[track_caller]
    fn listens(&self) {
        eventually("something that listens", WITHIN, || (self.ask("GET", "/").send().status == 200).then_some(()));
    }

    fn target(&self, rest: &str) -> String {
        self.sandbox.target(&format!("/ports/{}{rest}", self.number))
    }

    fn ask(&self, method: &str, rest: &str) -> Request {
        self.sandbox.server.request(method, &self.target(rest))
    }

    /// What the program was asked, as it tells it.
    #[track_caller]
    fn told(&self, request: Request) -> Value {
        request.send().expect(200).json()
    }

    #[track_caller]
    fn link(&self, body: Value) -> Value {
        self.sandbox.request("POST", "/links").json(&body).send().expect(201).json()
    }

    #[track_caller]
    fn token(&self) -> String {
        self.link(json!({"port": self.number}))["token"].as_str().unwrap().to_owned()
    }

    /// How many connections the program has open beside the one that asks.
    #[track_caller]
    fn open(&self) -> u64 {
        self.told(self.ask("GET", "/open")).as_u64().unwrap()
    }

    fn host(&self) -> String {
        format!("{}-{}.{DOMAIN}", self.number, self.sandbox.id)
    }
}

fn anonymous(server: &Server) -> Client {
    Client { key: None, ..server.client.clone() }
}

/// A header that the program heard.
fn heard<'a>(told: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = told["headers"].as_array().expect("it tells its headers");
    headers
        .iter()
        .filter(|header| header[0].as_str().unwrap().eq_ignore_ascii_case(name))
        .map(|header| header[1].as_str().unwrap())
        .collect()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn requests_go_in_as_they_are() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH"] {
        let told = port.told(port.ask(method, "/a").bytes(format!("body of {method}")));
        assert_eq!((&told["method"], &told["body"]), (&json!(method), &json!(format!("body of {method}"))));
    }
    let head = port.ask("HEAD", "/a").send().expect(200);
    assert!(head.body.is_empty());
    for target in [
        "/",
        "/a/b?x=1&y=2",
        "/a%2Fb/%E4%BD%A0//c/../d;e=1?q=%20+%26&empty=&flag&q=2",
        "//double",
        "/?",
        "/%00%ff",
        "/~user/",
        "/a?caisson_tokens=1",
        "/v1/sandboxes/x/ports/1/",
    ] {
        assert_eq!(port.told(port.ask("GET", target))["target"], target);
    }
    for (without, target) in [("", "/"), ("?x=1", "/?x=1")] {
        assert_eq!(port.told(port.ask("GET", without))["target"], target);
    }
    let told = port.told(
        port.ask("POST", "/a")
            .header("x-mine", "ä b")
            .header("content-type", "text/x-odd; a=b")
            .header("content-encoding", "gzip")
            .header("idempotency-key", "1")
            .header("accept-encoding", "br")
            .header("origin", "https://example.com")
            .header("te", "trailers")
            .header("x-forwarded-for", "192.0.2.9")
            .header("x-forwarded-host", "evil.example")
            .header("x-real-ip", "192.0.2.9")
            .header("forwarded", "for=192.0.2.9")
            .bytes("\0\u{1}"),
    );
    for (name, value) in [
        ("content-type", "text/x-odd; a=b"),
        ("content-encoding", "gzip"),
        ("idempotency-key", "1"),
        ("accept-encoding", "br"),
        ("origin", "https://example.com"),
        ("host", "localhost:8000"),
        ("connection", "close"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", &server.client.address.to_string()),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-prefix", &port.target("")),
    ] {
        assert_eq!(heard(&told, name), [value], "{name}");
    }
    for name in ["te", "x-real-ip", "forwarded", "authorization", "x-api-key", "transfer-encoding"] {
        assert_eq!(heard(&told, name), [""; 0], "{name}");
    }
    let chunks = port.ask("POST", "/a").send_chunks((0..10).map(|n| vec![b'0' + n; 1000])).expect(200).json();
    assert_eq!(chunks["body"].as_str().unwrap().len(), 10_000);
    // Also of methods that mostly have none.
    for method in ["GET", "DELETE", "OPTIONS"] {
        let told = port.ask(method, "/a").send_chunks([b"asked ".to_vec(), b"in pieces".to_vec()].into_iter()).expect(200).json();
        assert_eq!((&told["method"], &told["body"]), (&json!(method), &json!("asked in pieces")));
    }
    server.finish();
}

#[test]
fn large_bodies_pass_both_ways_to_the_byte() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"memory_bytes": 1_u64 << 30}}));
    let all = noise(64 << 20);
    sandbox.write(b"down", &all).expect(200);
    let port = Port::files(&sandbox);
    let before = server.process().resident();
    let begun = Instant::now();
    assert!(port.ask("GET", "/down").send().expect(200).body == all, "what came down differs");
    println!("64 MiB down in {:?}", begun.elapsed());
    let code = "import http.server\nclass Takes(http.server.BaseHTTPRequestHandler):\n  def do_PUT(self):\n    left = int(self.headers['content-length'])\n    \
                with open('up', 'wb') as file:\n      while left: left -= file.write(self.rfile.read(min(left, 1 << 20)))\n    \
                self.send_response(201); self.end_headers()\n  def do_GET(self): self.send_response(200); self.end_headers()\n\
                http.server.HTTPServer(('127.0.0.1', 8002), Takes).serve_forever()";
    sandbox.write(b"takes.py", code.as_bytes()).expect(200);
    assert_eq!(sandbox.shell("rm down; python3 takes.py </dev/null >/dev/null 2>&1 & echo started"), "started\n");
    let takes = Port { sandbox: &sandbox, number: 8002 };
    takes.listens();
    let begun = Instant::now();
    takes.ask("PUT", "/").bytes(all.clone()).send().expect(201);
    println!("64 MiB up in {:?}", begun.elapsed());
    assert!(sandbox.read(b"up").expect(200).body == all, "what went up differs");
    let grown = server.process().resident().saturating_sub(before);
    assert!(grown < 32 << 20, "the server grew by {grown} bytes");
    server.finish();
}

#[test]
fn answers_come_out_piece_by_piece() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "::1");
    let mut events = port.ask("GET", "/events").open();
    assert_eq!((events.status, events.header("content-type")), (200, Some("text/event-stream")));
    let mut first = [0; 13];
    events.body.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"data: first\n\n", "before there is anything more");
    let mut until_closed = port.ask("GET", "/bad/until-closed").open();
    let mut first = [0; 6];
    until_closed.body.read_exact(&mut first).unwrap();
    port.ask("POST", "/release").send().expect(200);
    assert_eq!(events.whole().text(), "data: last\n\n");
    assert_eq!(until_closed.whole().text(), "last");
    server.finish();
}

#[test]
fn websockets_pass_under_a_path_and_under_a_name() {
    let server = Setup::default().env("CAISSON_PUBLIC_DOMAIN", DOMAIN).start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let token = port.token();
    let host = port.host();
    for (target, headers) in [
        (port.target("/websocket?x"), vec![]),
        (port.target(&format!("/~{token}/websocket")), vec![("authorization", "none"), ("origin", "null")]),
        (port.target(&format!("/websocket?caisson_token={token}")), vec![("authorization", "none")]),
        ("/websocket".to_owned(), vec![("host", host.as_str())]),
        (format!("/websocket?caisson_token={token}"), vec![("host", host.as_str()), ("authorization", "none")]),
    ] {
        let mut socket = server.try_socket(&target, &headers).unwrap_or_else(|refused| panic!("{target}: {refused:?}"));
        socket.say(r#"{"n": 1}"#);
        assert_eq!(socket.hear(), Heard::Control(json!({"n": 1})), "{target}");
        let bytes = [&[7, 0, 0, 0, 0, 0, 0, 0, 9][..], &noise(40_000)].concat();
        socket.send(bytes.clone());
        assert_eq!(socket.hear(), Heard::Output(7, 9, bytes[9..].to_vec()), "{target}");
        socket.close(1000, "done");
        assert_eq!(socket.hear(), Heard::Closed(1000, "done".to_owned()), "{target}");
    }
    for (target, headers) in [
        (port.target("/websocket"), vec![("authorization", "none")]),
        ("/websocket".to_owned(), vec![("host", host.as_str()), ("authorization", "none")]),
    ] {
        let refused = server.try_socket(&target, &headers).unwrap_err();
        assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"), "{target}");
    }
    // The one hangs up, and the other hears of it.
    let before = port.open();
    let socket = server.socket(&port.target("/websocket"));
    assert_eq!(port.open(), before + 1);
    drop(socket);
    eventually("the end of the connection inside", WITHIN, || (port.open() == before).then_some(()));
    // A sandbox that ends ends it.
    let mut socket = server.socket(&port.target("/websocket"));
    sandbox.delete().expect(200);
    socket.try_hear().unwrap_err();
    server.finish();
}

#[test]
fn until_something_listens_the_answer_says_what_to_do() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port { sandbox: &sandbox, number: PORT };
    let answer = port.ask("GET", "/").send();
    let message = answer.refused(502, "port_not_listening");
    assert!(message.contains("8000") && message.contains("start a server"), "{message}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let page = port.ask("GET", "/x").header("accept", "text/html,*/*;q=0.8").send().expect(502);
    assert_eq!((page.header("content-type"), page.header("retry-after")), (Some("text/html; charset=utf-8"), Some("1")));
    assert!(
        page.text().contains("Nothing listens here yet")
            && page.text().contains("http.server")
            && page.text().contains("port_not_listening")
    );
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    let port = Port::serve(&sandbox, "127.0.0.1");
    assert_eq!(port.told(port.ask("GET", "/x"))["target"], "/x");
    // Ports in between, where the kernel chooses from, meet nobody either: not even themselves.
    let range = sandbox.shell("cat /proc/sys/net/ipv4/ip_local_port_range");
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    for number in [first, first + 1, 65_535, 1] {
        Port { sandbox: &sandbox, number }.ask("GET", "/").send().refused(502, "port_not_listening");
    }
    sandbox.delete().expect(200);
    let gone = port.ask("GET", "/").send();
    gone.refused(410, "gone");
    assert_eq!(gone.json()["error"]["details"]["reason"], "deleted");
    assert!(port.ask("GET", "/").header("accept", "text/html").send().expect(410).text().contains("The sandbox has ended"));
    sandbox.request("POST", "/links").json(&json!({"port": 1})).send().refused(410, "gone");
    server.finish();
}

#[test]
fn r3_5_a_port_opens_to_a_key_or_to_its_own_token() {
    let server = Setup::default().env("CAISSON_PUBLIC_DOMAIN", DOMAIN).start();
    let (sandbox, other) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let (port, elsewhere) = (Port::serve(&sandbox, "127.0.0.1"), Port::serve(&other, "127.0.0.1"));
    let stranger = anonymous(&server);
    let ask = |target: &str| stranger.request("GET", target).send();
    let key = server.client.key.clone().unwrap();
    for port_text in ["0", "65536", "abc", "+80", "080", "-1", "8%30"] {
        let target = sandbox.target(&format!("/ports/{port_text}/"));
        server.get(&target).refused(400, "invalid_port");
        ask(&target).refused(401, "unauthorized");
    }
    for target in [port.target("/"), port.target(""), port.target(&format!("/?key={key}"))] {
        ask(&target).refused(401, "unauthorized");
        stranger.request("GET", &target).header("authorization", "Bearer wrong").send().refused(401, "unauthorized");
        stranger.request("GET", &target).header("cookie", &format!("caisson_token={}", port.token())).send().refused(401, "unauthorized");
    }
    let link = port.link(json!({"port": PORT, "expires_in_s": 600}));
    let token = link["token"].as_str().unwrap().to_owned();
    assert_eq!(link["url"], format!("https://{}/?caisson_token={token}", port.host()));
    let told = ask(&port.target(&format!("/~{token}/a?b"))).expect(200).json();
    assert_eq!((&told["target"], heard(&told, "x-forwarded-prefix")), (&json!("/a?b"), vec![port.target(&format!("/~{token}")).as_str()]));
    assert_eq!(ask(&port.target(&format!("/a?x=1&caisson_token={token}&y=2"))).expect(200).json()["target"], "/a?x=1&y=2");
    // A browser goes on where relative links keep it.
    let visit =
        stranger.request("GET", &port.target(&format!("/a/?x=1&caisson_token={token}"))).header("accept", "text/html").send().expect(303);
    assert_eq!(visit.header("location"), Some(port.target(&format!("/~{token}/a/?x=1")).as_str()));
    let visit = stranger.request("GET", &port.target(&format!("/~{token}"))).header("accept", "text/html").send().expect(307);
    assert_eq!(visit.header("location"), Some(port.target(&format!("/~{token}/")).as_str()));

    let short = port.link(json!({"port": PORT, "expires_in_s": 1}))["token"].as_str().unwrap().to_owned();
    // An answer that is under way in that moment breaks off.
    let ask_again = || stranger.request("GET", &port.target(&format!("/~{short}/"))).try_send().ok();
    let expired = eventually("its expiry", WITHIN, || ask_again().filter(|answer| answer.status != 200));
    expired.refused(401, "token_expired");
    // That one may have been under way; this one comes afterwards.
    let message = ask(&port.target(&format!("/~{short}/"))).refused(401, "token_expired");
    assert!(message.contains("expired at 20"), "{message}");
    stranger.request("GET", &format!("/?caisson_token={short}")).header("host", &port.host()).send().refused(401, "token_expired");
    let mut forged = token.clone().into_bytes();
    forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for (what, target) in [
        ("forged", port.target(&format!("/~{forged}/"))),
        ("cut", port.target(&format!("/~{}/", &token[..30]))),
        ("of another port", sandbox.target(&format!("/ports/8001/~{token}/"))),
        ("of no port", sandbox.target(&format!("/ports/0/~{token}/"))),
        ("of another sandbox", elsewhere.target(&format!("/~{token}/"))),
        ("of no sandbox", format!("/v1/sandboxes/sbx0000000000000000000000000/ports/8000/~{token}/")),
    ] {
        let answer = ask(&target);
        answer.refused(401, "invalid_token");
        assert!(!answer.text().contains(&token), "{what}");
    }
    // It opens that port and nothing of the API.
    for target in [sandbox.target(""), sandbox.target(&format!("?caisson_token={token}")), sandbox.target("/files?path=/")] {
        stranger.request("GET", &target).header("authorization", &format!("Bearer {token}")).send().refused(401, "unauthorized");
    }
    for (body, code) in [
        (json!({"port": 0}), "invalid_port"),
        (json!({"port": 65536}), "invalid_port"),
        (json!({"port": 80, "expires_in_s": 0}), "limit_out_of_range"),
        (json!({"port": 80, "expires_in_s": 604_801}), "limit_out_of_range"),
        (json!({"port": "80"}), "invalid_request"),
        (json!({}), "invalid_request"),
        (json!({"port": 80, "host": "evil"}), "invalid_request"),
    ] {
        sandbox.request("POST", "/links").json(&body).send().refused(400, code);
    }
    let log = server.log();
    assert!(!log.contains(&token) && !log.contains(&short), "tokens are in no log");
    server.finish();
}

#[test]
fn r3_5_keys_and_cookies_of_others_stay_outside() {
    let server = Setup::default().env("CAISSON_PUBLIC_DOMAIN", DOMAIN).env("CAISSON_LOG", "debug").start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let (key, token, label) = (server.client.key.clone().unwrap(), port.token(), format!("{PORT}-{}", sandbox.id));
    let cookies = format!("session=of-the-operator; caisson_token={token}; {label}.mine=1");
    let (stranger, host) = (anonymous(&server), port.host());
    for (request, authorization) in [
        (port.ask("GET", "/"), None),
        (stranger.request("GET", &port.target("/")).header("x-api-key", &key), None),
        (
            stranger.request("GET", &port.target("/")).header("x-api-key", &key).header("authorization", "Bearer apps-own"),
            Some("Bearer apps-own"),
        ),
        (stranger.request("GET", &port.target(&format!("/~{token}/"))).header("authorization", "Basic YTpi"), Some("Basic YTpi")),
        (stranger.request("GET", &port.target(&format!("/~{token}/"))).header("authorization", &format!("Bearer {key}")), None),
        (server.request("GET", "/").header("host", &host), None),
        (stranger.request("GET", &format!("/?caisson_token={token}")).header("host", &host), None),
    ] {
        let by_name = format!("{request:?}").contains(DOMAIN);
        let referer = format!("http://{}{}", server.client.address, port.target(&format!("/~{token}/")));
        let told = port.told(request.header("cookie", &cookies).header("referer", &referer));
        assert_eq!(heard(&told, "authorization"), authorization.into_iter().collect::<Vec<_>>());
        assert!(!told.to_string().contains(&key), "the key is inside");
        if by_name {
            assert_eq!(heard(&told, "cookie"), [format!("session=of-the-operator; {label}.mine=1")]);
        } else {
            assert_eq!((heard(&told, "cookie"), heard(&told, "referer")), (vec!["mine=1"], vec![]));
        }
    }
    let page = port.ask("GET", "/bad/origin").send().expect(200);
    for name in [
        "clear-site-data",
        "strict-transport-security",
        "alt-svc",
        "service-worker-allowed",
        "nel",
        "www-authenticate",
        "access-control-allow-origin",
        "x-hop",
    ] {
        assert_eq!(page.header(name), None, "{name}");
    }
    assert_ne!(page.header("x-request-id"), Some("theirs"));
    let all = |name: &str| page.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.clone()).collect::<Vec<_>>();
    assert_eq!(all("set-cookie"), [format!("{label}.s=1; Path={}", port.target(""))]);
    let policies = all("content-security-policy");
    assert!(
        policies.len() == 2 && policies.iter().any(|policy| policy.starts_with("sandbox") && !policy.contains("same-origin")),
        "{policies:?}"
    );
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let worker = port.ask("GET", "/sw.js").header("service-worker", "script").send();
    worker.refused(403, "service_worker");
    assert_eq!(port.ask("GET", "/bad/leads").send().expect(302).header("location"), Some(port.target("/elsewhere?x=1").as_str()));
    assert!(!server.log().contains(&token), "tokens are in no log");
    server.finish();
}

/// A key that is not enough by itself is still a key.
#[test]
fn r3_5_no_key_goes_in_whatever_let_the_request_in() {
    let server = Setup::default().env("CAISSON_PUBLIC_DOMAIN", DOMAIN).start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let (operator, token, host) = (server.client.key.clone().unwrap(), port.token(), port.host());
    let made = server.post("/v1/keys", &json!({"tenant": "default", "scope": "read"})).expect(201).json();
    let reads = made["key"].as_str().unwrap();
    let bearer = format!("Bearer {reads}");
    let stranger = anonymous(&server);
    stranger.request("POST", &port.target("/x")).header("authorization", &bearer).send().refused(403, "forbidden");
    for request in [
        stranger.request("POST", &port.target(&format!("/~{token}/x"))),
        stranger.request("POST", &port.target(&format!("/x?caisson_token={token}"))),
        stranger.request("POST", &format!("/x?caisson_token={token}")).header("host", &host),
        stranger.request("POST", "/x").header("host", &host).header("cookie", &format!("caisson_token={token}")),
    ] {
        let told = port.told(request.header("authorization", &bearer).header("x-api-key", reads).bytes("x"));
        assert!(!told.to_string().contains(reads), "the key is inside: {told}");
    }
    // Not as one of two either, whichever is looked at first.
    for (first, second) in [("Bearer apps-own", bearer.as_str()), (bearer.as_str(), "Bearer apps-own")] {
        let head = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nx-api-key: {operator}\r\nauthorization: {first}\r\n\
             authorization: {second}\r\n\r\n",
            port.target("/x"),
            server.client.address
        );
        let mut stream = TcpStream::connect(server.client.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains(reads) && !answer.contains(&operator), "{answer}");
    }
    // Nor do those who have one follow a program elsewhere in the API.
    let away = port.ask("GET", "/bad/away").send().expect(307);
    assert_eq!(away.header("location"), None);
    server.finish();
}

#[test]
fn r3_5_a_link_opens_its_port_also_to_those_with_a_key_of_another_tenant() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let made = server.post("/v1/keys", &json!({"tenant": "other"})).expect(201).json();
    let other = Client { key: Some(made["key"].as_str().unwrap().to_owned()), ..server.client.clone() };
    other.request("GET", &port.target("/a")).send().refused(404, "not_found");
    let told = other.request("GET", &port.target(&format!("/~{}/a", port.token()))).send().expect(200).json();
    assert_eq!((&told["target"], heard(&told, "authorization")), (&json!("/a"), vec![]));
    server.finish();
}

#[test]
fn r3_5_without_keys_a_name_that_others_can_ask_for_needs_a_link() {
    let server = Setup::default().without_key().env("CAISSON_AUTH", "none").env("CAISSON_PUBLIC_DOMAIN", DOMAIN).start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let (token, host) = (port.token(), port.host());
    let ask = |target: &str| server.request("GET", target).header("host", &host);
    for request in [ask("/a"), ask("/a").header("authorization", "Bearer x"), ask("/a").header("x-forwarded-host", "localhost")] {
        request.send().refused(401, "unauthorized");
    }
    ask("/a?caisson_token=ct_x").send().refused(401, "invalid_token");
    ask("/a").header("cookie", "caisson_token=ct_x").send().refused(401, "invalid_token");
    let refused = server.try_socket("/websocket", &[("host", &host)]).unwrap_err();
    assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"));
    assert_eq!(port.told(ask(&format!("/a?caisson_token={token}")))["target"], "/a");
    assert_eq!(port.told(ask("/a").header("cookie", &format!("caisson_token={token}")))["target"], "/a");
    server.finish();
}

/// Reads until the answer breaks off, which it must not do as if it were whole.
#[track_caller]
fn breaks_off(mut body: impl Read) {
    body.read_to_end(&mut Vec::new()).unwrap_err();
}

#[test]
fn r3_5_what_a_link_opened_ends_with_it() {
    let server = Setup::default().env("CAISSON_PUBLIC_DOMAIN", DOMAIN).start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let (stranger, host) = (anonymous(&server), port.host());
    let lasts = allowed(Duration::from_secs(4)).as_secs();
    let token = port.link(json!({"port": PORT, "expires_in_s": lasts}))["token"].as_str().unwrap().to_owned();
    let by_path = |what: &str| stranger.request("GET", &port.target(&format!("/~{token}{what}")));
    let by_cookie = stranger.request("GET", "/ticks").header("host", &host).header("cookie", &format!("caisson_token={token}"));
    let open = [by_path("/ticks"), by_path("/bad/slow"), by_cookie].map(Request::open);
    assert!(open.iter().all(|answer| answer.status == 200));
    let mut socket = server.try_socket(&port.target(&format!("/~{token}/websocket")), &[("authorization", "none")]).unwrap();
    // This one waits for a head that never comes.
    by_path("/bad/never").send().refused(401, "token_expired");
    open.into_iter().for_each(|answer| breaks_off(answer.body));
    socket.try_hear().unwrap_err();
    eventually("the end of all inside", WITHIN, || (port.open() == 0).then_some(()));
    server.finish();
}

#[test]
fn r6_8_a_revoked_key_ends_answers_of_known_length_as_well() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let made = server.post("/v1/keys", &json!({"tenant": "default"})).expect(201).json();
    let client = Client { key: Some(made["key"].as_str().unwrap().to_owned()), ..server.client.clone() };
    let mut slow = client.request("GET", &port.target("/bad/slow")).open();
    assert_eq!((slow.status, slow.header("content-length")), (200, Some("100")));
    slow.body.read_exact(&mut [0; 6]).unwrap();
    server.request("DELETE", &format!("/v1/keys/{}", made["id"].as_str().unwrap())).send().expect(204);
    breaks_off(slow.body);
    eventually("its end inside", WITHIN, || (port.open() == 0).then_some(()));
    server.finish();
}

/// Whoever vanishes sends no end: only the kernel can find out.
#[test]
fn r6_3_the_kernel_asks_silent_clients_whether_they_are_there() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let waiting = port.ask("GET", "/bad/never").begin(0, b"");
    let hex = |port: u16| format!(":{port:04X}");
    let (ours, theirs) = (hex(server.client.address.port()), hex(waiting.local_addr().unwrap().port()));
    // `02` is the timer of such questions, with hundredths of a second until the next (proc_net_tcp.txt of the kernel).
    let left = eventually("a timer of the kernel's", WITHIN, || {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let row = table
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>())
            .find(|row| row[1].ends_with(&ours) && row[2].ends_with(&theirs));
        u64::from_str_radix(row?[5].strip_prefix("02:")?, 16).ok()
    });
    assert!(left <= 6000, "the kernel waits for another {left} hundredths of a second");
    drop(waiting);
    server.finish();
}

#[test]
fn r3_5_every_port_may_have_a_name_and_an_origin_of_its_own() {
    let server = Setup::default().env("CAISSON_PUBLIC_DOMAIN", DOMAIN).env("CAISSON_PUBLIC_URL", "https://api.example:8443").start();
    let (sandbox, other) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let (port, sibling) = (Port::serve(&sandbox, "127.0.0.1"), Port::serve(&other, "127.0.0.1"));
    let stranger = anonymous(&server);
    let link = port.link(json!({"port": PORT}));
    let (token, host) = (link["token"].as_str().unwrap(), format!("{}:8443", port.host()));
    assert_eq!(link["url"], format!("https://{host}/?caisson_token={token}"));
    let at = |host: &str, target: &str| stranger.request("GET", target).header("host", host);
    at(&host, "/").send().refused(401, "unauthorized");
    // A visit leaves the token in a cookie and comes back without it in the address.
    let visit = at(&host, &format!("/a?x=1&caisson_token={token}")).header("accept", "text/html").send().expect(303);
    assert_eq!(visit.header("location"), Some("/a?x=1"));
    let cookie = visit.header("set-cookie").unwrap().to_owned();
    for attribute in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Secure"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.to_lowercase().contains("domain"), "{cookie}");
    let away = at(&host, &format!("//evil.example/?caisson_token={token}")).header("accept", "text/html").send().expect(303);
    assert_eq!(away.header("location"), Some("/.//evil.example/"));
    let pair = cookie.split(';').next().unwrap().to_owned();
    let told = at(&host.to_uppercase(), "/a?x=1").header("cookie", &format!("caisson_token=ct_tossed; {pair}")).send().expect(200).json();
    assert_eq!((&told["target"], heard(&told, "host")), (&json!("/a?x=1"), vec![host.to_uppercase().as_str()]));
    assert_eq!((heard(&told, "x-forwarded-proto"), heard(&told, "x-forwarded-prefix")), (vec!["https"], vec![]));
    at(&format!("{}:8443", sibling.host()), "/").header("cookie", &pair).send().refused(401, "invalid_token");
    // Pages of other sandboxes are of the same site, and get nothing with that cookie.
    let theirs = format!("https://{}:8443", sibling.host());
    for (name, value) in
        [("origin", theirs.as_str()), ("origin", "null"), ("sec-fetch-site", "same-site"), ("sec-fetch-site", "cross-site")]
    {
        at(&host, "/a").header("cookie", &pair).header(name, value).send().refused(403, "forbidden");
    }
    let refused =
        server.try_socket("/websocket", &[("host", &host), ("authorization", "none"), ("cookie", &pair), ("origin", &theirs)]).unwrap_err();
    assert_eq!(refused.code(), "forbidden");
    let own = [("host", host.as_str()), ("authorization", "none"), ("cookie", &pair), ("origin", &format!("https://{host}"))];
    server.try_socket("/websocket", &own).unwrap().close(1000, "");
    at(&host, "/a")
        .header("cookie", &pair)
        .header("origin", &format!("https://{host}"))
        .header("sec-fetch-site", "same-origin")
        .send()
        .expect(200);
    // An own origin needs no more: its pages may do what pages do.
    let page = server.request("GET", "/bad/origin").header("host", &host).send().expect(200);
    assert_eq!(page.headers.iter().filter(|(name, _)| name == "content-security-policy").count(), 1);
    assert_eq!(page.header("set-cookie"), Some("s=1; Path=/"), "for this name alone, and none of ours");
    for name in ["clear-site-data", "strict-transport-security", "alt-svc", "service-worker-allowed", "nel"] {
        assert_eq!(page.header(name), None, "{name}");
    }
    // Nothing of the API is below the domain.
    for (host, status, code) in [
        (format!("x.{DOMAIN}"), 404, "not_found"),
        (format!("0-{}.{DOMAIN}", sandbox.id), 400, "invalid_port"),
        (format!("65536-{}.{DOMAIN}", sandbox.id), 400, "invalid_port"),
        (format!("80-sbx0.{DOMAIN}"), 404, "not_found"),
    ] {
        for target in ["/v1/sandboxes", "/healthz"] {
            server.request("GET", target).header("host", &host).send().refused(status, code);
        }
    }
    assert_eq!(server.request("GET", "/v1/sandboxes").header("host", &host).send().expect(200).json()["target"], "/v1/sandboxes");
    server.request("GET", "/v1/sandboxes").header("host", DOMAIN).send().expect(200);
    let both = format!("GET http://{host}/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = caisson_tests::raw_request(server.client.address, both.as_bytes());
    assert!(String::from_utf8_lossy(&answer).contains("invalid_host"));
    server.finish();
}

#[test]
fn r3_5_without_keys_no_page_of_a_sandbox_reaches_the_api() {
    let server = Setup::default().without_key().env("CAISSON_AUTH", "none").env("CAISSON_PUBLIC_DOMAIN", "localhost").start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let page = port.ask("GET", "/").send().expect(200);
    assert!(page.header("content-security-policy").unwrap().starts_with("sandbox"), "its page has the origin `null`");
    let api = |name: &str, value: &str| server.request("POST", "/v1/run").header(name, value).json(&json!({"shell": "true"})).send();
    api("origin", "null").refused(403, "forbidden");
    let name = format!("{PORT}-{}.localhost:{}", sandbox.id, server.client.address.port());
    api("origin", &format!("http://{name}")).refused(403, "forbidden");
    api("sec-fetch-site", "same-site").refused(403, "forbidden");
    api("sec-fetch-site", "cross-site").refused(403, "forbidden");
    // Nor another port, without its link.
    for (name, value) in
        [("origin", "null"), ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("host", "evil.example")]
    {
        port.ask("GET", "/").header(name, value).send().refused(403, "forbidden");
    }
    // A browser that comes by itself is given one, as its page's requests will be those of another site.
    let visit = port
        .ask("GET", "/a?b")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-site", "none")
        .header("accept", "text/html")
        .send()
        .expect(303);
    let location = visit.header("location").unwrap().to_owned();
    assert!(location.starts_with(&port.target("/~ct_")) && location.ends_with("/a?b"), "{location}");
    let told = server.request("GET", &location).header("origin", "null").header("sec-fetch-site", "cross-site").send().expect(200);
    assert_eq!((told.json()["target"].as_str(), told.header("access-control-allow-origin")), (Some("/a?b"), Some("*")));
    server.request("GET", &location).header("host", "evil.example").send().refused(403, "forbidden");
    let asks = server.request("OPTIONS", &location).header("origin", "null").header("access-control-request-method", "PUT");
    let allowed = asks.header("access-control-request-headers", "content-type").send().expect(204);
    assert_eq!(
        (allowed.header("access-control-allow-methods"), allowed.header("access-control-allow-headers")),
        (Some("PUT"), Some("content-type"))
    );
    // Under its own name it is its own page, and nobody else's.
    let by_name = |header: &str, value: &str| server.request("GET", "/a").header("host", &name).header(header, value).send();
    assert_eq!(by_name("accept", "*/*").expect(200).json()["target"], "/a");
    by_name("origin", &format!("http://{name}")).expect(200);
    by_name("origin", &format!("http://{}", server.client.address)).refused(403, "forbidden");
    by_name("sec-fetch-site", "cross-site").refused(403, "forbidden");
    assert_eq!(server.get("/v1/sandboxes").expect(200).json()["data"].as_array().unwrap().len(), 1, "nothing ran");
    let link = port.link(json!({"port": PORT}));
    assert!(link["url"].as_str().unwrap().starts_with(&format!("http://{name}/?caisson_token=ct_")), "{link}");
    server.finish();
}

#[test]
fn r3_5_programs_that_answer_badly_hurt_nobody() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let before = server.process().resident();
    for what in ["endless-headers", "many-headers", "garbage", "nothing", "lengths", "switches"] {
        let message = port.ask("GET", &format!("/bad/{what}")).send().refused(502, "bad_answer");
        assert!(message.contains("8000"), "{what}: {message}");
    }
    port.ask("GET", "/bad/half").try_send().unwrap_err();
    assert_eq!(port.ask("GET", "/bad/smuggle").send().expect(200).text(), "ok");
    let early = port.ask("POST", "/bad/early").bytes(noise(4 << 20)).send();
    assert_eq!((early.status, early.text().as_str()), (413, "too much"));
    // Nobody who has gone is answered.
    for what in ["/bad/never", "/ticks"] {
        let before = port.open();
        let gone = port.ask("GET", what).header("x", "y").begin(0, b"");
        eventually("the connection", WITHIN, || (port.open() > before).then_some(()));
        drop(gone);
        eventually("its end", WITHIN, || (port.open() == before).then_some(()));
    }
    eventually("all to be closed", WITHIN, || (port.open() == 0).then_some(()));
    let grown = server.process().resident().saturating_sub(before);
    assert!(grown < 32 << 20, "the server grew by {grown} bytes");
    assert_eq!(sandbox.shell("echo fine"), "fine\n");
    server.finish();
}

#[test]
fn r6_3_as_many_connections_as_there_may_be_and_no_more() {
    const ALL: usize = 1000;
    const ROOM: usize = 256;
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let (key, address) = (server.client.key.clone().unwrap(), server.client.address);
    let head = format!("GET {} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\n\r\n", port.target("/bad/never"));
    let mut waiting: Vec<TcpStream> = (0..ALL)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let mut refused = 0;
    eventually("an answer to those for whom there is no room", Duration::from_secs(30), || {
        waiting.retain_mut(|stream| {
            let mut answer = [0; 4096];
            match stream.read(&mut answer) {
                Ok(count) => {
                    let text = String::from_utf8_lossy(&answer[..count]);
                    assert!(text.starts_with("HTTP/1.1 429 ") && text.contains("quota_exceeded"), "{text}");
                    refused += 1;
                    false
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    true
                }
            }
        });
        (refused >= ALL - ROOM).then_some(())
    });
    assert_eq!(waiting.len(), ROOM);
    assert_eq!(sandbox.shell("echo fine"), "fine\n", "there is room for other things");
    drop(waiting);
    eventually("room", WITHIN, || (port.ask("GET", "/open").send().status == 200).then_some(()));
    eventually("the end of all", WITHIN, || (port.open() == 0).then_some(()));
    server.finish();
}

/// Those who do not read hold up their own connection alone.
#[test]
fn r6_3_readers_that_do_not_read_hold_up_nobody_else() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    sandbox.write(b"down", &noise(16 << 20)).expect(200);
    let port = Port::files(&sandbox);
    let stalled: Vec<_> = (0..60).map(|_| port.ask("GET", "/down").open()).collect();
    assert!(stalled.iter().all(|answer| answer.status == 200));
    assert_eq!(sandbox.shell("head -c 3000000 /dev/zero | wc -c"), "3000000\n");
    assert_eq!(sandbox.read(b"down").expect(200).body.len(), 16 << 20);
    assert_eq!(port.ask("GET", "/down").send().expect(200).body.len(), 16 << 20);
    drop(stalled);
    server.finish();
}

#[test]
fn a_sandbox_that_ends_breaks_its_answers_off() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let mut streams: Vec<_> = ["/events", "/bad/until-closed"].iter().map(|what| port.ask("GET", what).open()).collect();
    for stream in &mut streams {
        stream.body.read_exact(&mut [0; 6]).unwrap();
    }
    sandbox.delete().expect(200);
    for mut stream in streams {
        // An answer without an announced length must not look whole.
        stream.body.read_to_end(&mut Vec::new()).unwrap_err();
    }
    port.ask("GET", "/").send().refused(410, "gone");
    server.finish();
}

#[test]
fn requests_keep_a_sandbox_from_being_idle() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"idle_timeout_s": 1.5}));
    let port = Port::serve(&sandbox, "127.0.0.1");
    let mut ticks = port.ask("GET", "/ticks").open();
    let begun = Instant::now();
    let mut tick = [0; 12];
    while begun.elapsed() < Duration::from_secs(4) {
        ticks.body.read_exact(&mut tick).unwrap();
        assert_eq!(&tick, b"data: tick\n\n");
    }
    assert_eq!(server.get("/v1/sandboxes").expect(200).json()["data"][0]["state"], "running");
    drop(ticks);
    // Not asked for by its id, which would be a use.
    let ended = eventually("its end", WITHIN, || server.get("/v1/sandboxes?state=ended").expect(200).json()["data"].get(0).cloned());
    assert_eq!(ended["tombstone"]["reason"], "idle_timeout");
    server.finish();
}

/// A browser with one page, ended with everything that it has started.
struct Browser(Child);

impl Browser {
    #[track_caller]
    fn open(server: &Server, url: &str) -> Self {
        needs("chromium", "chromium");
        let place = server.home().path().join("browser");
        fs::create_dir_all(&place).unwrap();
        let mut command = server.home().clean("chromium");
        // As root it has no sandbox of its own to offer.
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-port=0",
        ]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-breakpad"]);
        command.arg(format!("--user-data-dir={}", place.display())).arg(url).env("TMPDIR", &place);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        Self(command.process_group(0).spawn().expect("the browser can be started"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        // What has ended by itself needs no end.
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        drop(self.0.wait());
    }
}

#[test]
fn r3_5_a_real_browser_shows_pages_and_keeps_them_apart() {
    if meant_to_lack("chromium") {
        return;
    }
    let server = Setup::default().without_key().env("CAISSON_AUTH", "none").env("CAISSON_PUBLIC_DOMAIN", "localhost").start();
    let (sandbox, other) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let (port, neighbour) = (Port::serve(&sandbox, "127.0.0.1"), Port::serve(&other, "127.0.0.1"));
    let number = server.client.address.port();
    let apis = [format!("http://127.0.0.1:{number}"), format!("http://localhost:{number}")];
    let link = port.link(json!({"port": PORT}))["url"].as_str().unwrap().replace("/?", "/page/?");
    let by_name = format!("http://{PORT}-{}.localhost:{number}", sandbox.id);
    let cases = [
        (format!("{}{}", apis[0], port.target("/page/")), format!("{}{}/x", apis[0], neighbour.target("")), "null", json!("refused")),
        (link, format!("http://{PORT}-{}.localhost:{number}/x", other.id), by_name.as_str(), json!(0)),
    ];
    for (at, (url, elsewhere, origin, storage)) in cases.into_iter().enumerate() {
        let script = format!("const APIS = {}, NEIGHBOUR = {};\n{PAGE}", json!(apis), json!(elsewhere));
        sandbox.write(b"script.js", script.as_bytes()).expect(200);
        let browser = Browser::open(&server, &url);
        let report = eventually("the page's report", Duration::from_secs(60), || port.told(port.ask("GET", "/reports")).get(at).cloned());
        drop(browser);
        println!("{url}: {report:#}");
        assert_eq!((&report["origin"], &report["own"], &report["websocket"]), (&json!(origin), &json!("/page/x"), &json!("hello")));
        for api in &apis {
            for what in ["runs", "reads"] {
                assert_eq!(report[format!("{what} {api}")], "refused", "{report:#}");
            }
        }
        assert_eq!((&report["neighbour"], &report["worker"], &report["storage"]), (&json!("refused"), &json!("refused"), &storage));
    }
    assert_eq!(
        server.get("/v1/sandboxes?state=running&state=ended").expect(200).json()["data"].as_array().unwrap().len(),
        2,
        "nothing ran"
    );
    server.finish();
}

#[test]
fn the_command_line_makes_links() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"name": "web"}));
    let _served = Port::serve(&sandbox, "127.0.0.1");
    let caisson = |arguments: &[&str]| -> caisson_tests::Ran {
        let mut command = server.home().command(arguments);
        command
            .env("CAISSON_SERVER", format!("http://{}", server.client.address))
            .env("CAISSON_API_KEY", server.client.key.clone().unwrap());
        command.output().unwrap().into()
    };
    let url = caisson(&["port", "web", "8000"]).exited(0).out();
    let target = url.trim().strip_prefix(&format!("http://{}", server.client.address)).expect("it is where the server listens").to_owned();
    assert_eq!(anonymous(&server).request("GET", &format!("{target}x")).send().expect(200).json()["target"], "/x");
    let link: Value = caisson(&["port", &sandbox.id, "8000", "--expires", "10m", "--json"]).exited(0).out().trim().parse().unwrap();
    assert_eq!(link["port"], PORT);
    assert!(link["expires_at"].as_str().unwrap().ends_with('Z'));
    for (arguments, code) in [
        (vec!["port", "web", "0"], 2),
        (vec!["port", "web", "65536"], 2),
        (vec!["port", "web", "80", "--expires", "8d"], 1),
        (vec!["port", "none", "80"], 1),
    ] {
        let _refused = caisson(&arguments).exited(code);
    }
    server.finish();
}
