//! Clients that hang up, stall, flood, or speak something else than HTTP.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use caisson_tests::{Server, allowed, eventually, json, raw};

#[test]
fn r6_3_what_is_no_http_gets_4xx_and_the_server_goes_on() {
    let server = Server::start();
    let address = server.client.address;
    let long = "a".repeat(1 << 20);
    let cases: [Vec<u8>; 13] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GARBAGE\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\nhost: x\r\n\r\n".to_vec(),
        b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost x\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nho st: x\r\n\r\n".to_vec(),
        b"POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n".to_vec(),
        b"POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec(),
        b"POST /v1/run HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n".to_vec(),
        b"POST /v1/run HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xyz\r\n\r\n".to_vec(),
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes(),
        format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-a: b\r\n".repeat(5000)).into_bytes(),
        format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n").into_bytes(),
    ];
    for case in cases {
        let back = raw(address, &case);
        let shown = String::from_utf8_lossy(&case[..case.len().min(60)]).into_owned();
        // What is not even the begin of HTTP may be closed without a word.
        let answered = String::from_utf8_lossy(&back).into_owned();
        assert!(back.is_empty() || answered.starts_with("HTTP/1.1 4"), "{shown:?} was answered with {answered:.300}");
        assert_eq!(server.get("/healthz").status, 200, "after {shown:?}");
    }
    assert_eq!(server.python("print(1)"), "1\n");
    server.finish();
}

/// A second request hidden in the body of the first must stay a body.
#[test]
fn r6_3_requests_are_not_smuggled() {
    let server = Server::start();
    let smuggled = "POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let key = server.client.key.clone().unwrap();
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding:\x0bchunked\r\n",
    ] {
        let text = format!("POST /healthz HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{framing}\r\n0\r\n\r\n{smuggled}");
        let back = String::from_utf8_lossy(&raw(server.client.address, text.as_bytes())).into_owned();
        assert!(!back.contains(" 201 "), "{framing:?}: {back}");
    }
    assert_eq!(server.get("/v1/sandboxes").expect(200).json()["data"], json!([]));
    server.finish();
}

/// Whoever sends the head of a request a byte at a time is cut off (the allowance of a head is 30 s), and meanwhile costs nobody else
/// anything.
#[test]
fn r6_3_a_slow_loris_is_cut_and_holds_nobody_up() {
    let server = Server::start();
    let mut slow: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(server.client.address).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ").unwrap();
    }
    assert_eq!(server.python("print(1)"), "1\n", "others are served");
    let begin = Instant::now();
    let stream = &mut slow[0];
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 1024];
    let cut = loop {
        if stream.write_all(b"x").is_err() {
            break true;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break true,
        }
        if begin.elapsed() > allowed(Duration::from_secs(45)) {
            break false;
        }
    };
    assert!(cut, "still open after {:?}", begin.elapsed());
    drop(slow);
    server.finish();
}

#[test]
fn r6_3_a_thousand_idle_connections_cost_no_worker() {
    let server = Server::start();
    let idle: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(server.client.address).unwrap()).collect();
    assert_eq!(server.python("print(1)"), "1\n");
    assert_eq!(server.get("/healthz").status, 200);
    drop(idle);
    server.finish();
}

#[test]
fn an_execution_goes_on_when_its_client_hangs_up() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let line = "echo first; sleep 0.5; for i in 1 2 3; do echo $i; done; echo done > marker";
    let mut events = sandbox.events(&json!({"shell": line}));
    let id = events.until("start").data["id"].as_str().unwrap().to_owned();
    events.until("stdout");
    drop(events);
    let ended = server.ended(&id, Duration::from_secs(10));
    assert_eq!((&ended["status"], &ended["exit_code"]), (&json!("exited"), &json!(0)));
    assert_eq!(server.get(&format!("/v1/executions/{id}/output")).expect(200).text(), "first\n1\n2\n3\n");
    assert_eq!(sandbox.read(b"marker").expect(200).text(), "done\n");
    server.finish();
}

