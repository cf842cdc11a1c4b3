//! Attacks that once worked, or came close: each stays a test.

use std::time::{Duration, Instant};

use caisson_tests::{Server, allowed, eventually, json, probe_in};

/// The number of a system call is the architecture's.
#[cfg(target_arch = "x86_64")]
const CALLS: [(&str, i64); 2] = [("seccomp", 317), ("io_setup", 206)];
#[cfg(target_arch = "aarch64")]
const CALLS: [(&str, i64); 2] = [("seccomp", 277), ("io_setup", 0)];

#[test]
fn what_uses_up_the_host_without_counting_is_refused() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let code = r#"
import ctypes, errno, json, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def note(name, attempt):
    try:
        attempt()
        found[name] = "worked"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
def call(*arguments):
    if libc.syscall(*[ctypes.c_long(a) for a in arguments]) == -1:
        raise OSError(ctypes.get_errno(), "")
instructions = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xffffffff))
program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(instructions))
for name, option in (("filter", 26), ("bpf", 50), ("reuse_cbpf", 51), ("reuse_ebpf", 52)):
    note(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).setsockopt(socket.SOL_SOCKET, option, program))
for protocol in range(23):
    note("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol))
open("file", "w").close()
note("xattr", lambda: os.setxattr("file", "user.note", b"x" * 100))
note("seccomp", lambda: call(int(sys.argv[1]), 1, 0, ctypes.addressof(ctypes.create_string_buffer(program))))
note("io_setup", lambda: call(int(sys.argv[2]), 8, ctypes.addressof(ctypes.create_string_buffer(8))))
def prctl():
    if libc.prctl(22, 2, program, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), "")
note("prctl", prctl)
terminals = []
try:
    while len(terminals) < 200:
        terminals.append(os.openpty())
except OSError:
    pass
found["terminals"] = len(terminals)
found["oom_score_adj"] = int(open("/proc/self/oom_score_adj").read())
print(json.dumps(found))
"#;
    let numbers = CALLS.map(|(_, number)| number.to_string());
    let found = probe_in(&sandbox, code, &[&numbers[0], &numbers[1]]);
    for name in ["filter", "bpf", "reuse_cbpf", "reuse_ebpf"] {
        assert_eq!(found[name], "EPERM", "{name}: {found:#}");
    }
    // Python's name for EOPNOTSUPP.
    for name in ["xattr", "netlink"] {
        assert_eq!(found[name], "ENOTSUP", "{name}: {found:#}");
    }
    assert_eq!(found["seccomp"], "ENOSYS", "{found:#}");
    assert_eq!(found["io_setup"], "ENOSYS", "{found:#}");
    assert_eq!(found["prctl"], "EINVAL", "{found:#}");
    let terminals = found["terminals"].as_u64().unwrap();
    assert!((1..=64).contains(&terminals), "{terminals} terminals in one sandbox");
    assert_eq!(found["oom_score_adj"], 1000, "{found:#}");
    let agent = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", sandbox.agent().pid)).unwrap();
    assert_eq!(agent.trim(), "900");
    server.finish();
}

/// Between becoming the user and executing its program, a new process can be stopped by the user's others, and the agent waits for it.
#[test]
fn a_program_that_is_stopped_while_it_starts_does_not_stop_the_agent() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    let code = "import os, signal\nprint('on', flush=True)\nwhile True:\n  try: os.kill(-1, signal.SIGSTOP)\n  except OSError: pass";
    let stopper = sandbox.background(json!({"language": "python", "code": code, "timeout_s": 120}));
    eventually("the attack has begun", Duration::from_secs(10), || {
        let answer = server.get(&format!("/v1/executions/{stopper}/output?stream=stdout")).expect(200);
        (!answer.body.is_empty()).then_some(())
    });
    let begin = Instant::now();
    let mut stopped = 0;
    for _ in 0..25 {
        let result = sandbox.exec(&json!({"cmd": ["/bin/true"], "timeout_s": 0.3}));
        let status = result["status"].as_str().unwrap();
        assert!(["exited", "timed_out", "signaled"].contains(&status), "{result:#}");
        stopped += u32::from(status != "exited");
    }
    assert!(stopped > 0, "the attack never hit, so this shows nothing");
    assert!(begin.elapsed() < allowed(Duration::from_secs(60)), "the agent stood still: {:?}", begin.elapsed());
    server.request("POST", &format!("/v1/executions/{stopper}/kill")).send().expect(204);
    assert_eq!(sandbox.shell("echo fine"), "fine\n");
    server.finish();
}

/// What is left in the sandbox beside the one who looks and the agent.
const OTHERS: &str =
    "import os, json\nprint(json.dumps([p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())]))";

#[test]
fn a_program_whose_first_thread_has_ended_is_still_ended() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let code =
        "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nctypes.CDLL(None).pthread_exit(None)";
    let begin = Instant::now();
    let result = sandbox.exec(&json!({"language": "python", "code": code, "timeout_s": 1}));
    assert_eq!(result["status"], "timed_out", "{result:#}");
    assert!(begin.elapsed() < allowed(Duration::from_secs(2)) + Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(probe_in(&sandbox, OTHERS, &[]), json!([]));
    server.finish();
}

#[test]
fn a_tracer_that_never_looks_does_not_keep_an_execution_alive() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let traced =
        "import ctypes, os, time\nctypes.CDLL(None).prctl(0x59616d61, -1, 0, 0, 0)\nprint(os.getpid(), flush=True)\ntime.sleep(600)";
    // Long enough for the other one to begin, on a slow machine too.
    let limit = allowed(Duration::from_secs(3)).as_secs_f64();
    let traced = sandbox.background(json!({"language": "python", "code": traced, "timeout_s": limit}));
    let pid = eventually("the program to trace", Duration::from_secs(10), || {
        let answer = server.get(&format!("/v1/executions/{traced}/output?stream=stdout")).expect(200);
        String::from_utf8_lossy(&answer.body).trim().parse::<u32>().ok()
    });
    let tracer = r#"
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
if libc.ptrace(0x4206, int(sys.argv[1]), None, None) == -1: sys.exit(f"ptrace: {ctypes.get_errno()}")
print("on", flush=True)
time.sleep(600)
"#;
    let tracer = sandbox.background(json!({"language": "python", "code": tracer, "args": [pid.to_string()], "timeout_s": null}));
    eventually("the tracing to begin", Duration::from_secs(10), || {
        let answer = server.get(&format!("/v1/executions/{tracer}/output?stream=stdout")).expect(200);
        (!answer.body.is_empty()).then_some(())
    });
    let ended = server.ended(&traced, Duration::from_secs(10));
    assert_eq!(ended["status"], "timed_out", "{ended:#}");
    server.finish();
}
