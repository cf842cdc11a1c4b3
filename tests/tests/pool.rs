//! Warm sandboxes: handed out once, fitted to who asks, replaced, and gone with their server. And who waits where the machine is full.

use std::{
    collections::HashSet,
    fs, thread,
    time::{Duration, Instant},
};

use caisson_tests::{Process, Server, Setup, Value, eventually, json, kill_nine};

const SOON: Duration = Duration::from_secs(20);

/// A server with a pool, more arguments, and the operator's templates.
fn server(arguments: &[&str], templates: &[(&str, &str)]) -> Server {
    let setup = Setup { arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(), ..Setup::default() };
    let server = setup.env("CAISSON_POOL", "auto").start();
    for (name, text) in templates {
        write(&server, name, text);
    }
    server
}

/// The operator's file of this name.
fn write(server: &Server, name: &str, text: &str) {
    let directory = server.home().data().join("templates");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(format!("{name}.toml")), text).unwrap();
}

/// A figure of the server's.
fn figure(server: &Server, name: &str) -> u64 {
    let text = server.get("/metrics").expect(200).text();
    let name = format!("caisson_{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("no {name}in {text}"));
    line.parse().unwrap()
}

fn hits(server: &Server) -> u64 {
    figure(server, "pool_hits_total")
}

/// Waits until so many of a template are warm.
#[track_caller]
fn warm(server: &Server, template: &str, count: u64) {
    eventually(&format!("{count} of {template} are warm"), SOON, || {
        let found = server.get(&format!("/v1/templates/{template}")).expect(200).json();
        (found["pool"]["warm"] == count).then_some(())
    });
}

fn agents(server: &Server) -> Vec<Process> {
    server.below().into_iter().filter(Process::is_agent).collect()
}

fn stop_pool(server: &Server, template: &str) {
    fs::remove_file(server.home().data().join(format!("templates/{template}.toml"))).unwrap();
    eventually("the pool is empty", Duration::from_secs(200), || (figure(server, "pool_sandboxes") == 0).then_some(()));
}

#[test]
fn r7_5_a_pooled_sandbox_has_one_owner_once_and_the_next_sees_nothing_of_it() {
    let server = server(&[], &[("kept", "min_warm = 3\nsetup = [\"echo made > /workspace/setup\"]\n")]);
    warm(&server, "kept", 3);
    assert_eq!(server.get("/v1/sandboxes").expect(200).json()["data"], json!([]), "they are in no list");
    let look = "ls -A /workspace /tmp /home/user /dev/shm; cat /workspace/setup; for d in /workspace /tmp /home/user /dev/shm; do echo mine > $d/left; done; sleep 100 &";
    let mut ids = HashSet::new();
    let mut said = HashSet::new();
    for n in 0..12 {
        if n % 2 == 0 {
            let sandbox = server.sandbox(&json!({"template": "kept"}));
            assert!(ids.insert(sandbox.id.clone()), "{} a second time", sandbox.id);
            said.insert(sandbox.shell(look));
        } else {
            let ran = server.run(&json!({"template": "kept", "shell": look}));
            let id = ran["sandbox_id"].as_str().unwrap_or_else(|| panic!("{ran:#}")).to_owned();
            assert!(ids.insert(id.clone()), "{id} a second time");
            said.insert(ran["stdout"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(said.len(), 1, "each has found what a new one has: {said:?}");
    assert!(hits(&server) >= 3, "{}", hits(&server));
    let records = server.get("/v1/sandboxes").expect(200).json();
    let recorded: HashSet<String> = records["data"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(recorded, ids, "and each has a record");
}

#[test]
fn what_comes_late_is_seen_and_enforced() {
    let server =
        server(&[], &[("kept", "min_warm = 2\nenv.A = \"t\"\nenv.B = \"t\"\nlimits.pids = 64\nlimits.memory_bytes = 134217728\n")]);
    warm(&server, "kept", 2);
    let sandbox = server.sandbox(&json!({
        "template": "kept", "env": {"B": "r", "C": "r"}, "name": "mine", "metadata": {"a": "b"}, "lifetime_s": 99,
        "limits": {"pids": 20, "open_files": 77, "cpus": 0.5},
    }));
    assert_eq!(hits(&server), 1);
    let record = sandbox.get().expect(200).json();
    assert_eq!((&record["name"], &record["metadata"], &record["lifetime_s"]), (&json!("mine"), &json!({"a": "b"}), &json!(99)));
    assert_eq!(
        (&record["limits"]["pids"], &record["limits"]["open_files"], &record["limits"]["cpus"]),
        (&json!(20), &json!(77), &json!(0.5))
    );
    assert_eq!(sandbox.shell("echo $A$B$C; ulimit -n"), "trr\n77\n");
    let forks = json!({"language": "python", "code": "import os, time
n = 0
try:
  while n < 60:
    if os.fork() == 0: time.sleep(30); os._exit(0)
    n += 1
except OSError: pass
print(n)"});
    let made: u64 = sandbox.exec(&forks)["stdout"].as_str().unwrap().trim().parse().unwrap();
    assert!((10..20).contains(&made), "{made}");
    // As much as may be used in a second, when there is half a processor.
    let busy = json!({"shell": "timeout 1 sh -c 'while :; do :; done'; :"});
    let cpu_ms = sandbox.exec(&busy)["cpu_ms"].as_f64().unwrap();
    assert!(cpu_ms < 800.0, "{cpu_ms}");

    let raised = server.sandbox(&json!({"template": "kept", "limits": {"pids": 200}}));
    assert_eq!(hits(&server), 2);
    let forks = json!({"language": "python", "code": forks["code"].as_str().unwrap().replace("n < 60", "n < 150")});
    assert_eq!(raised.exec(&forks)["stdout"], "150\n");
}

/// What programs read of their memory in `/proc` was written at the launch, so another limit is another sandbox.
#[test]
fn another_memory_limit_is_told_and_enforced() {
    let server = server(&[], &[("kept", "min_warm = 1\nlimits.memory_bytes = 134217728\n")]);
    warm(&server, "kept", 1);
    for (limit, fits) in [(64_u64 << 20, false), (256 << 20, true), (128 << 20, false)] {
        let sandbox = server.sandbox(&json!({"template": "kept", "limits": {"memory_bytes": limit}}));
        assert_eq!(sandbox.shell("awk '/^MemTotal/ {print $2}' /proc/meminfo"), format!("{}\n", limit >> 10));
        let bomb = sandbox.exec(&json!({"language": "python", "code": "x = bytearray(160 << 20); print(len(x))"}));
        assert_eq!(bomb["status"] == "exited", fits, "{limit}: {bomb:#}");
        assert_eq!(bomb["status"] == "out_of_memory", !fits, "{limit}: {bomb:#}");
    }
    assert_eq!(hits(&server), 1, "the last one was the template's own");
}

#[test]
fn a_template_that_changes_holds_at_once_and_its_sandboxes_are_made_anew() {
    let server = server(&[], &[("kept", "min_warm = 2\nsetup = [\"echo old > s\"]\n")]);
    warm(&server, "kept", 2);
    let old: HashSet<u32> = agents(&server).iter().map(|agent| agent.pid).collect();
    write(&server, "kept", "min_warm = 1\nsetup = [\"echo new > s\"]\nenv.A = \"new\"\n");
    let ran = server.run(&json!({"template": "kept", "shell": "cat s; echo $A"}));
    assert_eq!(ran["stdout"], "new\nnew\n");
    eventually("the old ones have gone and a new one is warm", SOON, || {
        let now: HashSet<u32> = agents(&server).iter().map(|agent| agent.pid).collect();
        (now.len() == 1 && now.is_disjoint(&old)).then_some(())
    });
    let before = hits(&server);
    warm(&server, "kept", 1);
    assert_eq!(server.run(&json!({"template": "kept", "shell": "cat s; echo $A"}))["stdout"], "new\nnew\n");
    assert_eq!(hits(&server), before + 1);
    stop_pool(&server, "kept");
}

#[test]
fn whoever_dies_in_the_pool_is_replaced() {
    let server = server(&[], &[("kept", "min_warm = 2\n")]);
    warm(&server, "kept", 2);
    let before = agents(&server);
    kill_nine(before[0].pid);
    eventually("another is there", SOON, || {
        let now = agents(&server);
        (now.len() == 2 && now.iter().all(|agent| agent.pid != before[0].pid)).then_some(())
    });
    warm(&server, "kept", 2);
    kill_nine(server.launcher().pid);
    eventually("all of them are", SOON, || {
        let now = agents(&server);
        (now.len() == 2 && now.iter().all(|agent| before.iter().all(|old| old.pid != agent.pid))).then_some(())
    });
    assert_eq!(server.run(&json!({"template": "kept", "shell": "echo alive"}))["stdout"], "alive\n");
}

#[test]
fn r7_1_a_pool_leaves_nothing_however_its_server_ends() {
    let mut server = server(&[], &[("kept", "min_warm = 4\n"), ("disk", "min_warm = 1\nstorage = \"disk\"\n")]);
    for round in 0..2 {
        warm(&server, "kept", 4);
        let pooled = agents(&server);
        if round == 0 {
            server.kill();
        } else {
            assert!(server.stop().success());
        }
        Process::all_end("an agent of the pool", &pooled);
        if round == 0 {
            server.start_again();
        }
    }
    server.finish();
}

#[test]
fn more_at_once_than_are_warm_get_sandboxes_of_their_own() {
    let server = server(&[], &[("kept", "min_warm = 2\nmax_warm = 3\n")]);
    warm(&server, "kept", 2);
    thread::scope(|scope| {
        for n in 0..30 {
            let server = &server;
            scope.spawn(move || {
                let ran = server.run(&json!({"template": "kept", "language": "python", "code": format!("print({n})"), "timeout_s": 300}));
                assert_eq!(ran["stdout"], format!("{n}\n"), "{ran:#}");
            });
        }
    });
    let (hits, misses) = (hits(&server), figure(&server, "pool_misses_total"));
    assert!(hits >= 2 && hits + misses == 30, "{hits} {misses}");
    eventually("as many as may be are warm", SOON, || (figure(&server, "pool_warm") == 3).then_some(()));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(agents(&server).len(), 3, "and no more");
}

#[test]
fn without_a_template_the_pool_follows_what_is_asked_for() {
    let server = server(&[], &[]);
    assert!(agents(&server).is_empty(), "nobody has asked for anything");
    assert_eq!(server.python("print(1)"), "1\n");
    eventually("one is warm", SOON, || (figure(&server, "pool_warm") >= 1).then_some(()));
    assert_eq!(server.python("print(2)"), "2\n");
    assert_eq!(hits(&server), 1);
    // That none is left when nobody asks any more takes minutes, and is shown where the clock can be set.
    server.finish();
}

#[test]
fn without_a_pool_there_is_none() {
    let server = Server::start();
    write(&server, "kept", "min_warm = 2\n");
    assert_eq!(server.run(&json!({"template": "kept", "shell": "echo cold"}))["stdout"], "cold\n");
    thread::sleep(Duration::from_secs(3));
    assert!(agents(&server).is_empty());
    assert_eq!(server.get("/v1/templates/kept").expect(200).json().get("pool"), None);
    server.finish();
}

/// The one who asked, what was answered, and when.
fn ask(server: &Server, body: &Value) -> (u16, Option<String>, Duration) {
    let begin = Instant::now();
    let answer = server.post("/v1/run", body);
    let retry_after = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after")).map(|(_, value)| value.clone());
    (answer.status, retry_after, begin.elapsed())
}

#[test]
fn where_the_machine_is_full_requests_wait_and_are_refused_at_the_deadline() {
    let server = server(&["--max-sandboxes", "2", "--queue-wait", "2s"], &[]);
    let (first, _second) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let (status, retry_after, waited) = ask(&server, &json!({"shell": "true"}));
    assert_eq!((status, retry_after.as_deref()), (503, Some("5")));
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&server, &json!({"shell": "true"})));
        eventually("it waits", SOON, || (figure(&server, "queue_waiting") == 1).then_some(()));
        let _ended = first.request("DELETE", "").send().expect(200);
        assert_eq!(waiting.join().unwrap().0, 200);
    });
    let (status, ..) = ask(&server, &json!({"shell": "true"}));
    assert_eq!(status, 200, "there is room for one");
}

#[test]
fn whoever_hangs_up_has_left_the_line() {
    let server = server(&["--max-sandboxes", "1"], &[]);
    let only = server.sandbox(&json!({}));
    let address = server.client.address;
    let body = json!({"shell": "true"}).to_string();
    let head = format!(
        "POST /v1/run HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.client.key.as_deref().unwrap(),
        body.len()
    );
    let mut connection = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut connection, head.as_bytes()).unwrap();
    eventually("it waits", SOON, || (figure(&server, "queue_waiting") == 1).then_some(()));
    drop(connection);
    let _ended = only.request("DELETE", "").send().expect(200);
    assert_eq!(server.run(&json!({"shell": "echo next"}))["stdout"], "next\n");
    let records = server.get("/v1/sandboxes").expect(200).json();
    assert_eq!(records["data"].as_array().unwrap().len(), 2, "nothing was made for whoever has gone: {records:#}");
}

#[test]
fn code_goes_to_the_interpreter_that_waits_for_it() {
    let template = "min_warm = 2\nready = ['python', 'node', 'bash']\npreload = ['decimal']\n";
    let server = server(&[], &[("lang", template)]);
    let programs = [
        ("python", "import sys, os\nprint(__name__, sys.argv, __file__, 'decimal' in sys.modules, sorted(os.environ))\n1 / 0"),
        ("node", "console.log(process.argv, require.main === module, process.execArgv); process.exit(3)"),
        ("bash", "echo \"$0 $#\" $(ls -A); exit 4"),
    ];
    let run = |language: &str, code: &str, template: Option<&str>| {
        let mut body = json!({"language": language, "code": code});
        if let Some(template) = template {
            body["template"] = template.into();
        }
        let result = server.post("/v1/run", &body).expect(200).json();
        ["stdout", "stderr", "exit_code", "status"].map(|field| result[field].clone())
    };
    for (language, code) in programs {
        warm(&server, "lang", 2);
        let before = figure(&server, "pool_ready_total");
        let [stdout, rest @ ..] = run(language, code, Some("lang"));
        assert_eq!(figure(&server, "pool_ready_total"), before + 1, "{language} was started anew");
        let [cold, cold_rest @ ..] = run(language, code, None);
        assert_eq!(stdout.as_str().unwrap(), cold.as_str().unwrap().replace("False", "True"), "{language}");
        assert_eq!(rest, cold_rest, "{language}");
    }
    // What cannot be taken late begins anew, and nobody sees the one that waited.
    warm(&server, "lang", 2);
    let before = figure(&server, "pool_ready_total");
    let body = json!({"language": "python", "code": "import time; print(time.tzname[0])", "template": "lang", "env": {"TZ": "Asia/Tokyo"}});
    assert_eq!(server.post("/v1/run", &body).expect(200).json()["stdout"], "JST\n");
    warm(&server, "lang", 2);
    let kept = server.post("/v1/sandboxes", &json!({"template": "lang"})).expect(201).json();
    let id = kept["id"].as_str().unwrap();
    let shell = json!({"shell": "cat /proc/[0-9]*/comm; ls -A /tmp /dev/shm /workspace"});
    let seen = server.post(&format!("/v1/sandboxes/{id}/exec"), &shell).expect(200).json();
    let seen = seen["stdout"].as_str().unwrap();
    assert!(!["python", "node", "main."].iter().any(|name| seen.contains(name)), "{seen}");
    assert_eq!(figure(&server, "pool_ready_total"), before);
    server.request("DELETE", &format!("/v1/sandboxes/{id}")).send().expect(200);
    server.finish();
}
