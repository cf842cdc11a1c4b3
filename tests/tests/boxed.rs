//! The Boxed API, as its clients use it: what their wire contract says, row by row.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::symlink,
    process::Stdio,
    time::Duration,
};

use caisson_tests::{
    Answer, BASE64, Base64Engine, Heard, MULTIPART_FORM, NoUpgrade, Request, Server, Setup, Socket, Value, descriptors,
    descriptors_come_back, eventually, json, multipart_form, program,
};

const KEY: &str = "key-of-boxed-0123456789";

fn boxed() -> Server {
    Setup::default().env("BOXED_API_KEY", KEY).start()
}

fn ask(server: &Server, method: &str, target: &str) -> Request {
    let mut client = server.client.clone();
    client.key = None;
    client.request(method, target).header("x-boxed-api-key", KEY)
}

#[track_caller]
fn post(server: &Server, target: &str, body: &Value) -> Answer {
    ask(server, "POST", target).json(body).send()
}

#[track_caller]
fn get(server: &Server, target: &str) -> Answer {
    ask(server, "GET", target).send()
}

#[track_caller]
fn create(server: &Server, body: &Value) -> String {
    let made = post(server, "/v1/sandbox", body).expect(201).json();
    assert_eq!((&made["status"], made.as_object().unwrap().len()), (&json!("ready"), 2), "{made}");
    made["sandbox_id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn exec(server: &Server, id: &str, body: &Value) -> Value {
    let result = post(server, &format!("/v1/sandbox/{id}/exec"), body).expect(200).json();
    let mut names: Vec<&String> = result.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["artifacts", "exit_code", "stderr", "stdout"]);
    assert!(result["artifacts"].is_array(), "{result}");
    result
}

#[track_caller]
fn bash(server: &Server, id: &str, code: &str) -> String {
    let result = exec(server, id, &json!({"language": "bash", "code": code}));
    assert_eq!(result["exit_code"], 0, "{result:#}");
    result["stdout"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, begin: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with(begin) && body["error"] == body["message"], "{body}");
}

fn uploading(server: &Server, id: &str) -> Request {
    ask(server, "POST", &format!("/v1/sandbox/{id}/files")).header("content-type", MULTIPART_FORM)
}

fn upload(server: &Server, id: &str, parts: &[(&str, Option<&str>, &[u8])]) -> Answer {
    uploading(server, id).bytes(multipart_form(parts)).send()
}

fn content(server: &Server, id: &str, path: &str) -> Answer {
    get(server, &format!("/v1/sandbox/{id}/files/content?path={path}"))
}

#[test]
fn sandboxes_are_made_listed_and_ended() {
    let server = boxed();
    assert_eq!(get(&server, "/v1/sandbox").expect(200).text(), "{\"sandboxes\":[]}\n");
    let id = create(&server, &json!({"template": "python:3.10-slim", "timeout": 600, "metadata": {"a": "b"}, "unknown": [1]}));
    let list = get(&server, "/v1/sandbox").expect(200).json();
    let listed = &list["sandboxes"][0];
    assert_eq!((&listed["id"], &listed["state"], &listed["driver_type"]), (&json!(id), &json!("ready"), &json!("docker")), "{list:#}");
    let config = &listed["config"];
    assert_eq!(config["timeout"], 600_000_000_000u64, "{list:#}");
    assert_eq!((&config["memory_mb"], &config["cpu_cores"], &config["enable_networking"]), (&json!(512), &json!(1.0), &json!(false)));
    assert_eq!((&config["network_policy"], &config["labels"]), (&json!({"enable_internet": false}), &json!({"a": "b"})));
    assert!(!listed["created_at"].as_str().unwrap().starts_with("0001"));
    // It is an ordinary one, marked.
    let native = server.get(&format!("/v1/sandboxes/{id}")).expect(200).json();
    assert_eq!((&native["user"], &native["metadata"]["caisson.dialect"]), (&json!("root"), &json!("boxed")));
    let _other = server.sandbox(&json!({}));
    assert_eq!(get(&server, "/v1/sandbox").json()["sandboxes"].as_array().unwrap().len(), 1, "what is native is not listed");
    let inside = "id -u; pwd; echo $BOXED_AGENT_MODE; test -d /output && test -w /workspace && echo there";
    assert_eq!(bash(&server, &id, inside), "0\n/workspace\ndocker\nthere\n");
    let gone = ask(&server, "DELETE", &format!("/v1/sandbox/{id}")).send();
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    refused(&ask(&server, "DELETE", &format!("/v1/sandbox/{id}")).send(), 404, "sandbox not found");
    refused(&post(&server, &format!("/v1/sandbox/{id}/exec"), &json!({"code": ""})), 404, "sandbox not found");
    refused(&get(&server, &format!("/v1/sandbox/{id}/files")), 404, "sandbox not found");
    refused(&content(&server, &id, "/x"), 404, "sandbox not found");
    refused(&upload(&server, &id, &[("file", Some("x"), b"x")]), 404, "sandbox not found");
    assert_eq!(get(&server, "/v1/sandbox").text(), "{\"sandboxes\":[]}\n");
    server.finish();
}

