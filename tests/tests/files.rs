//! Files inside a sandbox over HTTP: streamed, byte-exact, whatever their names.

use std::{io::Read, time::Duration};

use caisson_tests::{Server, eventually, json};

const MIB: usize = 1 << 20;

/// Bytes that repeat nowhere near, so that a piece in the wrong place shows.
fn pattern(index: usize) -> Vec<u8> {
    let mut state = index as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let mut bytes = Vec::with_capacity(MIB);
    while bytes.len() < MIB {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

#[test]
fn files_are_written_read_listed_and_deleted() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let written = sandbox.request("PUT", "/files?path=a/b/c.txt&mode=0640").bytes("content").send().expect(200).json();
    assert_eq!((&written["path"], &written["kind"]), (&json!("/workspace/a/b/c.txt"), &json!("file")), "directories on the way are made");
    assert_eq!((&written["size"], &written["mode"]), (&json!(7), &json!(0o640)));
    assert_eq!(sandbox.shell("cat a/b/c.txt; stat -c ' %a %U' a/b/c.txt"), "content 640 user\n");
    let read = sandbox.read(b"a/b/c.txt").expect(200);
    assert_eq!((read.text().as_str(), read.header("x-caisson-mode"), read.header("content-length")), ("content", Some("0640"), Some("7")));
    sandbox.write(b"a/b/c.txt", b"").expect(200);
    assert_eq!(sandbox.read(b"/workspace/a/b/c.txt").expect(200).body, b"", "replaced by an empty file");

    let _made = sandbox.shell("ln -s nowhere link; mkfifo fifo; mkdir full; touch full/x");
    let listing = |query: &str| -> Vec<(String, String)> {
        let listing = sandbox.request("GET", &format!("/files/list?{query}")).send().expect(200).json();
        let entries = listing["data"].as_array().unwrap().iter();
        entries.map(|e| (e["path"].as_str().unwrap().replace("/workspace/", ""), e["kind"].as_str().unwrap().to_owned())).collect()
    };
    let names = |list: &[(&str, &str)]| -> Vec<(String, String)> { list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect() };
    let all = [("a", "directory"), ("fifo", "other"), ("full", "directory"), ("link", "symlink")];
    assert_eq!(listing("path=/workspace"), names(&all));
    assert_eq!(listing("path=/workspace/a&depth=3"), names(&[("a/b", "directory"), ("a/b/c.txt", "file")]));
    let stat = sandbox.request("GET", "/files/stat?path=link").send().expect(200).json();
    assert_eq!((&stat["kind"], &stat["target"]), (&json!("symlink"), &json!("nowhere")), "links are not followed");

    sandbox.request("DELETE", "/files?path=full").send().refused(409, "directory_not_empty");
    sandbox.request("DELETE", "/files?path=full&recursive=true").send().expect(204);
    sandbox.request("DELETE", "/files?path=link").send().expect(204);
    assert_eq!(sandbox.shell("ls"), "a\nfifo\n");
    for (target, status, code) in [
        ("/files?path=nothing", 404, "not_found"),
        ("/files?path=a", 409, "is_a_directory"),
        ("/files?path=fifo", 409, "not_a_file"),
        ("/files/list?path=a/b/c.txt", 409, "not_a_directory"),
        ("/files/stat?path=%00", 400, "invalid_path"),
        ("/files?path=", 400, "invalid_path"),
    ] {
        sandbox.request("GET", target).send().refused(status, code);
    }
    sandbox.request("PUT", "/files?path=/etc/passwd").bytes("x").send().refused(400, "permission_denied");
    server.finish();
}

#[test]
fn ranges_of_files_are_served() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    sandbox.write(b"f", b"0123456789").expect(200);
    let range = |range: &str| sandbox.request("GET", "/files?path=f").header("range", range).send();
    for (asked, content, shown) in
        [("bytes=2-4", "234", "bytes 2-4/10"), ("bytes=8-", "89", "bytes 8-9/10"), ("bytes=-3", "789", "bytes 7-9/10")]
    {
        let answer = range(asked).expect(206);
        assert_eq!((answer.text().as_str(), answer.header("content-range")), (content, Some(shown)));
    }
    let answer = range("bytes=10-");
    answer.refused(416, "range_not_satisfiable");
    assert_eq!(answer.header("content-range"), Some("bytes */10"));
    assert_eq!(range("bytes=0-1,3-4").expect(200).text(), "0123456789");
    server.finish();
}

#[test]
fn large_files_are_streamed_both_ways() {
    const PIECES: usize = 64;
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let target = sandbox.target("/files?path=large");
    let written = server.request("PUT", &target).send_chunks((0..PIECES).map(pattern)).expect(200).json();
    assert_eq!(written["size"], PIECES * MIB);
    let mut streaming = server.request("GET", &target).open();
    assert_eq!((streaming.status, streaming.header("content-length").unwrap().to_owned()), (200, (PIECES * MIB).to_string()));
    let mut piece = vec![0; MIB];
    for index in 0..PIECES {
        streaming.body.read_exact(&mut piece).unwrap();
        assert!(piece == pattern(index), "MiB {index} is not what was sent");
    }
    assert_eq!(streaming.body.read(&mut piece).unwrap(), 0);
    let resident = server.process().resident();
    assert!(resident < 200 << 20, "the server holds {resident} bytes after streaming");
    server.finish();
}

#[test]
fn an_upload_that_breaks_off_leaves_the_old_file() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    sandbox.write(b"f", b"old").expect(200);
    drop(sandbox.request("PUT", "/files?path=f").begin(1 << 20, &[b'n'; 1000]));
    eventually("nothing but the old file", Duration::from_secs(5), || (sandbox.shell("ls -A") == "f\n").then_some(()));
    assert_eq!(sandbox.read(b"f").expect(200).text(), "old");
    server.finish();
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_half_written() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"disk_bytes": 4 << 20}}));
    let message = sandbox.write(b"big", &vec![1; 8 << 20]).refused(429, "quota_exceeded");
    assert!(message.contains("disk limit"), "{message}");
    assert_eq!(sandbox.shell("ls -A"), "");
    sandbox.write(b"small", &vec![1; 2 << 20]).expect(200);
    server.finish();
}
