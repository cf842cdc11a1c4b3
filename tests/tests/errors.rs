//! Bad input gets a clear answer with a stable code, and leaves nothing half-made.

use std::time::Duration;

use caisson_tests::{Server, Value, eventually, json};

/// Asks for a one-shot that must be refused; the message must contain every word.
#[track_caller]
fn refused(server: &Server, body: &Value, status: u16, code: &str, words: &[&str]) {
    let message = server.post("/v1/run", body).refused(status, code);
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

/// A one-shot that could not start ends behind its answer.
#[track_caller]
fn nothing_was_made(server: &Server) {
    eventually("every sandbox to have ended", Duration::from_secs(5), || {
        let page = server.get("/v1/sandboxes").expect(200).json();
        page["data"].as_array().unwrap().iter().all(|sandbox| sandbox["state"] == "ended").then_some(())
    });
}

#[test]
fn what_cannot_be_run_is_named() {
    let server = Server::start();
    for (body, code, words) in [
        (json!({"language": "klingon", "code": "x"}), "unknown_language", &["klingon", "python", "bash"][..]),
        (json!({"language": "../sh", "code": "x"}), "unknown_language", &["../sh", "python"]),
        (json!({"language": "", "code": "x"}), "unknown_language", &["python"]),
        (json!({"language": "ruby", "code": "x", "env": {"PATH": "/nowhere"}}), "interpreter_missing", &["ruby", "python"]),
        (json!({"language": "python", "code": "x", "env": {"PATH": "/nowhere"}}), "interpreter_missing", &["python3", "looked for"]),
        (json!({"cmd": ["no-such-program"]}), "program_not_found", &["no-such-program"]),
        (json!({"cmd": ["/workspace/nothing"]}), "program_not_found", &["/workspace/nothing"]),
        (json!({"cmd": ["/etc/passwd"]}), "program_not_found", &["/etc/passwd"]),
        (json!({"cmd": [""]}), "invalid_argv", &["`cmd`"]),
        (json!({"cmd": ["a", "b\0"]}), "invalid_argv", &["NUL"]),
        (json!({"shell": "true", "image": "debian:12"}), "unknown_image", &["debian:12", "`host`"]),
        (json!({"shell": "true", "network": "all"}), "unsupported", &["network", "`none`"]),
        (json!({"shell": "true", "storage": "tape"}), "unsupported", &["storage", "`memory`"]),
        (json!({"shell": "true", "cwd": "/no/such"}), "invalid_path", &["/no/such"]),
        (json!({"shell": "true", "cwd": "/etc/passwd"}), "invalid_path", &["/etc/passwd"]),
        (json!({"shell": "true", "env": {"A=B": "x"}}), "invalid_env", &["A=B"]),
        (json!({"shell": "true", "stdin_base64": "%%"}), "invalid_base64", &["stdin_base64"]),
        (
            json!({"shell": "true", "files": [{"path": "a", "content": ""}, {"path": "./a/../a", "content_base64": "?"}]}),
            "invalid_base64",
            &["files[1]"],
        ),
        (
            json!({"shell": "true", "files": [{"path": "a", "content": ""}, {"path": "a", "content": ""}]}),
            "duplicate_file",
            &["/workspace/a"],
        ),
        (json!({"shell": "true", "files": [{"path": "", "content": ""}]}), "invalid_path", &["empty"]),
    ] {
        refused(&server, &body, 400, code, words);
    }
    nothing_was_made(&server);
    server.finish();
}

#[test]
fn exactly_one_program_must_be_given() {
    let server = Server::start();
    for body in [
        json!({}),
        json!({"cmd": ["true"], "shell": "true"}),
        json!({"code": "1"}),
        json!({"language": "python"}),
        json!({"shell": "true", "args": ["x"]}),
        json!({"shell": "true", "stdin": "", "stdin_base64": ""}),
        json!({"shell": "true", "files": [{"path": "a"}]}),
    ] {
        server.post("/v1/run", &body).refused(400, "invalid_request");
    }
    let sandbox = server.sandbox(&json!({}));
    let both =
        sandbox.request("POST", "/exec").header("accept", "text/event-stream").json(&json!({"shell": "true", "background": true})).send();
    assert!(both.refused(400, "invalid_request").contains("background"));
    server.finish();
}

#[test]
fn r6_8_limits_out_of_range_are_named_with_the_range() {
    let server = Server::start();
    for (limits, words) in [
        (json!({"memory_bytes": 1}), &["limits.memory_bytes", "16777216"][..]),
        (json!({"memory_bytes": -5}), &["limits.memory_bytes", "-5", "16777216"]),
        (json!({"cpus": 0}), &["limits.cpus", "0.01"]),
        (json!({"cpus": -1.5}), &["limits.cpus", "-1.5"]),
        (json!({"cpus": 1e9}), &["limits.cpus", "512"]),
        (json!({"pids": 7}), &["limits.pids", "8 to 100000"]),
        (json!({"pids": u64::MAX}), &["limits.pids", "8 to 100000"]),
        (json!({"disk_bytes": 1e30}), &["limits.disk_bytes"]),
        (json!({"disk_inodes": 0}), &["limits.disk_inodes", "256"]),
        (json!({"open_files": 2_000_000}), &["limits.open_files", "1048576"]),
    ] {
        refused(&server, &json!({"shell": "true", "limits": limits}), 400, "limit_out_of_range", words);
        let message = server.post("/v1/sandboxes", &json!({"limits": limits})).refused(400, "limit_out_of_range");
        assert!(message.contains(words[0]), "{message}");
    }
    for (field, value) in [
        ("timeout_s", json!(0)),
        ("timeout_s", json!(-1)),
        ("timeout_s", json!(1e12)),
        ("max_output_bytes", json!(0)),
        ("max_file_bytes", json!(-1)),
    ] {
        let mut body = json!({"shell": "true"});
        body[field] = value;
        refused(&server, &body, 400, "limit_out_of_range", &[field, "allowed is"]);
    }
    for (field, value) in [("lifetime_s", json!(0)), ("idle_timeout_s", json!(-3)), ("lifetime_s", json!(1e300))] {
        let message = server.post("/v1/sandboxes", &json!({field: value})).refused(400, "limit_out_of_range");
        assert!(message.contains(field) && message.contains("31622400"), "{message}");
    }
    nothing_was_made(&server);
    server.finish();
}

#[test]
fn r6_8_reserved_names_and_paths_of_the_host_are_refused() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    for name in ["CAISSON_", "CAISSON_API_KEY", "CAISSON_X=1"] {
        let env = json!({name: "x"});
        let code = if name.contains('=') { "invalid_env" } else { "reserved_env" };
        refused(&server, &json!({"shell": "true", "env": env}), 400, code, &["CAISSON_"]);
        server.post("/v1/sandboxes", &json!({"env": env})).refused(400, code);
        sandbox.try_exec(&json!({"shell": "true", "env": env})).refused(400, code);
    }
    // There are no mounts, by whatever name, and no image is a directory.
    for field in
        ["mounts", "mount", "volumes", "binds", "bind", "devices", "rootfs", "root", "work_dir", "privileged", "capabilities", "HostConfig"]
    {
        for value in [json!(["/etc:/etc"]), json!({"/": "/host"}), json!("/"), json!(true)] {
            refused(&server, &json!({"shell": "true", field: value}), 400, "invalid_request", &[field, "unknown"]);
            server.post("/v1/sandboxes", &json!({field: value})).refused(400, "invalid_request");
        }
    }
    for image in ["/", "/etc", "../../etc", "host:/etc", "host@/", "dir:/etc", "file:///etc", "docker-archive:/x", ""] {
        refused(&server, &json!({"shell": "true", "image": image}), 400, "unknown_image", &["`host`"]);
    }
    for network in ["host", "bridge", "container:x", "/proc/1/ns/net"] {
        refused(&server, &json!({"shell": "true", "network": network}), 400, "unsupported", &["`none`"]);
    }
    for user in ["0", "65536", "agent", "root:root", "1000:0", "-1"] {
        refused(&server, &json!({"shell": "true", "user": user}), 400, "unsupported", &["`root`"]);
    }
    let home = server.home().path().display().to_string();
    refused(&server, &json!({"shell": "true", "cwd": home}), 400, "invalid_path", &[&home]);
    server.finish();
}