#[test]
fn templates_times_and_context_are_as_the_contract_says() {
    let server = Setup::default().env("BOXED_API_KEY", KEY).env("CAISSON_IMAGE_ALIASES", "mine:1=host").start();
    for template in [json!(null), json!(""), json!("host"), json!("whatever"), json!("python-data-science"), json!("mine:1")] {
        create(&server, &json!({"template": template, "network_policy": {"enable_internet": false, "allow_domains": []}}));
    }
    let _by_no_body = ask(&server, "POST", "/v1/sandbox").send().expect(201);
    let missing = post(&server, "/v1/sandbox", &json!({"template": "ruby:3"}));
    refused(&missing, 500, "failed to create sandbox: failed to pull image ruby:3: ");
    assert!(missing.text().contains("CAISSON_IMAGE_ALIASES"), "{}", missing.text());
    refused(
        &post(&server, "/v1/sandbox", &json!({"timeout": 1801})),
        400,
        "failed to create sandbox: invalid sandbox configuration: timeout cannot exceed",
    );
    refused(&post(&server, "/v1/sandbox", &json!({"network_policy": {"enable_internet": true}})), 400, "network_policy");
    let encoded = |text: &str| BASE64.encode(text);
    let context = json!([{"path": "a/b.txt", "content_base64": encoded("one")}, {"path": "/opt/c", "content_base64": encoded("two")}]);
    let id = create(&server, &json!({"context": context}));
    assert_eq!(bash(&server, &id, "cat /workspace/a/b.txt /opt/c; stat -c %a /opt/c"), "onetwo644\n");
    let before = get(&server, "/v1/sandbox").json()["sandboxes"].as_array().unwrap().len();
    refused(&post(&server, "/v1/sandbox", &json!({"context": [{"path": "x", "content_base64": "&"}]})), 400, "context[0] (x)");
    refused(
        &post(&server, "/v1/sandbox", &json!({"context": [{"path": "/proc/x", "content_base64": ""}]})),
        400,
        "failed to create sandbox: failed to inject file /proc/x",
    );
    assert_eq!(get(&server, "/v1/sandbox").json()["sandboxes"].as_array().unwrap().len(), before, "what failed is not left");
    // Hard, whatever goes on.
    let short = create(&server, &json!({"timeout": 1}));
    let ended = exec(&server, &short, &json!({"language": "bash", "code": "sleep 30"}));
    assert_eq!(ended["exit_code"], 137, "{ended}");
    eventually("its end", Duration::from_secs(5), || {
        (post(&server, &format!("/v1/sandbox/{short}/exec"), &json!({})).status == 404).then_some(())
    });
    server.finish();
}

#[test]
fn programs_are_answered_with_what_they_really_did() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let run = |body: Value| exec(&server, &id, &body);
    assert_eq!(
        run(json!({"code": "print('hi', end='')"})),
        json!({"stdout": "hi", "stderr": "", "artifacts": [], "exit_code": 0}),
        "exact bytes, and python where nothing is said"
    );
    assert_eq!(run(json!({"language": "python", "code": "import sys; sys.exit(3)"}))["exit_code"], 3);
    let failed = run(json!({"language": "python", "code": "1/0", "timeout_ms": 30000}));
    assert!(failed["exit_code"] == 1 && failed["stderr"].as_str().unwrap().contains("ZeroDivisionError"), "{failed}");
    assert_eq!(run(json!({"language": "sh", "code": "kill -9 $$"}))["exit_code"], 137);
    assert_eq!(run(json!({}))["exit_code"], 0, "an empty program");
    assert_eq!(run(json!({"language": "bash", "code": "cat; printf '\\377a'"}))["stdout"], "\u{fffd}a", "no input");
    let slow = run(json!({"language": "bash", "code": "echo begun; sleep 30", "timeout_ms": 300}));
    assert_eq!((&slow["exit_code"], &slow["stdout"]), (&json!(124), &json!("begun\n")));
    assert!(slow["stderr"].as_str().unwrap().contains("timed_out"), "{slow}");
    let long = run(json!({"language": "bash", "code": "head -c 3000000 /dev/zero | tr '\\0' x"}));
    assert_eq!(long["stdout"].as_str().unwrap().len(), 3_000_000, "one line over 1 MiB, and more than an answer carries natively");
    let flood = run(json!({"language": "bash", "code": "head -c 20000000 /dev/zero | tr '\\0' x"}));
    assert!(flood["stderr"].as_str().unwrap().contains("of 20000000 bytes on stdout"), "{}", flood["stderr"]);
    let code = format!("x = '{}'\nprint(len(x))", "y".repeat(300_000));
    assert_eq!(run(json!({"code": code}))["stdout"], "300000\n", "longer than an argument may be");
    bash(&server, &id, "x=1; echo kept > file");
    assert_eq!(bash(&server, &id, "cat file; echo [$x]"), "kept\n[]\n");
    let none = run(json!({"language": "bash", "code": "PATH=/none; mkdir /hidden"}));
    assert_eq!(none["exit_code"], 127, "{none}");
    refused(&post(&server, "/v1/sandbox/nothing/exec", &json!({"language": "cobol"})), 400, "unsupported language: cobol");
    refused(&post(&server, &format!("/v1/sandbox/{id}/exec"), &json!({"code": 5})), 400, "Unmarshal type error");
    refused(&ask(&server, "POST", &format!("/v1/sandbox/{id}/exec")).json(&json!(null)).bytes("{\"a").send(), 400, "Syntax error");
    // Whoever hangs up has its program killed.
    let body = json!({"language": "bash", "code": "touch /tmp/begun; sleep 77777"}).to_string();
    let request = ask(&server, "POST", &format!("/v1/sandbox/{id}/exec")).header("content-type", "application/json");
    let connection = request.begin(body.len(), body.as_bytes());
    eventually("its begin", Duration::from_secs(10), || (bash(&server, &id, "ls /tmp") == "begun\n").then_some(()));
    drop(connection);
    let runs = "grep -al 7777[7] /proc/[0-9]*/cmdline 2>/dev/null | wc -l";
    eventually("its end", Duration::from_secs(10), || (bash(&server, &id, runs) == "0\n").then_some(()));
    server.finish();
}

