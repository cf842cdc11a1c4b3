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
fn files_get_the_bits_and_times_that_are_asked_for() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let put = |query: &str| sandbox.request("PUT", &format!("/files?path=f{query}")).bytes("x").send().expect(200).json();
    let first = put("&mode=0750&modified_at=2001-09-09T01:46:40.5Z");
    assert_eq!(
        (&first["mode"], &first["modified_at"], &first["uid"], &first["gid"]),
        (&json!(0o750), &json!("2001-09-09T01:46:40.500Z"), &json!(1000), &json!(1000))
    );
    assert_eq!(sandbox.shell("stat -c '%a %.1Y' f"), "750 1000000000.5\n");
    let tag = |answer: &caisson_tests::Answer| answer.header("etag").unwrap().to_owned();
    let (one, again) = (sandbox.read(b"f").expect(200), sandbox.read(b"f").expect(200));
    assert_eq!(tag(&one), tag(&again));
    // Whoever only writes the content leaves a program one that can be run.
    assert_eq!(put("")["mode"], 0o750);
    assert_ne!(tag(&sandbox.read(b"f").expect(200)), tag(&one));
    sandbox.request("PUT", "/files?path=f&modified_at=yesterday").bytes("x").send().refused(400, "invalid_parameter");
    sandbox.request("PUT", "/files?path=f&owner=root").bytes("x").send().refused(400, "invalid_parameter");
    // A link is written through, and stays one.
    assert_eq!(sandbox.shell("mkdir d; ln -s ../f d/l"), "");
    sandbox.write(b"d/l", b"by way of the link").expect(200);
    assert_eq!(sandbox.shell("cat f; readlink d/l"), "by way of the link../f\n");
    server.finish();
}

#[test]
fn directories_are_made_and_things_moved_and_copied() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let post = |target: &str| sandbox.request("POST", &format!("/files/{target}")).send();
    let made = post("mkdir?path=a&mode=0700").expect(201).json();
    assert_eq!((&made["kind"], &made["mode"]), (&json!("directory"), &json!(0o700)));
    post("mkdir?path=a").refused(409, "already_exists");
    post("mkdir?path=a&parents=true").expect(200);
    post("mkdir?path=b/c/d").refused(404, "not_found");
    post("mkdir?path=b/c/d&parents=true").expect(201);
    sandbox.write(b"f", b"content").expect(200);
    post("mkdir?path=f/x&parents=true").refused(409, "not_a_directory");
    post("mkdir?path=/").refused(400, "invalid_path");
    // A slash at the end is about a directory.
    for request in [
        sandbox.request("PUT", "/files?path=f/").bytes("x"),
        sandbox.request("DELETE", "/files?path=f/"),
        sandbox.request("POST", "/files/move?from=f/&to=g"),
        sandbox.request("POST", "/files/copy?from=f&to=g/"),
    ] {
        request.send().refused(409, "not_a_directory");
    }
    post("move?from=a/&to=c/").expect(200);
    post("move?from=c&to=a").expect(200);
    // What is in /proc is left alone, and it is not the source that is missing.
    for target in ["move?from=f&to=/proc/x", "copy?from=f&to=/proc/x", "mkdir?path=/proc/x", "mkdir?path=/proc/x&parents=true"] {
        assert!(post(target).refused(400, "permission_denied").contains("/proc/x"), "{target}");
    }
    for target in ["list?path=/proc", "list?path=/proc/self/fd", "glob?path=/proc&pattern=**"] {
        sandbox.request("GET", &format!("/files/{target}")).send().refused(400, "permission_denied");
    }

    post("move?from=f&to=new/dir/g").expect(200);
    sandbox.write(b"f", b"other").expect(200);
    let said = post("move?from=f&to=new/dir/g").refused(409, "already_exists");
    assert!(said.contains("new/dir/g"), "{said}");
    post("move?from=f&to=new/dir/g&replace=true").expect(200);
    assert_eq!(sandbox.shell("cat new/dir/g; ls"), "othera\nb\nnew\n");
    post("move?from=nothing&to=x").refused(404, "not_found");
    post("move?from=new&to=new/dir/inside").refused(400, "invalid_path");
    post("copy?from=new&to=new/dir/inside").refused(400, "invalid_path");
    post("move?from=b&to=new&replace=true").refused(409, "directory_not_empty");
    post("move?from=a&to=b/c/d&replace=true").expect(200);
    // From one file system to another.
    post("move?from=new&to=/dev/shm/moved").expect(200);
    assert_eq!(sandbox.shell("cat /dev/shm/moved/dir/g; ls; rm -r /dev/shm/moved"), "otherb\n");

    let _made = sandbox
        .shell("mkdir -p t/s; echo x > t/s/x; ln t/s/x t/h; ln -s s/x t/l; chmod 4711 t/s/x; chmod 550 t/s; mkfifo t/p; touch -d @5 t/s");
    let copied = post("copy?from=t&to=deep/copy").expect(200).json();
    assert_eq!(
        (&copied["files"], &copied["directories"], &copied["links"], &copied["file"]["kind"]),
        (&json!(1), &json!(1), &json!(2), &json!("directory"))
    );
    assert_eq!((&copied["left_out_total"], &copied["left_out"][0]["path"]), (&json!(1), &json!("p")));
    let look = |path: &str| sandbox.shell(&format!("cd {path}; find . -mindepth 1 ! -name p -printf '%P %y %m %l %n %T@\\n' | sort"));
    assert_eq!(look("deep/copy"), look("t"));
    post("copy?from=t&to=deep/copy").refused(409, "already_exists");
    // A copy that finds no place is taken away again, also what is in directories that cannot be written.
    post("copy?from=t&to=deep/copy&replace=true").refused(409, "directory_not_empty");
    post("copy?from=t/l&to=link").expect(200);
    assert_eq!(sandbox.shell("readlink link"), "s/x\n");
    post("copy?from=t/p&to=q").refused(409, "not_a_file");
    post("copy?from=/proc/version&to=q").refused(409, "not_a_file");
    post("copy?from=/etc/hostname&to=/etc/other").refused(400, "permission_denied");
    assert_eq!(
        sandbox.shell("cat $(find deep -name 'x'); find /workspace /dev/shm /tmp -name '.caisson-*'"),
        "x\n",
        "nothing half-made stays"
    );
    server.finish();
}