#[test]
fn a_one_shot_finishes_when_its_client_hangs_up() {
    let server = Server::start();
    for streamed in [true, false] {
        let body = json!({"shell": "echo first; sleep 0.5; echo second", "metadata": {"streamed": streamed.to_string()}});
        if streamed {
            let mut events = server.request("POST", "/v1/run").json(&body).events();
            events.until("stdout");
        } else {
            let text = body.to_string();
            let connection = server.request("POST", "/v1/run").begin(text.len(), text.as_bytes());
            // Hanging up before the request was taken means that it was never made.
            eventually("the request to be taken", Duration::from_secs(10), || {
                let page = server.get(&format!("/v1/sandboxes?metadata.streamed={streamed}")).expect(200).json();
                page["data"].get(0).is_some().then_some(())
            });
            drop(connection);
        }
        let sandbox = eventually("its end", Duration::from_secs(10), || {
            let page = server.get(&format!("/v1/sandboxes?state=ended&metadata.streamed={streamed}")).expect(200).json();
            page["data"].get(0).cloned()
        });
        assert_eq!(sandbox["tombstone"]["reason"], "finished");
        let listed = server.get(&format!("/v1/sandboxes/{}/executions", sandbox["id"].as_str().unwrap())).expect(200).json();
        let execution = &listed["data"][0];
        assert_eq!((&execution["status"], &execution["exit_code"]), (&json!("exited"), &json!(0)));
        let output = server.get(&format!("/v1/executions/{}/output", execution["id"].as_str().unwrap())).expect(200);
        assert_eq!(output.text(), "first\nsecond\n");
    }
    server.finish();
}

#[test]
fn r6_3_a_reader_that_does_not_read_slows_nobody() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let before = server.process().resident();
    // The answer is never read beyond what the kernel takes by itself.
    let stalled = sandbox
        .request("POST", "/exec")
        .header("accept", "text/event-stream")
        .json(&json!({"shell": "head -c 50000000 /dev/zero; echo $? > done"}))
        .open();
    eventually("the end of the program", Duration::from_secs(30), || (sandbox.read(b"done").status == 200).then_some(()));
    let grown = server.process().resident().saturating_sub(before);
    assert!(grown < 64 << 20, "the server grew by {grown} bytes");
    drop(stalled);
    server.finish();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends what `next` makes, again and again, and reads nothing, until the server has had enough. How many times that was.
fn until_cut(server: &Server, mut next: impl FnMut(u32) -> Vec<u8>) -> u32 {
    let mut stream = TcpStream::connect(server.client.address).unwrap();
    stream.set_write_timeout(Some(allowed(Duration::from_secs(5)))).unwrap();
    // The preface, and settings that say nothing.
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).unwrap();
    for n in 0..500_000 {
        // Standing still for so long means that it is held up rather than cut, which is as good.
        if stream.write_all(&next(n)).is_err() {
            return n;
        }
    }
    panic!("the server takes this for ever");
}

/// What is cheap to send and dear to answer.
#[test]
fn r6_3_floods_of_http2_frames_are_cut() {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    let server = Server::start();
    let before = server.process().resident();
    // `GET http /` with an authority of one letter.
    let request = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
    let odd = |n: u32| 2 * n + 1;
    for (what, most) in [
        (
            "requests that are reset at once",
            until_cut(&server, |n| [frame(HEADERS, 5, odd(n), &request), frame(RESET, 0, odd(n), &[0, 0, 0, 8])].concat()),
        ),
        (
            "headers without an end",
            until_cut(&server, |n| {
                if n == 0 { frame(HEADERS, 0, 1, &request) } else { frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'].repeat(1000)) }
            }),
        ),
        (
            "empty headers without an end",
            until_cut(&server, |n| if n == 0 { frame(HEADERS, 0, 1, &request) } else { frame(CONTINUATION, 0, 1, &[]) }),
        ),
        ("pings whose answers nobody takes", until_cut(&server, |_| frame(PING, 0, 0, b"12345678").repeat(100))),
        ("settings whose answers nobody takes", until_cut(&server, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(100))),
        ("a frame that is too long", until_cut(&server, |_| frame(HEADERS, 4, 1, &vec![0; 1 << 20]))),
        ("frames of no kind on a stream of no number", until_cut(&server, |n| frame(HEADERS, 5, 2 * n, &request))),
        ("tables that grow without an end", until_cut(&server, |_| frame(HEADERS, 5, 1, &[0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]))),
    ] {
        assert_eq!(server.get("/healthz").status, 200, "after {most} of {what}");
    }
    let grown = server.process().resident().saturating_sub(before);
    assert!(grown < 64 << 20, "the server grew by {grown} bytes");
    assert_eq!(server.python("print(1)"), "1\n");
    server.finish();
}