#[test]
fn artifacts_come_once_each_with_their_last_content() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let paths = |result: &Value| -> Vec<String> {
        result["artifacts"].as_array().unwrap().iter().map(|a| a["path"].as_str().unwrap().to_owned()).collect()
    };
    let code = "import os\nos.makedirs('/output/new/deep')\nfor i in range(50):\n  open('/output/plot.png','w').write(str(i))\n\
                open('/output/new/deep/a.csv','w').write('1,2')\nopen('/output/.hidden','w').write('x')\nopen('/workspace/w.txt','w').write('x')\n\
                open('/output/large','wb').truncate(10485761)\nopen('/output/just','wb').truncate(10485760)\nos.symlink('/etc/passwd','/output/link')";
    let result = exec(&server, &id, &json!({"code": code}));
    assert_eq!(paths(&result), ["just", "new/deep/a.csv", "plot.png"]);
    let artifact = &result["artifacts"][2];
    assert_eq!(artifact, &json!({"path": "plot.png", "mime": "image/png", "data_base64": BASE64.encode("49")}));
    assert_eq!(result["artifacts"][1]["mime"], "text/csv");
    assert_eq!(result["artifacts"][0]["mime"], "application/octet-stream");
    assert_eq!(BASE64.decode(result["artifacts"][0]["data_base64"].as_str().unwrap()).unwrap().len(), 10_485_760);
    assert_eq!(result["exit_code"], 0);
    let untouched = exec(&server, &id, &json!({"code": "open('/output/b.txt','w').write('b'); raise SystemExit(4)"}));
    assert_eq!((paths(&untouched), &untouched["exit_code"]), (vec!["b.txt".to_owned()], &json!(4)));
    let changed = exec(&server, &id, &json!({"language": "bash", "code": "echo more >> /output/b.txt; rm /output/plot.png"}));
    assert_eq!(changed["artifacts"], json!([{"path": "b.txt", "mime": "text/plain", "data_base64": BASE64.encode("bmore\n")}]));
    server.finish();
}

#[test]
fn files_are_listed_as_both_clients_read_them() {
    let server = boxed();
    let id = create(&server, &json!({}));
    bash(&server, &id, "mkdir -p sub/inner; printf x > st.txt; printf 12345 > sub/inner/f; ln -s st.txt link");
    let list =
        |path: &str| get(&server, &format!("/v1/sandbox/{id}/files?path={path}")).expect(200).json()["files"].as_array().unwrap().clone();
    let told = |entries: &[Value]| -> Vec<String> { entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect() };
    let all = list("/workspace");
    assert_eq!(
        told(&all),
        ["workspace/", "workspace/link", "workspace/st.txt", "workspace/sub/", "workspace/sub/inner/", "workspace/sub/inner/f"]
    );
    assert_eq!(
        (&all[0]["mode"], &all[0]["size"], &all[0]["is_dir"], &all[0]["name"]),
        (&json!(16877), &json!(0), &json!(true), &json!("workspace"))
    );
    assert_eq!(
        (&all[2]["mode"], &all[2]["size"], &all[2]["is_dir"], &all[2]["name"]),
        (&json!(33188), &json!(1), &json!(false), &json!("st.txt"))
    );
    assert_eq!(all[1]["mode"], 41471);
    assert!(all[2]["last_modified"].as_str().unwrap().len() == 20 && all[2]["last_modified"].as_str().unwrap().ends_with('Z'));
    for (path, first) in [
        ("sub", "sub/"),
        ("/workspace/sub/", "sub/"),
        ("./sub/.", "sub/"),
        ("st.txt", "st.txt"),
        (".", "workspace/"),
        ("/workspace/sub/..", "workspace/"),
    ] {
        assert_eq!(told(&list(path))[0], first, "{path}");
    }
    assert_eq!(told(&list("/workspace/sub/.."))[2], "workspace/st.txt");
    let root = get(&server, &format!("/v1/sandbox/{id}/files")).expect(200).json()["files"].as_array().unwrap().clone();
    assert_eq!((&root[0]["name"], &root[0]["path"]), (&json!("."), &json!("")));
    let root = told(&root);
    assert!(root.len() <= 50_000, "{}", root.len());
    for path in ["bin", "workspace/", "workspace/st.txt", "output/", "tmp/", "usr/"] {
        assert!(root.iter().any(|told| told == path), "{path} of {:?}", &root[..20.min(root.len())]);
    }
    assert!(!root.iter().any(|path| path.starts_with("proc") || path.starts_with("sys/") || path.starts_with("dev")), "what is made up");
    refused(&get(&server, &format!("/v1/sandbox/{id}/files?path=/none")), 404, "failed to read path");
    server.finish();
}

