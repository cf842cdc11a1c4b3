//! Workspaces: files by themselves, in one-shots, and when storage fails. Over a directory and over two S3 servers.

use std::{collections::BTreeMap, fs, time::Duration};

use caisson_tests::{Answer, Client, Fault, FaultyLine, S3Kind, S3Server, Server, Setup, Value, eventually, fewer, json, with_s3};

/// A server of ours, and what keeps its files.
struct Place {
    server: Server,
    s3: Option<S3Server>,
}

fn directory() -> Place {
    Place { server: Server::start(), s3: None }
}

fn s3(kind: S3Kind) -> Place {
    let s3 = S3Server::start(kind);
    Place { server: with_s3(Setup::default(), s3.address).start(), s3: Some(s3) }
}

#[track_caller]
fn put(client: &Client, name: &str, content: impl Into<Vec<u8>>) -> Value {
    client.request("PUT", &format!("/v1/workspaces/w/files/{name}")).bytes(content).send().expect(200).json()
}

fn get(client: &Client, name: &str) -> Answer {
    client.request("GET", &format!("/v1/workspaces/w/files/{name}")).send()
}

#[track_caller]
fn files(client: &Client) -> BTreeMap<String, u64> {
    let list = client.request("GET", "/v1/workspaces/w/files").send().expect(200).json();
    let file = |file: &Value| (file["path"].as_str().unwrap().to_owned(), file["size"].as_u64().unwrap());
    list["data"].as_array().unwrap().iter().map(file).collect()
}

fn names(files: &Value) -> Vec<&str> {
    files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect()
}

