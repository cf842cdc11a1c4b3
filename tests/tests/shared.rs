//! What sandboxes share with the host and with each other in one kernel: none uses it up, holds others up by it, or tells by it.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use caisson_tests::{Process, Sandbox, Server, Setup, eventually, json, needs, on_host, probe_in};

/// The ordinary user and root inside.
const USERS: [Option<&str>; 2] = [None, Some("root")];

/// Takes as many as there are of what the kernel counts for each user, says how many, and keeps them until it is ended.
const TAKES_ALL: &str = r#"
import ctypes, json, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
watches = 0
while watches < 5000 and libc.inotify_init1(0) != -1: watches += 1
signals = 0
union = ctypes.c_long(0)
while signals < 200000 and libc.sigqueue(os.getpid(), signal.SIGRTMIN, union) == 0: signals += 1
print(json.dumps({"inotify instances": watches, "queued signals": signals}), flush=True)
time.sleep(600)
"#;

/// Whether there is still one of each.
const TAKES_ONE: &str = r#"
import ctypes, json, os, signal
libc = ctypes.CDLL(None, use_errno=True)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
timer = ctypes.c_void_p()
print(json.dumps({
    "inotify instances": libc.inotify_init1(0) != -1,
    "queued signals": libc.sigqueue(os.getpid(), signal.SIGRTMIN, ctypes.c_long(0)) == 0,
    "timers": libc.timer_create(1, None, ctypes.byref(timer)) == 0,
}))
"#;

#[test]
fn r4_6_what_is_counted_for_each_user_runs_out_in_one_sandbox_alone() {
    needs("runc", "runc");
    let server = Setup::default().env("CAISSON_BACKENDS", "native,oci:runc").start();
    let make = |n: usize| {
        let backend = if n < 6 { "native" } else { "oci:runc" };
        server.sandbox(&json!({"user": USERS[n % 2], "limits": {"open_files": 4096}, "backend": backend}))
    };
    let greedy: Vec<_> = (0..8).map(make).collect();
    for sandbox in &greedy {
        let id = sandbox.background(json!({"code": TAKES_ALL, "language": "python", "timeout_s": null}));
        let said = eventually("it to have taken all", Duration::from_secs(30), || {
            let text = server.get(&format!("/v1/executions/{id}/output?stream=stdout")).text();
            serde_json::from_str::<serde_json::Value>(text.trim()).ok()
        });
        // Not too few either: they are there to be used.
        for (what, most) in [("inotify instances", 4096), ("queued signals", 16_384)] {
            let taken = said[what].as_u64().unwrap();
            assert!((100..=most).contains(&taken), "{taken} {what}");
        }
    }
    let [modest, container] = ["native", "oci:runc"].map(|backend| server.sandbox(&json!({"backend": backend})));
    for (who, one) in [
        ("the host's root", on_host(TAKES_ONE)),
        ("another sandbox", probe_in(&modest, TAKES_ONE, &[])),
        ("another container", probe_in(&container, TAKES_ONE, &[])),
    ] {
        assert_eq!(one, json!({"inotify instances": true, "queued signals": true, "timers": true}), "{who}");
    }
    for sandbox in greedy.iter().chain([&modest, &container]) {
        sandbox.delete().expect(200);
    }
    server.finish();
}