#[test]
fn files_go_in_and_out_whole() {
    let server = boxed();
    let id = create(&server, &json!({}));
    for (parts, path, at) in [
        (vec![("path", None, &b"/workspace"[..]), ("file", Some("u.txt"), b"one")], "/workspace/u.txt", "/workspace/u.txt"),
        // The other order, and a folder with a slash.
        (vec![("file", Some("u.txt"), &b"two"[..]), ("path", None, b"/new/folder/")], "/new/folder/u.txt", "/new/folder/u.txt"),
        (vec![("file", Some("../../etc/u2.txt"), &b"three"[..]), ("path", None, b".")], "./u2.txt", "/workspace/u2.txt"),
        (vec![("file", Some("d"), &b""[..])], "/uploads/d", "/uploads/d"),
        (vec![("file", Some("u.txt"), &b"again"[..]), ("path", None, b"/workspace")], "/workspace/u.txt", "/workspace/u.txt"),
        (vec![("path", None, &b"/"[..]), ("file", Some("top"), b"t")], "/top", "/top"),
    ] {
        let answer = upload(&server, &id, &parts).expect(200);
        assert_eq!(answer.json(), json!({"path": path, "status": "uploaded"}));
        let sent = parts.iter().find(|(name, ..)| *name == "file").unwrap().2;
        let read = content(&server, &id, at).expect(200);
        assert_eq!(read.body, sent, "{path}");
        assert!(read.headers.contains(&("content-type".to_owned(), "application/octet-stream".to_owned())));
    }
    assert_eq!(bash(&server, &id, "stat -c %a /workspace/u.txt"), "644\n");
    assert_eq!(content(&server, &id, "u2.txt").body, b"three", "relative ones begin in the work dir");
    for parts in
        [&[("path", None, &b"/x"[..])][..], &[], &[("file", None, b"x")], &[("file", Some(".."), b"x")], &[("other", Some("x"), b"x")]]
    {
        refused(&upload(&server, &id, parts), 400, "file required");
    }
    refused(&post(&server, &format!("/v1/sandbox/{id}/files"), &json!({})), 400, "file required");
    let onto_folder = upload(&server, &id, &[("file", Some("workspace"), b"x"), ("path", None, b"/")]);
    assert!((400..500).contains(&onto_folder.status), "{} {}", onto_folder.status, onto_folder.text());
    refused(&get(&server, &format!("/v1/sandbox/{id}/files/content")), 400, "path required");
    refused(&content(&server, &id, "/none"), 404, "docker copy failed");
    refused(&content(&server, &id, "/workspace"), 400, "docker copy failed");
    // Cut: within the file, and behind it. What is there stays, and nothing else does.
    let whole = multipart_form(&[("path", None, b"/workspace"), ("file", Some("u.txt"), &[b'x'; 300_000])]);
    for length in [200_000, whole.len() - 30, whole.len() - 5] {
        drop(uploading(&server, &id).begin(whole.len(), &whole[..length]));
        let short = uploading(&server, &id).bytes(&whole[..length]).send();
        refused(&short, 400, "");
    }
    eventually("that nothing is under way", Duration::from_secs(10), || bash(&server, &id, "ls -A /tmp").is_empty().then_some(()));
    assert_eq!(content(&server, &id, "/workspace/u.txt").body, b"again");
    // More than the server would keep, and no memory of its own for it.
    let large = vec![7; 100 << 20];
    upload(&server, &id, &[("file", Some("large"), &large), ("path", None, b"/tmp")]).expect(200);
    assert_eq!(content(&server, &id, "/tmp/large").body.len(), large.len());
    // What is too much for its disk is refused, and ends nothing.
    let beyond = vec![8; 300 << 20];
    let full = upload(&server, &id, &[("file", Some("beyond"), &beyond), ("path", None, b"/tmp")]);
    refused(&full, 429, "disk: limit 384 MiB");
    assert_eq!(bash(&server, &id, "ls /tmp"), "large\n");
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    assert!(peak < 90 << 10, "{peak} KiB at most");
    server.finish();
}

/// A folder so deep that nobody can name what is at its end, with files whose names are as long as they can be.
const DEEP: &str = "import os\nos.chdir('/output')\nfor i in range(20):\n  os.mkdir('d'*240); os.chdir('d'*240)\n\
                    os.chdir('/output')\nlong='/output/'+('\u{e4}'*120+'/')*12\nos.makedirs(long)\n\
                    for i in range(1500):\n  open(long+'%04d'%i+'\u{e4}'*120,'w').close()\nprint('made')";

#[test]
fn names_of_any_length_and_depth_end_no_sandbox_and_take_no_memory() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let made = exec(&server, &id, &json!({"code": DEEP}));
    assert_eq!((&made["stdout"], &made["exit_code"]), (&json!("made\n"), &json!(0)), "{}", made["stderr"]);
    assert!(made["stderr"].as_str().unwrap().contains("more was changed in /output"), "{}", made["stderr"]);
    let artifacts = made["artifacts"].as_array().unwrap().len();
    assert!((100..1500).contains(&artifacts), "{artifacts}");
    // Each name is 3 KB, so there are fewer of them than entries would be allowed.
    let more = "import os\nlong='/output/'+('\u{e4}'*120+'/')*12\nfor i in range(9000):\n  os.mkdir(long+'m%04d'%i+'\u{e4}'*120)";
    assert_eq!(exec(&server, &id, &json!({"code": more}))["exit_code"], 0);
    for path in ["/output", "/"] {
        let answer = get(&server, &format!("/v1/sandbox/{id}/files?path={path}")).expect(200);
        let files = answer.json()["files"].as_array().unwrap().clone();
        let bytes: usize = files.iter().map(|file| file["path"].as_str().unwrap().len()).sum();
        assert!((4 << 20..9 << 20).contains(&bytes), "{path}: {bytes} in {}", files.len());
        assert!(files.iter().all(|file| file["path"].as_str().unwrap().len() < 4096));
    }
    let peak = server.process().peak_resident();
    assert!(peak < 160 << 20, "{peak} bytes at most");
    assert_eq!(bash(&server, &id, "echo alive"), "alive\n");
    server.finish();
}

