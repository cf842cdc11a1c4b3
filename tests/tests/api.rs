//! The native API over HTTP, on real sandboxes: one-shots, sandboxes, executions and their output.

use std::time::{Duration, Instant};

use caisson_tests::{BASE64, Base64Engine, Server, Value, allowed, eventually, json, needs};

#[track_caller]
fn exited(result: &Value, code: i64) {
    assert_eq!((&result["status"], &result["exit_code"]), (&json!("exited"), &json!(code)), "{result:#}");
}

/// Names of the files that a one-shot brought back, with their texts.
fn texts(result: &Value) -> Vec<(String, String)> {
    let files = result["files"].as_array().expect("a list of files").iter();
    files.map(|file| (file["path"].as_str().unwrap().to_owned(), file["content"].as_str().unwrap_or("-").to_owned())).collect()
}

#[test]
fn each_way_to_name_a_program_runs_it() {
    for (program, package) in [("python3", "python3"), ("node", "nodejs"), ("bash", "bash"), ("perl", "perl")] {
        needs(program, package);
    }
    let server = Server::start();
    for (body, expect) in [
        (json!({"language": "python", "code": "print('hello')"}), "hello\n"),
        (json!({"language": "py", "code": "import sys; print(sys.argv[1:])", "args": ["a b", ""]}), "['a b', '']\n"),
        (json!({"language": "JavaScript", "code": "console.log([1, 2].map(x => x * 2))"}), "[ 2, 4 ]\n"),
        (json!({"language": "bash", "code": "echo ${BASH_VERSION:+bash} $1", "args": ["x"]}), "bash x\n"),
        (json!({"language": "perl", "code": "print \"perl\\n\""}), "perl\n"),
        (json!({"cmd": ["printf", "%s|", "a b", "$HOME"]}), "a b|$HOME|"),
        (json!({"shell": "echo one | tr a-z A-Z && echo $((6 * 7))"}), "ONE\n42\n"),
    ] {
        let result = server.run(&body);
        exited(&result, 0);
        assert_eq!(result["stdout"], expect, "{body}");
        assert_eq!((&result["stderr"], &result["signal"]), (&json!(""), &Value::Null), "{body}");
    }
    server.finish();
}

#[test]
fn go_is_compiled_and_run() {
    needs("go", "golang-go");
    let server = Server::start();
    let code = "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"go\", 6*7) }\n";
    let limits = json!({"cpus": 2, "memory_bytes": 2u64 << 30, "disk_bytes": 1u64 << 30});
    let result =
        server.run(&json!({"language": "go", "code": code, "timeout_s": allowed(Duration::from_secs(60)).as_secs(), "limits": limits}));
    exited(&result, 0);
    assert_eq!(result["stdout"], "go 42\n");
    server.finish();
}

#[test]
fn a_result_has_its_figures() {
    let server = Server::start();
    let result = server.run(
        &json!({"language": "python", "code": "import sys\nx = 0\nfor i in range(10**6): x += i\nsys.stderr.write('err')\nsys.exit(3)"}),
    );
    exited(&result, 3);
    assert_eq!((&result["stderr"], &result["stderr_bytes"], &result["stdout_bytes"]), (&json!("err"), &json!(3), &json!(0)));
    assert_eq!(result["truncated"], json!({"stdout": false, "stderr": false}));
    assert!(result["duration_ms"].as_f64().unwrap() > 1.0 && result["cpu_ms"].as_f64().unwrap() > 1.0, "{result:#}");
    assert!((1 << 20..1 << 30).contains(&result["peak_memory_bytes"].as_u64().unwrap()), "{result:#}");
    let record = server.execution(result["id"].as_str().unwrap());
    for field in ["status", "exit_code", "sandbox_id", "stderr_bytes", "duration_ms"] {
        assert_eq!(record[field], result[field], "{field}");
    }
    assert_eq!(record["cmd"], json!(["python3", "main.py"]));
    server.finish();
}

