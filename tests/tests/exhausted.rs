//! A host that has nothing left, and programs that stand still in the middle of things: requests are refused with a reason, the server lives,
//! and when there is room again it goes on as before.

use std::{collections::BTreeMap, thread, time::Duration};

use caisson_tests::{Answer, Host, Process, Server, Setup, Shortage, SmallDisk, Value, allowed, eventually, json, signal};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

/// What so many one-shots at once come to: statuses, and the answers that are no success.
fn storm(server: &Server, count: usize) -> (BTreeMap<u16, usize>, Vec<Answer>) {
    let one = |n: usize| move || server.post("/v1/run", &json!({"cmd": ["echo", n.to_string()], "timeout_s": 30}));
    let answers: Vec<Answer> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|n| scope.spawn(one(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a request is answered")).collect()
    });
    let mut statuses = BTreeMap::new();
    for answer in &answers {
        *statuses.entry(answer.status).or_default() += 1;
    }
    (statuses, answers.into_iter().filter(|answer| answer.status != 200).collect())
}

#[track_caller]
fn each_says_that_there_is_no_room(refused: &[Answer]) {
    for answer in refused {
        let message = answer.refused(503, "unavailable");
        assert!(answer.header("retry-after").is_some(), "when to try again: {message}");
    }
}

#[track_caller]
fn works_again(server: &Server) {
    eventually("a one-shot that succeeds", Duration::from_secs(20), || {
        // Those that waited for a sandbox while there was a shortage may still be under it.
        let answer = server.post("/v1/run", &json!({"shell": "echo fine"}));
        (answer.status == 200 && answer.json()["stdout"] == "fine\n").then_some(())
    });
}

#[test]
fn r7_1_a_host_without_processes_refuses_and_recovers() {
    let server = Server::start();
    assert_eq!(server.python("print(1)"), "1\n");
    let shortage = Shortage::of_processes();
    shortage.take(server.launcher().pid);
    shortage.begin();
    // More than wait parked.
    let (statuses, refused) = storm(&server, 40);
    assert!(!refused.is_empty(), "the shortage was not felt: {statuses:?}");
    // A sandbox that there is may have no room for the program itself, where the shortage is above all sandboxes.
    let (inside, refused): (Vec<_>, Vec<_>) = refused.into_iter().partition(|answer| answer.status == 429);
    for answer in inside {
        answer.refused(429, "quota_exceeded");
    }
    each_says_that_there_is_no_room(&refused);
    server.get("/healthz").expect(200);
    shortage.end();
    works_again(&server);
    server.finish();
}

#[test]
fn r7_1_a_launcher_without_memory_is_survived() {
    let server = Server::start();
    let mut refused = 0;
    // From hardly enough to nothing: whatever asks for memory next fails, in the launcher or in one of its copies.
    for kib in [1024, 256, 64, 16, 4, 0] {
        let launcher = server.launcher().pid;
        let status = std::fs::read_to_string(format!("/proc/{launcher}/statm")).expect("it lives");
        let pages: u64 = status.split(' ').next().and_then(|text| text.parse().ok()).expect("its size is told");
        let pid = Pid::from_raw(i32::try_from(launcher).expect("it is a number"));
        let limit = |current| prlimit(pid, Resource::As, Rlimit { current, maximum: None }).expect("a limit can be set");
        limit(Some(pages * 4096 + kib * 1024));
        let (statuses, answers) = storm(&server, 30);
        println!("{kib} KiB: {statuses:?}");
        for answer in answers {
            let error = answer.json()["error"].clone();
            assert!(matches!(answer.status, 500 | 503) && !error["message"].as_str().unwrap_or_default().is_empty(), "{error}");
            refused += 1;
        }
        server.get("/healthz").expect(200);
        if Process::find(launcher).is_some_and(|process| process.lives()) {
            limit(None);
        }
        works_again(&server);
    }
    println!("{refused} refused");
    server.finish();
}