#[test]
fn bodies_and_output_are_no_multiple_of_themselves_in_memory() {
    let server = boxed();
    let whole = |field: &str, one: &str| {
        let mut body = format!("{{{field}");
        while body.len() < 30 << 20 {
            body += one;
        }
        body
    };
    let mut pairs = "{\"metadata\":{\"x\":\"\"".to_owned();
    for index in 0..2_000_000 {
        write!(pairs, ",\"{index}\":null").unwrap();
    }
    for (body, field) in [
        (whole("\"context\":[{}", ",{}") + "]}", "context"),
        (whole("\"network_policy\":{\"allow_domains\":[\"\"", ",\"\"") + "]}}", "allow_domains"),
        (pairs + "}}", "metadata"),
    ] {
        let answer = ask(&server, "POST", "/v1/sandbox").header("content-type", "application/json").bytes(body).send();
        refused(&answer, 400, "Unmarshal type error: ");
        assert!(answer.text().contains("at most 1000") && answer.text().contains(field), "{}", answer.text());
    }
    for file in [json!({}), json!({"content_base64": ""}), json!({"path": "", "content_base64": ""})] {
        refused(&post(&server, "/v1/sandbox", &json!({"context": [file]})), 400, "context[0]: `path` is missing");
    }
    let peak = server.process().peak_resident();
    assert!(peak < 200 << 20, "{peak} bytes at most");
    server.finish();

    let server = boxed();
    let id = create(&server, &json!({}));
    let code = "head -c 16000000 /dev/zero; head -c 16000000 /dev/zero >&2; printf e >&2";
    let result = exec(&server, &id, &json!({"language": "bash", "code": code}));
    assert_eq!((result["stdout"].as_str().unwrap().len(), result["exit_code"].as_i64()), (16_000_000, Some(0)));
    assert!(result["stdout"].as_str().unwrap().bytes().all(|byte| byte == 0));
    let stderr = result["stderr"].as_str().unwrap();
    assert!(stderr.len() == 16_000_001 && stderr.ends_with("\0e"), "{}", stderr.len());
    let peak = server.process().peak_resident();
    assert!(peak < 100 << 20, "{peak} bytes at most");
    server.finish();
}

#[test]
fn what_cannot_be_told_to_its_end_is_broken_off() {
    let server = boxed();
    let id = create(&server, &json!({}));
    // One file grows while it is read, one becomes a folder, and one is cut to nothing again and again.
    let growing = "import os, subprocess\nfor i in range(8):\n  open(f'/output/{i}','wb').write(b'x'*5000000)\n\
                   subprocess.Popen(['bash','-c','while :; do echo x >> /output/8; done'])\n\
                   subprocess.Popen(['bash','-c','sleep 0.02; rm /output/7; mkdir /output/7'])\n\
                   subprocess.Popen(['bash','-c','while :; do head -c 9000000 /dev/zero > /output/9; done'])\nopen('/output/8','w').write('begun')\nprint('on')";
    let result = exec(&server, &id, &json!({"code": growing}));
    // Whether the one that is made anew all the time is seen, and how long it is then, is chance.
    let last = result["artifacts"].as_array().unwrap().iter().rfind(|artifact| artifact["path"] != "9").unwrap();
    assert_eq!((&result["stdout"], &last["path"]), (&json!("on\n"), &json!("8")));
    assert!(!last["data_base64"].as_str().unwrap().is_empty());
    // The sandbox goes while its files are told: then they are not all, and the answer does not look as if they were.
    let body =
        json!({"language": "bash", "code": "cd /output; rm -r *; for i in $(seq 20); do head -c 10000000 /dev/zero > $i; done; echo on"});
    let body = body.to_string();
    let request = ask(&server, "POST", &format!("/v1/sandbox/{id}/exec")).header("content-type", "application/json");
    let mut answer = BufReader::new(request.begin(body.len(), body.as_bytes()));
    let mut line = String::new();
    while !line.contains("artifacts") {
        line.clear();
        assert!(answer.read_line(&mut line).unwrap() > 0, "it ends with {line}");
    }
    assert_eq!(ask(&server, "DELETE", &format!("/v1/sandbox/{id}")).send().status, 204);
    let mut rest = Vec::new();
    // Whether the connection is closed or reset.
    answer.read_to_end(&mut rest).ok();
    assert!(rest.len() < 200_000_000 && !rest.ends_with(b"0\r\n\r\n"), "{}", rest.len());
    server.finish();
}

#[test]
fn whoever_hangs_up_while_a_sandbox_is_made_leaves_none() {
    let server = boxed();
    let content = BASE64.encode([b'x'; 16 << 10]);
    let context: Vec<Value> = (0..1000).map(|index| json!({"path": format!("f/{index}"), "content_base64": content})).collect();
    let body = json!({"context": context}).to_string();
    let living = || get(&server, "/v1/sandbox").json()["sandboxes"].as_array().unwrap().len();
    let connection = ask(&server, "POST", "/v1/sandbox").header("content-type", "application/json").begin(body.len(), body.as_bytes());
    eventually("that it is being made", Duration::from_secs(20), || (living() == 1).then_some(()));
    drop(connection);
    // It would live for 300 s.
    eventually("its end", Duration::from_secs(20), || (living() == 0).then_some(()));
    server.finish();
}