#[test]
fn files_go_in_and_changed_ones_come_back() {
    let server = Server::start();
    let code = "import os\nd = open('in/data.csv').read()\nopen('out.txt', 'w').write(d.upper())\nos.makedirs('a/b')\n\
                open('a/b/raw', 'wb').write(b'\\xff\\x00')\nopen('kept', 'a')\nos.symlink('/etc/passwd', 'link')\nprint(oct(os.stat('run.sh').st_mode))";
    let body = json!({
        "language": "python", "code": code,
        "files": [
            {"path": "in/data.csv", "content": "a,b\n"},
            {"path": "/workspace/kept", "content_base64": BASE64.encode(b"\x00\x01")},
            {"path": "run.sh", "content": "#!/bin/sh\n", "mode": "0755"},
        ],
    });
    let result = server.run(&body);
    exited(&result, 0);
    assert_eq!(result["stdout"], "0o100755\n");
    let expect = [("/workspace/a/b/raw", "-"), ("/workspace/out.txt", "A,B\n")].map(|(path, text)| (path.to_owned(), text.to_owned()));
    assert_eq!(texts(&result), expect, "neither what did not change, nor the code, nor links");
    assert_eq!(result["files"][0]["content_base64"], BASE64.encode(b"\xff\x00"));
    assert_eq!((&result["files"][1]["size"], &result["files_truncated"]), (&json!(4), &json!(false)));
    let named = server.run(&json!({"shell": "echo 12345 > a; echo 1 > b", "max_file_bytes": 3}));
    assert_eq!(texts(&named), [("/workspace/a".into(), "-".into()), ("/workspace/b".into(), "1\n".into())], "as many as fit");
    server.finish();
}

#[test]
fn environment_directory_and_input_are_those_of_the_request() {
    let server = Server::start();
    let result = server.run(&json!({"shell": "pwd; cat; echo $A $HOME $USER", "cwd": "/tmp", "stdin": "in ä\n", "env": {"A": "x y"}}));
    assert_eq!(result["stdout"], "/tmp\nin ä\nx y /home/user user\n");
    let bytes = server.run(&json!({"cmd": ["cat"], "stdin_base64": BASE64.encode(b"\xff\x00\n")}));
    assert_eq!((&bytes["stdout"], &bytes["stdout_base64"]), (&json!("\u{fffd}\0\n"), &json!(BASE64.encode(b"\xff\x00\n"))));
    let none = server.run(&json!({"shell": "cat; readlink /proc/self/fd/0"}));
    assert_eq!(none["stdout"], "/dev/null\n");
    let sandbox = server.sandbox(&json!({"env": {"A": "sandbox", "B": "sandbox"}, "hostname": "caisson-7"}));
    let result = sandbox.exec(&json!({"shell": "echo $A $B; hostname; pwd; mkdir -p d", "env": {"A": "request"}}));
    assert_eq!(result["stdout"], "request sandbox\ncaisson-7\n/workspace\n");
    assert_eq!(sandbox.exec(&json!({"shell": "pwd", "cwd": "d"}))["stdout"], "/workspace/d\n", "relative to the work dir");
    server.finish();
}

