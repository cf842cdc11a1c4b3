//! Whatever dies, nothing of it is left, and afterwards the records tell the truth.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use caisson_tests::{Host, Process, Server, Value, allowed, eventually, fewer, json, kill_nine};

/// Sandboxes with two programs each, one of which writes and writes.
fn fill(server: &Server, count: usize) -> Vec<(String, String)> {
    thread::scope(|scope| {
        let busy = |_| {
            scope.spawn(|| {
                let sandbox = server.sandbox(&json!({"limits": {"cpus": 0.1}, "idle_timeout_s": null}));
                let _daemon =
                    sandbox.background(json!({"shell": "setsid sh -c 'trap \"\" TERM; sleep 1000' & sleep 1000", "timeout_s": null}));
                // Without a process for each pause: fifty that make one after the other fill a slow machine.
                let line = "exec 3<> <(:); echo begun; while :; do echo noise; read -rt 0.1 -u 3; done";
                let id = sandbox.background(json!({"cmd": ["bash", "-c", line], "timeout_s": null}));
                eventually("its first words", Duration::from_secs(60), || {
                    // Fifty who ask without a pause leave a slow machine no time for what they ask about.
                    thread::sleep(allowed(Duration::from_millis(100)));
                    let said = server.get(&format!("/v1/executions/{id}/output")).expect(200).text();
                    said.starts_with("begun\n").then_some(())
                });
                (sandbox.id.clone(), id)
            })
        };
        let threads: Vec<_> = (0..count).map(busy).collect();
        threads.into_iter().map(|thread| thread.join().expect("a sandbox could be filled")).collect()
    })
}

/// Everything below the server is gone within two seconds, and nothing else is left.
#[track_caller]
fn nothing_survives(below: &[Process], before: &Host) {
    let begin = Instant::now();
    Process::all_end("below the server", below);
    if let Err(left) = Host::is_as_before(before) {
        panic!("left after {:?}:\n  {}", begin.elapsed(), left.join("\n  "));
    }
}

#[track_caller]
fn tombstone_reason(server: &Server, id: &str) -> Value {
    let answer = server.get(&format!("/v1/sandboxes/{id}"));
    answer.refused(410, "gone");
    answer.json()["error"]["details"]["reason"].clone()
}

#[test]
fn r7_1_kill_nine_of_the_server_with_fifty_busy_sandboxes_leaves_nothing() {
    let before = Host::now();
    let mut server = Server::start();
    let filled = fill(&server, fewer(50));
    let below = server.below();
    assert!(below.len() >= filled.len() * 5, "{} processes", below.len());
    server.kill();
    nothing_survives(&below, &before);

    server.start_again();
    for (sandbox, execution) in &filled {
        assert_eq!(tombstone_reason(&server, sandbox), "server_lost");
        let record = server.execution(execution);
        assert_eq!(record["status"], "lost", "{record:#}");
    }
    let alive = server.get("/v1/sandboxes?state=running&state=creating&state=stopping").expect(200).json();
    assert_eq!(alive["data"], json!([]), "nothing is said to run that does not");
    assert_eq!(server.python("print(1)"), "1\n");
    server.finish();
}

/// Whoever kills launcher and server at once leaves control groups, which are empty. The next start says so.
#[test]
fn r7_1_the_next_start_removes_what_is_left_and_says_so() {
    let before = Host::now();
    // Makes the directories in which these are.
    Server::start().finish();
    let parents = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path().join("caisson"));
    let parents: Vec<_> =
        parents.chain(["/sys/fs/cgroup/caisson".into()]).filter(|parent| parent.is_dir() && !parent.is_symlink()).collect();
    let mut left = Vec::new();
    for (parent, number) in parents.iter().flat_map(|parent| (31_000..31_003).map(move |number| (parent, number))) {
        let group = parent.join(number.to_string());
        // Two names of one hierarchy have the same directories.
        if !group.exists() {
            fs::create_dir(&group).unwrap();
            left.push(group);
        }
    }
    let server = Server::start();
    assert!(server.log().contains("Removing 3 control groups that an earlier run has left"), "{}", server.log());
    eventually("them to go", Duration::from_secs(20), || left.iter().all(|group| !group.exists()).then_some(()));
    server.finish();
    nothing_survives(&[], &before);
}