/// Files by themselves, whatever keeps them.
fn files_by_themselves(client: &Client) {
    let written = put(client, "a/b%20c.txt", "content");
    assert_eq!((&written["path"], &written["size"], &written["media_type"]), (&json!("a/b c.txt"), &json!(7), &json!("text/plain")));
    let answer = get(client, "a/b%20c.txt").expect(200);
    let etag = answer.header("etag").unwrap().to_owned();
    assert_eq!((answer.text().as_str(), etag.as_str()), ("content", format!("\"{}\"", written["etag"].as_str().unwrap()).as_str()));
    assert_eq!((answer.header("x-caisson-mode"), answer.header("content-security-policy")), (Some("0644"), Some("sandbox")));
    let ranged = |range: &str| client.request("GET", "/v1/workspaces/w/files/a/b%20c.txt").header("range", range).send();
    assert_eq!(ranged("bytes=1-3").expect(206).text(), "ont");
    assert_eq!(ranged("bytes=-3").expect(206).text(), "ent");
    ranged("bytes=7-").refused(416, "range_not_satisfiable");
    let known = client.request("GET", "/v1/workspaces/w/files/a/b%20c.txt").header("if-none-match", &etag).send();
    assert_eq!(known.status, 304);
    let head = client.request("HEAD", "/v1/workspaces/w/files/a/b%20c.txt").send().expect(200);
    assert_eq!((head.header("content-length"), head.text().as_str()), (Some("7"), ""));

    let change = |name: &str, value: &str, content: &str| {
        client.request("PUT", "/v1/workspaces/w/files/a/b%20c.txt").header(name, value).bytes(content).send()
    };
    change("if-none-match", "*", "x").refused(412, "precondition_failed");
    change("if-match", "\"0\"", "x").refused(412, "precondition_failed");
    change("if-match", &etag, "changed").expect(200);
    change("if-match", &etag, "x").refused(412, "precondition_failed");
    assert_eq!(get(client, "a/b%20c.txt").expect(200).text(), "changed");

    put(client, "run.sh?mode=0755", "#!/bin/sh\necho it runs\n");
    assert_eq!(get(client, "run.sh").expect(200).header("x-caisson-mode"), Some("0755"));
    put(client, "empty", "");
    put(client, "%F0%9F%A6%80%25%23%3F%2B%26=", "crab");
    let all = ["a/b c.txt", "empty", "run.sh", "🦀%#?+&="];
    assert_eq!(files(client).into_keys().collect::<Vec<_>>(), all);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.request("GET", &format!("/v1/workspaces/w/files?limit=1{cursor}")).send().expect(200).json();
        seen.extend(names(&page["data"]).iter().map(|name| (*name).to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, all);
    let below = client.request("GET", "/v1/workspaces/w/files?prefix=a/").send().expect(200).json();
    assert_eq!(names(&below["data"]), ["a/b c.txt"]);

    client.request("PUT", "/v1/workspaces/w%2Fx/files/a").bytes("other").send().expect(200);
    client.request("PUT", "/v1/workspaces/w.x/files/a").bytes("other").send().expect(200);
    let workspaces = || {
        let list = client.request("GET", "/v1/workspaces").send().expect(200).json();
        list["data"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut found = workspaces();
    found.sort();
    assert_eq!(found, ["w", "w.x", "w/x"]);
    let link =
        client.request("POST", "/v1/workspaces/w/links").json(&json!({"path": "a/b c.txt", "expires_in_s": 60})).send().expect(201).json();
    assert_eq!(fetch(link["url"].as_str().unwrap()), (200, "changed".to_owned()));

    client.request("DELETE", "/v1/workspaces/w/files/empty").send().expect(204);
    client.request("DELETE", "/v1/workspaces/w/files/empty").send().refused(404, "not_found");
    get(client, "empty").refused(404, "not_found");
    let gone = client.request("DELETE", "/v1/workspaces/w").send().expect(200).json();
    assert_eq!((gone, files(client).len()), (json!({"files": 3}), 0));
    client.request("DELETE", "/v1/workspaces/w%2Fx").send().expect(200);
    client.request("DELETE", "/v1/workspaces/w.x").send().expect(200);
    assert!(workspaces().is_empty());
}

/// An address that needs no key.
fn fetch(url: &str) -> (u16, String) {
    let rest = url.strip_prefix("http://").expect("an address without TLS");
    let (host, path) = rest.split_once('/').unwrap();
    let client = Client { address: host.parse().unwrap(), key: None };
    let answer = client.request("GET", &format!("/{path}")).send();
    (answer.status, answer.text())
}

/// What one-shots do with files, whatever keeps them.
fn files_in_one_shots(server: &Server) {
    put(&server.client, "in.txt", "given");
    put(&server.client, "same.txt", "same");
    put(&server.client, "tool?mode=0755", "#!/bin/sh\necho made by a tool\n");
    put(&server.client, "other.txt", "not asked for");
    let result = server.run(&json!({
        "shell": "ls; ./tool > sub/out.txt || { mkdir sub; ./tool > sub/out.txt; }; cat in.txt; echo more >> in.txt; cat same.txt > x; cat x > same.txt; rm x; \
                  echo 'a,b' > t.csv; chmod 600 t.csv; : > none; ln -s /etc/passwd link",
        "workspace": {"name": "w", "files": ["in.txt", "tool", "same.txt", "in.txt"]},
    }));
    assert_eq!(result["status"], "exited", "{result:#}");
    assert!(result["stdout"].as_str().unwrap().starts_with("in.txt\nsame.txt\ntool\n"), "{result:#}");
    let told = &result["workspace"];
    assert_eq!((&told["state"], names(&told["synced_in"])), (&json!("synced"), vec!["in.txt", "same.txt", "tool"]), "{told:#}");
    assert_eq!(
        names(&told["synced_out"]),
        ["in.txt", "none", "sub/out.txt", "t.csv"],
        "what is equal to what came in is no output: {told:#}"
    );
    assert_eq!(told["synced_out"][3]["media_type"], "text/csv");
    assert!(told["synced_out"].as_array().unwrap().iter().all(|file| file.get("overwrote").is_none()), "{told:#}");
    assert_eq!(get(&server.client, "in.txt").expect(200).text(), "givenmore\n");
    assert_eq!(get(&server.client, "sub/out.txt").expect(200).text(), "made by a tool\n");
    assert_eq!(get(&server.client, "t.csv").expect(200).header("x-caisson-mode"), Some("0600"));
    assert_eq!(get(&server.client, "other.txt").expect(200).text(), "not asked for");
    let record = server.execution(result["id"].as_str().unwrap());
    assert_eq!(&record["workspace"], told);

    let mode = server.run(&json!({"shell": "chmod 700 in.txt", "workspace": {"name": "w", "files": ["in.txt"]}}));
    assert_eq!(names(&mode["workspace"]["synced_out"]), ["in.txt"], "other permission bits are a change: {mode:#}");
    let blind = server.run(&json!({"shell": "echo new > other.txt", "workspace": {"name": "w"}}));
    assert!(blind["workspace"]["synced_out"][0]["overwrote"].is_string(), "it replaced what it had not read: {blind:#}");
    let kept = server.run(&json!({"shell": "echo x > other.txt", "workspace": {"name": "w", "files": ["other.txt"], "sync_out": false}}));
    assert_eq!(
        (kept["workspace"]["synced_out"].clone(), get(&server.client, "other.txt").expect(200).text()),
        (json!([]), "new\n".to_owned())
    );
    let missing = server.post("/v1/run", &json!({"shell": "true", "workspace": {"name": "w", "files": ["in.txt", "absent"]}}));
    assert!(missing.refused(404, "not_found").contains("absent"));

    // Two at once: the later one writes over the other's, and says so.
    let slow = json!({"shell": "sleep 1; echo slow > in.txt", "workspace": {"name": "w", "files": ["in.txt"]}});
    let (slow, fast) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| server.run(&slow));
        std::thread::sleep(Duration::from_millis(300));
        let fast = server.run(&json!({"shell": "echo fast > in.txt", "workspace": {"name": "w", "files": ["in.txt"]}}));
        (slow.join().unwrap(), fast)
    });
    assert!(fast["workspace"]["synced_out"][0].get("overwrote").is_none(), "{fast:#}");
    assert_eq!(slow["workspace"]["synced_out"][0]["overwrote"], fast["workspace"]["synced_out"][0]["etag"], "{slow:#}");
    assert_eq!(get(&server.client, "in.txt").expect(200).text(), "slow\n");

    let many = fewer(1000);
    let code = format!("for i in range({many}): open(f'f{{i:04}}', 'w').write(str(i) * 1000)");
    let result = server.run(&json!({"language": "python", "code": code, "workspace": {"name": "many"}}));
    assert_eq!(
        (&result["workspace"]["state"], names(&result["workspace"]["synced_out"]).len()),
        (&json!("synced"), many),
        "{:#}",
        result["workspace"]
    );
    server.request("DELETE", "/v1/workspaces/many").send().expect(200);
    server.request("DELETE", "/v1/workspaces/w").send().expect(200);
}

