//! Output that is followed and input that is sent while a program runs, by clients that come, go, stall and send nonsense.

use std::{io::Write, thread, time::Duration};

use caisson_tests::{Heard, Server, Setup, Socket, Value, allowed, descriptors, descriptors_come_back, eventually, json};

/// Small, seeded, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Writes to both outputs in pieces of all sizes, text torn anywhere as well as bytes that are none, and into two files what it wrote.
const WRITER: &str = r"
import os, random, time
dice = random.Random(int(os.environ['SEED']))
copies = [open('out', 'wb'), open('err', 'wb')]
text = 'aä łódź 🦀\n'.encode() * 5000
for n in range(400):
    which = dice.choice([0, 0, 1])
    size = dice.choice([1, 3, 17, 500, 5000, 40000])
    at = dice.randrange(len(text) - 40000)
    piece = text[at:at + size] if dice.random() < 0.5 else dice.randbytes(size)
    copies[which].write(piece)
    while piece: piece = piece[os.write(which + 1, piece):]
    if dice.random() < 0.2: time.sleep(0.005)
for copy in copies: copy.close()
";

/// Somebody who follows both outputs and is cut off again and again.
struct Reader<'a> {
    server: &'a Server,
    id: &'a str,
    dice: Dice,
    seen: [Vec<u8>; 2],
}

