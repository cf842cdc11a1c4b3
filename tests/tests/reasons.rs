//! A limit that ends something says which it was and with which figure: in the answer, in the stream, in the record, in the tombstone and on
//! the command line. Where the kernel only refuses, the program is told, and what is left of it is its own.

use std::time::Duration;

use caisson_tests::{Home, Sandbox, Server, Value, allowed, eventually, json};

const MIB: u64 = 1 << 20;

/// Takes memory until somebody ends it.
const HUNGRY: &str = "b = []\nwhile True: b.append(b'x' * 1000000)";
/// Starts processes until it may not, and fails.
const MANY: &str = "import os, signal\nfor _ in range(1000):\n  if os.fork() == 0: signal.pause()";

/// A program that meets a limit.
struct Case {
    what: &'static str,
    /// Beside `limits`, what the request has.
    request: Value,
    limits: Value,
    status: &'static str,
    exit_code: Option<i32>,
    /// What `message` is; `None` where the program's own words say it all.
    message: Option<&'static str>,
    /// What the program says itself, on standard error.
    says: &'static str,
    /// The same on the command line, and how that exits; `None` where it has no option for it.
    command_line: Option<(&'static [&'static str], i32)>,
}

fn python(code: &str) -> Value {
    json!({"language": "python", "code": code})
}

fn shell(line: &str) -> Value {
    json!({"shell": line})
}

fn cases() -> Vec<Case> {
    let case = Case {
        what: "",
        request: Value::Null,
        limits: json!({}),
        status: "exited",
        exit_code: Some(1),
        message: None,
        says: "",
        command_line: None,
    };
    vec![
        Case {
            what: "memory",
            request: python(HUNGRY),
            limits: json!({"memory_bytes": 64 * MIB}),
            status: "out_of_memory",
            exit_code: None,
            message: Some("out_of_memory: limit 64 MiB"),
            command_line: Some((&["--memory", "64M"], 137)),
            ..case
        },
        Case {
            what: "memory, by files in it",
            request: shell("cat /dev/zero > file"),
            limits: json!({"memory_bytes": 64 * MIB, "disk_bytes": 512 * MIB}),
            status: "out_of_memory",
            exit_code: None,
            message: Some("out_of_memory: limit 64 MiB"),
            command_line: Some((&["--memory", "64M", "--disk", "512M"], 137)),
            ..case
        },
        Case {
            what: "memory, by a child of a program that goes on",
            request: shell(&format!("python3 -c \"{HUNGRY}\"; exit 3")),
            limits: json!({"memory_bytes": 64 * MIB}),
            exit_code: Some(3),
            message: Some("memory: limit 64 MiB, 1 process was killed there"),
            says: "Killed",
            command_line: Some((&["--memory", "64M"], 3)),
            ..case
        },
        Case {
            what: "shared memory",
            request: shell("cat /dev/zero > /dev/shm/file"),
            limits: json!({"memory_bytes": 64 * MIB}),
            says: "No space left on device",
            command_line: Some((&["--memory", "64M"], 1)),
            ..case
        },
        Case {
            what: "processes",
            request: python(MANY),
            limits: json!({"pids": 16}),
            message: Some("pids: limit 16, starting more was refused once"),
            says: "Resource temporarily unavailable",
            command_line: Some((&["--pids", "16"], 1)),
            ..case
        },
        Case {
            what: "open files",
            request: python("kept = [open('/dev/null') for _ in range(1000)]"),
            limits: json!({"open_files": 100}),
            says: "Too many open files",
            ..case
        },
        Case {
            what: "bytes in memory",
            request: shell("cat /dev/zero > file"),
            limits: json!({"disk_bytes": 8 * MIB}),
            says: "No space left on device",
            command_line: Some((&["--disk", "8M"], 1)),
            ..case
        },
        Case {
            what: "bytes on disk",
            request: json!({"shell": "cat /dev/zero > file", "storage": "disk"}),
            limits: json!({"disk_bytes": 8 * MIB}),
            says: "No space left on device",
            command_line: Some((&["--disk", "8M", "--storage", "disk"], 1)),
            ..case
        },
        Case {
            what: "files in memory",
            request: python("for n in range(100_000): open(str(n), 'w').close()"),
            limits: json!({"disk_inodes": 1000}),
            says: "No space left on device",
            ..case
        },
        Case {
            what: "files on disk",
            request: json!({"language": "python", "code": "for n in range(100_000): open(str(n), 'w').close()", "storage": "disk"}),
            limits: json!({"disk_inodes": 1000}),
            says: "No space left on device",
            ..case
        },
        Case {
            what: "time",
            request: json!({"shell": "sleep 1000", "timeout_s": 0.5}),
            limits: json!({}),
            status: "timed_out",
            exit_code: None,
            message: Some("timed_out: limit 0.5 s"),
            command_line: Some((&["--timeout", "0.5"], 124)),
            ..case
        },
        Case {
            what: "output",
            request: json!({"shell": "yes; true", "max_output_bytes": 4096}),
            status: "output_limit",
            exit_code: None,
            message: Some("output_limit: it wrote more than 4 KiB"),
            ..case
        },
    ]
}