/// Large files go in parts and through little memory.
fn large_files(server: &Server) {
    let bytes: Vec<u8> = (0..(33 << 20)).map(|at: u32| (at >> 8) as u8 ^ at as u8).collect();
    put(&server.client, "large", bytes.clone());
    assert!(get(&server.client, "large").expect(200).body == bytes, "it comes back as it was");
    let code = "d = open('large', 'rb').read(); open('back', 'wb').write(d[::-1])";
    let body = json!({"language": "python", "code": code, "workspace": {"name": "w", "files": ["large"]},
        "limits": {"memory_bytes": 512 << 20}, "storage": "memory", "max_file_bytes": 0});
    let result = server.run(&body);
    assert_eq!((&result["workspace"]["state"], names(&result["workspace"]["synced_out"])), (&json!("synced"), vec!["back"]), "{result:#}");
    let back = get(&server.client, "back").expect(200).body;
    assert!(back.iter().rev().eq(bytes.iter()), "it comes back the other way round");
    server.request("DELETE", "/v1/workspaces/w").send().expect(200);
}

#[test]
fn a_directory_keeps_files() {
    let place = directory();
    files_by_themselves(&place.server.client);
    files_in_one_shots(&place.server);
    large_files(&place.server);
    let left = fs::read_dir(place.server.home().data().join("blobs/files")).unwrap().count();
    let spooled = fs::read_dir(place.server.home().data().join("spool")).unwrap().count();
    assert_eq!((left, spooled), (0, 0), "directories go with the last file, and the spool is empty");
}

#[test]
fn s3s_fs_keeps_files() {
    let place = s3(S3Kind::Files);
    files_by_themselves(&place.server.client);
    files_in_one_shots(&place.server);
    large_files(&place.server);
    assert!(place.s3.is_some());
}

#[test]
fn moto_keeps_files() {
    let place = s3(S3Kind::Moto);
    files_by_themselves(&place.server.client);
    files_in_one_shots(&place.server);
    large_files(&place.server);
    assert!(place.s3.is_some());
}