fn interact(server: &Server, id: &str, query: &str, headers: &[(&str, &str)]) -> Result<Socket, NoUpgrade> {
    server.try_socket(&format!("/v1/sandbox/{id}/interact?{query}"), headers)
}

#[track_caller]
fn talk(server: &Server, id: &str, lang: &str) -> Socket {
    let mut socket = interact(server, id, &format!("lang={lang}&api_key={KEY}"), &[]).unwrap();
    assert_eq!(socket.hear(), Heard::Control(json!({"jsonrpc": "2.0", "result": null, "id": 1})));
    socket
}

/// Hears until a stream has said this.
#[track_caller]
fn hears(socket: &mut Socket, stream: &str, what: &str) {
    let mut said = String::new();
    while !said.contains(what) {
        match socket.hear() {
            Heard::Control(frame) if frame["method"] == stream => said += frame["params"]["chunk"].as_str().unwrap(),
            Heard::Control(_) => {}
            other => panic!("{other:?} instead of `{what}` behind `{said}`"),
        }
    }
}

/// What both streams say up to the end, the exit code, and the code of the close.
#[track_caller]
fn to_the_end(socket: &mut Socket) -> (String, String, i64, u16) {
    let (mut stdout, mut stderr, mut exit) = (String::new(), String::new(), -1);
    loop {
        match socket.hear() {
            Heard::Control(frame) => {
                assert!(exit == -1, "{frame} behind the exit");
                let chunk = || frame["params"]["chunk"].as_str().unwrap();
                match frame["method"].as_str() {
                    Some("stdout") => stdout += chunk(),
                    Some("stderr") => stderr += chunk(),
                    Some("exit") => exit = frame["params"]["code"].as_i64().unwrap(),
                    _ => {}
                }
            }
            Heard::Closed(code, _) => return (stdout, stderr, exit, code),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_process_talks_over_a_websocket() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let mut python = talk(&server, &id, "python");
    python.say("print('hello from REPL')\n");
    hears(&mut python, "stdout", "hello from REPL\n");
    python.say("6 * 7\n");
    hears(&mut python, "stdout", "42\n");
    python.say("1 / 0\n");
    hears(&mut python, "stderr", "ZeroDivisionError");
    python.say("exit(3)\n");
    let (_, _, exit, close) = to_the_end(&mut python);
    assert_eq!((exit, close), (3, 1000));

    let mut bash = talk(&server, &id, "anything");
    bash.say("printf nonl\n");
    hears(&mut bash, "stdout", "nonl");
    bash.send(&b"pwd; id -u; echo err >&2\n"[..]);
    hears(&mut bash, "stdout", "/workspace\n0\n");
    bash.say(json!({"jsonrpc": "2.0", "method": "repl.input", "params": {"data": "echo asked\n"}, "id": 9}).to_string());
    let (mut answered, mut said) = (false, String::new());
    while !answered || !said.contains("asked\n") {
        match bash.hear() {
            Heard::Control(frame) if frame["id"] == 9 => {
                assert_eq!(frame, json!({"jsonrpc": "2.0", "result": null, "id": 9}));
                answered = true;
            }
            Heard::Control(frame) => said += frame["params"]["chunk"].as_str().unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }
    for (frame, code) in [
        (r#"{"method":"exec","params":{"cmd":["ls"]},"id":10}"#, -32601),
        (r#"{"method":"repl.start","id":10}"#, -32601),
        (r#"{"method":"repl.input","params":{"data":5},"id":10}"#, -32602),
        (r#"{"method":7,"id":10}"#, -32601),
    ] {
        bash.say(frame);
        let Heard::Control(answer) = bash.hear() else { panic!() };
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(10), &json!(code)), "{answer}");
    }
    for ignored in [r#"{"method":"exec"}"#, r#"{"method":"repl.input","params":[]}"#] {
        bash.say(ignored);
    }
    // Characters that come in two pieces are not torn, and a line may be as long as it likes.
    bash.say("printf '\\342\\202'; sleep 0.3; printf '\\254|'; head -c 200000 /dev/zero | tr '\\0' x; echo; echo art > /output/w.txt; kill -9 $$\n");
    let (stdout, _, exit, close) = to_the_end(&mut bash);
    assert!(stdout.starts_with("\u{20ac}|") && stdout.len() == 200_005, "{:.20} {}", stdout, stdout.len());
    assert_eq!((exit, close), (137, 1000));
    server.finish();
}

#[test]
fn a_process_ends_with_its_connection_and_its_sandbox() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let runs = |mark: &str| bash(&server, &id, &format!("grep -al {mark} /proc/[0-9]*/cmdline 2>/dev/null | wc -l"));
    for clean in [true, false] {
        let mut socket = talk(&server, &id, "bash");
        socket.say("setsid sleep 88888 & echo on\n");
        hears(&mut socket, "stdout", "on\n");
        // It reads no more; what is sent then is not waited for.
        socket.say("exec sleep 88888\n");
        socket.send(vec![b'x'; 100_000]);
        if clean {
            socket.close(1000, "");
        }
        drop(socket);
        eventually("the end of its processes", Duration::from_secs(10), || (runs("8888[8]") == "0\n").then_some(()));
    }
    let mut socket = talk(&server, &id, "bash");
    socket.say("echo on; sleep 99\n");
    hears(&mut socket, "stdout", "on\n");
    assert_eq!(ask(&server, "DELETE", &format!("/v1/sandbox/{id}")).send().status, 204);
    let (_, _, exit, close) = to_the_end(&mut socket);
    assert_eq!((exit, close), (137, 1001));
    let short = create(&server, &json!({"timeout": 2}));
    let (_, _, exit, close) = to_the_end(&mut talk(&server, &short, "python"));
    assert_eq!((exit, close), (137, 1001), "its time is over");
    server.finish();
}

#[test]
fn a_client_that_has_gone_is_noticed_whatever_the_process_does() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let runs = |mark: &str| bash(&server, &id, &format!("grep -al {mark} /proc/[0-9]*/cmdline 2>/dev/null | wc -l"));
    let deaf = || {
        let mut socket = talk(&server, &id, "bash");
        socket.say("echo on; exec sleep 66666\n");
        hears(&mut socket, "stdout", "on\n");
        socket
    };
    for clean in [true, false] {
        let mut socket = deaf();
        // More than a pipe and the way there take, in more frames than few.
        for _ in 0..256 {
            socket.send(vec![b'x'; 4 << 10]);
        }
        eventually("its begin", Duration::from_secs(10), || (runs("6666[6]") == "1\n").then_some(()));
        if clean {
            socket.close(1000, "");
        }
        drop(socket);
        eventually("its end", Duration::from_secs(10), || (runs("6666[6]") == "0\n").then_some(()));
    }
    // There is an end to what is kept for it, and everything that was asked meanwhile is answered.
    let mut socket = deaf();
    for id in 1..500 {
        socket.say(format!(r#"{{"method":"none","id":{id}}}"#));
    }
    for id in 1..500 {
        let Heard::Control(answer) = socket.hear() else { panic!() };
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32601)));
    }
    drop(socket);
    eventually("its end", Duration::from_secs(10), || (runs("6666[6]") == "0\n").then_some(()));
    // More than is kept for it: whoever sends waits, and nothing is lost.
    let mut socket = talk(&server, &id, "bash");
    socket.say("echo on; head -c 16777216 | wc -c; echo over\n");
    hears(&mut socket, "stdout", "on\n");
    for _ in 0..16 {
        socket.send(vec![b'x'; 1 << 20]);
    }
    hears(&mut socket, "stdout", "16777216\nover\n");
    server.finish();
}

#[test]
fn a_client_that_is_silent_and_answers_no_ping_keeps_its_process() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let mut socket = talk(&server, &id, "bash");
    // Nobody looks into the socket meanwhile, so no ping is answered.
    socket.say("sleep 64; touch /tmp/still; read line; echo $line\n");
    eventually("that it goes on", Duration::from_secs(80), || (bash(&server, &id, "ls /tmp") == "still\n").then_some(()));
    socket.say("here\n");
    hears(&mut socket, "stdout", "here\n");
    server.finish();
}

#[test]
fn the_handshake_is_refused_before_it_is_made() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let status = |id: &str, query: &str, headers: &[(&str, &str)]| match interact(&server, id, query, headers) {
        Ok(_) => 101,
        Err(refused) => refused.status,
    };
    let with_key = format!("api_key={KEY}");
    assert_eq!(status(&id, "", &[]), 401);
    assert_eq!(status(&id, "api_key=x", &[]), 401);
    assert_eq!(status(&id, "", &[("x-boxed-api-key", KEY)]), 101);
    assert_eq!(status("nothing", &with_key, &[]), 404);
    for origin in ["http://localhost:3000", "http://127.0.0.1:8080", "https://elsewhere.example", "null"] {
        assert_eq!(status(&id, &with_key, &[("origin", origin)]), 101, "{origin}");
        assert_eq!(status(&id, "", &[("origin", origin)]), 401, "{origin}");
    }
    let plain = get(&server, &format!("/v1/sandbox/{id}/interact"));
    assert_eq!((plain.status, plain.text().as_str()), (400, "Bad Request"));
    server.finish();

    let open = Setup::default().without_key().env("CAISSON_AUTH", "none").start();
    let made = open.post("/v1/sandbox", &json!({})).expect(201).json();
    let id = made["sandbox_id"].as_str().unwrap();
    for (origin, expect) in [
        ("http://localhost:3000", 101),
        ("http://127.0.0.1:1", 101),
        ("https://elsewhere.example", 403),
        ("http://localhost.example", 403),
        ("null", 403),
    ] {
        let got = match interact(&open, id, "", &[("origin", origin)]) {
            Ok(_) => 101,
            Err(refused) => refused.status,
        };
        assert_eq!(got, expect, "{origin}");
        let answer = open.request("POST", "/v1/sandbox").header("origin", origin).json(&json!({})).send();
        assert_eq!(answer.status, if expect == 101 { 201 } else { 403 }, "{origin}");
    }
    refused(&open.request("GET", "/v1/sandbox").header("host", "elsewhere.example").send(), 403, "host");
    open.finish();
}