#[test]
fn lists_come_in_pages_that_put_together_are_the_whole() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell(
        "mkdir -p d/{a,b}/c; for i in $(seq 50); do : > d/a/c/$i; : > d/b/$i; done; mkdir d/no; chmod 0 d/no; : > $(printf 'd/\\377')",
    );
    let page = |query: &str| sandbox.request("GET", &format!("/files/list?path=d&depth=9{query}")).send().expect(200).json();
    let whole = page("");
    assert_eq!(
        (whole["data"].as_array().unwrap().len(), &whole["next_cursor"], &whole["truncated"], &whole["unreadable"]),
        (106, &json!(null), &json!(false), &json!(1))
    );
    let (mut together, mut cursor) = (Vec::new(), String::new());
    loop {
        let next = page(&format!("&limit=7{cursor}"));
        together.extend(next["data"].as_array().unwrap().clone());
        let Some(text) = next["next_cursor"].as_str() else { break };
        assert_eq!((next["data"].as_array().unwrap().len(), &next["truncated"]), (7, &json!(true)));
        cursor = format!("&cursor={text}");
        // Whatever happens meanwhile, nothing comes twice.
        let _removed = sandbox.shell("rm -f d/a/c/1");
    }
    let paths = |list: &[caisson_tests::Value]| list.iter().map(|entry| entry["path"].to_string()).collect::<Vec<_>>();
    assert_eq!(paths(&together), paths(whole["data"].as_array().unwrap()));
    for bad in ["%20", "Li4", "L2V0Yw", "YS8uLi8uLg"] {
        let answer = sandbox.request("GET", &format!("/files/list?path=d&cursor={bad}")).send();
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    server.finish();
}

#[test]
fn trees_deeper_than_a_path_can_be_are_told_as_far_as_it_can() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let name = "d".repeat(240);
    let _made = sandbox.shell(&format!("for i in $(seq 20); do mkdir {name}; cd {name}; done; echo x > x; echo x > /workspace/z"));
    for path in ["/workspace".to_owned(), format!("/workspace/{name}")] {
        for listing in ["list?depth=64", "glob?pattern=**", "list?depth=64&limit=1"] {
            let (mut longest, mut unreadable, mut cursor) = (0, 0, String::new());
            loop {
                let told = sandbox.request("GET", &format!("/files/{listing}&path={path}{cursor}")).send().expect(200).json();
                let lengths = told["data"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().len());
                longest = lengths.fold(longest, usize::max);
                unreadable += told["unreadable"].as_u64().unwrap();
                let Some(next) = told["next_cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            assert!((4096 - 241..4096).contains(&longest) && unreadable > 0, "{path:.20} {listing}: {longest} {unreadable}");
        }
    }
    assert_eq!(sandbox.shell("echo alive"), "alive\n");
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