impl Reader<'_> {
    fn reads_on(mut self) -> [Vec<u8>; 2] {
        loop {
            let enough = self.dice.below(150_000);
            if self.dice.below(2) == 0 {
                if self.over_a_websocket(enough) {
                    return self.seen;
                }
            } else {
                let stream = usize::try_from(self.dice.below(2)).unwrap();
                self.as_events(stream, enough);
            }
        }
    }

    fn takes(&mut self, stream: usize, offset: u64, bytes: &[u8]) {
        let seen = &mut self.seen[stream];
        assert_eq!(offset, seen.len() as u64, "nothing is lost and nothing comes twice");
        seen.extend_from_slice(bytes);
    }

    /// Reads until it has had enough, and hangs up without a word. Whether that was the end.
    fn over_a_websocket(&mut self, enough: u64) -> bool {
        let [stdout, stderr] = self.seen.each_ref().map(Vec::len);
        let mut socket = self.server.socket(&format!("/v1/executions/{}/stream?stdout_offset={stdout}&stderr_offset={stderr}", self.id));
        let start = socket.control("start");
        assert!(start["stdout_bytes"].as_u64().unwrap() >= stdout as u64, "{start:#}");
        let mut had = 0;
        loop {
            match socket.hear() {
                Heard::Output(stream, offset, bytes) => {
                    had += bytes.len() as u64;
                    self.takes(usize::from(stream) - 1, offset, &bytes);
                    if had >= enough {
                        return false;
                    }
                }
                Heard::Control(end) => {
                    assert_eq!((&end["type"], &end["exit_code"]), (&json!("end"), &json!(0)), "{end:#}");
                    assert_eq!(socket.hear(), Heard::Closed(1000, String::new()));
                    return true;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn as_events(&mut self, stream: usize, enough: u64) {
        let name = ["stdout", "stderr"][stream];
        let offset = self.seen[stream].len();
        let target = format!("/v1/executions/{}/output?stream={name}&follow=true", self.id);
        let request = match self.dice.below(2) {
            0 => self.server.request("GET", &format!("{target}&offset={offset}")),
            _ => self.server.request("GET", &target).header("last-event-id", &offset.to_string()),
        };
        let mut had = 0;
        for event in request.events() {
            if event.name != name {
                assert_eq!(event.name, "result");
                return;
            }
            let bytes = event.bytes();
            self.takes(stream, event.data["offset"].as_u64().unwrap(), &bytes);
            had += bytes.len() as u64;
            if had >= enough {
                return;
            }
        }
    }
}

#[test]
fn readers_that_come_and_go_see_every_byte_once() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    for seed in 1..=3u64 {
        let id = sandbox.background(json!({"language": "python", "code": WRITER, "env": {"SEED": seed.to_string()}, "timeout_s": 120}));
        // One that never reads, as long as the others do.
        let stalled = server.socket(&format!("/v1/executions/{id}/stream"));
        let seen: Vec<[Vec<u8>; 2]> = thread::scope(|scope| {
            let readers: Vec<_> = (0..4u64)
                .map(|n| {
                    let reader = Reader { server: &server, id: &id, dice: Dice(seed * 1_000_003 + n * 7919 + 1), seen: Default::default() };
                    scope.spawn(move || reader.reads_on())
                })
                .collect();
            readers.into_iter().map(|reader| reader.join().expect("it has seen what it should")).collect()
        });
        let expect = [b"out", b"err"].map(|name| sandbox.read(name).expect(200).body);
        assert!(expect.iter().all(|bytes| bytes.len() > 100_000));
        for (n, seen) in seen.iter().enumerate() {
            assert!(seen == &expect, "reader {n} of seed {seed}");
        }
        // Whoever comes after the end sees the same.
        let (stdout, stderr, end, code) = {
            let mut late = server.socket(&format!("/v1/executions/{id}/stream"));
            let start = late.control("start");
            assert_eq!((&start["terminal"], &start["stdin_bytes"]), (&json!(false), &Value::Null));
            late.to_the_end()
        };
        assert!([stdout, stderr] == expect);
        assert_eq!((&end["exit_code"], end["stdout_bytes"].as_u64(), code), (&json!(0), Some(expect[0].len() as u64), 1000));
        drop(stalled);
    }
    server.finish();
}

#[test]
fn a_follower_that_does_not_read_slows_nobody_unless_it_was_asked_for() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let line = "echo on; read line; head -c 50000000 /dev/zero; echo x > done";
    let free = sandbox.background(json!({"shell": line, "stdin_stream": true}));
    let stalled = server.socket(&format!("/v1/executions/{free}/stream"));
    server.request("POST", &format!("/v1/executions/{free}/stdin")).bytes("go\n").send().expect(200);
    eventually("the end of the program", Duration::from_secs(30), || (sandbox.read(b"done").status == 200).then_some(()));
    drop(stalled);
    drop(server.request("DELETE", &sandbox.target("/files?path=done")).send());

    let bound = sandbox.background(json!({"shell": line, "stdin_stream": true, "wait_for_readers": true}));
    let stalled = server.socket(&format!("/v1/executions/{bound}/stream"));
    server.request("POST", &format!("/v1/executions/{bound}/stdin")).bytes("go\n").send().expect(200);
    let written = || server.get(&format!("/v1/executions/{bound}/output?offset=99999999")).expect(200).figure("x-caisson-total");
    // It comes to rest, which takes as long as two looks are alike.
    let mut last = 0;
    let rests = eventually("the program to wait", Duration::from_secs(30), || {
        let before = std::mem::replace(&mut last, written());
        thread::sleep(Duration::from_millis(300));
        (last > 3 && before == last).then_some(last)
    });
    assert!(rests < 30_000_000, "{rests}: what the kernel's own buffers hold, and little more");
    assert_eq!(sandbox.read(b"done").status, 404);
    drop(stalled);
    eventually("the program to go on", Duration::from_secs(30), || (sandbox.read(b"done").status == 200).then_some(()));
    server.finish();
}

/// How many connections to the server are open on its side.
fn connections(server: &Server) -> usize {
    const ESTABLISHED: &str = "01";
    let port = format!(":{:04X}", server.client.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel tells of connections");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(1).is_some_and(|local| local.ends_with(&port)) && row.get(3) == Some(&ESTABLISHED)).count()
}

/// Numbers in order, so that every byte shows where it belongs.
const COUNTS: &str = "import sys\nsys.stdout.write(''.join('%015d\\n' % n for n in range(1250000)))";

#[test]
fn r6_3_a_reader_that_the_server_gave_up_comes_back_to_where_it_was() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let id = sandbox.background(json!({"language": "python", "code": COUNTS}));
    let target = format!("/v1/executions/{id}");
    assert_eq!(server.ended(&id, Duration::from_secs(60))["stdout_bytes"], 20_000_000, "nobody who stands still holds it up");
    eventually("nobody to be there", Duration::from_secs(10), || (connections(&server) == 0).then_some(()));
    // Two that take nothing beyond what the kernel takes for them.
    let mut socket = server.socket(&format!("{target}/stream"));
    let events = server.request("GET", &format!("{target}/output?follow=true")).header("accept", "text/event-stream").open();
    eventually("both to be there", Duration::from_secs(10), || (connections(&server) == 2).then_some(()));
    eventually("both to be cut", Duration::from_secs(90), || (connections(&server) == 0).then_some(()));
    drop(events);
    let mut seen = Vec::new();
    let mut take = |socket: &mut Socket| loop {
        match socket.try_hear() {
            Ok(Heard::Output(1, offset, bytes)) => {
                assert_eq!(offset, seen.len() as u64, "nothing is lost and nothing comes twice");
                seen.extend(bytes);
            }
            Ok(Heard::Control(message)) if message["type"] == "end" => return (seen.len(), true),
            Ok(Heard::Control(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_) => return (seen.len(), false),
        }
    };
    let (at, complete) = take(&mut socket);
    assert!(!complete && at < 20_000_000, "it was cut at {at}");
    assert_eq!(take(&mut server.socket(&format!("{target}/stream?stdout_offset={at}"))), (20_000_000, true));
    assert!(seen.chunks(16).enumerate().all(|(n, line)| line == format!("{n:015}\n").as_bytes()));
    server.finish();
}

/// What a program makes look like an answer of the server stays a program's bytes.
#[test]
fn output_that_looks_like_http_is_output() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let code = "import sys\nsys.stdin.read()\nfor n in range(200000): sys.stdout.write('HTTP/1.1 404 Not Found\\r\\n\\r\\n')";
    let id = sandbox.background(json!({"language": "python", "code": code, "stdin_stream": true}));
    let mut socket = server.socket(&format!("/v1/executions/{id}/stream"));
    let _ = socket.control("start");
    socket.say(r#"{"type": "close_stdin"}"#);
    // So that the server has to stop in the middle of its messages.
    eventually("the end of the program", Duration::from_secs(30), || (server.execution(&id)["status"] != "running").then_some(()));
    let (stdout, _, end, code) = socket.to_the_end();
    assert!(stdout == "HTTP/1.1 404 Not Found\r\n\r\n".repeat(200_000).into_bytes());
    assert_eq!((&end["type"], code), (&json!("end"), 1000));
    server.finish();
}

#[test]
fn input_is_streamed_as_fast_as_it_is_read() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let all: Vec<u8> = (0..8 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    sandbox.write(b"same", &all).expect(200);
    let id = sandbox.background(json!({"shell": "sleep 0.3; cmp - same && echo same", "stdin_stream": true}));
    let stdin = |query: &str| server.request("POST", &format!("/v1/executions/{id}/stdin{query}"));
    let half = all.len() / 2;
    let accepted = stdin("").send_chunks(all[..half].chunks(100_000).map(<[u8]>::to_vec)).expect(200).json();
    assert_eq!(accepted["stdin_bytes"], half);
    // A client that does not know whether its last piece arrived sends it again; one that has lost something is told.
    assert_eq!(
        stdin(&format!("?offset={}", half - 1000)).bytes(&all[half - 1000..half + 10]).send().expect(200).json()["stdin_bytes"],
        half + 10
    );
    stdin(&format!("?offset={}", half + 11)).bytes("x").send().refused(409, "stdin_gap");
    let rest = stdin(&format!("?offset={half}&close=true")).bytes(&all[half..]).send().expect(200).json();
    assert_eq!(rest["stdin_bytes"], all.len());
    let ended = server.ended(&id, Duration::from_secs(20));
    assert_eq!((&ended["status"], &ended["exit_code"]), (&json!("exited"), &json!(0)));
    stdin("").bytes("x").send().refused(409, "execution_finished");

    let given = sandbox.background(json!({"shell": "sleep 50", "stdin": "x"}));
    server.request("POST", &format!("/v1/executions/{given}/stdin")).bytes("x").send().refused(409, "stdin_not_open");
    server
        .request("POST", &format!("/v1/executions/{given}/resize"))
        .json(&json!({"cols": 1, "rows": 1}))
        .send()
        .refused(409, "not_a_terminal");
    server.request("POST", "/v1/executions/exe0000000000000000000000000/stdin").bytes("x").send().refused(404, "not_found");
    sandbox.try_exec(&json!({"shell": "cat", "stdin_stream": true})).refused(400, "invalid_request");
    server.finish();
}

#[test]
fn a_client_that_waits_for_a_program_hears_of_its_end() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let id =
        sandbox.background(json!({"shell": "trap 'echo told; exit 4' TERM; echo on; while :; do sleep 0.01; done", "stdin_stream": true}));
    let target = format!("/v1/executions/{id}");
    thread::scope(|scope| {
        let sending = scope.spawn(|| server.request("POST", &format!("{target}/stdin")).bytes(vec![b'x'; 2 << 20]).send());
        // One whose client sends nothing more ends with the program as well.
        let silent = server.request("POST", &format!("{target}/stdin")).begin(1000, b"");
        eventually("input to wait", Duration::from_secs(10), || {
            let accepted = server.socket(&format!("{target}/stream")).control("start")["stdin_bytes"].as_u64().unwrap();
            (accepted > 100_000).then_some(())
        });
        // Signals do not wait behind it.
        server.request("POST", &format!("{target}/signal")).json(&json!({"signal": "TERM"})).send().expect(204);
        let ended = server.ended(&id, Duration::from_secs(10));
        assert_eq!((&ended["status"], &ended["exit_code"]), (&json!("exited"), &json!(4)));
        // A program that ends closes its input first.
        let refused = sending.join().expect("it is answered").expect(409).json();
        assert!(["stdin_closed", "execution_finished"].contains(&refused["error"]["code"].as_str().unwrap()), "{refused:#}");
        silent.set_read_timeout(Some(allowed(Duration::from_secs(10)))).unwrap();
        let mut first = [0; 12];
        std::io::Read::read_exact(&mut &silent, &mut first).expect("it is answered");
        assert_eq!(&first, b"HTTP/1.1 409");
    });
    let closed = sandbox.background(json!({"shell": "exec 0<&-; echo closed; sleep 50", "stdin_stream": true}));
    eventually("its input to be closed", Duration::from_secs(10), || {
        let answer = server.request("POST", &format!("/v1/executions/{closed}/stdin")).bytes(vec![0; 10_000]).send();
        (answer.status == 409).then(|| answer.refused(409, "stdin_closed"))
    });
    server.finish();
}

#[test]
fn r6_3_what_is_no_websocket_is_told_so_before_it_is_one() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let id = sandbox.background(json!({"cmd": ["sleep", "50"]}));
    let (stream, pty) = (format!("/v1/executions/{id}/stream"), sandbox.target("/pty"));
    for target in [&stream, &pty] {
        let message = server.get(target).refused(400, "websocket_required");
        assert!(message.contains("Upgrade"), "{message}");
        for (name, value) in [("upgrade", "h2c"), ("connection", "close"), ("sec-websocket-version", "12")] {
            let refused = server.try_socket(target, &[(name, value)]).expect_err("it is refused");
            assert_eq!((refused.status, refused.code().as_str()), (400, "websocket_required"), "{name}: {value}");
        }
        for (name, value) in [("authorization", "Bearer wrong"), ("authorization", "")] {
            let refused = server.try_socket(target, &[(name, value)]).expect_err("it is refused");
            assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"));
        }
    }
    for (target, status, code) in [
        ("/v1/executions/exe0000000000000000000000000/stream".to_owned(), 404, "not_found"),
        ("/v1/executions/nonsense/stream".to_owned(), 404, "not_found"),
        ("/v1/sandboxes/sbx0000000000000000000000000/pty".to_owned(), 404, "not_found"),
        (format!("{stream}?stdout_offset=-1"), 400, "invalid_parameter"),
        (format!("{stream}?offset=1"), 400, "invalid_parameter"),
        (format!("{pty}?cols=0"), 400, "limit_out_of_range"),
        (format!("{pty}?rows=many"), 400, "invalid_parameter"),
        (format!("{pty}?cmd=no-such-program"), 400, "program_not_found"),
        (format!("{pty}?shell=x"), 400, "invalid_parameter"),
        (format!("{pty}?env.A=1&env.A=2"), 400, "invalid_parameter"),
    ] {
        let refused = server.try_socket(&target, &[]).expect_err("it is refused");
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{target}");
    }
    // Nothing was started by any of it.
    let listed = server.get(&sandbox.target("/executions")).expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed:#}");
    sandbox.delete().expect(200);
    let refused = server.try_socket(&pty, &[]).expect_err("it is refused");
    assert_eq!((refused.status, refused.code().as_str()), (410, "gone"));
    server.finish();
}