#[test]
fn events_tell_both_outputs_apart_and_in_time() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let line = "echo out; echo err >&2; read go < fifo; printf '\\xff\\xfe'; printf 'no newline'; exit 4";
    let _made = sandbox.shell("mkfifo fifo");
    let mut events = sandbox.events(&json!({"shell": line}));
    let start = events.next().unwrap();
    assert_eq!((start.name.as_str(), &start.data["sandbox_id"]), ("start", &json!(sandbox.id)));
    let (mut first, mut seen) = (Vec::new(), Vec::new());
    while seen.len() < 2 {
        let event = events.next().unwrap();
        seen.push(event.name.clone());
        first.extend(event.bytes());
    }
    seen.sort();
    assert_eq!(seen, ["stderr", "stdout"], "both come while the program still runs");
    assert_eq!(server.execution(start.data["id"].as_str().unwrap())["status"], "running");
    let _released = sandbox.shell("echo > fifo");
    let (rest, stdout, stderr) = events.to_the_end();
    assert_eq!((stdout.as_slice(), stderr.len()), (&b"\xff\xfeno newline"[..], 0));
    let last = rest.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["exit_code"], &last.data["stdout_bytes"]), ("result", &json!(4), &json!(16)));
    assert!(last.data.get("stdout").is_none(), "it was told already");
    let offsets: Vec<u64> = rest.iter().filter(|e| e.name == "stdout").map(|e| e.data["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets[0], 4, "an offset is where the piece begins");
    server.finish();
}

#[test]
fn a_one_shot_can_be_followed_too() {
    let server = Server::start();
    let body =
        json!({"language": "python", "code": "import sys\nprint('a', flush=True)\nprint('b', file=sys.stderr)\nopen('f', 'w').write('x')"});
    let (events, stdout, stderr) = server.request("POST", "/v1/run").json(&body).events().to_the_end();
    assert_eq!((stdout, stderr), (b"a\n".to_vec(), b"b\n".to_vec()));
    assert_eq!((events[0].name.as_str(), events.last().unwrap().name.as_str()), ("start", "result"));
    assert_eq!(texts(&events.last().unwrap().data), [("/workspace/f".to_owned(), "x".to_owned())]);
    server.finish();
}

#[test]
fn sandboxes_are_made_found_changed_and_ended() {
    let server = Server::start();
    let made = server
        .post("/v1/sandboxes", &json!({"name": "box", "metadata": {"team": "a"}, "limits": {"memory_bytes": 128 << 20}}))
        .expect(201)
        .json();
    assert_eq!((&made["state"], &made["name"], &made["limits"]["memory_bytes"]), (&json!("running"), &json!("box"), &json!(128 << 20)));
    assert_eq!(
        (&made["limits"]["pids"], &made["lifetime_s"], &made["idle_timeout_s"]),
        (&json!(256), &json!(86400), &json!(900)),
        "defaults"
    );
    let again = server.post("/v1/sandboxes", &json!({"name": "box"})).expect(200).json();
    assert_eq!(again["id"], made["id"], "the living one of that name");
    let target = format!("/v1/sandboxes/{}", made["id"].as_str().unwrap());
    let got = server.get(&target).expect(200).json();
    let usage = &got["usage"];
    assert!(usage["memory_bytes"].as_u64().unwrap() > 0 && usage["pids"].as_u64().unwrap() >= 1 && usage["oom_kills"] == 0, "{usage}");

    let changes = json!({"lifetime_s": 500.5, "idle_timeout_s": null, "metadata": {"team": "b"}});
    let changed = server.request("PATCH", &target).json(&changes).send().expect(200).json();
    for field in ["lifetime_s", "idle_timeout_s", "metadata"] {
        assert_eq!(changed[field], changes[field], "{field}");
    }
    let partly = server.request("PATCH", &target).json(&json!({})).send().expect(200).json();
    assert_eq!(partly["lifetime_s"], 500.5, "what is absent stays");

    let ended = server.request("DELETE", &target).send().expect(200).json();
    assert_eq!((&ended["state"], &ended["tombstone"]["reason"]), (&json!("ended"), &json!("deleted")));
    server.get(&target).refused(410, "gone");
    let next = server.post("/v1/sandboxes", &json!({"name": "box"})).expect(201).json();
    assert_ne!(next["id"], made["id"], "a name is free again, an id never");
    server.finish();
}

#[test]
fn lists_have_pages_and_filters() {
    let server = Server::start();
    let mut ids: Vec<String> =
        (0..5).map(|n| server.sandbox(&json!({"metadata": {"n": n.to_string(), "odd": (n % 2).to_string()}})).id).collect();
    ids.reverse();
    let list = |query: &str| -> (Vec<String>, Option<String>) {
        let page = server.get(&format!("/v1/sandboxes{query}")).expect(200).json();
        let ids = page["data"].as_array().unwrap().iter().map(|sandbox| sandbox["id"].as_str().unwrap().to_owned()).collect();
        (ids, page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(list(""), (ids.clone(), None), "newest first");
    let (mut paged, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let (page, next) = list(&cursor.map_or("?limit=2".to_owned(), |cursor| format!("?limit=2&cursor={cursor}")));
        paged.extend(page);
        pages += 1;
        cursor = next;
        if cursor.is_none() || pages == 10 {
            break;
        }
    }
    assert_eq!((paged, pages), (ids.clone(), 3));
    assert_eq!(list("?metadata.odd=1").0, [ids[1].clone(), ids[3].clone()]);
    assert_eq!(list("?metadata.odd=1&metadata.n=3").0, [ids[1].clone()]);
    assert_eq!(list("?metadata.odd=2").0, [""; 0]);
    server.request("DELETE", &format!("/v1/sandboxes/{}", ids[0])).send().expect(200);
    assert_eq!(list("?state=ended").0, [ids[0].clone()]);
    assert_eq!(list("?state=running&state=creating").0, ids[1..]);
    server.finish();
}

#[test]
fn output_is_addressed_by_offset_and_followed() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("mkfifo fifo");
    let id = sandbox.background(json!({"shell": "printf 0123456789; echo err >&2; read go < fifo; printf abc; exit 5"}));
    let output = |query: &str| server.get(&format!("/v1/executions/{id}/output{query}")).expect(200);
    eventually("the first output", Duration::from_secs(10), || (output("").body == b"0123456789").then_some(()));
    let part = output("?offset=4");
    assert_eq!((part.text().as_str(), part.figure("x-caisson-offset"), part.figure("x-caisson-total")), ("456789", 4, 10));
    assert_eq!(part.header("x-caisson-finished"), Some("false"));
    eventually("the other stream", Duration::from_secs(10), || (output("?stream=stderr").body == b"err\n").then_some(()));
    let following = server.request("GET", &format!("/v1/executions/{id}/output?offset=8&follow=true")).open();
    let _released = sandbox.shell("echo > fifo");
    assert_eq!(following.whole().text(), "89abc", "to the end of the execution");
    let ended = server.ended(&id, Duration::from_secs(10));
    assert_eq!((&ended["exit_code"], &ended["stdout_bytes"], &ended["stderr_bytes"]), (&json!(5), &json!(13), &json!(4)));
    let rest = output("?offset=12");
    assert_eq!((rest.text().as_str(), rest.header("x-caisson-finished"), rest.figure("x-caisson-dropped")), ("c", Some("true"), 0));
    assert_eq!(output("?offset=100").text(), "");
    let resumed = server.request("GET", &format!("/v1/executions/{id}/output")).header("last-event-id", "11").events().to_the_end();
    assert_eq!(resumed.1, b"bc", "an event stream goes on behind the last event");
    server.finish();
}

#[test]
fn background_programs_can_be_listed_signalled_and_killed() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let polite = sandbox.background(json!({"shell": "trap 'echo bye; exit 9' TERM; echo on; while :; do sleep 0.05; done"}));
    let stubborn = sandbox.background(json!({"shell": "trap '' TERM; (trap '' TERM; sleep 1000) & sleep 1000"}));
    eventually("the trap to be set", Duration::from_secs(10), || {
        (server.get(&format!("/v1/executions/{polite}/output")).expect(200).text() == "on\n").then_some(())
    });
    let listed = sandbox.request("GET", "/executions").send().expect(200).json();
    let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [stubborn.as_str(), polite.as_str()], "newest first");
    server.post(&format!("/v1/executions/{polite}/signal"), &json!({"signal": "SIGTERM"})).expect(204);
    let ended = server.ended(&polite, Duration::from_secs(10));
    assert_eq!((&ended["status"], &ended["exit_code"]), (&json!("exited"), &json!(9)));
    server.request("POST", &format!("/v1/executions/{stubborn}/kill")).send().expect(204);
    assert_eq!(server.ended(&stubborn, Duration::from_secs(2))["status"], "killed");
    server.post(&format!("/v1/executions/{stubborn}/signal"), &json!({"signal": 15})).refused(409, "execution_finished");
    sandbox.is_empty_of_others();
    server.finish();
}

