//! Clients that do not keep to the rules, over real sockets.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    Auth, BindError, Config,
    testing::{Bench, KEY},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Sends these bytes and returns everything that comes until the server closes.
async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer takes nothing of it back.
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes").ok();
    String::from_utf8(answer).unwrap()
}

#[track_caller]
fn refused(answer: &str, status: u16, code: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").expect("it has a head");
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!(body["error"]["code"], code, "{answer}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-type: application/json") && head.contains("x-request-id: "), "{answer}");
}

#[tokio::test]
async fn r6_3_what_is_no_http_is_told_so() {
    let bench = Bench::new().await;
    let address = bench.listen().await;
    let head = |more: &str| format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    for (what, bytes) in [
        ("no HTTP", "hello, is there anybody?\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned()),
        ("no version", "GET /healthz\r\n\r\n".to_owned()),
        ("another version", "GET /healthz HTTP/7.3\r\n\r\n".to_owned()),
        ("a method that is none", "G\u{1}T /healthz HTTP/1.1\r\n\r\n".to_owned()),
        ("an address with a blank", "GET /a b HTTP/1.1\r\n\r\n".to_owned()),
        ("an address with NUL", "GET /a\0 HTTP/1.1\r\n\r\n".to_owned()),
        ("a header name with a blank", head("a b: c\r\n")),
        ("a header with NUL", head("a: b\0c\r\n")),
        ("a header without a colon", head("abc\r\n")),
        ("a folded header", head("a: b\r\n c\r\n")),
        ("a length that is none", head("Content-Length: many\r\n")),
        ("a negative length", head("Content-Length: -1\r\n")),
        ("a length with a sign", head("Content-Length: +1\r\n")),
        ("a huge length", head("Content-Length: 99999999999999999999999\r\n")),
        ("two lengths", head("Content-Length: 1\r\nContent-Length: 2\r\n")),
        ("another coding", head("Transfer-Encoding: gzip\r\n")),
        ("chunked not last", head("Transfer-Encoding: chunked, identity\r\n")),
    ] {
        let answer = say(address, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        refused(&answer, 400, "malformed_request");
    }
    refused(&say(address, head(&format!("a: {}\r\n", "x".repeat(300_000))).as_bytes()).await, 431, "headers_too_large");
    refused(&say(address, head(&"a: b\r\n".repeat(200)).as_bytes()).await, 431, "headers_too_large");
    refused(&say(address, format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)).as_bytes()).await, 414, "uri_too_long");

    // After a good request on the same connection as well.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head("").as_bytes()).await.unwrap();
    let mut first = vec![0; 4096];
    let length = stream.read(&mut first).await.unwrap();
    assert!(first[..length].starts_with(b"HTTP/1.1 200 "));
    stream.write_all(b"garbage\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    refused(&rest, 400, "malformed_request");
    assert_eq!(bench.ask("GET", "/healthz", "").await.status, 200);
}

#[tokio::test]
async fn r6_3_odd_requests_are_answered_in_our_words() {
    let bench = Bench::new().await;
    let address = bench.listen().await;
    let ask = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nConnection: close\r\n{more}\r\n");
    for (line, more, status, code) in [
        ("OPTIONS *", "", 404, "not_found"),
        ("CONNECT example.com:443", "", 404, "not_found"),
        ("TRACE /healthz", "", 405, "method_not_allowed"),
        ("BREW /v1/run", "", 405, "method_not_allowed"),
        ("GET /v1/run/", "", 404, "not_found"),
        ("GET //v1/run", "", 404, "not_found"),
        ("GET /v1/../v1/sandboxes", "", 404, "not_found"),
        ("GET /v1/sandboxes/%00", "", 404, "not_found"),
        ("GET /v1/sandboxes/%ff%fe", "", 404, "not_found"),
        ("GET /v1/sandboxes/%2e%2e%2fetc", "", 404, "not_found"),
        ("GET /v1/sandboxes?limit=%", "", 400, "invalid_parameter"),
        ("GET /v1/sandboxes?limit=1&limit=2", "", 400, "invalid_parameter"),
        ("GET /v1/sandboxes?limit=-1", "", 400, "invalid_parameter"),
        ("GET /v1/sandboxes?limit=99999999999999999999", "", 400, "invalid_parameter"),
        ("POST /v1/run", "Content-Length: 2\r\nContent-Type: text/csv\r\n", 415, "unsupported_media_type"),
        ("POST /v1/run", "Content-Length: 2\r\nContent-Encoding: gzip\r\n", 415, "unsupported_media_type"),
        // Announced: answered without anything of it.
        ("POST /v1/run", "Content-Length: 100000000000\r\n", 413, "body_too_large"),
        ("POST /v1/run", "Content-Length: 5\r\n", 408, "request_timeout"),
        ("POST /v1/run", "Transfer-Encoding: chunked\r\n", 408, "request_timeout"),
    ] {
        refused(&say(address, ask(line, more).as_bytes()).await, status, code);
    }
    let chunked = |chunk: &str| ask("POST /v1/run", "Transfer-Encoding: chunked\r\n") + chunk;
    let large = format!("400\r\n{}\r\n", "x".repeat(1024));
    refused(&say(address, chunked(&large).as_bytes()).await, 413, "body_too_large");
    refused(&say(address, chunked("zz\r\n").as_bytes()).await, 400, "body_incomplete");
    refused(&say(address, chunked("2\r\n{}\r\n0\r\n\r\n").as_bytes()).await, 400, "invalid_request");

    let head = say(address, ask("HEAD /healthz", "").as_bytes()).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let old = say(address, b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(old.contains(" 200 ") && old.ends_with("{\"status\":\"ok\"}"), "{old}");
    let encoded = say(address, ask("GET /v1/%73andboxes/sbx0000000000000000000000000", "").as_bytes()).await;
    assert!(encoded.starts_with("HTTP/1.1 404 "), "{encoded}");
}

/// Only one of the two says where the body ends; whoever stands between may believe the other.
#[tokio::test]
async fn r6_3_two_ends_of_a_body_are_not_two_requests() {
    let bench = Bench::new().await;
    let address = bench.listen().await;
    for order in ["Content-Length: 40\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 40\r\n"] {
        let smuggled = format!(
            "POST /v1/run HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n{order}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        let answer = say(address, smuggled.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("smuggled"), "{answer}");
    }
}

#[tokio::test]
async fn r6_3_slow_heads_and_idle_connections_are_cut() {
    let bench = Bench::new().await;
    let address = bench.listen().await;
    let cut = async |begin: &'static [u8], drip: &'static [u8]| {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let dripping = tokio::spawn(async move {
            while !drip.is_empty() && writer.write_all(drip).await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
            // Held open while the server makes up its mind.
            sleep(PATIENCE).await;
            drop(writer);
        });
        let mut answer = Vec::new();
        timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("it is cut").ok();
        dripping.abort();
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    };
    tokio::join!(
        cut(b"", b""),
        cut(b"P", b""),
        cut(b"GET / HT", b""),
        cut(b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        cut(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        cut(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
        // Empty settings, then a ping every now and then.
        cut(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"\0\0\x08\x06\0\0\0\0\0abcdefgh"),
    );
}

#[tokio::test]
async fn r6_3_a_body_that_trickles_in_ends() {
    let bench = Bench::new().await;
    let address = bench.listen().await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /v1/run HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 900\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = vec![0; 4096];
    let length = timeout(PATIENCE, reader.read(&mut answer)).await.unwrap().unwrap();
    refused(std::str::from_utf8(&answer[..length]).unwrap(), 408, "request_timeout");
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    dripping.abort();
}

#[tokio::test]
async fn r6_3_a_client_that_does_not_read_is_cut() {
    let bench = Bench::new().await;
    let address = bench.listen().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Answers that nobody takes fill the buffers of both sides.
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
    let asked = async { while stream.write_all(request).await.is_ok() {} };
    timeout(PATIENCE, asked).await.expect("the server hangs up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r6_3_a_thousand_idle_connections_cost_no_worker() {
    let bench = Bench::new().await;
    let address = bench.listen().await;
    let idle: Vec<_> = join_all((0..400).map(|_| TcpStream::connect(address))).await;
    let begun = Instant::now();
    for _ in 0..50 {
        let answer = say(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(idle.iter().all(Result::is_ok));
}

/// Somebody who takes all connections and does nothing with them keeps nobody out.
#[tokio::test]
async fn r6_3_idle_connections_give_way_to_new_ones() {
    let bench = Bench::new().await;
    let address = bench
        .listen_with(|config| {
            config.connections = 16;
            // So that nothing here is cut for being slow.
            config.head_within = PATIENCE * 10;
            config.body_stall = PATIENCE * 10;
        })
        .await;
    // One that has something to do, and many that do not.
    let head = format!("POST /v1/run HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{");
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut idle = Vec::new();
    for n in 0..64 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await.unwrap();
        }
        idle.push(stream);
        let answer = timeout(PATIENCE, say(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.expect("there is room").starts_with("HTTP/1.1 200 "), "after {n}");
    }
    busy.write_all(b"}").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, busy.read_to_string(&mut answer)).await.unwrap().unwrap();
    refused(&answer, 400, "invalid_request");
}

#[tokio::test]
async fn r6_7_nobody_listens_beyond_this_machine_without_a_key() {
    let bench = Bench::new().await;
    for (address, open) in
        [("127.0.0.1:0", true), ("[::ffff:127.0.0.1]:0", true), ("0.0.0.0:0", false), ("[::]:0", false), ("192.0.2.1:0", false)]
    {
        let bound = bench.bind(Config::new(vec![address.parse().unwrap()], Auth::None)).await;
        match (open, bound) {
            // A machine may be without IPv6.
            (true, Ok(_) | Err(BindError::Listen { .. })) | (false, Err(BindError::Open(_))) => {}
            (_, other) => panic!("{address}: {other:?}"),
        }
    }
}