#[test]
fn r7_1_a_full_disk_refuses_and_recovers() {
    let disk = SmallDisk::new(24 << 20);
    let mut server = Setup::default().env("CAISSON_DATA_DIR", disk.path()).start();
    let before = server.run(&json!({"shell": "echo before"}));
    let kept = server.sandbox(&json!({"name": "kept"})).id;
    disk.fill();
    let mut seen = BTreeMap::new();
    for n in 0..10 {
        let answer = server.post("/v1/run", &json!({"shell": format!("head -c 200000 /dev/zero; echo {n}")}));
        // Where records are on another disk, it is the output alone that finds no room, and its record says so.
        let is_told = answer.status == 200 && answer.text().contains("the log of stdout is incomplete: ");
        *seen.entry((answer.status, is_told)).or_insert(0) += 1;
        if answer.status != 200 {
            each_says_that_there_is_no_room(&[answer]);
        }
    }
    println!("{seen:?}");
    assert!(seen.contains_key(&(503, false)) || seen.contains_key(&(200, true)), "the full disk was not felt: {seen:?}");
    server.get("/healthz").expect(200);
    // What was recorded can be read.
    assert_eq!(server.execution(before["id"].as_str().unwrap())["exit_code"], 0);
    disk.empty();
    works_again(&server);
    let record = server.get(&format!("/v1/sandboxes/{kept}")).expect(200).json();
    assert_eq!(record["state"], "running", "it goes on: {record:#}");
    // A crash after it finds nothing half-written.
    disk.fill();
    let _refused = server.post("/v1/run", &json!({"shell": "echo lost"}));
    server.kill();
    disk.empty();
    server.start_again();
    let alive = server.get("/v1/sandboxes?state=running&state=creating&state=stopping").expect(200).json();
    assert_eq!(alive["data"], json!([]));
    assert_eq!(server.execution(before["id"].as_str().unwrap())["exit_code"], 0);
    works_again(&server);
    server.finish();
}

/// The launcher stands still, then the server is killed. The kernel hangs up on stopped processes without a parent (`setpgid(2)`), so this
/// launcher has no chance to tidy up: its processes end all the same, and the next start removes what is left of control groups.
#[test]
fn r7_1_kill_nine_of_the_server_while_the_launcher_stands_still_leaves_nothing() {
    let before = Host::now();
    for (method, body) in [("POST", json!({})), ("DELETE", Value::Null)] {
        let mut server = Server::start();
        let sandbox = server.sandbox(&json!({})).id;
        let launcher = server.launcher();
        let below = server.below();
        signal(launcher.pid, Signal::STOP);
        let target = if method == "POST" { "/v1/sandboxes".to_owned() } else { format!("/v1/sandboxes/{sandbox}") };
        let client = server.client.clone();
        let asking = thread::spawn(move || client.request(method, &target).json(&body).try_send());
        eventually("the launcher stands still", Duration::from_secs(5), || {
            Process::find(launcher.pid).filter(|process| process.state == 'T')
        });
        thread::sleep(allowed(Duration::from_millis(100)));
        server.kill();
        for process in below {
            process.await_end(Duration::from_secs(2));
        }
        assert!(asking.join().expect("a request ends").is_err(), "nobody was there to answer");
        server.start_again();
        let answer = server.get(&format!("/v1/sandboxes/{sandbox}"));
        answer.refused(410, "gone");
        server.finish();
        Host::is_as_before(&before).unwrap_or_else(|left| panic!("left by {method}:\n  {}", left.join("\n  ")));
    }
}

/// An agent that stands still, in the middle of an execution: the server can be killed and is not held up by it.
#[test]
fn r7_1_an_agent_that_stands_still_ends_with_its_server() {
    let before = Host::now();
    let mut server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let execution = sandbox.background(json!({"cmd": ["sleep", "1000"], "timeout_s": null}));
    let agent = sandbox.agent();
    signal(agent.pid, Signal::STOP);
    let id = sandbox.id.clone();
    let client = server.client.clone();
    let target = format!("/v1/sandboxes/{id}/exec");
    let asking = thread::spawn(move || client.request("POST", &target).json(&json!({"cmd": ["true"]})).try_send());
    let below = server.below();
    server.kill();
    for process in below {
        process.await_end(Duration::from_secs(2));
    }
    assert!(asking.join().expect("a request ends").is_err(), "nobody was there to answer");
    Host::is_as_before(&before).unwrap_or_else(|left| panic!("left:\n  {}", left.join("\n  ")));
    server.start_again();
    assert_eq!(server.execution(&execution)["status"], "lost");
    server.finish();
}