/// Without keys a web page of another origin could type.
#[test]
fn r6_4_web_pages_open_no_websockets() {
    let server = Setup::default().without_key().env("CAISSON_AUTH", "none").start();
    let sandbox = server.sandbox(&json!({}));
    let id = sandbox.background(json!({"cmd": ["sleep", "50"]}));
    for target in [format!("/v1/executions/{id}/stream"), sandbox.target("/pty")] {
        for (name, value) in
            [("origin", "https://example.com"), ("origin", "null"), ("host", "example.com"), ("sec-fetch-site", "cross-site")]
        {
            let refused = server.try_socket(&target, &[(name, value)]).expect_err("it is refused");
            assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"), "{target} with {name}: {value}");
        }
    }
    let mut socket =
        server.try_socket(&format!("/v1/executions/{id}/stream"), &[("origin", "http://localhost:3000")]).expect("it is local");
    assert_eq!(socket.control("start")["id"], id);
    server.finish();

    // Where a key is needed, no page can send it, and the pages of other sites are refused all the same.
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let id = sandbox.background(json!({"cmd": ["sleep", "50"]}));
    let own = server.client.address.to_string();
    for target in [format!("/v1/executions/{id}/stream"), sandbox.target("/pty")] {
        for (host, origin) in [
            (own.as_str(), "https://example.com"),
            (&own, "null"),
            (&own, ""),
            (&own, "http://"),
            (&own, &format!("http://{own}.example.com")),
            (&own, &format!("http://example.com@{own}")),
            ("box.example.com", "http://localhost"),
            ("box.example.com", "https://other.example.com"),
        ] {
            let refused = server.try_socket(&target, &[("host", host), ("origin", origin)]).expect_err("it is refused");
            assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"), "{target} of {host} by {origin}");
        }
        let keyless =
            server.try_socket(&target, &[("authorization", ""), ("origin", &format!("http://{own}"))]).expect_err("it is refused");
        assert_eq!((keyless.status, keyless.code().as_str()), (401, "unauthorized"));
    }
    let listed = server.get(&sandbox.target("/executions")).expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "nothing was started by any of it: {listed:#}");
    for (host, origin) in [(own.as_str(), format!("http://{own}")), ("box.example.com", "https://box.example.com".to_owned())] {
        let target = format!("/v1/executions/{id}/stream");
        let mut socket = server.try_socket(&target, &[("host", host), ("origin", &origin)]).expect("it is a page of its own");
        assert_eq!(socket.control("start")["id"], id);
    }
    server.finish();
}

