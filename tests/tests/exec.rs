//! Processes inside a sandbox: how they end, and what they leave behind.

use std::{
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{BASE64, Base64Engine, Process, Server, Value, allowed, eventually, json};

#[track_caller]
fn ended(result: &Value, status: &str, exit_code: Option<i32>, signal: Option<i32>) {
    assert_eq!(result["status"], status, "{result:#}");
    assert_eq!((&result["exit_code"], &result["signal"]), (&json!(exit_code), &json!(signal)), "{result:#}");
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    for code in [0, 1, 2, 126, 127, 128, 137, 255] {
        ended(&sandbox.exec(&json!({"shell": format!("exit {code}")})), "exited", Some(code), None);
    }
    for signal in [1, 6, 9, 11, 15, 31] {
        ended(&sandbox.exec(&json!({"shell": format!("kill -{signal} $$")})), "signaled", None, Some(signal));
    }
    server.finish();
}

/// Each program tries to outlive its time in another way. `print('on')` says that it has got as far as that.
const UNWILLING: [(&str, &str); 11] = [
    (
        "ignores SIGTERM",
        "import signal, time\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\nprint('on', flush=True)\ntime.sleep(1000)",
    ),
    ("is stopped", "import os, signal\nprint('on', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)"),
    (
        "double fork and setsid",
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    os.setsid()\n    for fd in (0, 1, 2): os.close(fd)\n    time.sleep(1000)\n  os._exit(0)\nos.wait()\nprint('on', flush=True)\ntime.sleep(1000)",
    ),
    (
        "a chain of forks",
        "import os, time\nprint('on', flush=True)\nif os.fork(): time.sleep(1000)\nwhile True:\n  if os.fork(): os._exit(0)\n  time.sleep(0.001)",
    ),
    (
        "hangs in vfork",
        "import ctypes, os\nprint('on', flush=True)\nlibc = ctypes.CDLL(None)\npid = libc.syscall(58)\nif pid == 0:\n  libc.pause()\nlibc.pause()",
    ),
    (
        "busy threads",
        "import threading\nprint('on', flush=True)\ndef f():\n  while True: pass\nfor _ in range(20): threading.Thread(target=f).start()",
    ),
    (
        "a child that is traced and stopped",
        "import ctypes, os, signal, time\nif os.fork() == 0:\n  ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n  os.kill(os.getpid(), signal.SIGSTOP)\n  time.sleep(1000)\ntime.sleep(0.2)\nprint('on', flush=True)\ntime.sleep(1000)",
    ),
    (
        "a daemon that holds its output",
        "import subprocess, time\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\nprint('on', flush=True)\ntime.sleep(1000)",
    ),
    (
        "a chain of sessions",
        "import os, time\nprint('on', flush=True)\nif os.fork(): time.sleep(1000)\nwhile True:\n  os.setsid()\n  if os.fork(): os._exit(0)\n  time.sleep(0.001)",
    ),
    ("closed streams", "import os, time\nprint('on', flush=True)\nfor fd in (0, 1, 2): os.close(fd)\ntime.sleep(1000)"),
    (
        "a stopped child",
        "import os, signal, time\np = os.fork()\nif p == 0:\n  os.setsid()\n  os.kill(os.getpid(), signal.SIGSTOP)\nprint('on', flush=True)\ntime.sleep(1000)",
    ),
];

#[test]
fn r4_7_a_time_out_ends_the_whole_tree_within_a_second_however_it_resists() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    for (what, code) in UNWILLING {
        let begin = Instant::now();
        let timeout = allowed(Duration::from_secs(1));
        let result = sandbox.exec(&json!({"language": "python", "code": code, "timeout_s": timeout.as_secs_f64()}));
        assert_eq!(result["status"], "timed_out", "{what}: {result:#}");
        assert_eq!(result["stdout"], "on\n", "{what} did not get so far");
        let late = begin.elapsed().saturating_sub(timeout);
        assert!(late < allowed(Duration::from_secs(1)), "{what}: {late:?} after its deadline");
        sandbox.is_empty_of_others();
    }
    server.finish();
}