#[test]
fn the_three_time_limits_are_three() {
    let server = Server::start();
    let begin = Instant::now();
    let timed_out = server.run(&json!({"shell": "sleep 100", "timeout_s": 0.3}));
    assert_eq!((&timed_out["status"], &timed_out["exit_code"]), (&json!("timed_out"), &Value::Null), "{timed_out:#}");
    assert!(begin.elapsed() < allowed(Duration::from_secs(3)));
    assert!(timed_out["message"].as_str().unwrap().contains("0.3 s"), "{timed_out:#}");

    let short = allowed(Duration::from_millis(500)).as_secs_f64();
    let mortal = server.sandbox(&json!({"lifetime_s": 3.0 * short, "idle_timeout_s": null}));
    let idle = server.sandbox(&json!({"idle_timeout_s": short}));
    let busy = server.sandbox(&json!({"idle_timeout_s": short}));
    let work = busy.background(json!({"cmd": ["sleep", "1000"], "timeout_s": null}));
    let doomed = mortal.background(json!({"cmd": ["sleep", "1000"], "timeout_s": null}));
    let list_reason = |id: &str| {
        let page = server.get("/v1/sandboxes?state=ended").expect(200).json();
        let found = page["data"].as_array().unwrap().iter().find(|sandbox| sandbox["id"] == id).cloned();
        found.map(|sandbox| sandbox["tombstone"]["reason"].as_str().unwrap().to_owned())
    };
    // Not asked for by id: that would be a use.
    let reason = eventually("the end of the idle one", Duration::from_secs(5), || list_reason(&idle.id));
    assert_eq!(reason, "idle_timeout");
    let reason = eventually("the end of the mortal one", Duration::from_secs(5), || list_reason(&mortal.id));
    assert_eq!(reason, "lifetime", "a running program does not save it");
    assert_eq!(server.execution(&doomed)["status"], "killed");
    assert_eq!(list_reason(&busy.id), None, "a running program keeps a sandbox from being idle");
    assert!(idle.try_exec(&json!({"shell": "true"})).refused(410, "gone").contains("idle_timeout"));
    server.request("POST", &format!("/v1/executions/{work}/kill")).send().expect(204);
    let reason = eventually("the end of the one that was busy", Duration::from_secs(5), || list_reason(&busy.id));
    assert_eq!(reason, "idle_timeout");
    server.finish();
}