#[test]
fn r4_6_nobody_waits_for_a_lease_on_what_is_lent() {
    let code = r#"
import errno, fcntl, json, os
found = {}
for path in ["/usr/bin/env", "/usr/bin/cal", "/etc/passwd", "lease"]:
    if path == "lease": open(path, "w").close()
    try: fd = os.open(path, os.O_RDONLY)
    except OSError: continue
    for name, request, value in [("lease", fcntl.F_SETLEASE, fcntl.F_RDLCK), ("lease for writing", fcntl.F_SETLEASE, fcntl.F_WRLCK), ("notification", fcntl.F_NOTIFY, fcntl.DN_MODIFY)]:
        try: fcntl.fcntl(fd, request, value); found[f"{name} on {path}"] = "given"
        except OSError as error: found[f"{name} on {path}"] = errno.errorcode[error.errno]
print(json.dumps({"found": found, "owner": os.stat("/usr/bin/env").st_uid}))
"#;
    let server = Server::start();
    for user in USERS {
        let found = probe_in(&server.sandbox(&json!({"user": user})), code, &[]);
        let answers = found["found"].as_object().unwrap();
        assert!(answers.len() >= 9 && answers.values().all(|answer| answer == "EPERM"), "{user:?}: {found}");
        // Nobody inside owns what is the host's, root inside least of all.
        assert_eq!(found["owner"], 65_534, "{user:?}");
    }
    assert_eq!(fs::metadata("/usr/bin/env").unwrap().uid(), 0);
    server.finish();
}

#[test]
fn r4_6_file_locks_have_an_end() {
    let code = r#"
import fcntl, sys
file = open("locks", "w+")
for n in range(int(sys.argv[1])): fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * n)
print("all")
"#;
    let server = Server::start();
    let (greedy, modest) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let run = |count: &str| json!({"language": "python", "code": code, "args": [count]});
    assert_eq!(modest.exec(&run("9000"))["stdout"], "all\n", "as many may be had");
    let _ended = greedy.background(json!({"language": "python", "code": code, "args": ["100000000"], "timeout_s": null}));
    let tombstone = greedy.tombstone(Duration::from_secs(20));
    assert_eq!(tombstone["reason"], "crashed");
    assert!(tombstone["message"].as_str().unwrap().contains("file_locks: limit 10000"), "{tombstone}");
    // The kind that belongs to no process, and so could not be counted.
    let open_file_lock = "import fcntl, struct\nfile = open('x', 'w+')\nfor request in (37, 38):\n  try: fcntl.fcntl(file, request, struct.pack('hhqqi', 1, 0, 0, 0, 0)); print('given')\n  except OSError as error: print(error.errno)";
    assert_eq!(modest.python(open_file_lock), "22\n22\n");
    assert_eq!(modest.exec(&run("9000"))["stdout"], "all\n");
    server.finish();
}

/// All that everybody on the host may read of processes.
fn command_lines() -> Vec<Vec<u8>> {
    Process::all().into_keys().filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok()).collect()
}

#[test]
fn r2_6_other_users_of_the_host_do_not_read_the_environment() {
    let server = Server::start();
    let secret = "not-for-everybody-on-this-host";
    let env = json!({"DB_PASSWORD": secret});
    let sandbox = server.sandbox(&json!({"env": env}));
    let _running = sandbox.background(json!({"cmd": ["sleep", "600"], "env": {"OTHER": secret}}));
    let says = |sandbox: &Sandbox<'_>| sandbox.shell("echo $DB_PASSWORD");
    assert_eq!(says(&sandbox).trim(), secret);
    let lines = command_lines();
    assert!(lines.iter().any(|line| line.starts_with(b"sleep\0")) && lines.len() > 3, "they can be read at all");
    for line in lines {
        assert!(!String::from_utf8_lossy(&line).contains(secret), "{}", String::from_utf8_lossy(&line));
    }
    server.finish();
}

#[test]
fn an_environment_may_be_as_large_as_it_says() {
    let server = Server::start();
    // In parts, because the kernel takes no single variable of more than 128 KiB (`execve(2)`).
    let env = |bytes: usize| (0..bytes / 100_000).map(|n| (format!("V{n}"), "x".repeat(99_990).into())).collect::<serde_json::Map<_, _>>();
    let sandbox = server.sandbox(&json!({"env": env(900_000)}));
    assert_eq!(sandbox.shell("echo ${#V8}"), "99990\n");
    let ran = server.post("/v1/run", &json!({"cmd": ["sh", "-c", "echo ${#V0}"], "env": env(300_000)})).expect(200).json();
    assert_eq!(ran["stdout"], "99990\n", "{ran}");
    server.finish();
}