/// At whatever moment: the server is killed again and again while sandboxes come and go.
#[test]
fn r7_1_kill_nine_in_the_middle_of_things_leaves_nothing() {
    let before = Host::now();
    let mut server = Server::start();
    for round in 0..8 {
        let client = server.client.clone();
        let clients: Vec<_> = (0..6)
            .map(|n| {
                let client = client.clone();
                thread::spawn(move || {
                    // Until the server is gone.
                    for _ in 0..1000 {
                        let target = if n % 2 == 0 { "/v1/run" } else { "/v1/sandboxes" };
                        let body = if n % 2 == 0 { json!({"shell": "sleep 0.02"}) } else { json!({}) };
                        if client.request("POST", target).json(&body).try_send().is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(100 + 37 * round));
        let below = server.below();
        server.kill();
        for client in clients {
            client.join().expect("a client ends when its server does");
        }
        nothing_survives(&below, &before);
        server.start_again();
        let alive = server.get("/v1/sandboxes?state=running&state=creating&state=stopping").expect(200).json();
        assert_eq!(alive["data"], json!([]));
    }
    server.finish();
}

#[test]
fn r7_1_kill_nine_of_the_launcher_is_noticed_and_survived() {
    let server = Server::start();
    let filled = fill(&server, 5);
    let below: Vec<Process> = server.below();
    kill_nine(server.launcher().pid);
    Process::all_end("below the launcher", &below);
    for (sandbox, execution) in &filled {
        let answer = eventually("a tombstone", Duration::from_secs(5), || {
            Some(server.get(&format!("/v1/sandboxes/{sandbox}"))).filter(|answer| answer.status == 410)
        });
        let details = &answer.json()["error"]["details"];
        assert_eq!(details["reason"], "crashed", "{details}");
        let record = server.ended(execution, Duration::from_secs(5));
        assert_eq!(record["status"], "lost", "{record:#}");
        let output = server.get(&format!("/v1/executions/{execution}/output")).expect(200).text();
        assert!(output.starts_with("begun\n"), "what it said is kept: {output:.100}");
    }
    assert!(server.log().contains("launcher"), "the server says so");
    assert_eq!(server.python("print(1)"), "1\n", "a new launcher is there");
    server.finish();
}

#[test]
fn r7_1_kill_nine_of_an_agent_ends_that_sandbox_alone() {
    let server = Server::start();
    let (doomed, other) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let id = doomed.background(json!({"shell": "echo begun; sleep 1000", "timeout_s": null}));
    let _neighbour = other.background(json!({"cmd": ["sleep", "1000"], "timeout_s": null}));
    eventually("its output", Duration::from_secs(5), || {
        (server.get(&format!("/v1/executions/{id}/output")).expect(200).text() == "begun\n").then_some(())
    });
    kill_nine(doomed.agent().pid);
    let tombstone = doomed.tombstone(Duration::from_secs(5));
    assert_eq!(tombstone["reason"], "crashed");
    assert!(tombstone["message"].as_str().unwrap().contains("signal 9"), "{tombstone}");
    let record = server.execution(&id);
    assert_eq!(record["status"], "lost", "{record:#}");
    assert_eq!(server.get(&format!("/v1/executions/{id}/output")).expect(200).text(), "begun\n");
    assert_eq!(other.shell("echo alive"), "alive\n");
    server.finish();
}

#[test]
fn r7_2_what_was_acknowledged_is_not_missing_after_a_crash() {
    let mut server = Server::start();
    let kept = server.sandbox(&json!({"name": "kept", "metadata": {"a": "b"}}));
    let (kept, mut results) = (kept.id, Vec::new());
    for n in 0..20 {
        results.push(server.run(&json!({"shell": format!("echo {n}; echo err {n} >&2; exit {n}")})));
    }
    server.kill();
    server.start_again();
    for (n, result) in results.iter().enumerate() {
        let id = result["id"].as_str().unwrap();
        let record = server.execution(id);
        for field in ["status", "exit_code", "stdout_bytes", "stderr_bytes", "duration_ms", "sandbox_id"] {
            assert_eq!(record[field], result[field], "{field} of {n}");
        }
        for (stream, expect) in [("stdout", format!("{n}\n")), ("stderr", format!("err {n}\n"))] {
            assert_eq!(server.get(&format!("/v1/executions/{id}/output?stream={stream}")).expect(200).text(), expect);
        }
    }
    let ended = server.get("/v1/sandboxes?metadata.a=b").expect(200).json();
    assert_eq!((&ended["data"][0]["id"], &ended["data"][0]["state"]), (&json!(kept), &json!("ended")));
    server.post("/v1/sandboxes", &json!({"name": "kept"})).expect(201);
    server.finish();
}

#[test]
fn r7_3_a_deadline_that_passes_while_the_server_is_down_is_kept() {
    let mut server = Server::start();
    let lifetime = allowed(Duration::from_secs(1));
    let sandbox = server.sandbox(&json!({"lifetime_s": lifetime.as_secs(), "idle_timeout_s": null})).id;
    server.kill();
    thread::sleep(lifetime + Duration::from_millis(200));
    server.start_again();
    // It ended with its server; what counts is that nothing of it goes on beyond its time.
    let answer = server.get(&format!("/v1/sandboxes/{sandbox}"));
    answer.refused(410, "gone");
    server.finish();
}

#[test]
fn a_server_that_is_stopped_ends_its_sandboxes_in_order() {
    let mut server = Server::start();
    let filled = fill(&server, 10);
    let (client, body) = (server.client.clone(), json!({"shell": "echo begun; sleep 1000", "timeout_s": null}));
    let waiting = thread::spawn(move || client.request("POST", "/v1/run").json(&body).try_send());
    thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    assert!(server.stop().success(), "its log:\n{}", server.log());
    assert!(begin.elapsed() < allowed(Duration::from_secs(15)), "{:?}", begin.elapsed());
    let answer = waiting.join().unwrap().expect("whoever waited is answered").expect(200).json();
    assert_eq!((&answer["status"], &answer["stdout"]), (&json!("killed"), &json!("begun\n")), "{answer:#}");
    server.start_again();
    for (sandbox, execution) in &filled {
        assert_eq!(tombstone_reason(&server, sandbox), "server_stopped");
        let record = server.execution(execution);
        assert_eq!(record["status"], "killed");
        assert!(record["stdout_bytes"].as_u64().unwrap() >= 6, "what it said is counted: {record:#}");
    }
    server.finish();
}
