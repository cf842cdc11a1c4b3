//! Several servers on one database: each does for clients what the others host, and when one dies, what it hosted ends once.

use std::{
    io::Read,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{
    Answer, Client, Heard, Home, MULTIPART_FORM, Receiver, Request, Sandbox, Server, Setup, Socket, Typist, Value, allowed, eventually,
    json, multipart_form,
    postgres::{Cluster, new_database, of_shared},
    redis::Redis,
    signal,
};
use rustix::process::Signal;

/// Short, so that a death is seen soon.
const LEASE: Duration = Duration::from_secs(5);
/// Within which a server's death is seen by the others: its lease, and what they may be late.
const SEEN_DEAD: Duration = Duration::from_secs(20);
/// What one server changes holds on the others.
const SOON: Duration = Duration::from_secs(2);
const DAIV: &str = "key-of-daiv-0123456789";
const BOXED: &str = "key-of-boxed-0123456789";
const BOXBOX: &str = "key-of-boxbox-0123456789";

fn setup(database: &str) -> Setup {
    Setup::default()
        .sharing(database)
        .env("CAISSON_SERVER_LEASE", "5s")
        .env("DAIV_SANDBOX_API_KEY", DAIV)
        .env("BOXED_API_KEY", BOXED)
        .env("API_KEY", BOXBOX)
        .env("CAISSON_IMAGE_ALIASES", "python:3.12=host")
}

fn pair() -> (Server, Server, String) {
    let database = new_database();
    let (a, b) = (setup(&database).start(), setup(&database).start());
    know_each_other(&[&a, &b]);
    (a, b, database)
}

/// Until each has seen all others.
#[track_caller]
fn know_each_other(servers: &[&Server]) {
    for made in servers {
        let sandbox = made.sandbox(&json!({}));
        for other in servers {
            eventually("one to know the other", allowed(SOON) * 2, || (there(other, &sandbox).get().status == 200).then_some(()));
        }
        sandbox.delete().expect(200);
    }
}

/// A sandbox as another server has it.
fn there<'a>(server: &'a Server, sandbox: &Sandbox<'_>) -> Sandbox<'a> {
    Sandbox { server, id: sandbox.id.clone() }
}

/// All stop before it is looked whether anything is left of any.
#[track_caller]
fn finish<const N: usize>(mut servers: [Server; N]) {
    for server in &mut servers {
        let stopped = server.stop();
        assert!(stopped.success(), "{stopped}\n{}", server.log());
    }
    servers.into_iter().rev().for_each(Server::finish);
}

fn with_key(server: &Server, method: &str, target: &str, header: &str, key: &str) -> Request {
    Client { key: None, ..server.client.clone() }.request(method, target).header(header, key)
}

/// How often it is told that a sandbox has ended.
fn ends_told(server: &Server, id: &str) -> usize {
    let page = server.get(&format!("/v1/events?limit=1000&sandbox_id={id}&type=sandbox.ended")).expect(200).json();
    page["data"].as_array().unwrap().len()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}

#[test]
fn what_one_server_hosts_is_used_through_another() {
    let (a, b, database) = pair();
    let made = a.sandbox(&json!({"name": "box", "metadata": {"of": "a"}}));
    let sandbox = there(&b, &made);
    assert_eq!(sandbox.shell("echo through the other; id -un >&2"), "through the other\n");
    assert_eq!(sandbox.get().expect(200).json()["state"], "running");

    // Files, both ways, larger than what fits into any buffer.
    let content = pattern(16 << 20);
    sandbox.write(b"big", &content).expect(200);
    assert!(sandbox.read(b"big").expect(200).body == content, "it comes back to the byte");
    let digest = sandbox.shell("sha256sum big | cut -c1-16");
    assert_eq!(made.shell("sha256sum big | cut -c1-16"), digest);

    // Events as they come.
    let begun = Instant::now();
    let mut events = sandbox.events(&json!({"shell": "echo first; sleep 3; echo last"}));
    assert_eq!(events.until("stdout").bytes(), b"first\n");
    assert!(begun.elapsed() < Duration::from_millis(2900), "it was held back: {:?}", begun.elapsed());
    let (_, rest, _) = events.to_the_end();
    assert_eq!(rest, b"last\n");

    // A program in the background, followed by offset, and its input.
    let execution = sandbox.background(json!({"shell": "read line; echo got $line; echo more", "stdin_stream": true}));
    b.request("POST", &format!("/v1/executions/{execution}/stdin?close=true")).bytes("word\n").send().expect(200);
    let followed = b.get(&format!("/v1/executions/{execution}/output?follow=true&offset=4")).expect(200);
    assert_eq!((followed.text().as_str(), followed.header("x-caisson-offset")), ("word\nmore\n", Some("4")));
    assert_eq!(b.ended(&execution, Duration::from_secs(10))["exit_code"], 0);
    assert_eq!(a.get(&format!("/v1/executions/{execution}/output")).expect(200).text(), "got word\nmore\n");

    // A terminal.
    let mut terminal = Typist::new(b.socket(&sandbox.target("/pty")));
    terminal.types("echo $((20+22))\n");
    terminal.sees("42");
    drop(terminal);

    // A context keeps its variables, whoever passes the requests on.
    let context = sandbox.request("POST", "/contexts").json(&json!({"language": "python"})).send().expect(201).json();
    let target = format!("/contexts/{}/run", context["id"].as_str().unwrap());
    sandbox.request("POST", &target).json(&json!({"code": "x = 41"})).send().expect(200);
    let ran = made.request("POST", &target).json(&json!({"code": "x + 1"})).send().expect(200).json();
    assert!(ran.to_string().contains("42"), "{ran}");

    // A name is one sandbox's on all servers, and lists are of all.
    let named = b.post("/v1/sandboxes", &json!({"name": "box"})).expect(200).json();
    assert_eq!(named["id"], json!(made.id));
    let listed = b.get("/v1/sandboxes?metadata.of=a&state=running").expect(200).json();
    assert_eq!(listed["data"][0]["id"], json!(made.id), "{listed}");
    assert_eq!(of_shared(&database, "select count(distinct server) from sandboxes"), "2");

    sandbox.delete().expect(200);
    assert_eq!(made.get().expect(410).json()["error"]["details"]["reason"], "deleted");
    sandbox.get().refused(410, "gone");
    assert_eq!(ends_told(&b, &made.id), 1);
    finish([a, b]);
}

const SERVICE: &str = r#"
import base64, hashlib, http.server, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade") != "websocket":
            body = (self.path + " " + self.headers["X-Forwarded-For"]).encode()
            self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body); return
        accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        head = self.rfile.read(2); n = head[1] & 127; mask = self.rfile.read(4); data = self.rfile.read(n)
        text = bytes(c ^ mask[i % 4] for i, c in enumerate(data))
        self.wfile.write(bytes([0x81, len(text)]) + text); self.wfile.flush()
        self.close_connection = True
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"#;