#[track_caller]
fn refused(socket: &mut Socket, code: &str) {
    let error = socket.control("error");
    assert_eq!(error["error"]["code"], code, "{error:#}");
    assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{error:#}");
}

#[test]
fn r6_3_messages_that_make_no_sense_are_refused_and_cost_nothing() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let id = sandbox.background(json!({"shell": "echo on; sleep 50"}));
    let target = format!("/v1/executions/{id}/stream");
    let before = {
        let _warm = server.socket(&target).control("start");
        descriptors(&server)
    };
    let mut socket = server.socket(&target);
    let _ = socket.control("start");
    for (text, code) in [
        ("", "invalid_json"),
        ("nonsense", "invalid_json"),
        ("{\"type\": \"resize\"", "invalid_json"),
        ("[]", "invalid_request"),
        ("{}", "invalid_request"),
        (r#"{"type": "explode"}"#, "invalid_request"),
        (r#"{"type": "resize", "cols": 80}"#, "invalid_request"),
        (r#"{"type": "resize", "cols": 80, "rows": 24, "more": 1}"#, "invalid_request"),
        (r#"{"type": "resize", "cols": 0, "rows": 24}"#, "limit_out_of_range"),
        (r#"{"type": "resize", "cols": 80, "rows": 100000}"#, "limit_out_of_range"),
        (r#"{"type": "resize", "cols": 80, "rows": 24}"#, "not_a_terminal"),
        (r#"{"type": "signal", "signal": "SIGNOPE"}"#, "unknown_signal"),
        (r#"{"type": "close_stdin"}"#, "stdin_not_open"),
    ] {
        socket.say(text);
        refused(&mut socket, code);
    }
    socket.send("typed");
    refused(&mut socket, "stdin_not_open");
    socket.send(vec![b'x'; (256 << 10) + 1]);
    loop {
        match socket.hear() {
            Heard::Closed(code, reason) => break assert!(code == 1009 && reason.contains("262144"), "{code} {reason}"),
            other => assert!(matches!(other, Heard::Output(..)), "{other:?}"),
        }
    }
    // Frames that are none: not masked, of a kind that does not exist, torn control frames, and one that announces 2⁶² bytes.
    for (frame, codes) in [
        (&[0x82u8, 0x01, b'x'][..], [1002, 1002]),
        (&[0x8f, 0x80, 0, 0, 0, 0], [1002, 1002]),
        (&[0x09, 0x80, 0, 0, 0, 0], [1002, 1002]),
        (&[0xf2, 0x80, 0, 0, 0, 0], [1002, 1002]),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], [1007, 1002]),
        (&[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1009, 1002]),
    ] {
        let mut socket = server.socket(&target);
        let _ = socket.control("start");
        socket.raw().write_all(frame).unwrap();
        let code = loop {
            match socket.try_hear() {
                Ok(Heard::Closed(code, _)) => break code,
                Ok(other) => assert!(matches!(other, Heard::Output(..)), "{frame:x?}: {other:?}"),
                Err(error) => panic!("{frame:x?}: {error}"),
            }
        };
        assert!(codes.contains(&code), "{frame:x?} was answered with {code}");
    }
    // Whoever says goodbye is answered.
    let mut socket = server.socket(&target);
    let _ = socket.control("start");
    socket.close(4321, "enough");
    let heard = loop {
        match socket.hear() {
            Heard::Output(..) => {}
            other => break other,
        }
    };
    assert_eq!(heard, Heard::Closed(4321, "enough".to_owned()));
    // Clients that just vanish, some in the middle of a frame.
    for n in 0..60u8 {
        let mut socket = server.socket(&target);
        match n % 3 {
            0 => {}
            1 => drop(socket.raw().write_all(&[0x82, 0xfe, 0x10])),
            _ => socket.say("nonsense"),
        }
    }
    descriptors_come_back(&server, before);
    assert_eq!(server.execution(&id)["status"], "running");
    server.finish();
}
