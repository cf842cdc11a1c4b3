//! Workspaces: files by themselves, in one-shots, and when storage fails. Over a directory and over two S3 servers.

use std::{collections::BTreeMap, fs, time::Duration};

use caisson_tests::{Answer, Client, Fault, FaultyLine, S3Kind, S3Server, Sandbox, Server, Setup, Value, eventually, fewer, json, with_s3};

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

/// A command line that says nothing.
#[track_caller]
fn does(sandbox: &Sandbox<'_>, line: &str) {
    assert_eq!(sandbox.shell(line), "");
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

/// What programs in a living sandbox do with files, and what is put in and taken out beside them, whatever keeps the files.
fn files_in_living_sandboxes(server: &Server) {
    let client = &server.client;
    put(client, "in.txt", "given");
    put(client, "same.txt", "same");
    put(client, "tool?mode=0755", "#!/bin/sh\necho made by a tool\n");
    let sandbox = server.sandbox(&json!({}));
    does(&sandbox, "echo own > own; echo own > in.txt");
    let missing = sandbox.try_exec(&json!({"shell": "echo ran > ran", "workspace": {"name": "w", "files": ["in.txt", "absent"]}}));
    assert!(missing.refused(404, "not_found").contains("absent"));
    assert_eq!(sandbox.shell("ls; cat in.txt"), "in.txt\nown\nown\n", "nothing ran, and nothing was put in");

    let result = sandbox.exec(&json!({
        "shell": "cat in.txt; mkdir sub; ./tool > sub/out.txt; echo more >> in.txt; cat same.txt > x; cat x > same.txt; rm x; echo a > t.csv; chmod 600 t.csv",
        "workspace": {"name": "w", "files": ["in.txt", "tool", "same.txt"]},
    }));
    let told = &result["workspace"];
    assert_eq!((&result["stdout"], &told["state"]), (&json!("given"), &json!("synced")), "{result:#}");
    assert_eq!(names(&told["synced_in"]), ["in.txt", "same.txt", "tool"]);
    assert_eq!(
        names(&told["synced_out"]),
        ["in.txt", "sub/out.txt", "t.csv"],
        "`own` was there before, and `same.txt` is as it was: {told:#}"
    );
    assert_eq!(
        (get(client, "in.txt").expect(200).text().as_str(), get(client, "sub/out.txt").expect(200).text().as_str()),
        ("givenmore\n", "made by a tool\n")
    );
    assert_eq!(get(client, "t.csv").expect(200).header("x-caisson-mode"), Some("0600"));
    get(client, "own").refused(404, "not_found");
    assert_eq!(&server.execution(result["id"].as_str().unwrap())["workspace"], told);

    // The sandbox is as it was left, and only what is new or changed from now on goes out.
    let second = sandbox.exec(&json!({"shell": "cat in.txt; echo own > b", "workspace": {"name": "w"}}));
    assert_eq!((&second["stdout"], names(&second["workspace"]["synced_out"])), (&json!("givenmore\n"), vec!["b"]), "{second:#}");
    let kept = sandbox.exec(&json!({"shell": "echo x > c", "workspace": {"name": "w", "sync_out": false}}));
    assert_eq!((&kept["workspace"]["state"], &kept["workspace"]["synced_out"]), (&json!("synced"), &json!([])), "{kept:#}");
    let elsewhere = sandbox.exec(&json!({
        "shell": "ls /tmp/place; echo x > /tmp/place/d; echo x > e", "workspace": {"name": "w", "files": ["in.txt"], "directory": "/tmp/place"}}));
    assert_eq!((&elsewhere["stdout"], names(&elsewhere["workspace"]["synced_out"])), (&json!("in.txt\n"), vec!["d"]), "{elsewhere:#}");
    let plain = sandbox.exec(&json!({"shell": "true"}));
    assert!(plain.get("workspace").is_none(), "{plain:#}");

    // In the background, and one that is killed: nobody knows what it has changed, and its files are where they were.
    let id = sandbox.background(json!({"shell": "echo x > late", "workspace": {"name": "w"}}));
    eventually("it is synced", Duration::from_secs(30), || (server.execution(&id)["workspace"]["state"] == "synced").then_some(()));
    assert_eq!(get(client, "late").expect(200).text(), "x\n");
    let id = sandbox.background(json!({"shell": "echo x > early; sleep 1000", "workspace": {"name": "w"}}));
    eventually("it has written", Duration::from_secs(30), || (sandbox.shell("cat early || true") == "x\n").then_some(()));
    server.request("POST", &format!("/v1/executions/{id}/kill")).send().expect(204);
    let told =
        eventually("it is told", Duration::from_secs(30), || Some(server.execution(&id)["workspace"].clone()).filter(Value::is_object));
    assert_eq!((&told["state"], names(&told["failed"])), (&json!("incomplete"), vec![""]), "{told:#}");
    assert!(told["failed"][0]["error"].as_str().unwrap().contains("can be pushed"), "{told:#}");

    let (pull, push) = (sandbox.target("/workspace/pull"), sandbox.target("/workspace/push"));
    let pushed = server.post(&push, &json!({"name": "w", "files": ["early", "in.txt", "sub/out.txt", "early"]})).expect(200).json();
    assert_eq!((names(&pushed["written"]), &pushed["unchanged"]), (vec!["early"], &json!(["in.txt", "sub/out.txt"])), "{pushed:#}");
    assert_eq!((get(client, "early").expect(200).text(), pushed["written"][0].get("overwrote")), ("x\n".to_owned(), None));
    does(&sandbox, "echo other > early; chmod 700 in.txt; ln -s /etc/passwd link; mkdir dir");
    let etag = &pushed["written"][0]["etag"];
    let pushed = server.post(&push, &json!({"name": "w", "files": ["early", "in.txt", "link", "dir"]})).expect(200).json();
    assert_eq!((names(&pushed["written"]), names(&pushed["failed"])), (vec!["early", "in.txt"], vec!["dir", "link"]), "{pushed:#}");
    assert_eq!(&pushed["written"][0]["overwrote"], etag);
    assert_eq!(
        (get(client, "early").expect(200).text().as_str(), get(client, "in.txt").expect(200).header("x-caisson-mode")),
        ("other\n", Some("0700"))
    );
    get(client, "link").refused(404, "not_found");
    let missing = server.post(&push, &json!({"name": "w", "files": ["own", "absent"]}));
    assert!(missing.refused(404, "not_found").contains("absent"));
    get(client, "own").refused(404, "not_found");

    let pulled = server.post(&pull, &json!({"name": "w", "files": ["tool", "in.txt", "d"], "directory": "deep/down"})).expect(200).json();
    assert_eq!((names(&pulled["written"]), &pulled["failed"]), (vec!["d", "in.txt", "tool"], &json!([])), "{pulled:#}");
    assert_eq!(pulled["written"][0]["overwrote"], false);
    assert_eq!(sandbox.shell("deep/down/tool; stat -c %a deep/down/in.txt"), "made by a tool\n700\n");
    does(&sandbox, "rm -r deep/down/d; mkdir deep/down/d");
    let pulled = server.post(&pull, &json!({"name": "w", "files": ["in.txt", "d"], "directory": "deep/down"})).expect(200).json();
    assert_eq!(
        (names(&pulled["written"]), names(&pulled["failed"])),
        (vec!["in.txt"], vec!["d"]),
        "a directory is in its place: {pulled:#}"
    );
    assert_eq!(pulled["written"][0]["overwrote"], true);
    does(&sandbox, "echo mine > in.txt");
    let missing = server.post(&pull, &json!({"name": "w", "files": ["in.txt", "absent"]}));
    assert!(missing.refused(404, "not_found").contains("absent"));
    assert_eq!(sandbox.shell("cat in.txt"), "mine\n");
    sandbox.delete().expect(200);
    server.post(&pull, &json!({"name": "w", "files": ["in.txt"]})).refused(410, "gone");
    server.post(&push, &json!({"name": "w", "files": ["in.txt"]})).refused(410, "gone");
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
    files_in_living_sandboxes(&place.server);
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
    files_in_living_sandboxes(&place.server);
    large_files(&place.server);
    assert!(place.s3.is_some());
}

#[test]
fn moto_keeps_files() {
    let place = s3(S3Kind::Moto);
    files_by_themselves(&place.server.client);
    files_in_one_shots(&place.server);
    files_in_living_sandboxes(&place.server);
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
fn r5_5_names_lead_nowhere_else_from_living_sandboxes() {
    let server = Server::start();
    put(&server.client, "secret", "of w");
    let sandbox = server.sandbox(&json!({}));
    does(&sandbox, "echo x > secret");
    let (pull, push) = (sandbox.target("/workspace/pull"), sandbox.target("/workspace/push"));
    for name in ["../secret", "/etc/passwd", "a/../../x", "a\nb", "", ".", "a//b"] {
        sandbox.try_exec(&json!({"shell": "true", "workspace": {"name": "w", "files": [name]}})).refused(400, "invalid_file_name");
        for target in [&pull, &push] {
            server.post(target, &json!({"name": "w", "files": ["secret", name]})).refused(400, "invalid_file_name");
        }
    }
    for directory in ["..", "/a/../..", "a//b", "/"] {
        sandbox.try_exec(&json!({"shell": "true", "workspace": {"name": "w", "directory": directory}})).refused(400, "invalid_path");
        for target in [&pull, &push] {
            server.post(target, &json!({"name": "w", "files": ["secret"], "directory": directory})).refused(400, "invalid_path");
        }
    }
    for target in [&pull, &push] {
        for name in ["..", "", "a\nb"] {
            server.post(target, &json!({"name": name, "files": ["secret"]})).refused(400, "invalid_workspace");
        }
        server.post(target, &json!({"name": "w", "files": []})).refused(400, "invalid_request");
        server.post(target, &json!({"name": "w"})).refused(400, "invalid_request");
        server.post(target, &json!({"name": "w", "files": vec!["a"; 10_001]})).refused(400, "limit_out_of_range");
    }
    // Links inside lead through what is inside alone, and out of it comes what is there.
    does(&sandbox, "ln -s /etc away; mkdir real; ln -s real alias");
    let through = server.post(&pull, &json!({"name": "w", "files": ["secret"], "directory": "away"})).expect(200).json();
    assert_eq!((names(&through["written"]).len(), names(&through["failed"])), (0, vec!["secret"]), "{through:#}");
    let inside = server.post(&pull, &json!({"name": "w", "files": ["secret"], "directory": "alias"})).expect(200).json();
    assert_eq!((names(&inside["written"]), sandbox.shell("cat real/secret").as_str()), (vec!["secret"], "of w"), "{inside:#}");
    let etc = server.post(&push, &json!({"name": "v", "files": ["shadow"], "directory": "/etc"}));
    assert_ne!(etc.json()["written"], json!(["shadow"]), "{}", etc.text());
    assert!(!std::path::Path::new("/etc/secret").exists());
    assert_eq!(get(&server.client, "secret").expect(200).text(), "of w");
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
    let made = |client: &Client| {
        let made = client.request("POST", "/v1/sandboxes").json(&json!({})).send().expect(201).json();
        format!("/v1/sandboxes/{}", made["id"].as_str().unwrap())
    };
    let (my_box, their_box) = (made(&mine), made(&theirs));
    let sync = json!({"name": "w", "files": ["secret"]});
    let post =
        |client: &Client, target: &str, rest: &str, body: &Value| client.request("POST", &format!("{target}{rest}")).json(body).send();
    for rest in ["/workspace/pull", "/workspace/push"] {
        // The sandbox is another's, the workspace is another's, and the key is not for this.
        post(&theirs, &my_box, rest, &sync).refused(404, "not_found");
        post(&theirs, &their_box, rest, &sync).refused(404, "not_found");
        assert_eq!(post(&reader, &my_box, rest, &sync).status, 403);
    }
    post(&theirs, &my_box, "/exec", &body).refused(404, "not_found");
    post(&theirs, &their_box, "/exec", &body).refused(404, "not_found");
    let told = post(&theirs, &their_box, "/exec", &json!({"shell": "echo theirs > secret", "workspace": {"name": "w"}})).expect(200).json();
    assert_eq!(names(&told["workspace"]["synced_out"]), ["secret"]);
    assert_eq!(
        (get(&mine, "secret").expect(200).text().as_str(), get(&theirs, "secret").expect(200).text().as_str()),
        ("of mine", "theirs\n")
    );
    post(&mine, &my_box, "/workspace/pull", &sync).expect(200);
    assert_eq!(post(&mine, &my_box, "/exec", &json!({"shell": "cat secret"})).expect(200).json()["stdout"], "of mine");
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
    let sandbox = server.sandbox(&json!({}));
    for (number, fault) in [Fault::Status(403), Fault::Status(500), Fault::Refused, Fault::CutAfter(100)].into_iter().enumerate() {
        line.set(fault);
        let result = server.run(&json!({"shell": format!("echo {number} > out{number}"), "workspace": {"name": "w"}}));
        assert_eq!((&result["status"], &result["workspace"]["state"]), (&json!("exited"), &json!("pending")), "{fault:?}: {result:#}");
        assert_eq!(names(&result["workspace"]["pending"]), [format!("out{number}")]);
        get(&server.client, "in.txt").refused(503, "blob_unavailable");
        server.post("/v1/run", &json!({"shell": "true", "workspace": {"name": "w", "files": ["in.txt"]}})).refused(503, "blob_unavailable");
        // The same of a program in a sandbox that stays, and what is pushed is told as failed.
        let used = json!({"shell": format!("echo {number} > living{number}"), "workspace": {"name": "w"}});
        let living = sandbox.exec(&used);
        assert_eq!(
            (&living["workspace"]["state"], names(&living["workspace"]["pending"])),
            (&json!("pending"), vec![&*format!("living{number}")]),
            "{fault:?}: {living:#}"
        );
        ids.push(living["id"].as_str().unwrap().to_owned());
        sandbox.try_exec(&json!({"shell": "true", "workspace": {"name": "w", "files": ["in.txt"]}})).refused(503, "blob_unavailable");
        server.post(&sandbox.target("/workspace/pull"), &json!({"name": "w", "files": ["in.txt"]})).refused(503, "blob_unavailable");
        let pushed =
            server.post(&sandbox.target("/workspace/push"), &json!({"name": "w", "files": [format!("living{number}")]})).expect(200).json();
        assert_eq!((names(&pushed["written"]).len(), names(&pushed["failed"]).len()), (0, 1), "{pushed:#}");
        ids.push(result["id"].as_str().unwrap().to_owned());
    }
    // What is pending survives the server.
    server.kill();
    server.start_again();
    assert_eq!(server.execution(&ids[0])["workspace"]["state"], "pending");
    line.set(Fault::None);
    for (at, id) in ids.iter().enumerate() {
        let (number, name) = (at / 2, if at % 2 == 0 { "living" } else { "out" });
        let synced = || (server.execution(id)["workspace"]["state"] == "synced").then_some(());
        eventually("what was pending is synced", Duration::from_secs(60), synced);
        assert_eq!(get(&server.client, &format!("{name}{number}")).expect(200).text(), format!("{number}\n"));
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

#[test]
fn run_on_the_command_line_uses_a_workspace() {
    let server = Server::start();
    put(&server.client, "in.txt", "given");
    let home = server.home().path().to_owned();
    fs::write(
        home.join("made.py"),
        "import sys; open('out.txt', 'w').write(open('in.txt').read() + open('extra').read() + sys.stdin.read()); print('ran')",
    )
    .unwrap();
    fs::write(home.join("extra"), " extra ").unwrap();
    let ran = |arguments: &[&str], input: &str| {
        let mut command = server.command(arguments);
        fs::write(home.join("input"), input).unwrap();
        let output = command.current_dir(&home).stdin(fs::File::open(home.join("input")).unwrap()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, out, err) = ran(&["run", "--workspace", "w", "--in", "in.txt", "--file", "extra", "made.py"], "typed");
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "ran\n", ""));
    assert_eq!(get(&server.client, "out.txt").expect(200).text(), "given extra typed");
    let (code, out, err) = ran(&["run", "--workspace", "w", "--json", "--", "sh", "-c", "echo x > y; echo z; exit 3"], "");
    let result: Value = out.parse().unwrap();
    assert_eq!(
        (code, &result["stdout"], names(&result["workspace"]["synced_out"])),
        (Some(3), &json!("z\n"), vec!["y"]),
        "{err} {result:#}"
    );
    let (code, out, err) = ran(&["run", "--workspace", "w", "--in", "absent", "--", "echo", "ran"], "");
    assert_eq!((code, out.as_str()), (Some(125), ""), "{err}");
    assert!(err.contains("absent"), "{err}");
    let (code, _, err) = ran(&["run", "--workspace", "w", "--", "truncate", "-s", "100T", "holes"], "");
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("holes is not in the workspace"), "what is not synced is told: {err}");
    let (code, _, err) = ran(&["run", "--in", "in.txt", "--", "true"], "");
    assert!(code != Some(0) && err.contains("--workspace"), "{err}");
    let (code, _, err) = ran(&["run", "--server", "http://127.0.0.1:1", "--", "true"], "");
    assert!(code != Some(0) && err.contains("--workspace"), "{err}");
}

#[test]
fn the_command_line_brings_files_into_living_sandboxes_and_out() {
    let server = Server::start();
    put(&server.client, "in.txt", "given");
    let sandbox = server.sandbox(&json!({"name": "bench"}));
    let ran = |arguments: &[&str]| {
        let output = server.command(arguments).stdin(std::process::Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, out, err) = ran(&["workspace", "pull", "w", "bench", "in.txt", "--directory", "sub"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "in.txt\n", ""));
    assert_eq!(sandbox.read(b"sub/in.txt").expect(200).text(), "given");
    let (code, out, err) = ran(&["workspace", "pull", "w", "bench", "in.txt", "absent"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("absent"), "{err}");
    // What is written is told; that which is there already is not.
    let line = ["exec", "--workspace", "w", "--in", "in.txt", "bench", "--", "sh", "-c", "tr a-z A-Z < in.txt | tee out.txt"];
    let (code, out, err) = ran(&line);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "GIVEN", ""));
    assert_eq!(get(&server.client, "out.txt").expect(200).text(), "GIVEN");
    let (code, out, err) = ran(&["exec", "--workspace", "w", "--in", "absent", "bench", "--", "touch", "ran"]);
    assert_eq!((code, out.as_str()), (Some(125), ""), "{err}");
    assert!(err.contains("absent"), "{err}");
    let (code, _, err) = ran(&["exec", "--workspace", "w", "bench", "--", "truncate", "-s", "100T", "holes"]);
    assert!(code == Some(0) && err.contains("holes is not in the workspace"), "{code:?} {err}");
    let (code, _, err) = ran(&["exec", "bench", "--", "sh", "-c", "test ! -e ran; mkdir made; echo x > made/x"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, out, err) = ran(&["workspace", "push", "w", "bench", "made/x", "out.txt"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "made/x\n", ""));
    let (code, out, err) = ran(&["workspace", "push", "w", "bench", "made/x", "holes", "--json"]);
    let pushed: Value = out.parse().unwrap();
    assert_eq!((code, &pushed["unchanged"], &pushed["failed"][0]["path"]), (Some(1), &json!(["made/x"]), &json!("holes")), "{err}");
    assert!(err.contains("holes is not in the workspace"), "{err}");
    server.finish();
}

#[test]
fn a_quota_holds_what_a_tenant_keeps() {
    let server = Server::start();
    let made = server.post("/v1/keys", &json!({"tenant": "team", "scope": "run"})).expect(201).json();
    let team = Client { key: Some(made["key"].as_str().unwrap().to_owned()), ..server.client.clone() };
    let quota =
        |bytes: Value| server.request("PATCH", "/v1/tenants/team").json(&json!({"workspace_bytes": bytes})).send().expect(200).json();
    let used = || team.request("GET", "/v1/whoami").send().expect(200).json()["tenant"]["use"]["workspace_bytes"].clone();
    let put = |name: &str, bytes: usize| team.request("PUT", &format!("/v1/workspaces/{name}")).bytes(vec![b'x'; bytes]).send();
    let delete = |name: &str| team.request("DELETE", &format!("/v1/workspaces/{name}")).send();
    put("w/files/before", 600).expect(200);
    assert_eq!(used(), Value::Null, "nothing is counted without a quota");
    assert_eq!(quota(json!(1000))["quotas"]["workspace_bytes"], 1000);
    put("w/files/a", 300).expect(200);
    let refused = put("v/files/b", 200);
    assert!(refused.refused(429, "quota_exceeded").contains("workspace_bytes"));
    assert_eq!(refused.json()["error"]["details"], json!({"quota": "workspace_bytes", "limit": 1000, "used": 900}));
    team.request("GET", "/v1/workspaces/v/files/b").send().refused(404, "not_found");
    put("v/files/b", 100).expect(200);
    assert_eq!(used(), 1000);
    put("w/files/a", 300).expect(200);
    put("w/files/a", 301).refused(429, "quota_exceeded");
    put("w/files/a", 100).expect(200);
    put("w/files/c", 200).expect(200);
    delete("w/files/before").expect(204);
    put("w/files/d", 600).expect(200);
    put("v/files/e", 1).refused(429, "quota_exceeded");
    assert_eq!(server.request("PUT", "/v1/workspaces/w/files/e").bytes(vec![0; 5000]).send().status, 200, "another's quota is another's");

    // What a program leaves waits until there is room, unless it never will.
    let run =
        |line: &str| team.request("POST", "/v1/run").json(&json!({"shell": line, "workspace": {"name": "w"}})).send().expect(200).json();
    let waits = run("head -c 500 /dev/zero > out; echo fine");
    assert_eq!((&waits["stdout"], &waits["workspace"]["state"]), (&json!("fine\n"), &json!("pending")), "{waits:#}");
    assert_eq!(names(&waits["workspace"]["pending"]), ["out"]);
    assert!(waits["workspace"]["pending"][0]["error"].as_str().unwrap().contains("workspace_bytes"), "{waits:#}");
    let never = run("head -c 2000 /dev/zero > big");
    assert_eq!((&never["workspace"]["state"], names(&never["workspace"]["failed"])), (&json!("incomplete"), vec!["big"]), "{never:#}");
    assert!(never["workspace"]["failed"][0]["error"].as_str().unwrap().contains("workspace_bytes"), "{never:#}");
    let sandbox = team.request("POST", "/v1/sandboxes").json(&json!({})).send().expect(201).json();
    let target = |rest: &str| format!("/v1/sandboxes/{}{rest}", sandbox["id"].as_str().unwrap());
    team.request("POST", &target("/exec")).json(&json!({"shell": "echo pushed > p"})).send().expect(200);
    let push = || team.request("POST", &target("/workspace/push")).json(&json!({"name": "w", "files": ["p"]})).send().expect(200).json();
    let pushed = push();
    assert_eq!((names(&pushed["written"]).len(), names(&pushed["failed"])), (0, vec!["p"]), "{pushed:#}");
    assert!(pushed["failed"][0]["error"].as_str().unwrap().contains("workspace_bytes"), "{pushed:#}");

    delete("w/files/d").expect(204);
    let synced = || {
        let record = team.request("GET", &format!("/v1/executions/{}", waits["id"].as_str().unwrap())).send().expect(200).json();
        (record["workspace"]["state"] == "synced").then_some(())
    };
    eventually("there is room for what waits", Duration::from_secs(120), synced);
    assert_eq!(team.request("GET", "/v1/workspaces/w/files/out").send().expect(200).body.len(), 500);
    assert_eq!(names(&push()["written"]), ["p"]);
    delete("w").expect(200);
    put("w/files/large", 900).expect(200);
    quota(Value::Null);
    put("w/files/larger", 9000).expect(200);
    let set = server.command(["tenant", "set", "team", "--workspaces", "1M"]).output().unwrap();
    assert!(set.status.success() && String::from_utf8_lossy(&set.stdout).contains("/ 1"), "{set:?}");
}