#[test]
fn ports_are_reached_through_another_server() {
    let (a, b, _) = pair();
    let made = a.sandbox(&json!({}));
    let _service = made.background(json!({"language": "python", "code": SERVICE, "timeout_s": null}));
    let sandbox = there(&b, &made);
    let answer = eventually("the service", Duration::from_secs(10), || {
        let answer = sandbox.request("GET", "/ports/8000/a%2Fb/../c?d=%20").send();
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(answer.text(), "/a%2Fb/../c?d=%20 127.0.0.1", "path and query are to the byte, and the client is told");
    let echoed = |socket: &mut Socket| {
        socket.say(r#"{"type": "echo"}"#);
        assert_eq!(socket.hear(), Heard::Control(json!({"type": "echo"})));
    };
    echoed(&mut b.socket(&sandbox.target("/ports/8000/socket")));
    // A link is good on every server, whoever has made it.
    for maker in [&a, &b] {
        let link = there(maker, &made).request("POST", "/links").json(&json!({"port": 8000})).send().expect(201).json();
        let token = link["token"].as_str().unwrap();
        for server in [&a, &b] {
            let path = sandbox.target(&format!("/ports/8000/~{token}/x"));
            let opened = Client { key: None, ..server.client.clone() }.request("GET", &path).send().expect(200);
            assert_eq!(opened.text(), "/x 127.0.0.1");
        }
        let other = if token.as_bytes()[20] == b'A' { "B" } else { "A" };
        let forged = sandbox.target(&format!("/ports/8000/~{}{other}{}/x", &token[..20], &token[21..]));
        Client { key: None, ..b.client.clone() }.request("GET", &forged).send().refused(401, "invalid_token");
    }
    finish([a, b]);
}

#[test]
fn dialects_go_through_another_server() {
    let (a, b, _) = pair();
    // daiv-sandbox.
    let daiv = |server: &Server, method: &str, target: &str| with_key(server, method, target, "x-api-key", DAIV);
    let session = daiv(&a, "POST", "/session/").json(&json!({"base_image": "host"})).send().expect(200).json();
    let target = format!("/session/{}/", session["session_id"].as_str().unwrap());
    let ran = daiv(&b, "POST", &target).json(&json!({"commands": ["echo daiv"]})).send().expect(200).json();
    assert_eq!(ran["results"][0]["output"], "daiv\n");
    daiv(&b, "DELETE", &target).send().expect(204);

    // Boxed.
    let boxed = |server: &Server, method: &str, target: &str| with_key(server, method, target, "x-boxed-api-key", BOXED);
    let made = boxed(&a, "POST", "/v1/sandbox").json(&json!({"template": "python:3.10-slim"})).send().expect(201).json();
    let target = format!("/v1/sandbox/{}", made["sandbox_id"].as_str().unwrap());
    let form = multipart_form(&[("file", Some("note.txt"), b"from far")]);
    let uploaded = boxed(&b, "POST", &format!("{target}/files")).header("content-type", MULTIPART_FORM).bytes(form).send();
    assert!(uploaded.status < 300, "{}", uploaded.text());
    let ran =
        boxed(&b, "POST", &format!("{target}/exec")).json(&json!({"language": "bash", "code": "echo boxed"})).send().expect(200).json();
    assert_eq!(ran["stdout"], "boxed\n");
    let gone = boxed(&b, "DELETE", &target).send();
    assert!(gone.status < 300, "{}", gone.text());

    // Modbox: by the UUID, by a name of the client's own in path and body, and at the sandbox's own address.
    let made = a.post("/sandboxes/provision", &json!({"task_id": "my/task"})).expect(201).json();
    let waited = b.post("/sandboxes/wait", &json!({"task_id": "my/task"})).expect(200).json();
    assert_eq!(waited["ready"], true, "{waited}");
    assert_eq!(b.get("/sandboxes/status/my%2Ftask").expect(200).json()["ready"], true);
    let uuid = made["sandbox_id"].as_str().unwrap();
    assert_eq!(b.get(&format!("/sandboxes/{uuid}")).expect(200).json()["status"], "running");
    let token = made["endpoint"]["access_token"].as_str().unwrap();
    let ran = with_key(&b, "POST", &format!("/modbox/{uuid}/modbox/api/exec"), "authorization", &format!("Bearer {token}"));
    let ran = ran.json(&json!({"command": "echo modbox"})).send().expect(200).json();
    assert_eq!(ran["stdout"], "modbox\n");
    b.post("/sandboxes/destroy", &json!({"task_id": "my/task"})).expect(200);
    assert_eq!(b.post("/sandboxes/destroy", &json!({"task_id": "my/task"})).expect(200).json()["success"], true);

    // boxbox: looked at through the other while it runs, and afterwards.
    let boxbox = |server: &Server, method: &str, target: &str| {
        with_key(server, method, target, "x-api-key", BOXBOX).header("x-user-id", "u").header("x-chat-id", "c")
    };
    let id = "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10";
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let body = json!({"language": "bash", "path": "s.sh", "code": "sleep 3; echo boxbox"});
            boxbox(&a, "POST", "/execute").header("x-request-id", id).json(&body).send().expect(200).json()
        });
        let seen = eventually("it runs", Duration::from_secs(20), || {
            thread::sleep(Duration::from_millis(150));
            let answer = boxbox(&b, "GET", &format!("/executions/{id}")).send();
            Some(answer).filter(|answer| answer.status == 200).map(|answer| answer.json()).filter(|seen| seen["status"] == "executing")
        });
        assert_eq!(seen["execution_id"], id);
        assert_eq!(running.join().unwrap()["stdout"], "boxbox\n");
    });
    let seen = boxbox(&b, "GET", &format!("/executions/{id}")).send().expect(200).json();
    assert_eq!((&seen["status"], &seen["stdout"]), (&json!("completed"), &json!("boxbox\n")), "{seen}");
    finish([a, b]);
}