#[test]
fn r5_5_names_lead_nowhere_else() {
    let server = Server::start();
    put(&server.client, "secret", "of w");
    for bad in ["..", "%2e%2e/w/files/secret", "a/%2e%2e/secret", "a//b", "%2Fsecret", "a%00b", "a%0Ab", "a/", "%ff"] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = server.request(method, &format!("/v1/workspaces/v/files/{bad}")).send();
            assert_eq!(answer.status, 400, "{method} {bad}: {}", answer.text());
        }
    }
    server.get(&format!("/v1/workspaces/v/files/{}", "x/".repeat(600) + "x")).refused(400, "invalid_file_name");
    for bad in ["..", "%2e", "a%0Ab", &"x".repeat(256), "%ff"] {
        let answer = server.get(&format!("/v1/workspaces/{bad}/files"));
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    for other in ["W", "w%20", "w%2F", "w%252F", "%77%CC%81", "default%2Fw", "..%2Fdefault%2Fw"] {
        let answer = server.get(&format!("/v1/workspaces/{other}/files/secret"));
        assert_eq!(answer.status, 404, "{other}: {}", answer.text());
    }
    for name in ["../secret", "/etc/passwd", "a\nb", "", "."] {
        let body = json!({"shell": "true", "workspace": {"name": "w", "files": [name]}});
        server.post("/v1/run", &body).refused(400, "invalid_file_name");
    }
    for directory in ["..", "/a/../..", "a//b", "/"] {
        let body = json!({"shell": "true", "workspace": {"name": "w", "directory": directory}});
        server.post("/v1/run", &body).refused(400, "invalid_path");
    }
}

#[test]
fn r5_5_tenants_see_nothing_of_one_another() {
    let server = Server::start();
    let client = |tenant: &str, scope: &str| {
        let made = server.post("/v1/keys", &json!({"tenant": tenant, "scope": scope})).expect(201).json();
        Client { key: Some(made["key"].as_str().unwrap().to_owned()), ..server.client.clone() }
    };
    let (mine, theirs, reader) = (client("mine", "run"), client("mine2", "run"), client("mine", "read"));
    put(&mine, "secret", "of mine");
    assert_eq!(get(&reader, "secret").expect(200).text(), "of mine");
    assert_eq!(reader.request("PUT", "/v1/workspaces/w/files/secret").bytes("x").send().status, 403);
    assert_eq!(reader.request("DELETE", "/v1/workspaces/w").send().status, 403);
    get(&theirs, "secret").refused(404, "not_found");
    assert!(files(&theirs).is_empty());
    assert_eq!(theirs.request("GET", "/v1/workspaces").send().expect(200).json()["data"], json!([]));
    assert_eq!(theirs.request("DELETE", "/v1/workspaces/w").send().expect(200).json(), json!({"files": 0}));
    let body = json!({"shell": "cat secret", "workspace": {"name": "w", "files": ["secret"]}});
    theirs.request("POST", "/v1/run").json(&body).send().refused(404, "not_found");
    let run = mine.request("POST", "/v1/run").json(&body).send().expect(200).json();
    assert_eq!(run["stdout"], "of mine");
    let id = run["id"].as_str().unwrap();
    assert!(mine.request("GET", &format!("/v1/executions/{id}")).send().expect(200).json()["workspace"].is_object());
    theirs.request("GET", &format!("/v1/executions/{id}")).send().refused(404, "not_found");
    assert_eq!(get(&mine, "secret").expect(200).text(), "of mine");
}

#[test]
fn r5_5_links_open_one_file_for_their_time() {
    let server = Server::start();
    put(&server.client, "a.html", "<script>");
    put(&server.client, "b", "other");
    let ask = |body: Value| server.post("/v1/workspaces/w/links", &body);
    ask(json!({"path": "absent"})).refused(404, "not_found");
    ask(json!({"path": "../a"})).refused(400, "invalid_file_name");
    ask(json!({"path": "b", "expires_in_s": 0})).refused(400, "limit_out_of_range");
    let url = ask(json!({"path": "a.html"})).expect(201).json()["url"].as_str().unwrap().to_owned();
    assert_eq!(fetch(&url), (200, "<script>".to_owned()));
    assert_eq!(fetch(&url.replace("a.html", "b")).0, 401);
    assert_eq!(fetch(&url.replace("/w/", "/v/")).0, 401);
    assert_eq!(fetch(&url.replace("/default/", "/other/")).0, 401);
    let short = ask(json!({"path": "b", "expires_in_s": 1})).expect(201).json()["url"].as_str().unwrap().to_owned();
    eventually("the link expires", Duration::from_secs(10), || (fetch(&short).0 == 401).then_some(()));
    assert!(!server.log().contains("/wl_AAAA"), "tokens are not in the log");
}