/// JSON has no figure that is none, and no infinite one; those who write one get no limit by accident.
#[test]
fn r6_8_figures_that_are_none_are_refused() {
    let server = Server::start();
    for figure in [
        "NaN",
        "-NaN",
        "Infinity",
        "-Infinity",
        "inf",
        "0x10",
        "1e999",
        "-1e999",
        "1e400",
        "+1",
        "01",
        "1_000",
        "\"NaN\"",
        "\"1\"",
        "true",
        "[1]",
        "{}",
    ] {
        for field in ["memory_bytes", "cpus", "pids", "disk_bytes", "disk_inodes", "open_files"] {
            let limits = format!("{{\"shell\": \"true\", \"limits\": {{\"{field}\": {figure}}}}}");
            let answer = server.request("POST", "/v1/run").bytes(limits).send();
            assert!(answer.status == 400, "{field} {figure}: {} {}", answer.status, answer.text());
        }
        for field in ["timeout_s", "max_output_bytes", "max_file_bytes"] {
            let answer = server.request("POST", "/v1/run").bytes(format!("{{\"shell\": \"true\", \"{field}\": {figure}}}")).send();
            assert!(answer.status == 400, "{field} {figure}: {} {}", answer.status, answer.text());
        }
        for field in ["lifetime_s", "idle_timeout_s"] {
            let answer = server.request("POST", "/v1/sandboxes").bytes(format!("{{\"{field}\": {figure}}}")).send();
            assert!(answer.status == 400, "{field} {figure}: {} {}", answer.status, answer.text());
        }
    }
    // What would overflow on its way to the kernel is out of range long before.
    for figure in [
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1e19",
        "1e38",
        "1.7976931348623157e308",
        "-9223372036854775809",
    ] {
        for field in ["memory_bytes", "cpus", "pids", "disk_bytes", "disk_inodes", "open_files"] {
            let limits = format!("{{\"limits\": {{\"{field}\": {figure}}}}}");
            server.request("POST", "/v1/sandboxes").bytes(limits).send().refused(400, "limit_out_of_range");
        }
        for field in ["lifetime_s", "idle_timeout_s"] {
            let answer = server.request("POST", "/v1/sandboxes").bytes(format!("{{\"{field}\": {figure}}}")).send();
            answer.refused(400, "limit_out_of_range");
        }
    }
    assert_eq!(server.get("/v1/sandboxes").expect(200).json()["data"], json!([]));
    server.finish();
}