#[test]
fn whoever_goes_takes_the_request_at_the_host_along() {
    let (a, b, _) = pair();
    let made = a.sandbox(&json!({"idle_timeout_s": 3}));
    let sandbox = there(&b, &made);
    assert_eq!(sandbox.shell("head -c 64M /dev/zero > zeros"), "");
    let open = sandbox.request("GET", "/files?path=zeros").open();
    assert_eq!(open.status, 200);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(made.get().expect(200).json()["state"], "running", "a download that goes on is use");
    drop(open);
    // Whoever looked at the sandbox itself would be using it.
    eventually("it is idle", Duration::from_secs(20), || (ends_told(&a, &made.id) == 1).then_some(()));
    assert_eq!(made.tombstone(Duration::from_secs(1))["reason"], "idle_timeout");
    finish([a, b]);
}

#[test]
fn keys_quotas_and_webhooks_of_one_server_hold_on_the_others() {
    let (a, b, database) = pair();
    let made = a.post("/v1/keys", &json!({"tenant": "team", "scope": "run"})).expect(201).json();
    let of = |server: &Server| Client { key: Some(made["key"].as_str().unwrap().to_owned()), ..server.client.clone() };
    eventually("the key on the other", allowed(SOON), || (of(&b).request("GET", "/v1/sandboxes").send().status == 200).then_some(()));
    // At once through whoever knows it, also to one that does not yet.
    let sandbox = of(&b).request("POST", "/v1/sandboxes").json(&json!({})).send().expect(201).json();
    let target = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
    let fresh = a.post("/v1/keys", &json!({"tenant": "team", "scope": "run"})).expect(201).json();
    let fresh = Client { key: Some(fresh["key"].as_str().unwrap().to_owned()), ..a.client.clone() };
    fresh.request("GET", &target).send().expect(200);

    b.request("PATCH", "/v1/tenants/team").json(&json!({"sandboxes": 0})).send().expect(200);
    eventually("the quota on the other", allowed(SOON), || {
        (of(&a).request("POST", "/v1/sandboxes").json(&json!({})).send().status == 429).then_some(())
    });

    // Whoever is in by the key is shut out on all servers.
    let mut stream = of(&b).request("GET", "/v1/events").header("accept", "text/event-stream").open();
    assert_eq!(stream.status, 200);
    a.request("DELETE", &format!("/v1/keys/{}", made["id"].as_str().unwrap())).send().expect(204);
    let revoked = Instant::now();
    eventually("the key is refused", allowed(SOON), || (of(&b).request("GET", "/v1/sandboxes").send().status == 401).then_some(()));
    assert!(revoked.elapsed() <= allowed(SOON));
    let mut rest = Vec::new();
    stream.body.read_to_end(&mut rest).unwrap_err();

    // A webhook that one has made is told, once, of what happens on both, until the other removes it.
    let receiver = Receiver::fine();
    let hook = b.post("/v1/webhooks", &json!({"url": receiver.url(), "types": ["sandbox.created"]})).expect(201).json();
    let ids: Vec<String> = [&a, &b, &a].map(|server| server.sandbox(&json!({})).id).into();
    let told = || {
        receiver.messages().iter().map(|message| message.json()["sandbox_id"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    eventually("all are told", Duration::from_secs(20), || (receiver.count() >= ids.len()).then_some(()));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(told().len(), ids.len(), "once each: {:?}", told());
    assert_eq!(of_shared(&database, "select count(*) from roles where name = 'leader'"), "1");
    a.request("DELETE", &format!("/v1/webhooks/{}", hook["id"].as_str().unwrap())).send().expect(204);
    thread::sleep(allowed(SOON));
    drop(b.sandbox(&json!({})));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(receiver.count(), ids.len(), "nothing is sent there any more");
    finish([a, b]);
}

#[test]
fn a_request_that_comes_again_on_another_server_is_not_carried_out_twice() {
    let (a, b, _) = pair();
    let body = json!({"shell": "sleep 4; date +%s%N"});
    let run = |server: &Server| server.request("POST", "/v1/run").header("idempotency-key", "one").json(&body).send();
    let first = thread::scope(|scope| {
        let first = scope.spawn(|| run(&a).expect(200));
        let begun = || a.get("/v1/events?type=execution.started").expect(200).json()["data"].as_array().unwrap().len();
        eventually("it is under way", Duration::from_secs(10), || (begun() == 1).then_some(()));
        run(&b).refused(409, "idempotency_key_busy");
        first.join().unwrap()
    });
    let again = run(&b).expect(200);
    assert_eq!((again.header("idempotent-replayed"), again.json()["stdout"].clone()), (Some("true"), first.json()["stdout"].clone()));
    assert_eq!(a.get("/v1/events?type=sandbox.created&limit=10").expect(200).json()["data"].as_array().unwrap().len(), 1 + 2);
    finish([a, b]);
}

#[test]
fn a_server_that_dies_is_buried_once_and_the_others_go_on() {
    let database = new_database();
    let (mut a, b, c) = (setup(&database).start(), setup(&database).start(), setup(&database).start());
    know_each_other(&[&a, &b, &c]);
    let stays = b.sandbox(&json!({}));
    for round in 0..3_u64 {
        let ids: Vec<String> = (0..3).map(|_| a.sandbox(&json!({})).id).collect();
        let execution = Sandbox { server: &b, id: ids[0].clone() }.background(json!({"shell": "sleep 1000", "timeout_s": null}));
        let served = AtomicUsize::new(0);
        // Clients work through the others, and make more, while it is killed.
        let codes = thread::scope(|scope| {
            let working: Vec<_> = [&b, &c]
                .into_iter()
                .map(|server| {
                    let (ids, served) = (&ids, &served);
                    scope.spawn(move || {
                        let begun = Instant::now();
                        let mut codes = Vec::new();
                        while begun.elapsed() < LEASE + Duration::from_secs(12) {
                            for id in ids {
                                let answer = Sandbox { server, id: id.clone() }.try_exec(&json!({"shell": "true"}));
                                served.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                                codes.push((answer.status, answer.header("retry-after").is_some(), answer.text()));
                            }
                            assert_eq!(server.run(&json!({"shell": "echo on"}))["stdout"], "on\n");
                            thread::sleep(Duration::from_millis(50));
                        }
                        codes
                    })
                })
                .collect();
            eventually("they are served", Duration::from_secs(20), || (served.load(Ordering::Relaxed) >= 8).then_some(()));
            thread::sleep(Duration::from_millis(137 * round));
            a.kill();
            working.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        for (status, says_when, text) in &codes {
            assert!(matches!((status, says_when), (200 | 410, _) | (503, true)), "{status}: {text}");
        }
        assert!(
            codes.iter().any(|(status, ..)| *status == 200) && codes.last().is_some_and(|(status, ..)| *status == 410),
            "{:?}",
            codes.last()
        );
        for id in &ids {
            let gone = Sandbox { server: &c, id: id.clone() }.get();
            gone.refused(410, "gone");
            assert_eq!(gone.json()["error"]["details"]["reason"], "server_lost", "{}", gone.text());
            assert_eq!(ends_told(&b, id), 1, "it has ended once");
        }
        assert_eq!(c.execution(&execution)["status"], "lost");
        assert_eq!(stays.shell("echo on"), "on\n", "what others host goes on");
        a.start_again();
        assert_eq!(a.python("print('back')"), "back\n");
        for id in &ids {
            assert_eq!(ends_told(&a, id), 1, "nothing ends twice, and nothing is revived");
        }
        know_each_other(&[&a, &b, &c]);
    }
    finish([a, b, c]);
}

#[test]
fn a_server_that_restarts_ends_its_own_alone() {
    let (mut a, b, _) = pair();
    let (mine, theirs) = (a.sandbox(&json!({})).id, b.sandbox(&json!({})));
    a.kill();
    // Before its lease is over.
    a.start_again();
    a.get(&format!("/v1/sandboxes/{mine}")).refused(410, "gone");
    b.get(&format!("/v1/sandboxes/{mine}")).refused(410, "gone");
    assert_eq!(ends_told(&b, &mine), 1);
    assert_eq!(theirs.shell("echo on"), "on\n");
    eventually("it knows the other", allowed(SOON), || (there(&a, &theirs).get().status == 200).then_some(()));
    assert_eq!(there(&a, &theirs).shell("echo through"), "through\n");
    // One that stops in order is not waited for.
    let theirs = theirs.id;
    let mut b = b;
    assert!(b.stop().success());
    eventually("it has left", allowed(SOON), || (a.get(&format!("/v1/sandboxes/{theirs}")).status == 410).then_some(()));
    b.start_again();
    finish([a, b]);
}

/// Its files are where nobody can look for them, and so is whoever has waited for them.
#[test]
fn what_is_stopped_on_a_server_that_is_gone_can_be_given_up() {
    let database = new_database();
    let (mut a, b) = (setup(&database).start(), setup(&database).env("CAISSON_STOPPED_GRACE_S", "20").start());
    know_each_other(&[&a, &b]);
    let on_disk = |name: &str| a.sandbox(&json!({"name": name, "storage": "disk", "idle_timeout_s": null})).id;
    let ids = ["deleted", "waits", "returns"].map(on_disk);
    let [deleted, waits, returns] = ids.each_ref().map(|id| format!("/v1/sandboxes/{id}"));
    a.kill();
    let state = |target: &str| b.get(target).json()["state"].clone();
    eventually("it is stopped", SEEN_DEAD, || (state(&deleted) == "stopped").then_some(()));
    assert_eq!(b.get("/v1/sandboxes?state=stopped").expect(200).json()["data"].as_array().unwrap().len(), 3);
    b.post(&format!("{deleted}/exec"), &json!({"cmd": ["true"]})).refused(503, "server_away");
    b.request("DELETE", &format!("{deleted}/files?path=x")).send().refused(503, "server_away");
    let again = json!({"name": "deleted", "storage": "disk"});
    assert_eq!(b.post("/v1/sandboxes", &again).status, 503, "its name is its own");
    assert_eq!(b.request("DELETE", &deleted).send().expect(200).json()["tombstone"]["reason"], "deleted");
    b.get(&deleted).refused(410, "gone");
    assert_eq!(ends_told(&b, &ids[0]), 1);
    let new = b.post("/v1/sandboxes", &again).expect(201).json();
    assert_ne!(new["id"], json!(ids[0]));

    let left = eventually("it has waited for too long", Duration::from_secs(60), || Some(b.get(&waits)).filter(|left| left.status == 410));
    assert_eq!(left.json()["error"]["details"]["reason"], "stopped_too_long", "{}", left.text());
    b.get(&returns).refused(410, "gone");
    a.start_again();
    assert!(a.log().contains("3 of the disks; they are set aside"), "{}", a.log());
    for target in [&deleted, &waits, &returns] {
        a.get(target).refused(410, "gone");
    }
    for id in &ids {
        assert_eq!(ends_told(&b, id), 1, "it has ended once");
    }
    finish([a, b]);
}

#[test]
fn a_server_that_stalls_beyond_its_lease_revives_nothing() {
    let (a, b, _) = pair();
    let made = a.sandbox(&json!({"name": "box"}));
    let execution = made.background(json!({"shell": "sleep 1000", "timeout_s": null}));
    let agent = made.agent();
    signal(a.pid(), Signal::STOP);
    let gone = eventually("its death is seen", allowed(SEEN_DEAD), || {
        let answer = there(&b, &made).request("GET", "").try_send().ok()?;
        (answer.status == 410).then_some(answer)
    });
    assert_eq!(gone.json()["error"]["details"]["reason"], "server_lost");
    // Its name is free.
    let next = b.post("/v1/sandboxes", &json!({"name": "box"})).expect(201).json();
    signal(a.pid(), Signal::CONT);
    agent.await_end(Duration::from_secs(20));
    eventually("it says the same", Duration::from_secs(20), || (made.get().status == 410).then_some(()));
    assert_eq!(a.execution(&execution)["status"], "lost");
    assert_eq!(ends_told(&b, &made.id), 1);
    let named = eventually("it takes part again", Duration::from_secs(20), || {
        let answer = a.post("/v1/sandboxes", &json!({"name": "box"}));
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(named["id"], next["id"]);
    assert_eq!(a.python("print('on')"), "on\n");
    assert!(a.log().contains("have not heard of this one"), "{}", a.log());
    finish([a, b]);
}

#[test]
fn a_database_that_is_away_for_longer_than_leases_costs_no_sandbox() {
    let mut cluster = Cluster::start();
    let database = cluster.new_database();
    let (a, b) = (setup(&database).start(), setup(&database).start());
    know_each_other(&[&a, &b]);
    let (of_a, of_b) = (a.sandbox(&json!({})), b.sandbox(&json!({})));
    cluster.kill();
    thread::sleep(LEASE + Duration::from_secs(4));
    // Nobody knows what the others think of it.
    of_a.get().refused(503, "unavailable");
    assert_eq!(a.get("/readyz").status, 503);
    assert_eq!(a.get("/healthz").status, 200);
    cluster.start_again();
    for server in [&a, &b] {
        eventually("it is in touch again", Duration::from_secs(20), || (server.get("/readyz").status == 200).then_some(()));
    }
    // Beyond all leases that nobody could renew.
    thread::sleep(LEASE + Duration::from_secs(3));
    assert_eq!(there(&b, &of_a).shell("echo on"), "on\n");
    assert_eq!(there(&a, &of_b).shell("echo on"), "on\n");
    // A short restart is not noticed.
    cluster.stop();
    cluster.start_again();
    assert_eq!(there(&b, &of_a).shell("echo on"), "on\n");
    finish([a, b]);
}

#[test]
fn servers_that_do_not_know_each_other_do_not_start() {
    let database = new_database();
    let home = Home::new();
    let alone = Setup::default().env("CAISSON_DATABASE_URL", &database).start();
    home.refuses_to_serve(&[("CAISSON_DATABASE_URL", &database)], &["is used by another server", "set CAISSON_PEER_URL for both"]);
    let other = ("CAISSON_PEER_URL", "http://127.0.0.1:1");
    home.refuses_to_serve(&[("CAISSON_DATABASE_URL", &database), other], &["is used by another server", "set CAISSON_PEER_URL for both"]);
    alone.finish();
    let mut shared = setup(&database).start();
    home.refuses_to_serve(&[("CAISSON_DATABASE_URL", &database)], &["shared by other servers", "set CAISSON_PEER_URL"]);
    let same = format!("http://{}", shared.client.address);
    home.refuses_to_serve(
        &[("CAISSON_DATABASE_URL", &database), ("CAISSON_PEER_URL", &same), ("CAISSON_SERVER_LEASE", "5s")],
        &["has the same CAISSON_PEER_URL"],
    );
    // A copy of its data directory.
    let id = std::fs::read(shared.home().data().join("server-id")).unwrap();
    std::fs::write(home.data().join("server-id"), id).unwrap();
    home.refuses_to_serve(&[("CAISSON_DATABASE_URL", &database), other], &["has the id of this one", "remove `server-id`"]);
    for (environment, words) in [
        (&[("CAISSON_PEER_URL", "http://127.0.0.1:1")][..], ["PostgreSQL", "CAISSON_DATABASE_URL"]),
        (&[("CAISSON_DATABASE_URL", &database), ("CAISSON_PEER_URL", "https://h")], ["CAISSON_PEER_URL", "expected http://HOST:PORT"]),
        (&[("CAISSON_DATABASE_URL", &database), ("CAISSON_SERVER_LEASE", "10s")], ["CAISSON_SERVER_LEASE", "set CAISSON_PEER_URL"]),
        (&[("CAISSON_DATABASE_URL", &database), other, ("CAISSON_SERVER_LEASE", "1s")], ["CAISSON_SERVER_LEASE", "allowed is 5s to 5m"]),
    ] {
        home.refuses_to_serve(environment, &words);
    }
    assert!(shared.stop().success());
    shared.finish();
    home.finish();
}

#[test]
fn servers_may_start_at_the_same_moment() {
    let database = new_database();
    let servers: Vec<Server> = thread::scope(|scope| {
        let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| setup(&database).start())).collect();
        starting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let [a, b, c]: [Server; 3] = servers.try_into().unwrap();
    know_each_other(&[&a, &b, &c]);
    // One name, asked for on all of them at once, is one sandbox.
    let ids: Vec<String> = thread::scope(|scope| {
        let asking: Vec<_> = [&a, &b, &c, &a, &b, &c]
            .map(|server| {
                scope.spawn(move || server.post("/v1/sandboxes", &json!({"name": "one"})).json()["id"].as_str().unwrap().to_owned())
            })
            .into();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    finish([a, b, c]);
}

#[test]
fn r6_1_only_peers_pass_requests_on() {
    let (a, b, _) = pair();
    let made = a.sandbox(&json!({}));
    for forged in ["", "x", "srv0;srv1;1;127.0.0.1:1;0;AAAA"] {
        made.request("GET", "").header("caisson-peer", forged).send().refused(403, "invalid_peer");
        there(&b, &made).request("GET", "").header("caisson-peer", forged).send().refused(403, "invalid_peer");
    }
    // Whoever has no key gets nowhere through another server either.
    let anonymous = |server: &Server| Client { key: None, ..server.client.clone() };
    anonymous(&b).request("GET", &made.target("")).send().refused(401, "unauthorized");
    finish([a, b]);
}

#[test]
fn sessions_are_locked_across_servers() {
    let redis = Redis::start();
    let mut redis = redis;
    let database = new_database();
    let with_redis = || setup(&database).env("CAISSON_REDIS_URL", redis.url());
    let (a, b) = (with_redis().start(), with_redis().start());
    know_each_other(&[&a, &b]);
    let daiv = |server: &Server, method: &str, target: &str| with_key(server, method, target, "x-api-key", DAIV);
    let session = daiv(&a, "POST", "/session/").json(&json!({"base_image": "host"})).send().expect(200).json();
    let target = format!("/session/{}/", session["session_id"].as_str().unwrap());
    let run = |server: &Server, command: &str| daiv(server, "POST", &target).json(&json!({"commands": [command]})).send();
    thread::scope(|scope| {
        let long = scope.spawn(|| run(&a, "sleep 4; echo done").expect(200).json());
        let busy: Answer = eventually("it is busy on the other", Duration::from_secs(10), || {
            let answer = run(&b, "true");
            (answer.status == 409).then_some(answer)
        });
        assert!(busy.text().contains("Session is busy"), "{}", busy.text());
        assert_eq!(long.join().unwrap()["results"][0]["output"], "done\n");
    });
    redis.kill();
    let refused = run(&b, "true");
    assert_eq!(refused.status, 503, "{}", refused.text());
    redis.start_again();
    let again: Value = eventually("locks are back", Duration::from_secs(20), || {
        let answer = run(&b, "echo again");
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(again["results"][0]["output"], "again\n");
    finish([a, b]);
}