#[test]
fn hostile_frames_end_their_connection_and_nothing_else() {
    let server = boxed();
    let id = create(&server, &json!({}));
    let before = descriptors(&server);
    // Unmasked; a reserved bit; text that is none; a control frame that is too long; more than a message may have.
    for (bytes, code) in [
        (&b"\x81\x01a"[..], 1002),
        (b"\xf1\x81\0\0\0\0a", 1002),
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (&[&b"\x89\xfe\0\x7e\0\0\0\0"[..], &[0; 126]].concat(), 1002),
        (b"\x82\xff\0\0\0\0\x7f\xff\xff\xff\0\0\0\0", 1009),
    ] {
        let mut socket = talk(&server, &id, "bash");
        socket.raw().write_all(bytes).unwrap();
        let closed = loop {
            match socket.hear() {
                Heard::Closed(code, _) => break code,
                Heard::Control(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(closed, code, "{bytes:x?}");
    }
    let many: Vec<Socket> = (0..40).map(|_| talk(&server, &id, "bash")).collect();
    drop(many);
    eventually("the end of all shells", Duration::from_secs(15), || {
        (bash(&server, &id, "ls /proc | grep -c '^[0-9]'").trim().parse::<u32>().unwrap() < 8).then_some(())
    });
    descriptors_come_back(&server, before);
    assert_eq!(bash(&server, &id, "echo fine"), "fine\n");
    server.finish();
}

#[test]
fn keys_are_its_own_or_the_native_ones_and_tenants_are_apart() {
    let server = boxed();
    assert!(server.log().contains("BOXED_API_KEY"), "told when it is used");
    // Its own key is for this API alone.
    let mut other = server.client.clone();
    other.key = Some(KEY.to_owned());
    assert_eq!(other.request("GET", "/v1/sandboxes").send().status, 401);
    assert_eq!(other.request("GET", "/v1/sandbox").send().status, 401, "`Authorization` is not looked at");
    let id = create(&server, &json!({}));
    let made = server.post("/v1/keys", &json!({"tenant": "other", "scope": "run"})).expect(201).json();
    let others = made["key"].as_str().unwrap();
    let as_other = |method: &str, rest: &str| server.request(method, &format!("/v1/sandbox{rest}")).header("x-boxed-api-key", others);
    assert_eq!(as_other("GET", "").send().text(), "{\"sandboxes\":[]}\n");
    refused(&as_other("DELETE", &format!("/{id}")).send(), 404, "sandbox not found");
    refused(&as_other("POST", &format!("/{id}/exec")).json(&json!({})).send(), 404, "sandbox not found");
    refused(&as_other("GET", &format!("/{id}/files")).send(), 404, "sandbox not found");
    let refusal = interact(&server, &id, &format!("api_key={others}"), &[]).unwrap_err();
    assert_eq!(refusal.status, 404);
    let theirs = as_other("POST", "").json(&json!({})).send().expect(201).json();
    refused(&post(&server, &format!("/v1/sandbox/{}/exec", theirs["sandbox_id"].as_str().unwrap()), &json!({})), 404, "sandbox not found");
    let native = server.client.key.clone().unwrap();
    assert_eq!(server.request("GET", "/v1/sandbox").header("x-boxed-api-key", &native).send().status, 200);
    server.finish();
}

#[test]
fn the_program_under_the_name_boxed_has_its_command_line() {
    let server = boxed();
    let name = server.home().path().join("boxed");
    symlink(program(), &name).unwrap();
    let url = format!("http://{}", server.client.address);
    let command = |arguments: &[&str]| {
        let mut command = server.home().clean(&name);
        command.args(arguments).env("BOXED_URL", &url).env("BOXED_API_KEY", KEY);
        command
    };
    let run = |arguments: &[&str]| {
        let output = command(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, out, err) = run(&[
        "run",
        "import sys; print('out'); print('err', file=sys.stderr); open('/output/d/../p.txt','w') if 0 else open('/output/p.txt','w').write('x'); sys.exit(3)",
    ]);
    assert_eq!((code, err.as_str()), (Some(0), "err\n"), "{out}");
    assert!(
        out.starts_with("📦 Sandbox sbx") && out.contains(" created\nout\n📂 Artifacts:\n  - Saved: artifacts/p.txt (text/plain)\n"),
        "{out}"
    );
    assert!(out.ends_with("♻️  Sandbox destroyed\n"), "{out}");
    assert_eq!(fs::read(server.home().path().join("artifacts/p.txt")).unwrap(), b"x");
    let id = create(&server, &json!({}));
    let (_, out, _) = run(&["list"]);
    assert!(
        out.starts_with("ID") && out.contains("STATE") && out.contains("DRIVER") && out.contains("CREATED") && out.contains(&id),
        "{out}"
    );
    assert_eq!(out.lines().count(), 2, "the one of `run` is gone: {out}");
    fs::write(server.home().path().join("local.txt"), "content").unwrap();
    assert_eq!(run(&["fs", "cp", "local.txt", &format!("{id}:/data")]), (Some(0), format!("Uploaded to {id}:/data\n"), String::new()));
    assert_eq!(run(&["fs", "cat", &id, "/data/local.txt"]).1, "content");
    assert_eq!(run(&["fs", "cat", &format!("{id}:/data/local.txt")]).1, "content");
    let (_, out, _) = run(&["fs", "ls", &id, "/data"]);
    assert!(out.starts_with("MODE") && out.contains("-rw-r--r--  7 ") && out.contains("data/local.txt"), "{out}");
    for failing in [
        &["run", "x", "-t", "none:1"][..],
        &["fs", "cat", &id, "/none"],
        &["repl", "nothing"],
        &["nothing"],
        &["list", "--api-key", "wrong"],
    ] {
        let (code, _, err) = run(failing);
        assert!(code == Some(1) && !err.is_empty(), "{failing:?}: {code:?} {err}");
    }
    let mut repl = command(&["repl", &id]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    repl.stdin.take().unwrap().write_all(b"echo said; exit 5\n").unwrap();
    let mut said = String::new();
    repl.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(repl.wait().unwrap().success());
    assert!(said.starts_with("Connecting to ") && said.contains("Connected!") && said.contains("\nsaid\n"), "{said}");
    assert!(said.ends_with("[Process Exited with code 5]\n"), "{said}");
    server.finish();
}