#[test]
fn longer_limits_can_be_given_in_time() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"lifetime_s": allowed(Duration::from_secs(2)).as_secs_f64()}));
    sandbox.request("PATCH", "").json(&json!({"lifetime_s": 600})).send().expect(200);
    std::thread::sleep(allowed(Duration::from_millis(2200)));
    assert_eq!(sandbox.shell("echo alive"), "alive\n");
    server.finish();
}

#[test]
fn the_server_tells_about_itself() {
    let server = Server::start();
    for target in ["/healthz", "/readyz"] {
        assert_eq!(server.get(target).expect(200).json(), json!({"status": "ok"}), "{target}");
    }
    let _ran = server.python("pass");
    let sandbox = server.sandbox(&json!({}));
    let metrics = server.get("/metrics").expect(200);
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = metrics.text();
    for line in [
        "caisson_sandboxes{state=\"running\"} 1",
        "caisson_launches_total 2",
        "caisson_launch_duration_seconds_bucket{le=\"+Inf\"} 2",
        "caisson_launch_failures_total 0",
        "caisson_executions_finished_total{status=\"exited\"} 1",
        "caisson_http_requests_total{route=\"/v1/run\",status=\"200\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|have| have == line), "no `{line}` in\n{text}");
    }
    sandbox.delete().expect(200);
    assert!(server.get("/healthz").header("x-request-id").is_some_and(|id| id.starts_with("req-")));
    assert_eq!(server.request("GET", "/healthz").header("x-request-id", "mine").send().header("x-request-id"), Some("mine"));
    server.finish();
}
