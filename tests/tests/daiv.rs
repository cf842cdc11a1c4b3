//! The API of daiv-sandbox, as its clients use it: what the wire contract says, row by row, and the example.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{
    Answer, Archive, BASE64, Base64Engine, Client, MULTIPART_FORM, Receiver, Reply, Request, Server, Setup, Value, eventually, json,
    kill_nine, multipart_form,
};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const KEY: &str = "key-of-daiv-0123456789";

fn daiv() -> Server {
    with(&[])
}

fn with(variables: &[(&str, &str)]) -> Server {
    let setup = Setup::default().env("DAIV_SANDBOX_API_KEY", KEY).env("CAISSON_IMAGE_ALIASES", "python:3.12=host");
    variables.iter().fold(setup, |setup, (name, value)| setup.env(name, *value)).start()
}

fn ask(server: &Server, method: &str, target: &str) -> Request {
    let client = Client { key: None, ..server.client.clone() };
    client.request(method, target).header("x-api-key", KEY)
}

#[track_caller]
fn start(server: &Server, body: &Value) -> String {
    let made = ask(server, "POST", "/session/").json(body).send().expect(200).json();
    assert_eq!(made.as_object().unwrap().len(), 1, "{made}");
    made["session_id"].as_str().unwrap().to_owned()
}

/// One with patches, as the client of its time starts it.
#[track_caller]
fn with_patches(server: &Server) -> String {
    let body = json!({
        "base_image": "python:3.12", "dockerfile": null, "extract_patch": true, "network_enabled": false,
        "memory_bytes": null, "cpus": null, "environment": null,
    });
    start(server, &body)
}

fn seed_with(server: &Server, id: &str, parts: &[(&str, Option<&str>, &[u8])]) -> Answer {
    let request = ask(server, "POST", &format!("/session/{id}/seed/")).header("content-type", MULTIPART_FORM);
    request.bytes(multipart_form(parts)).send()
}

fn seed(server: &Server, id: &str, archive: &[u8]) -> Answer {
    seed_with(server, id, &[("repo_archive", Some("repo.tar"), archive)])
}

fn run_with(server: &Server, id: &str, body: &Value) -> Answer {
    ask(server, "POST", &format!("/session/{id}/")).json(body).send()
}

#[track_caller]
fn run(server: &Server, id: &str, body: &Value) -> Value {
    let ran = run_with(server, id, body).expect(200).json();
    assert_eq!(ran.as_object().unwrap().len(), 2, "{ran}");
    ran
}

/// What one command prints that ends well.
#[track_caller]
fn says(server: &Server, id: &str, command: &str) -> String {
    let ran = run(server, id, &json!({"commands": [command]}));
    let result = &ran["results"][0];
    assert_eq!((&result["command"], &result["exit_code"]), (&json!(command), &json!(0)), "{ran:#}");
    result["output"].as_str().unwrap().to_owned()
}

/// The patch that one command leaves.
#[track_caller]
fn patch_of(server: &Server, id: &str, command: &str) -> Option<String> {
    let ran = run(server, id, &json!({"commands": [command]}));
    assert_eq!(ran["results"][0]["exit_code"], 0, "{ran:#}");
    ran["patch"].as_str().map(|patch| String::from_utf8(BASE64.decode(patch).unwrap()).unwrap())
}

fn write(server: &Server, id: &str, mutations: &Value) -> Answer {
    ask(server, "POST", &format!("/session/{id}/files/")).json(&json!({"mutations": mutations})).send()
}

fn fs(server: &Server, id: &str, op: &str, body: &Value) -> Value {
    ask(server, "POST", &format!("/session/{id}/fs/{op}")).json(body).send().expect(200).json()
}

fn close(server: &Server, id: &str) {
    let closed = ask(server, "DELETE", &format!("/session/{id}/")).send();
    assert_eq!((closed.status, closed.body.len(), closed.header("content-type")), (204, 0, None), "{}", closed.text());
}

#[track_caller]
fn refused(answer: &Answer, status: u16, detail: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.text(), json!({"detail": detail}).to_string());
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

/// Type and place of each fault.
#[track_caller]
fn faults(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 422, "{}", answer.text());
    let body = answer.json();
    let shown = |fault: &Value| {
        assert!(fault["msg"].is_string() && fault.get("input").is_some(), "{fault}");
        format!("{} {}", fault["type"].as_str().unwrap(), fault["loc"])
    };
    body["detail"].as_array().unwrap_or_else(|| panic!("{body}")).iter().map(shown).collect()
}

const NO_SESSION: &str = "Session not found or already closed";