impl Case {
    /// Whether a result is as it should be.
    #[track_caller]
    fn is_told(&self, where_told: &str, result: &Value) {
        let what = format!("{} {where_told}: {result:#}", self.what);
        assert_eq!((&result["status"], &result["exit_code"]), (&json!(self.status), &json!(self.exit_code)), "{what}");
        assert_eq!(result["message"], json!(self.message), "{what}");
    }

    fn body(&self) -> Value {
        let mut body = self.request.clone();
        body["limits"] = self.limits.clone();
        body["max_file_bytes"] = json!(0);
        body
    }
}

#[test]
fn every_limit_is_told_with_its_figure() {
    let server = Server::start();
    for case in cases() {
        let result = server.run(&case.body());
        case.is_told("in the answer", &result);
        let said = result["stderr"].as_str().expect("text");
        assert!(said.contains(case.says), "{}: the program said {said}", case.what);
        case.is_told("in the record", &server.execution(result["id"].as_str().expect("an id")));

        let mut events = server.request("POST", "/v1/run").json(&case.body()).events();
        case.is_told("in the stream", &events.until("result").data);
    }
    server.finish();
}

#[test]
fn the_command_line_says_it_too() {
    let home = Home::new();
    for case in cases() {
        let Some((options, code)) = case.command_line else { continue };
        let program = match (&case.request["shell"], &case.request["code"]) {
            (Value::String(line), _) => vec!["-l", "bash", "-c", line],
            (_, Value::String(code)) => vec!["-l", "python", "-c", code],
            _ => panic!("{} has no program", case.what),
        };
        let ran = home.caisson(["run"].iter().chain(options).chain(&program)).exited(code);
        assert!(ran.err().contains(case.says), "{}: {}", case.what, ran.err());
        let ours = ran.err().lines().filter(|line| line.starts_with("caisson: ")).map(str::to_owned).collect::<Vec<_>>();
        match case.message {
            Some(message) => assert!(ours.len() == 1 && ours[0].contains(message), "{}: {ours:?}", case.what),
            None => assert!(ours.is_empty(), "{}: {ours:?}", case.what),
        }
    }
    home.finish();
}

/// What was counted before is not held against those who come after.
#[test]
fn an_end_by_sigkill_is_not_taken_for_memory_because_another_was() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"memory_bytes": 64 * MIB}}));
    let fine = sandbox.exec(&json!({"shell": format!("python3 -c \"{HUNGRY}\"; true")}));
    assert_eq!((&fine["status"], &fine["message"]), (&json!("exited"), &Value::Null), "it succeeded: {fine:#}");
    let killed = sandbox.exec(&shell("kill -9 $$"));
    assert_eq!((&killed["status"], &killed["message"]), (&json!("signaled"), &Value::Null), "{killed:#}");
    let failed = sandbox.exec(&shell("exit 1"));
    assert_eq!((&failed["status"], &failed["message"]), (&json!("exited"), &Value::Null), "{failed:#}");
    // And the end of its agent is what it is.
    let agent = sandbox.agent();
    caisson_tests::kill_nine(agent.pid);
    assert_eq!(sandbox.tombstone(Duration::from_secs(5))["reason"], "crashed");
    server.finish();
}