#[test]
fn r4_7_a_run_returns_when_its_main_program_ends_though_a_daemon_holds_its_output() {
    let server = Server::start();
    let begin = Instant::now();
    let result = server.run(&json!({"shell": "setsid sleep 1000 & echo done"}));
    assert_eq!((&result["stdout"], &result["status"]), (&json!("done\n"), &json!("exited")));
    assert!(begin.elapsed() < allowed(Duration::from_secs(5)), "{:?}", begin.elapsed());
    let sandbox = server.sandbox(&json!({}));
    let begin = Instant::now();
    let result = sandbox.exec(&json!({"shell": "(while :; do echo noise; sleep 0.01; done) & echo done > f; echo main"}));
    assert!(result["stdout"].as_str().unwrap().contains("main\n"), "{result:#}");
    assert!(begin.elapsed() < allowed(Duration::from_secs(5)), "{:?}", begin.elapsed());
    // Between two pauses there is none.
    let look = "until pgrep sleep > /dev/null; do :; done; echo still";
    assert_eq!(sandbox.shell(look), "still\n", "in a sandbox that stays, a daemon stays too");
    server.finish();
}

#[test]
fn orphans_are_reaped() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let code = "import os\nfor _ in range(100):\n  if os.fork() == 0:\n    if os.fork() == 0: os._exit(0)\n    os._exit(0)\n  os.wait()";
    let _ran = sandbox.python(code);
    // The main program ends without having waited for its children.
    let _ran = sandbox.python("import os\nfor _ in range(100):\n  if os.fork() == 0: os._exit(0)");
    eventually("all to be reaped", Duration::from_secs(5), || sandbox.others().is_empty().then_some(()));
    server.finish();
}

#[test]
fn input_ends_where_the_request_says() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let counted = sandbox.exec(&json!({"shell": "wc -c; echo after", "stdin": "12345"}));
    assert_eq!(counted["stdout"], "5\nafter\n", "the program sees the end and goes on");
    let large: Vec<u8> = (0..8 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let code = "import sys, hashlib\nd = sys.stdin.buffer.read()\nprint(len(d), hashlib.sha256(d).hexdigest())";
    let hashed = sandbox.exec(&json!({"language": "python", "code": code, "stdin_base64": BASE64.encode(&large)}));
    sandbox.write(b"same", &large).expect(200);
    let expect = format!("{} {}\n", large.len(), &sandbox.shell("sha256sum same")[..64]);
    assert_eq!(hashed["stdout"], expect);
    let unread = sandbox.exec(&json!({"shell": "exec 0<&-; echo closed", "stdin_base64": BASE64.encode(&large)}));
    assert_eq!((&unread["stdout"], &unread["exit_code"]), (&json!("closed\n"), &json!(0)), "nobody has to read");
    server.finish();
}

#[test]
fn output_is_exact_to_the_byte() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let code = "import sys\nb = bytes(range(256)) * 1000\nsys.stdout.buffer.write(b)\nsys.stdout.flush()\nsys.stderr.buffer.write(b[::-1])";
    let result = sandbox.exec(&json!({"language": "python", "code": code}));
    let expect: Vec<u8> = (0..=255u8).cycle().take(256_000).collect();
    let reversed: Vec<u8> = expect.iter().rev().copied().collect();
    assert_eq!(result["stdout_base64"], BASE64.encode(&expect));
    assert_eq!(result["stderr_base64"], BASE64.encode(&reversed));
    let id = result["id"].as_str().unwrap();
    assert!(server.get(&format!("/v1/executions/{id}/output?stream=stderr")).expect(200).body == reversed);
    server.finish();
}

#[test]
fn fifty_programs_run_side_by_side_in_one_sandbox() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    thread::scope(|scope| {
        for n in 0..50 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let result = sandbox.exec(&json!({"shell": format!("sleep 0.2; seq {n} | wc -l; echo {n} >&2; exit {n}")}));
                ended(&result, "exited", Some(n), None);
                assert_eq!(
                    (result["stdout"].as_str().unwrap().trim(), result["stderr"].as_str().unwrap().trim()),
                    (n.to_string().as_str(), n.to_string().as_str())
                );
            });
        }
    });
    sandbox.is_empty_of_others();
    server.finish();
}

#[test]
fn deleting_a_sandbox_ends_everything_in_it() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let id = sandbox.background(
        json!({"shell": "trap '' TERM INT HUP; setsid sleep 4711 & setsid sh -c 'kill -STOP $$' & while :; do :; done", "timeout_s": null}),
    );
    let agent = sandbox.agent();
    eventually("the daemon", Duration::from_secs(5), || Process::with_argument("4711"));
    let begin = Instant::now();
    sandbox.delete().expect(200);
    assert!(begin.elapsed() < allowed(Duration::from_secs(2)), "{:?}", begin.elapsed());
    assert!(!agent.lives() && Process::with_argument("4711").is_none(), "an answered DELETE means that nothing is left");
    let record = server.execution(&id);
    assert_eq!(record["status"], "killed");
    assert!(record["message"].as_str().unwrap().contains("deleted"), "{record:#}");
    server.finish();
}