#[test]
fn a_session_is_there_until_it_is_closed() {
    let server = daiv();
    let id = start(&server, &json!({"base_image": "python:3.12", "environment": {"A": "b c", "HOME": "/x"}, "unknown": [1]}));
    let inside = "id -u; id -g; pwd; echo $A; echo $HOME $XDG_CACHE_HOME $XDG_CONFIG_HOME $XDG_STATE_HOME $XDG_DATA_HOME; \
                  stat -c '%n %u:%g %F' /repo/. /skills/. /workdir /home/daiv-sandbox /workspace /workspace/repo /workspace/skills \
                  /workspace/tmp; ls -A /workdir /workspace/repo /skills /home/daiv-sandbox";
    let home = "/home/daiv-sandbox";
    let directory = |name: &str| format!("{name} 1000:1000 directory\n");
    let directories: String =
        ["/repo/.", "/skills/.", "/workdir", home, "/workspace", "/workspace/repo", "/workspace/skills", "/workspace/tmp"]
            .map(directory)
            .concat();
    let listed = "/home/daiv-sandbox:\n\n/skills:\n\n/workdir:\n\n/workspace/repo:\n";
    let expect = format!(
        "1000\n1000\n/workspace/repo\nb c\n{home} {home}/.cache {home}/.config {home}/.local/state {home}/.local/share\n{directories}{listed}"
    );
    assert_eq!(says(&server, &id, inside), expect);
    assert_eq!(says(&server, &id, "echo x > /repo/y; cat /workspace/repo/y; find /workspace/repo -type f"), "x\n/workspace/repo/y\n");
    let native = server.get(&format!("/v1/sandboxes/{id}")).expect(200).json();
    assert_eq!((&native["metadata"]["caisson.dialect"], &native["lifetime_s"]), (&json!("daiv"), &Value::Null), "{native:#}");

    for target in ["/session/{id}", "/session/{id}/", "/api/v1/session/{id}", "/api/v1/session/{id}/"] {
        let answer = ask(&server, "GET", &target.replace("{id}", &id)).send();
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{target}");
    }
    let answer = ask(&server, "DELETE", &format!("/session/{id}/?force=maybe")).send();
    assert_eq!(faults(&answer), [r#"bool_parsing ["query","force"]"#]);
    close(&server, &id);
    close(&server, &id);
    assert_eq!(ask(&server, "DELETE", &format!("/session/{id}/?force=true")).send().status, 204);
    for id in [&id, "sbx0123456789abcdefghjkmnpqr", "96de515cc244"] {
        refused(&ask(&server, "GET", &format!("/session/{id}/")).send(), 404, NO_SESSION);
        refused(&run_with(&server, id, &json!({"commands": []})), 404, NO_SESSION);
        refused(&seed(&server, id, &Archive::new().end()), 404, NO_SESSION);
        refused(&write(&server, id, &json!([{"path": "/repo/x", "content": "", "mode": 420}])), 404, NO_SESSION);
        refused(&ask(&server, "POST", &format!("/session/{id}/fs/ls")).json(&json!({"path": "/workspace"})).send(), 404, NO_SESSION);
        refused(
            &ask(&server, "PUT", &format!("/session/{id}/egress/")).json(&json!({"policy": {"default": "allow"}})).send(),
            404,
            "Session not found",
        );
        close(&server, id);
    }
    // What was not made here is no session.
    let native = server.sandbox(&json!({}));
    refused(&ask(&server, "GET", &format!("/session/{}/", native.id)).send(), 404, NO_SESSION);
    close(&server, &native.id);
    assert_eq!(native.shell("echo there"), "there\n");
    server.finish();
}

#[test]
fn what_cannot_be_started_is_refused_with_the_reason() {
    let server = daiv();
    let ask = |body: &Value| ask(&server, "POST", "/session/").json(body).send();
    let missing = ask(&json!({"base_image": "nobody/has:this"}));
    assert!(missing.status == 400 && missing.json()["detail"].as_str().unwrap().contains("nobody/has:this"), "{}", missing.text());
    let network = ask(&json!({"base_image": "host", "network_enabled": true}));
    assert!(network.status == 400 && network.json()["detail"].as_str().unwrap().starts_with("network_enabled "), "{}", network.text());
    let egress = json!({"base_image": "host", "egress": {"policy": {"default": "allow"}}});
    let unknown = json!({"base_image": "host", "egress": {"policy": {"rules": [{"host": "a.b", "inject": "x"}]}}});
    assert_eq!(faults(&ask(&unknown)), [r#"value_error ["body","egress"]"#]);
    assert_eq!(faults(&ask(&json!({"base_image": "host", "egress": 5}))), [r#"model_attributes_type ["body","egress"]"#]);
    refused(&ask(&egress), 400, "egress requires the egress proxy, which is not configured on this deployment");
    let small = ask(&json!({"base_image": "host", "memory_bytes": 5}));
    assert!(small.status == 400 && small.json()["detail"].as_str().unwrap().contains("memory_bytes"), "{}", small.text());
    assert_eq!(
        faults(&ask(&json!({"extract_patch": "maybe", "environment": {"A": 5}, "memory_bytes": 1.5, "cpus": "x"}))),
        [
            r#"missing ["body","base_image"]"#,
            r#"bool_parsing ["body","extract_patch"]"#,
            r#"string_type ["body","environment","A"]"#,
            r#"int_from_float ["body","memory_bytes"]"#,
            r#"float_parsing ["body","cpus"]"#,
        ]
    );
    let id = start(&server, &json!({"base_image": "host", "memory_bytes": "268435456", "cpus": 0.5}));
    let native = server.get(&format!("/v1/sandboxes/{id}")).expect(200).json();
    assert_eq!((&native["limits"]["memory_bytes"], &native["limits"]["cpus"]), (&json!(268_435_456), &json!(0.5)), "{native:#}");
    refused(&put_egress(&server, &id), 409, "Session has no egress proxy; nothing to refresh");
    server.finish();
}

fn put_egress(server: &Server, id: &str) -> Answer {
    ask(server, "PUT", &format!("/session/{id}/egress/")).json(&json!({"policy": {"default": "allow"}})).send()
}

#[test]
fn r6_1_the_key_comes_before_everything_but_bodies_that_are_no_json() {
    let server = daiv();
    let bare = |method: &str, target: &str| Client { key: None, ..server.client.clone() }.request(method, target);
    for target in ["/session/", "/session/x/", "/session/x/files/", "/api/v1/session/x/fs/ls"] {
        refused(&bare("POST", target).json(&json!({})).send(), 403, "API Key header is missing");
        refused(&bare("POST", target).header("x-api-key", "").json(&json!({})).send(), 403, "API Key header is missing");
        refused(&bare("POST", target).header("X-Api-KEY", "wrong").json(&json!({})).send(), 403, "Invalid API Key");
        refused(
            &bare("POST", target).header("authorization", &format!("Bearer {KEY}")).json(&json!({})).send(),
            403,
            "API Key header is missing",
        );
        let broken = bare("POST", target).header("content-type", "application/json").bytes("{\"a\":").send();
        assert_eq!(faults(&broken)[0].split(' ').next(), Some("json_invalid"), "{}", broken.text());
        assert_eq!(broken.json()["detail"][0]["input"], json!({}));
    }
    refused(&bare("DELETE", "/session/x/").send(), 403, "API Key header is missing");
    refused(&bare("POST", "/session/x/seed/").send(), 403, "API Key header is missing");
    for target in ["/session/x/nothing/", "/api/v1/nothing/", "/-/nothing/", "/session/x/fs/nothing"] {
        refused(&bare("GET", target).send(), 404, "Not Found");
    }
    for (method, target) in [("PUT", "/session/"), ("GET", "/session/x/seed/"), ("POST", "/-/health/")] {
        refused(&bare(method, target).send(), 405, "Method Not Allowed");
    }
    for (target, body) in
        [("/-/health/", "{\"status\":\"ok\"}"), ("/api/v1/-/health", "{\"status\":\"ok\"}"), ("/-/version/", "{\"version\":\"v0.6.0\"}")]
    {
        assert_eq!(bare("GET", target).send().expect(200).text(), body);
    }
    // The operator's key opens it as well, and its own opens nothing else.
    let admin = server.request("POST", "/session/").header("x-api-key", server.client.key.as_deref().unwrap());
    assert_eq!(admin.json(&json!({})).send().status, 422);
    bare("GET", "/v1/sandboxes").header("x-api-key", KEY).send().refused(401, "unauthorized");
    server.finish();
}

#[test]
fn bodies_are_told_apart_as_upstream_does() {
    let server = daiv();
    let target = "/session/x/";
    let with = |kind: &str, body: &str| ask(&server, "POST", target).header("content-type", kind).bytes(body).send();
    assert_eq!(faults(&ask(&server, "POST", target).send()), [r#"missing ["body"]"#]);
    assert_eq!(faults(&with("application/json", "[1]")), [r#"model_attributes_type ["body"]"#]);
    let text = with("text/plain", "{\"commands\": []}");
    assert_eq!(
        (faults(&text), &text.json()["detail"][0]["input"]),
        (vec![r#"model_attributes_type ["body"]"#.to_owned()], &json!("{\"commands\": []}"))
    );
    let many = json!({"commands": [5, "x", null], "fail_fast": [], "timeout": -1});
    assert_eq!(
        faults(&ask(&server, "POST", target).json(&many).send()),
        [
            r#"string_type ["body","commands",0]"#,
            r#"string_type ["body","commands",2]"#,
            r#"bool_type ["body","fail_fast"]"#,
            r#"greater_than_equal ["body","timeout"]"#,
        ]
    );
    assert_eq!(faults(&ask(&server, "POST", target).json(&json!({"commands": "x"})).send()), [r#"list_type ["body","commands"]"#]);
    let mutations = json!([{"path": "/repo/x", "content": "aGVsbG8", "mode": 4096}]);
    let answer = write(&server, "x", &mutations);
    assert_eq!(faults(&answer), [r#"base64_decode ["body","mutations",0,"content"]"#, r#"less_than_equal ["body","mutations",0,"mode"]"#]);
    assert_eq!(answer.json()["detail"][0]["ctx"], json!({"error": "Incorrect padding"}));
    assert_eq!(answer.json()["detail"][1]["ctx"], json!({"le": 4095}));
    let one = json!({"path": "/repo/x", "content": "", "mode": 0});
    assert_eq!(faults(&write(&server, "x", &json!(vec![one; 65]))), [r#"too_long ["body","mutations"]"#]);
    assert_eq!(faults(&write(&server, "x", &json!([]))), [r#"too_short ["body","mutations"]"#]);
    let text = seed_with(&server, "x", &[("repo_archive", None, b"text")]);
    assert_eq!(faults(&text), [r#"value_error ["body","repo_archive"]"#]);
    assert_eq!(text.json()["detail"][0]["input"], "text");
    server.finish();
}

#[test]
fn a_seed_is_taken_once() {
    let server = daiv();
    let id = with_patches(&server);
    let neither = "At least one of repo_archive or skills_archive must be provided";
    refused(&seed_with(&server, &id, &[("other", Some("x"), b"x")]), 422, neither);
    refused(&ask(&server, "POST", &format!("/session/{id}/seed/")).send(), 422, neither);
    let skills = Archive::new().file(b"SKILL.md", b"skill").end();
    let bad = Archive::new().file(b"fine", b"x").file(b"../x", b"x").end();
    // A good archive stays though the next one is bad, and the session is not seeded.
    let repo = Archive::new().directory(b"./", 0o700).directory(b"./src/", 0o700).file(b"./src/a.txt", b"one\n").end();
    let answer = seed_with(&server, &id, &[("skills_archive", Some("s"), &bad), ("repo_archive", Some("r"), &repo)]);
    refused(&answer, 422, "skills_archive is invalid: Archive contains a parent-directory traversal path: '../x'");
    let answer = seed_with(&server, &id, &[("skills_archive", Some("s"), &skills), ("repo_archive", Some("r"), &repo)]);
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{}", answer.text());
    assert_eq!(
        says(&server, &id, "pwd; find . /skills /workspace/skills/ -type f"),
        "/repo\n./src/a.txt\n/skills/SKILL.md\n/workspace/skills/SKILL.md\n"
    );
    refused(&seed(&server, &id, &repo), 409, "Session already seeded");
    server.finish();
}

#[test]
fn archives_are_kept_by_the_rules() {
    let server = daiv();
    let id = with_patches(&server);
    let archive = Archive::new()
        .header(b'0', b"./bin/tool", b"", 0o4711, &caisson_tests::octal(3))
        .content(b"one")
        .header(b'0', b"secret", b"", 0o600, &caisson_tests::octal(3))
        .content(b"two")
        .header(b'0', b"nothing", b"", 0, &caisson_tests::octal(0))
        .directory(b"dir", 0o1700)
        .link(b'2', b"inside", b"secret")
        .link(b'2', b"outside", b"/etc/passwd")
        .link(b'2', b"above", b"../x")
        .link(b'1', b"hard", b"secret")
        .header(b'6', b"fifo", b"", 0o644, &caisson_tests::octal(0))
        .file(b"secret", b"last")
        .end();
    assert_eq!(seed(&server, &id, &archive).status, 204);
    let told = says(&server, &id, "find . -mindepth 1 -printf '%P %M %U:%G %T@\\n' | sort; cat secret inside");
    let lines: Vec<&str> = told.lines().collect();
    let expect =
        ["bin drwxr-xr-x", "bin/tool -rwxr-xr-x", "dir drwxr-xr-x", "inside lrwxrwxrwx", "nothing -rw-r--r--", "secret -rw-r--r--"];
    assert_eq!(lines.len(), expect.len() + 1, "{told}");
    for (line, begin) in lines.iter().zip(expect) {
        assert!(line.starts_with(&format!("{begin} 1000:1000 ")), "{line}: {begin}");
        assert!(line.starts_with("bin ") || line.ends_with(" 0.0000000000"), "{line}");
    }
    assert_eq!(lines.last(), Some(&"lastlast"));
    server.finish();
}

#[test]
fn r5_1_hostile_archives_leave_nothing() {
    let server = daiv();
    let id = start(&server, &json!({"base_image": "host"}));
    let fine = || Archive::new().file(b"fine", b"x");
    let size = |size: u64| caisson_tests::octal(size);
    for (archive, why) in [
        (fine().file(b"/etc/x", b"x").end(), "Archive contains an absolute path: '/etc/x'"),
        (fine().file(b"../x", b"x").end(), "Archive contains a parent-directory traversal path: '../x'"),
        (fine().file(b"a/../../x", b"x").end(), "Archive contains a parent-directory traversal path: 'a/../../x'"),
        (fine().directory(b"..", 0o755).end(), "Archive contains a parent-directory traversal path: '..'"),
        (fine().link(b'2', b"../l", b"x").end(), "Archive contains a parent-directory traversal path: '../l'"),
        (fine().broken_off(), "Invalid or truncated archive: "),
        (fine().header(b'0', b"long", b"", 0o644, &size(1 << 33)).end(), "Invalid or truncated archive: "),
        (b"no archive at all".to_vec(), "Invalid or truncated archive: "),
        (Vec::new(), "Invalid or truncated archive: "),
        (vec![0x1f, 0x8b, 8, 0, 0, 0], "Invalid or truncated archive: "),
        (b"BZh9xxxx".to_vec(), "Invalid or truncated archive: "),
        (b"\xfd7zXZ\0xxxxxxxx".to_vec(), "Invalid or truncated archive: "),
    ] {
        let answer = seed(&server, &id, &archive);
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 422 && detail.starts_with(&format!("repo_archive is invalid: {why}")), "{}", answer.text());
        assert_eq!(says(&server, &id, "ls -A"), "", "{why}");
    }
    // Nothing is written by a link, of the archive or of the sandbox.
    says(&server, &id, "mkdir /workdir/target; ln -s /workdir/target trap");
    let through = Archive::new().file(b"trap/escaped", b"x").end();
    let answer = seed(&server, &id, &through);
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert_eq!(says(&server, &id, "find / -name escaped 2>/dev/null; ls -A /workdir/target"), "");
    // Neither by the directory itself, which is in one of the user's.
    says(&server, &id, "mv /workspace/repo /workspace/old; ln -s /workdir/target /workspace/repo");
    let answer = seed(&server, &id, &fine().end());
    assert!(answer.status == 422 && answer.json()["detail"].as_str().unwrap().contains("no directory"), "{}", answer.text());
    let written = write(&server, &id, &json!([{"path": "/repo/fine", "content": "", "mode": 420}])).expect(200).json();
    assert_eq!(written["results"][0]["ok"], false, "{written}");
    assert_eq!(says(&server, &id, "rm /workspace/repo; mv /workspace/old /workspace/repo; ls -A /workdir/target"), "");
    assert_eq!(seed(&server, &id, &fine().end()).status, 204, "it can be seeded still");
    server.finish();
}

#[test]
fn archives_come_compressed() {
    let server = daiv();
    let plain = Archive::new().file(b"a", &[b'x'; 100_000]).end();
    for tool in ["cat", "gzip", "bzip2", "xz"] {
        let mut child =
            Command::new(tool).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{tool}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let bytes = plain.clone();
        let feeding = thread::spawn(move || stdin.write_all(&bytes));
        let packed = child.wait_with_output().unwrap().stdout;
        feeding.join().unwrap().unwrap();
        let id = start(&server, &json!({"base_image": "host"}));
        assert_eq!(seed(&server, &id, &packed).status, 204, "{tool}");
        assert_eq!(says(&server, &id, "wc -c < a"), "100000\n", "{tool}");
        close(&server, &id);
    }
    server.finish();
}

#[test]
fn files_are_written_one_by_one() {
    let server = daiv();
    let id = start(&server, &json!({"base_image": "host", "extract_patch": false}));
    says(&server, &id, "mkdir -p folder real; echo x > file; ln -s real linked; ln -s /workdir out; ln -s /etc/passwd link");
    let content = BASE64.encode("hello");
    let one = |path: &str, mode: u32| json!({"path": path, "content": content, "mode": mode});
    let mutations = json!([
        one("/repo/hello.txt", 0o600),
        one("//repo/./new/deep/tool", 0o4711),
        one("/repo/zero", 0),
        one("/etc/passwd", 0o644),
        one("/repo/../etc/x", 0o644),
        one("repo/x", 0o644),
        one("/repo/", 0o644),
        one("/repo/a\nb", 0o644),
        one("/repo/file/below", 0o644),
        one("/repo/folder", 0o644),
        one("/repo/out/x", 0o644),
        one("/repo/linked/x", 0o644),
        one("/repo/link", 0o644),
        {"path": "/repo/hello.txt", "content": BASE64.encode("again\n"), "mode": 0o755},
    ]);
    let written = write(&server, &id, &mutations).expect(200).json();
    let results = written["results"].as_array().unwrap();
    let expect = [
        Ok(()),
        Ok(()),
        Ok(()),
        Err("path must be under one of ('/repo',), got: '/etc/passwd'"),
        Err("path must not contain '..' segments: '/repo/../etc/x'"),
        Err("path must be absolute, got: 'repo/x'"),
        Err("path must not equal a reserved root: '/repo/'"),
        Err("path must not contain NUL or newline characters: '/repo/a\\nb'"),
        Err(""),
        Err(""),
        Err(""),
        Ok(()),
        Ok(()),
        Ok(()),
    ];
    assert_eq!(results.len(), expect.len());
    for ((result, mutation), expect) in results.iter().zip(mutations.as_array().unwrap()).zip(expect) {
        assert_eq!(result["path"], mutation["path"]);
        match expect {
            Ok(()) => assert_eq!((&result["ok"], &result["error"]), (&json!(true), &Value::Null), "{result}"),
            Err("") => assert!(result["ok"] == false && !result["error"].as_str().unwrap().is_empty(), "{result}"),
            Err(why) => assert_eq!((&result["ok"], &result["error"]), (&json!(false), &json!(why)), "{result}"),
        }
    }
    let told = says(
        &server,
        &id,
        "stat -c '%n %a %u:%g' hello.txt new new/deep/tool zero link; cat hello.txt real/x; ls -A /workdir; test -d folder",
    );
    let expect =
        "hello.txt 755 1000:1000\nnew 755 1000:1000\nnew/deep/tool 755 1000:1000\nzero 644 1000:1000\nlink 644 1000:1000\nagain\nhello";
    assert_eq!(told, expect);
    server.finish();
}

#[test]
fn commands_run_as_the_contract_says() {
    let server = daiv();
    let id = start(&server, &json!({"base_image": "host"}));
    assert_eq!(run_with(&server, &id, &json!({"commands": []})).expect(200).text(), r#"{"results":[],"patch":null}"#);
    let commands = ["false | true", "exit 3", "no-such-program", "echo out; echo err >&2; printf '\\377'", "", "cat; tty", "kill -9 $$"];
    let ran = run(&server, &id, &json!({"commands": commands, "fail_fast": "no", "timeout": null}));
    let results = ran["results"].as_array().unwrap();
    let codes: Vec<i64> = results.iter().map(|result| result["exit_code"].as_i64().unwrap()).collect();
    assert_eq!(codes, [1, 3, 127, 0, 0, 1, 137], "{ran:#}");
    assert_eq!(results[3]["output"], "out\nerr\n\u{fffd}");
    assert_eq!(results[5]["output"], "not a tty\n");
    let fast = run(&server, &id, &json!({"commands": ["true", "exit 4", "true"], "fail_fast": true}));
    assert_eq!(fast["results"].as_array().unwrap().len(), 2);
    // Files and what runs in the background stay, variables and the directory do not.
    let begin = Instant::now();
    says(&server, &id, "x=1; cd /; sleep 1000 >/dev/null 2>&1 & echo $! > /workspace/tmp/pid");
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert_eq!(says(&server, &id, "echo \"[$x]\"; pwd; kill -0 $(cat /workspace/tmp/pid) && echo runs"), "[]\n/workspace/repo\nruns\n");
    // Nothing is cut off.
    let long = says(&server, &id, "head -c 20000000 /dev/zero | tr '\\0' x");
    assert!(long.len() == 20_000_000 && long.bytes().all(|byte| byte == b'x'), "{}", long.len());
    let command = format!("echo {} | wc -c", "y".repeat(200_000));
    assert_eq!(says(&server, &id, &command), "200001\n");
    let nul = run_with(&server, &id, &json!({"commands": ["a\0b"]}));
    assert!(nul.status == 400 && nul.json()["detail"].as_str().unwrap().contains("NUL"), "{}", nul.text());
    // `git` works where it is.
    assert_eq!(says(&server, &id, "git init -q . 2>&1 && git status --short && echo fine"), "fine\n");
    server.finish();
}

#[test]
fn r4_7_a_command_that_takes_too_long_is_killed_with_all_that_it_has_started() {
    let server = daiv();
    let id = start(&server, &json!({"base_image": "host"}));
    let command = "trap '' TERM; echo begun; (trap '' TERM; setsid sleep 987) & (sleep 988 &) ; while :; do sleep 989; done";
    let begin = Instant::now();
    let ran = run(&server, &id, &json!({"commands": [command, "echo never"], "timeout": 1}));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(ran["results"].as_array().unwrap().len(), 1, "{ran:#}");
    let result = &ran["results"][0];
    assert_eq!((&result["exit_code"], &result["output"]), (&json!(124), &json!("begun\nCommand timed out after 1s")));
    eventually("its processes are gone", Duration::from_secs(10), || {
        (says(&server, &id, "ps -eo args | grep -c '[s]leep 98' || true") == "0\n").then_some(())
    });
    let default = with(&[("DAIV_SANDBOX_COMMAND_TIMEOUT", "1")]);
    let other = start(&default, &json!({"base_image": "host"}));
    assert_eq!(run(&default, &other, &json!({"commands": ["sleep 100"]}))["results"][0]["output"], "Command timed out after 1s");
    assert_eq!(run(&default, &other, &json!({"commands": ["sleep 2; echo done"], "timeout": 0}))["results"][0]["output"], "done\n");
    default.finish();
    server.finish();
}

#[test]
fn patches_tell_what_commands_have_changed() {
    let server = daiv();
    let id = with_patches(&server);
    let archive = Archive::new()
        .file(b"a.txt", b"old\n")
        .file(b"bin.dat", b"\x00\x01\x02")
        .file(b".gitignore", b"*.log\n")
        .file(b"keep/x y", b"1\n2\n3\n4\n")
        .end();
    assert_eq!(seed(&server, &id, &archive).status, 204);
    assert_eq!(patch_of(&server, &id, "true"), None);
    let change =
        "echo new > a.txt; mv bin.dat bin2.dat; printf '\\000\\377' > nb.bin; echo x > x.log; chmod +x 'keep/x y'; ln -s a.txt link";
    let patch = patch_of(&server, &id, change).unwrap();
    for part in [
        "diff --git a/a.txt b/a.txt\nindex 3367afd",
        " 100644\n--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-old\n+new\n",
        "rename from bin.dat\nrename to bin2.dat\n",
        "GIT binary patch\nliteral 2\n",
        "old mode 100644\nnew mode 100755\n",
        "new file mode 120000\n",
    ] {
        assert!(patch.contains(part), "{part}\nis not in\n{patch}");
    }
    assert!(!patch.contains("x.log"));
    assert_eq!(patch_of(&server, &id, "cat a.txt"), None, "it was told before");
    // What a client writes is not told back.
    let content = BASE64.encode("mine\n");
    let written = write(&server, &id, &json!([{"path": "/repo/mine.txt", "content": content, "mode": 420}])).expect(200).json();
    assert_eq!(written["results"][0]["ok"], true);
    assert_eq!(patch_of(&server, &id, "cat mine.txt"), None);
    // It is taken after a failure as well, and after a time-out.
    let ran = run(&server, &id, &json!({"commands": ["echo 1 > one; exit 1", "true"], "fail_fast": true}));
    assert!(ran["patch"].is_string(), "{ran}");
    let ran = run(&server, &id, &json!({"commands": ["echo 2 > two; sleep 100"], "timeout": 1}));
    let patch = String::from_utf8(BASE64.decode(ran["patch"].as_str().unwrap()).unwrap()).unwrap();
    assert!(patch.contains("+++ b/two\n") && !patch.contains("one"), "{patch}");
    // Nothing of the user's own git is asked.
    let patch = patch_of(&server, &id, "git init -q . && echo '*.txt binary' > .gitattributes && echo newer > a.txt").unwrap();
    assert!(patch.contains("-new\n+newer\n") && !patch.contains(".git/"), "{patch}");
    // Without a seed, what was there before the first request counts.
    let unseeded = with_patches(&server);
    assert!(patch_of(&server, &unseeded, "echo x > y").unwrap().contains("+++ b/y\n"));
    assert_eq!(seed(&server, &unseeded, &archive).status, 204);
    assert_eq!(patch_of(&server, &unseeded, "true"), None);
    // Nobody who does not ask gets one.
    let without = start(&server, &json!({"base_image": "host", "extract_patch": false}));
    assert_eq!(patch_of(&server, &without, "echo x > y"), None);
    server.finish();
}

#[test]
fn patches_apply_to_what_was_there() {
    let server = daiv();
    let id = with_patches(&server);
    let archive = Archive::new().file(b"a", b"1\n2\n3\n").file(b"b", b"\x00\xff").end();
    assert_eq!(seed(&server, &id, &archive).status, 204);
    let patch = patch_of(&server, &id, "sed -i s/2/two/ a; printf '\\001' >> b; mkdir d; echo ü > 'd/ü x'; rm -f nothing").unwrap();
    let directory = std::env::temp_dir().join(format!("caisson-daiv-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a"), "1\n2\n3\n").unwrap();
    std::fs::write(directory.join("b"), b"\x00\xff").unwrap();
    let mut git = Command::new("git").args(["apply", "--whitespace=nowarn"]).current_dir(&directory).stdin(Stdio::piped()).spawn().unwrap();
    git.stdin.take().unwrap().write_all(patch.as_bytes()).unwrap();
    let applied = git.wait().unwrap().success();
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap_or_default();
    let found = (read("a"), read("b"), read("d/ü x"));
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(applied, "{patch}");
    assert_eq!(found, (b"1\ntwo\n3\n".to_vec(), b"\x00\xff\x01".to_vec(), "ü\n".as_bytes().to_vec()));
    server.finish();
}

#[test]
fn one_request_at_a_time_works_with_a_session() {
    let server = daiv();
    let id = start(&server, &json!({"base_image": "host"}));
    thread::scope(|scope| {
        let long = scope.spawn(|| run(&server, &id, &json!({"commands": ["sleep 4; echo done"]})));
        eventually("it runs", Duration::from_secs(10), || {
            let answer = run_with(&server, &id, &json!({"commands": []}));
            (answer.status == 409).then(|| refused(&answer, 409, "Session is busy"))
        });
        let begin = Instant::now();
        refused(&ask(&server, "DELETE", &format!("/session/{id}/")).send(), 409, "Session is busy");
        assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
        // What is wrong with a request is told before.
        assert_eq!(run_with(&server, &id, &json!({})).status, 422);
        assert_eq!(long.join().unwrap()["results"][0]["output"], "done\n");
    });
    assert_eq!(says(&server, &id, "echo free"), "free\n");
    server.finish();
}

#[test]
fn newer_clients_work_on_files() {
    let server = daiv();
    for old in [false, true] {
        let body = if old { json!({"base_image": "host", "extract_patch": false}) } else { json!({"base_image": "host"}) };
        let id = start(&server, &body);
        let fs = |op: &str, body: Value| fs(&server, &id, op, &body);
        let error = |op: &str, body: Value| {
            let answer = self::fs(&server, &id, op, &body);
            (
                answer["error"]["code"].as_str().unwrap_or_default().to_owned(),
                answer["error"]["message"].as_str().unwrap_or_default().to_owned(),
            )
        };
        let told = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        let path = "/workspace/repo/a.txt";
        assert_eq!(fs("write", json!({"path": path, "content": BASE64.encode("one\ntwo\nthree")})), json!({"error": null, "ok": true}));
        let exists = format!("Cannot write to {path} because it already exists. Read and then make an edit, or write to a new path.");
        assert_eq!(error("write", json!({"path": path, "content": ""})), told("already_exists", &exists));
        assert_eq!(
            error("write", json!({"path": "/etc/x", "content": ""})),
            told("invalid_path", "path must be under one of ('/workspace',), got: '/etc/x'")
        );
        assert_eq!(
            error("write", json!({"path": "/workspace", "content": ""})),
            told("invalid_path", "path must not equal a reserved root: '/workspace'")
        );
        assert_eq!(fs("write", json!({"path": "/workspace/repo/sub/.dot/tool", "content": "", "mode": 0o700}))["ok"], true);
        assert_eq!(says(&server, &id, "stat -c '%a %U' /repo/sub/.dot/tool; cat /repo/a.txt"), "755 daiv-sandbox\none\ntwo\nthree");

        let read = |body: Value| self::fs(&server, &id, "read", &body);
        let expect =
            json!({"content": "one\ntwo\nthree", "encoding": "utf-8", "total_lines": 3, "end_line": 3, "truncated": false, "error": null});
        assert_eq!(read(json!({"path": path})), expect);
        let expect = json!({"content": "two", "encoding": "utf-8", "total_lines": 3, "end_line": 2, "truncated": false, "error": null});
        assert_eq!(read(json!({"path": path, "offset": 1, "limit": 1})), expect);
        assert_eq!(
            error("read", json!({"path": path, "offset": 9})),
            told("invalid_offset", "Line offset 9 exceeds file length (3 lines)")
        );
        assert_eq!(error("read", json!({"path": "/workspace/repo/no"})), told("not_found", "No such file: /workspace/repo/no"));
        assert_eq!(
            error("read", json!({"path": "/workspace/repo"})),
            told("is_a_directory", "Is a directory: /workspace/repo (use fs/ls to list it)")
        );
        says(
            &server,
            &id,
            "printf '\\377\\000' > bin; head -c 600000 /dev/zero | tr '\\0' '\\377' > large; : > empty; ln -s sub to; mkdir -p target/x node; echo one > target/x/y; echo one > node/y.py",
        );
        let binary = read(json!({"path": "/workspace/repo/bin"}));
        assert_eq!((&binary["content"], &binary["encoding"], &binary["total_lines"]), (&json!("/wA="), &json!("base64"), &Value::Null));
        assert_eq!(
            error("read", json!({"path": "/workspace/repo/large"})),
            told("too_large", "Binary file exceeds maximum preview size of 512000 bytes")
        );
        assert_eq!(read(json!({"path": "/workspace/repo/empty"}))["content"], "System reminder: File exists but has empty contents");

        let entries = |answer: &Value, field: &str| -> Vec<String> {
            assert_eq!(answer["error"], Value::Null, "{answer}");
            let shown = |entry: &Value| format!("{}{}", entry["path"].as_str().unwrap(), if entry["is_dir"] == true { "/" } else { "" });
            answer[field].as_array().unwrap().iter().map(shown).collect()
        };
        assert_eq!(
            entries(&fs("ls", json!({"path": "/workspace"})), "entries"),
            ["/workspace/repo/", "/workspace/skills/", "/workspace/tmp/"]
        );
        let listed = entries(&fs("ls", json!({"path": "/workspace/repo/"})), "entries");
        let expect = ["a.txt", "bin", "empty", "large", "node/", "sub/", "target/", "to"].map(|name| format!("/workspace/repo/{name}"));
        assert_eq!(listed, expect);
        assert_eq!(error("ls", json!({"path": "/workspace/no"})), told("not_found", "No such directory: /workspace/no"));
        assert_eq!(error("ls", json!({"path": path})), told("not_a_directory", &format!("Not a directory: {path}")));

        let globbed =
            |pattern: &str, path: &str| entries(&self::fs(&server, &id, "glob", &json!({"pattern": pattern, "path": path})), "matches");
        assert_eq!(globbed("*.txt", "/workspace/repo"), [path]);
        assert_eq!(globbed("**/*.py", "/workspace"), ["/workspace/repo/node/y.py"]);
        assert_eq!(globbed("**/y*", "/workspace/repo"), ["/workspace/repo/node/y.py"], "target is passed over");
        assert_eq!(globbed("*/*", "/workspace/repo"), ["/workspace/repo/node/y.py", "/workspace/repo/sub/.dot/"]);
        let excluded = fs("glob", json!({"pattern": "**/y*", "path": "/workspace/repo", "exclude": ["no?e"]}));
        assert_eq!(entries(&excluded, "matches"), Vec::<String>::new());
        assert_eq!(error("glob", json!({"pattern": "*", "path": path})), told("not_a_directory", &format!("Not a directory: {path}")));

        let grepped = fs("grep", json!({"pattern": "^o[n]e$", "path": "/workspace/repo"}));
        let expect = json!({"matches": [{"path": path, "line": 1, "text": "one"}, {"path": "/workspace/repo/node/y.py", "line": 1, "text": "one"}], "truncated": false, "error": null});
        assert_eq!(grepped, expect);
        let only = fs("grep", json!({"pattern": "one", "path": "/workspace", "glob": "*.py", "exclude": ["x"]}));
        assert_eq!(only["matches"], json!([{"path": "/workspace/repo/node/y.py", "line": 1, "text": "one"}]));
        assert_eq!(fs("grep", json!({"pattern": "two", "path": path}))["matches"], json!([{"path": path, "line": 2, "text": "two"}]));
        assert_eq!(
            error("grep", json!({"pattern": "(", "path": "/workspace"})),
            told("invalid_pattern", "invalid regular expression: '('")
        );
        assert_eq!(error("grep", json!({"pattern": "x", "path": "/workspace/no"})), told("not_found", "No such path: /workspace/no"));
        says(&server, &id, "seq 1 500 | sed s/^/match/ > many");
        let many = fs("grep", json!({"pattern": "match", "path": "/workspace/repo/many"}));
        assert_eq!((many["matches"].as_array().unwrap().len(), &many["truncated"]), (200, &json!(true)));

        assert_eq!(fs("edit", json!({"path": path, "old": "two", "new": "2"})), json!({"occurrences": 1, "error": null}));
        assert_eq!(error("edit", json!({"path": path, "old": "nope", "new": ""})), told("string_not_found", "string_not_found"));
        let (code, message) = error("edit", json!({"path": path, "old": "e", "new": "E"}));
        assert!(code == "multiple_occurrences" && message.starts_with("String appears 3 times in file."), "{message}");
        let (code, message) = error("edit", json!({"path": path, "old": "three\n", "new": "3\n"}));
        assert!(code == "string_not_found" && message.starts_with("old_string ends with a newline, but the file does not"), "{message}");
        assert_eq!(fs("edit", json!({"path": path, "old": "e", "new": "E", "replace_all": true}))["occurrences"], 3);
        // What is asked for and what it leads to are bounded, and nothing is changed by a link that leads out.
        let empty = fs("grep", json!({"pattern": "", "path": path}));
        assert_eq!(empty["matches"].as_array().map(Vec::len), Some(3), "{empty}");
        let (code, _) = error("grep", json!({"pattern": "x", "path": path, "exclude": ["x".repeat(5000)]}));
        assert_eq!(code, "invalid_pattern");
        says(
            &server,
            &id,
            "echo kept > /workdir/far; ln -s /workdir/far away; ln -s /workdir off; head -c 17000000 /dev/zero | tr '\\0' a > huge; ln -s huge to-huge; echo in > inner; ln -s inner to-inner",
        );
        for (op, name, expect) in [
            ("edit", "away", "permission_denied"),
            ("edit", "off/far", "permission_denied"),
            ("delete", "off/far", "permission_denied"),
            ("read", "to-huge", "too_large"),
            ("edit", "to-huge", "too_large"),
        ] {
            let (code, message) =
                error(op, json!({"path": format!("/workspace/repo/{name}"), "old": "a", "new": "b", "replace_all": true}));
            assert_eq!(code, expect, "{op} {name}: {message}");
        }
        assert_eq!(fs("edit", json!({"path": "/workspace/repo/to-inner", "old": "in", "new": "inside"}))["occurrences"], 1);
        assert_eq!(fs("delete", json!({"path": "/workspace/repo/to-huge"}))["removed"], true);
        assert_eq!(says(&server, &id, "cat /workdir/far inner; readlink to-inner; wc -c < huge"), "kept\ninside\ninner\n17000000\n");
        says(&server, &id, "chmod 755 a.txt; printf 'a\\r\\nb\\r\\n' > crlf");
        assert_eq!(fs("edit", json!({"path": "/workspace/repo/crlf", "old": "a\nb", "new": "c\nd"}))["occurrences"], 1);
        assert_eq!(fs("edit", json!({"path": path, "old": "2", "new": "zwei"}))["error"], Value::Null);
        assert_eq!(
            says(&server, &id, "stat -c %a a.txt; cat a.txt; od -c crlf | head -1"),
            "755\nonE\nzwei\nthrEE0000000   c  \\r  \\n   d  \\r  \\n\n"
        );
        assert_eq!(
            error("edit", json!({"path": "/workspace/repo/bin", "old": "a", "new": "b"})),
            told("not_a_text_file", "Not a text file: /workspace/repo/bin")
        );
        assert_eq!(
            error("edit", json!({"path": "/workspace/repo/sub", "old": "a", "new": "b"})),
            told("is_a_directory", "Is a directory: /workspace/repo/sub")
        );

        assert_eq!(fs("delete", json!({"path": path})), json!({"removed": true, "error": null, "ok": true}));
        assert_eq!(fs("delete", json!({"path": path})), json!({"removed": false, "error": null, "ok": true}));
        assert_eq!(error("delete", json!({"path": "/workspace/repo/sub"})), told("is_a_directory", "Is a directory: /workspace/repo/sub"));
        assert_eq!(error("delete", json!({"path": "/workspace/repo"})), told("is_a_directory", "Is a directory: /workspace/repo"));
        let answer = ask(&server, "POST", &format!("/session/{id}/fs/read")).json(&json!({"offset": -1, "limit": 0})).send();
        assert_eq!(
            faults(&answer),
            [r#"missing ["body","path"]"#, r#"greater_than_equal ["body","offset"]"#, r#"greater_than_equal ["body","limit"]"#]
        );
        close(&server, &id);
    }
    server.finish();
}

#[test]
fn r6_2_tenants_see_nothing_of_one_anothers_sessions() {
    let server = daiv();
    let key = |tenant: &str| {
        let made = server.post("/v1/keys", &json!({"tenant": tenant, "scope": "run"})).expect(201).json();
        made["key"].as_str().unwrap().to_owned()
    };
    let (mine, theirs) = (key("mine"), key("theirs"));
    let with = |key: &str, method: &str, target: &str, body: &Value| {
        let client = Client { key: None, ..server.client.clone() };
        client.request(method, target).header("x-api-key", key).json(body).send()
    };
    let made = with(&mine, "POST", "/session/", &json!({"base_image": "host"})).expect(200).json();
    let id = made["session_id"].as_str().unwrap();
    let commands = json!({"commands": ["echo mine"]});
    for key in [theirs.as_str(), KEY] {
        refused(&with(key, "POST", &format!("/session/{id}/"), &commands), 404, NO_SESSION);
        refused(&with(key, "GET", &format!("/session/{id}/"), &json!({})), 404, NO_SESSION);
        refused(&with(key, "POST", &format!("/session/{id}/fs/ls"), &json!({"path": "/workspace"})), 404, NO_SESSION);
        assert_eq!(with(key, "DELETE", &format!("/session/{id}/"), &json!({})).status, 204);
    }
    let ran = with(&mine, "POST", &format!("/session/{id}/"), &commands).expect(200).json();
    assert_eq!(ran["results"][0]["output"], "mine\n");
    server.finish();
}

#[test]
fn settings_are_those_of_upstream() {
    let server = with(&[
        ("DAIV_SANDBOX_API_V1_STR", "/sandbox/v9"),
        ("DAIV_SANDBOX_RUN_UID", "1234"),
        ("DAIV_SANDBOX_RUN_GID", "4321"),
        ("DAIV_SANDBOX_FS_PRUNE_DIRS", "vendor"),
        ("DAIV_SANDBOX_SESSION_LOCK_WAIT_SECONDS", "0"),
        ("DAIV_SANDBOX_RUNNING_SESSION_MAX_IDLE_SECONDS", "7200"),
        ("DAIV_SANDBOX_SENTRY_PROFILES_SAMPLE_RATE", "0.5"),
        ("DAIV_SANDBOX_GIT_IMAGE", "alpine/git:1"),
        ("DAIV_SANDBOX_REAPER_ENABLED", ""),
        ("DAIV_SANDBOX_STOP_TIMEOUT_SECONDS", "5"),
    ]);
    let id = start(&server, &json!({"base_image": "host"}));
    assert_eq!(ask(&server, "GET", &format!("/sandbox/v9/session/{id}/")).send().status, 204);
    assert_eq!(ask(&server, "GET", &format!("/api/v1/session/{id}/")).send().status, 404);
    assert_eq!(says(&server, &id, "id -u; id -g; mkdir -p vendor/a target/a; touch vendor/a/x target/a/x"), "1234\n4321\n");
    let found = fs(&server, &id, "glob", &json!({"pattern": "**/x", "path": "/workspace/repo"}));
    assert_eq!(found["matches"], json!([{"path": "/workspace/repo/target/a/x", "is_dir": false}]));
    let native = server.get(&format!("/v1/sandboxes/{id}")).expect(200).json();
    // A session on disk is stopped when nobody uses it, and does not end.
    assert_eq!((&native["storage"], &native["idle_timeout_s"]), (&json!("disk"), &Value::Null), "{native:#}");
    let log = server.log();
    for line in [
        "DAIV_SANDBOX_SENTRY_PROFILES_SAMPLE_RATE is not used",
        "DAIV_SANDBOX_GIT_IMAGE is not used",
        "DAIV_SANDBOX_STOP_TIMEOUT_SECONDS is not used",
        "DAIV_SANDBOX_RUN_UID of the environment is used",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(!log.contains(KEY));
    server.finish();
}

/// All that a Sentry server was told, in which there is this.
fn told(sentry: &Receiver, what: &str) -> String {
    eventually(what, Duration::from_secs(20), || {
        let envelopes: Vec<_> = sentry.messages().iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect();
        Some(envelopes.concat()).filter(|told| told.contains(what))
    })
}

#[test]
fn sentry_is_told_what_goes_wrong() {
    let code = "import sys; print('of', 'nobody', file=sys.stderr); sys.exit(3)";
    let sentry = Receiver::fine();
    let dsn = format!("http://public@{}/7", sentry.address);
    let server = with(&[("DAIV_SANDBOX_SENTRY_DSN", &dsn), ("DAIV_SANDBOX_ENVIRONMENT", "local")]);
    assert_eq!(server.run(&json!({"language": "python", "code": code}))["exit_code"], 3);
    assert_eq!(sentry.count(), 0, "programs that fail are nothing of Sentry's: {:?}", sentry.messages());
    kill_nine(server.launcher().pid);
    let envelopes = told(&sentry, "launcher has died");
    let first = &sentry.messages()[0];
    assert_eq!(first.line, "POST /api/7/envelope/ HTTP/1.1");
    assert!(first.header("x-sentry-auth").contains("sentry_key=public"), "{:?}", first.headers);
    for field in [r#""type":"event""#, r#""environment":"local""#, r#""release":"caisson@"#, r#""server_name":""#, "Listening on"] {
        assert!(envelopes.contains(field), "{field}: {envelopes}");
    }
    for secret in [KEY, &server.client.key.clone().unwrap(), "nobody"] {
        assert!(!envelopes.contains(secret), "{secret}: {envelopes}");
    }
    for nothing in [r#"{"type":"transaction""#, r#"{"type":"log""#] {
        assert!(!envelopes.contains(nothing), "{nothing}: {envelopes}");
    }
    assert_eq!(server.python("print(1)"), "1\n", "a new launcher is there");
    server.finish();

    for (addresses, has_them) in [("false", false), ("true", true)] {
        let sentry = Receiver::fine();
        let dsn = format!("http://public@{}/7", sentry.address);
        let server = with(&[
            ("DAIV_SANDBOX_SENTRY_DSN", &dsn),
            ("DAIV_SANDBOX_SENTRY_ENABLE_LOGS", "true"),
            ("DAIV_SANDBOX_SENTRY_TRACES_SAMPLE_RATE", "1.0"),
            ("DAIV_SANDBOX_SENTRY_SEND_DEFAULT_PII", addresses),
        ]);
        assert_eq!(server.python("print(1)"), "1\n");
        // What has not been told by then is told at the end.
        server.finish();
        for part in [r#"{"type":"transaction""#, r#"{"type":"log""#] {
            told(&sentry, part);
        }
        let log = told(&sentry, "POST /v1/run was answered with 200");
        assert_eq!(log.contains(r#""peer":"#), has_them, "{log}");
    }

    let silent = Receiver::start(|_, _| Reply::Silence);
    let server = with(&[("DAIV_SANDBOX_SENTRY_DSN", &format!("http://public@{}/7", silent.address))]);
    kill_nine(server.launcher().pid);
    eventually("somebody asks Sentry", Duration::from_secs(10), || (silent.count() > 0).then_some(()));
    assert_eq!(server.python("print(1)"), "1\n", "nobody waits for Sentry");
    let begin = Instant::now();
    server.finish();
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}

fn state(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/sandboxes/{id}")).expect(200).json()["state"].clone()
}

#[test]
fn sessions_survive_their_server_and_patches_go_on() {
    let mut server = daiv();
    let id = with_patches(&server);
    let archive = Archive::new().file(b"a.txt", b"old\n").end();
    assert_eq!(seed(&server, &id, &archive).status, 204);
    assert!(patch_of(&server, &id, "echo one > one && echo more >> a.txt").unwrap().contains("+more"));
    let old = with_patches(&server);
    for round in 0..2 {
        if round == 0 {
            server.kill();
        } else {
            assert!(server.stop().success());
        }
        server.start_again();
        assert_eq!(state(&server, &id), "stopped");
        // To look at it starts it.
        if round == 0 {
            assert_eq!(ask(&server, "GET", &format!("/session/{id}/")).send().status, 204);
            assert_eq!(state(&server, &id), "running");
        }
        // A patch is what its own request has changed, and not what was there before.
        let patch = patch_of(&server, &id, &format!("echo {round} > two && cat one >> a.txt && readlink /workspace/repo")).unwrap();
        assert!(patch.contains("+one") && patch.contains(&format!("+{round}")) && !patch.contains("+more"), "{patch}");
        assert_eq!(patch_of(&server, &id, "cat one two"), None);
        refused(&seed(&server, &id, &archive), 409, "Session already seeded");
        let body = json!([{"path": "/repo/new", "content": BASE64.encode("x"), "mode": 420}]);
        assert_eq!(write(&server, &id, &body).expect(200).json()["results"][0]["ok"], true);
    }
    // One that is stopped is closed as well, and what cannot be started says so.
    server.kill();
    server.start_again();
    close(&server, &old);
    refused(&ask(&server, "GET", &format!("/session/{old}/")).send(), 404, "Session not found or already closed");
    let disk = server.home().data().join("disks").join(&id);
    std::fs::File::options().write(true).open(&disk).unwrap().set_len(1 << 20).unwrap();
    refused(&ask(&server, "GET", &format!("/session/{id}/")).send(), 503, &format!("Session '{id}' could not be restarted"));
    refused(&run_with(&server, &id, &json!({"commands": []})), 503, &format!("Session '{id}' could not be restarted"));
    close(&server, &id);
    assert!(!disk.exists());
    server.finish();
}

#[test]
fn sessions_that_nobody_uses_are_stopped_and_not_for_ever() {
    let server = with(&[
        ("DAIV_SANDBOX_RUNNING_SESSION_MAX_IDLE_SECONDS", "2"),
        ("DAIV_SANDBOX_REAPER_INTERVAL_SECONDS", "1"),
        ("DAIV_SANDBOX_SESSION_GRACE_SECONDS", "4"),
        ("DAIV_SANDBOX_MAX_STOPPED_SESSIONS", "5"),
    ]);
    let id = start(&server, &json!({"base_image": "host"}));
    let native = server.sandbox(&json!({"storage": "disk"}));
    assert_eq!(says(&server, &id, "echo x > f; sleep 4"), "");
    assert_eq!(state(&server, &id), "running", "a request keeps it");
    // To ask for it by its id is to use it.
    let stopped = || server.get("/v1/sandboxes?state=stopped").expect(200).json()["data"].as_array().unwrap().len();
    eventually("it to be stopped", Duration::from_secs(15), || (stopped() == 1).then_some(()));
    assert_eq!(says(&server, &id, "cat f"), "x\n");
    let listed = |state: &str| server.get(&format!("/v1/sandboxes?state={state}")).expect(200).json()["data"].as_array().unwrap().len();
    eventually("it to be removed", Duration::from_secs(30), || (listed("ended") == 1).then_some(()));
    refused(&run_with(&server, &id, &json!({"commands": []})), 404, "Session not found or already closed");
    assert_eq!(state(&server, &native.id), "running", "it is nobody's session");
    native.delete().expect(200);
    server.finish();
}

#[test]
fn the_example_runs_as_it_is() {
    let server = daiv();
    let example = Path::new(TOP).join("examples/daiv.py");
    let ran = Command::new("python3")
        .arg(example)
        .env("DAIV_SANDBOX_URL", format!("http://{}", server.client.address))
        .env("DAIV_SANDBOX_API_KEY", KEY)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{err}");
    assert!(
        out.contains("$ cat greeting.txt -> 0\ngoodbye\n")
            && out.contains("-hello\n+goodbye\n")
            && out.contains("deleted file mode 100644"),
        "{out}"
    );
    server.finish();
}