#[track_caller]
fn ends_with(sandbox: &Sandbox<'_>, reason: &str, message: &str) {
    let tombstone = sandbox.tombstone(Duration::from_secs(10));
    assert_eq!((tombstone["reason"].as_str(), tombstone["message"].as_str()), (Some(reason), Some(message)));
    let gone = sandbox.try_exec(&shell("true")).refused(410, "gone");
    assert!(gone.contains(reason) && gone.contains(message), "{gone}");
}

#[test]
fn a_tombstone_has_the_figure() {
    let server = Server::start();
    let old = server.sandbox(&json!({"lifetime_s": 1}));
    let id = old.background(json!({"shell": "sleep 1000", "timeout_s": null}));
    let idle = server.sandbox(&json!({"idle_timeout_s": 0.5}));
    ends_with(&old, "lifetime", "its lifetime of 1 s is over");
    ends_with(&idle, "idle_timeout", "nothing happened in it for 0.5 s");
    let record = server.ended(&id, Duration::from_secs(5));
    assert_eq!(
        (&record["status"], &record["message"]),
        (&json!("killed"), &json!("its sandbox was ended (lifetime: its lifetime of 1 s is over)"))
    );
    server.finish();
}

/// Files in memory outlive who made them. When nothing but the agent is left to be ended, the sandbox ends.
#[test]
fn a_sandbox_that_is_full_of_files_in_memory_ends_with_the_figure() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"memory_bytes": 64 * MIB, "disk_bytes": 512 * MIB}}));
    let result = sandbox.exec(&shell("cat /dev/zero > file"));
    assert_eq!((&result["status"], &result["message"]), (&json!("out_of_memory"), &json!("out_of_memory: limit 64 MiB")), "{result:#}");
    let tombstone = eventually("the end of it", Duration::from_secs(30), || {
        let answer = sandbox.try_exec(&python("b = bytearray(10_000_000)"));
        match answer.status {
            410 => Some(answer.json()["error"]["details"].clone()),
            200 => {
                let result = answer.json();
                assert_eq!(result["message"], "out_of_memory: limit 64 MiB", "{result:#}");
                None
            }
            _ => panic!("{}", answer.text()),
        }
    });
    assert_eq!((&tombstone["reason"], &tombstone["message"]), (&json!("oom"), &json!("memory limit 64 MiB")));
    server.finish();
}

#[test]
fn what_the_api_is_refused_inside_has_the_figure() {
    let server = Server::start();
    let limits = json!({"disk_bytes": 4 * MIB, "disk_inodes": 1000, "pids": 16, "open_files": 64, "memory_bytes": 256 * MIB});
    for storage in ["memory", "disk"] {
        let sandbox = server.sandbox(&json!({"limits": limits, "storage": storage}));
        let message = sandbox.write(b"large", &vec![7; 20 << 20]).refused(429, "quota_exceeded");
        assert!(message.starts_with("disk: limit 4 MiB and 1000 files; "), "{message}");
        assert_eq!(sandbox.shell("ls -A"), "", "nothing half-made is left");
    }
    let sandbox = server.sandbox(&json!({"limits": limits}));
    let full = sandbox.background(json!({"language": "python", "timeout_s": null, "code":
        "import os, signal, time\nwhile True:\n  try:\n    if os.fork() == 0: signal.pause()\n  except OSError: time.sleep(0.01)"}));
    let message = eventually("no room for a program", allowed(Duration::from_secs(10)), || {
        let answer = sandbox.try_exec(&shell("true"));
        (answer.status != 200).then(|| answer.refused(429, "quota_exceeded"))
    });
    assert!(message.starts_with("limits: 16 processes and threads, 64 open files, 256 MiB of memory; "), "{message}");
    let refused = sandbox.get().expect(200).json()["usage"]["refused_starts"].as_u64().expect("a number");
    assert!(refused > 0, "it is counted");
    server.request("POST", &format!("/v1/executions/{full}/kill")).send().expect(204);
    assert_eq!(sandbox.shell("echo fine"), "fine\n");
    server.finish();
}