#[test]
fn what_storage_does_not_take_is_kept_and_written_later() {
    let s3 = S3Server::start(S3Kind::Files);
    let line = FaultyLine::to(s3.address);
    let mut server = with_s3(Setup::default(), line.address).start();
    put(&server.client, "in.txt", "given");
    let mut ids = Vec::new();
    for (number, fault) in [Fault::Status(403), Fault::Status(500), Fault::Refused, Fault::CutAfter(100)].into_iter().enumerate() {
        line.set(fault);
        let result = server.run(&json!({"shell": format!("echo {number} > out{number}"), "workspace": {"name": "w"}}));
        assert_eq!((&result["status"], &result["workspace"]["state"]), (&json!("exited"), &json!("pending")), "{fault:?}: {result:#}");
        assert_eq!(names(&result["workspace"]["pending"]), [format!("out{number}")]);
        get(&server.client, "in.txt").refused(503, "blob_unavailable");
        server.post("/v1/run", &json!({"shell": "true", "workspace": {"name": "w", "files": ["in.txt"]}})).refused(503, "blob_unavailable");
        ids.push(result["id"].as_str().unwrap().to_owned());
    }
    // What is pending survives the server.
    server.kill();
    server.start_again();
    assert_eq!(server.execution(&ids[0])["workspace"]["state"], "pending");
    line.set(Fault::None);
    for (number, id) in ids.iter().enumerate() {
        let synced = || (server.execution(id)["workspace"]["state"] == "synced").then_some(());
        eventually("what was pending is synced", Duration::from_secs(60), synced);
        assert_eq!(get(&server.client, &format!("out{number}")).expect(200).text(), format!("{number}\n"));
    }
    assert_eq!(fs::read_dir(server.home().data().join("spool")).unwrap().count(), 0);
    let log = server.log();
    assert!(!log.contains("secret-key-of-the-tests"), "{log}");
}

#[test]
fn a_storage_that_says_nothing_holds_nobody_for_long() {
    let s3 = S3Server::start(S3Kind::Moto);
    let line = FaultyLine::to(s3.address);
    let server = with_s3(Setup::default(), line.address).start();
    line.set(Fault::Silent);
    let result = server.run(&json!({"shell": "echo x > out", "workspace": {"name": "w"}}));
    assert_eq!(result["workspace"]["state"], "pending", "{result:#}");
    line.set(Fault::None);
    let id = result["id"].as_str().unwrap();
    eventually("it is synced", Duration::from_secs(180), || (server.execution(id)["workspace"]["state"] == "synced").then_some(()));
    assert_eq!(get(&server.client, "out").expect(200).text(), "x\n");
}

#[test]
fn the_command_line_keeps_files() {
    let server = Server::start();
    let home = server.home().path().to_owned();
    fs::write(home.join("report.txt"), "of this machine").unwrap();
    let ran = |arguments: &[&str]| {
        let mut command = server.command(arguments);
        let output = command.current_dir(&home).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let fine = |arguments: &[&str]| {
        let (code, out, err) = ran(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    };
    fine(&["workspace", "put", "a/b", "report.txt"]);
    fine(&["workspace", "put", "a/b", "report.txt", "sub/other.txt"]);
    assert!(fine(&["workspace", "ls"]).contains("a/b"));
    let listed = fine(&["workspace", "ls", "a/b", "sub/"]);
    assert!(listed.contains("sub/other.txt") && !listed.contains("report.txt"), "{listed}");
    assert_eq!(fine(&["workspace", "get", "a/b", "report.txt"]), "of this machine");
    fine(&["workspace", "get", "a/b", "sub/other.txt", "back.txt"]);
    assert_eq!(fs::read_to_string(home.join("back.txt")).unwrap(), "of this machine");
    let url = fine(&["workspace", "link", "a/b", "report.txt", "--expires", "1m"]);
    assert_eq!(fetch(url.trim()), (200, "of this machine".to_owned()));
    fine(&["workspace", "rm", "a/b", "report.txt"]);
    assert_eq!(ran(&["workspace", "get", "a/b", "report.txt"]).0, Some(1));
    fine(&["workspace", "rm", "a/b", "--all"]);
    assert!(!fine(&["workspace", "ls"]).contains("a/b"));
}