#[test]
fn r6_3_fields_are_strict() {
    let server = Server::start();
    for (body, words) in [
        (r#"{"shell": "true", "timeout": 3}"#, &["timeout", "unknown"][..]),
        (r#"{"shell": "true", "limits": {"memory_mb": 3}}"#, &["limits.memory_mb", "memory_bytes"]),
        (r#"{"shell": "true", "files": [{"path": "a", "content": "", "mode": "9"}]}"#, &["files[0].mode"]),
        (r#"{"cmd": "true"}"#, &["cmd"]),
        (r#"{"cmd": ["a", 3]}"#, &["cmd[1]"]),
        (r#"{"shell": "true", "shell": "false"}"#, &["duplicate", "shell"]),
        (r#"{"shell": "true", "env": {"A": "1", "A": "2"}}"#, &["`A`", "twice"]),
        (r#"{"shell": "true", "limits": {"pids": 10.5}}"#, &["limits.pids"]),
        (r#"{"shell": "true", "limits": {"pids": "10"}}"#, &["limits.pids"]),
        (r#"{"shell": "true", "background": true}"#, &["background"]),
        ("[]", &[]),
        ("3", &[]),
    ] {
        let answer = server.request("POST", "/v1/run").bytes(body).send();
        let message = answer.refused(400, "invalid_request");
        assert!(answer.json()["error"]["details"]["line"].is_u64(), "{body}");
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    }
    for (target, parameter) in [
        ("/v1/sandboxes?limit=0", "limit"),
        ("/v1/sandboxes?limit=x", "limit"),
        ("/v1/sandboxes?state=dead", "state"),
        ("/v1/sandboxes?nope=1", "nope"),
        ("/v1/sandboxes?name=a&name=b", "name"),
    ] {
        let message = server.get(target).refused(400, "invalid_parameter");
        assert!(message.contains(parameter), "{message}");
    }
    server.finish();
}

#[test]
fn r6_3_bad_json_is_refused_with_its_position() {
    let server = Server::start();
    let answer = server.request("POST", "/v1/run").bytes(&b"{\"shell\": \"true\", \"timeout_s\": 1e999}"[..]).send();
    let message = answer.refused(400, "invalid_request");
    assert!(message.contains("timeout_s") && message.contains("line 1 column"), "{message}");
    for (body, line, column) in [
        (&b"{\n  \"shell\": \"true\",\n}"[..], 3, 1),
        (b"", 1, 0),
        (b"{\"shell\": NaN}", 1, 11),
        (b"{\"shell\": \"true\"} x", 1, 19),
        (b"{'shell': 'true'}", 1, 2),
    ] {
        let answer = server.request("POST", "/v1/run").bytes(body).send();
        let message = answer.refused(400, "invalid_json");
        let details = &answer.json()["error"]["details"];
        assert_eq!(details["line"], line, "{message}");
        assert!(
            details["column"].as_i64().is_some_and(|at| (at - column).abs() <= 3),
            "{details} for {}: {message}",
            String::from_utf8_lossy(body)
        );
    }
    server.finish();
}

#[test]
fn r6_3_code_that_is_no_utf8_is_refused_and_says_so() {
    let server = Server::start();
    for body in [&b"{\"language\": \"python\", \"code\": \"print('\xff')\"}"[..], b"{\"shell\": \"\xc3\x28\"}", b"{\"shell\": \"\\ud800\"}"]
    {
        let message = server.request("POST", "/v1/run").bytes(body).send().refused(400, "invalid_json");
        assert!(message.contains("line 1"), "{message}");
    }
    // As a file and as bytes it is fine.
    let result = server.run(&json!({"cmd": ["perl", "main.pl"], "files": [{"path": "main.pl", "content_base64": "cHJpbnQgIv8iOw=="}]}));
    assert_eq!(result["stdout_base64"], "/w==", "{result:#}");
    server.finish();
}

#[test]
fn r6_3_deep_and_long_json_is_refused() {
    let server = Server::start();
    for body in ["[".repeat(100_000), "{\"a\":".repeat(100_000), format!("{{\"shell\": {}1{}}}", "[".repeat(5000), "]".repeat(5000))] {
        let answer = server.request("POST", "/v1/run").bytes(body).send();
        assert!(answer.status == 400, "{} {:.300}", answer.status, answer.text());
    }
    let number = format!("{{\"shell\": \"true\", \"timeout_s\": {}}}", "9".repeat(100_000));
    assert_eq!(server.request("POST", "/v1/run").bytes(number).send().status, 400);
    let code = json!({"language": "python", "code": "#".repeat((8 << 20) + 1)});
    refused(&server, &code, 413, "too_large", &["8 MiB"]);
    assert_eq!(server.python("print(1)"), "1\n");
    server.finish();
}

#[test]
fn r6_3_a_body_over_the_limit_is_refused_early() {
    let server = Server::start();
    let limit = 32 << 20;
    let answer = server
        .request("POST", "/v1/run")
        .header("content-length", "999999999999")
        .header("content-type", "application/json")
        .open()
        .whole();
    let message = answer.refused(413, "body_too_large");
    assert!(message.contains(&limit.to_string()) && message.contains("/files"), "{message}");
    let piece = || std::iter::once(b"{\"shell\": \"".to_vec()).chain((0..40).map(|_| vec![b'x'; 1 << 20]));
    let answer = server.request("POST", "/v1/run").send_chunks(piece());
    answer.refused(413, "body_too_large");
    assert_eq!(answer.json()["error"]["details"]["limit_bytes"], limit);
    let form = server.request("POST", "/v1/run").header("content-type", "application/x-www-form-urlencoded").bytes("shell=true").send();
    form.refused(415, "unsupported_media_type");
    server.finish();
}

#[test]
fn unknown_ids_and_paths_are_404_and_alike() {
    let server = Server::start();
    let known = server.sandbox(&json!({})).id;
    let unknown = known.replace(&known[10..], &"0".repeat(known.len() - 10));
    for id in [unknown.as_str(), "x", "..%2f..%2fetc", "%00", &known.to_uppercase()] {
        for (method, rest) in
            [("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/exec"), ("GET", "/files?path=a"), ("GET", "/executions")]
        {
            let mut request = server.request(method, &format!("/v1/sandboxes/{id}{rest}"));
            if method == "POST" || method == "PATCH" {
                request = request.json(&if method == "POST" { json!({"shell": "true"}) } else { json!({}) });
            }
            let message = request.send().refused(404, "not_found");
            assert!(message.contains("does not exist"), "{message}");
        }
        server.get(&format!("/v1/executions/{id}")).refused(404, "not_found");
        server.get(&format!("/v1/executions/{id}/output")).refused(404, "not_found");
    }
    assert!(server.get("/v2/run").refused(404, "not_found").contains("openapi.json"));
    let answer = server.get("/v1/run");
    answer.refused(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    server.finish();
}

#[test]
fn an_ended_sandbox_answers_with_its_tombstone() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let result = sandbox.exec(&json!({"shell": "echo kept"}));
    sandbox.delete().expect(200);
    for (method, rest, body) in [
        ("GET", "", json!(null)),
        ("DELETE", "", json!(null)),
        ("PATCH", "", json!({})),
        ("POST", "/exec", json!({"shell": "true"})),
        ("GET", "/files?path=a", json!(null)),
        ("PUT", "/files?path=a", json!("x")),
        ("GET", "/files/list?path=a", json!(null)),
    ] {
        let request = sandbox.request(method, rest);
        let answer = if body.is_null() { request.send() } else { request.json(&body).send() };
        let message = answer.refused(410, "gone");
        let details = &answer.json()["error"]["details"];
        assert!(message.contains("deleted") && message.contains(&sandbox.id), "{method} {rest}: {message}");
        assert_eq!(details["reason"], "deleted");
        let at = details["at"].as_str().unwrap();
        assert!(at.starts_with("20") && at.ends_with('Z'), "{at}");
    }
    let id = result["id"].as_str().unwrap();
    assert_eq!(server.execution(id)["status"], "exited", "what ran in it is remembered");
    assert_eq!(server.get(&format!("/v1/executions/{id}/output")).expect(200).text(), "kept\n");
    let one_shot = server.run(&json!({"shell": "true"}));
    let target = format!("/v1/sandboxes/{}", one_shot["sandbox_id"].as_str().unwrap());
    let answer = eventually("the end of the one-shot's sandbox", Duration::from_secs(5), || {
        Some(server.get(&target)).filter(|answer| answer.status == 410)
    });
    assert_eq!(answer.json()["error"]["details"]["reason"], "finished");
    server.finish();
}
