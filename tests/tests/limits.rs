//! Limits: each ends as its own status, with the figure, and the host does not notice.

use std::{
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{Sandbox, Server, UNTIL_REFUSED, allowed, fewer, json, probe_in};

const MIB: u64 = 1 << 20;

#[test]
fn r4_1_memory_beyond_the_limit_ends_the_program_with_the_figure() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"memory_bytes": 64 * MIB}}));
    for (what, code) in [
        ("anonymous memory", "b = []\nwhile True: b.append(b'x' * 1000000)"),
        ("many processes", "import os\nfor _ in range(4): os.fork()\nb = bytearray(30000000)\nimport time; time.sleep(100)"),
    ] {
        let result = sandbox.exec(&json!({"language": "python", "code": code, "timeout_s": allowed(Duration::from_secs(20)).as_secs()}));
        let outcome = (result["status"].as_str().unwrap(), what);
        // With many processes the kernel may take one that nobody waits for, and the rest then sleep.
        assert!(outcome.0 == "out_of_memory" || (what == "many processes" && outcome.0 == "timed_out"), "{what}: {result:#}");
        assert!(result["message"].as_str().unwrap().contains("64 MiB"), "whichever it took: {result:#}");
    }
    assert_eq!(sandbox.shell("echo alive"), "alive\n", "the sandbox goes on");
    assert!(sandbox.get().expect(200).json()["usage"]["oom_kills"].as_u64().unwrap() >= 1);
    server.finish();
}

#[test]
fn r4_1_memory_filled_by_other_means_counts_as_well() {
    let server = Server::start();
    for (what, code) in [
        ("files in memory", "import os\nfor i in range(100):\n  fd = os.memfd_create('x')\n  os.write(fd, b'x' * 4000000)"),
        ("shared memory", "import mmap\nm = [mmap.mmap(-1, 4000000) for _ in range(100)]\nfor x in m: x.write(b'x' * 4000000)"),
        ("the root file system", "f = open('f', 'wb')\nwhile True: f.write(b'x' * 1000000)"),
        (
            "pipes",
            "import os, fcntl\nps = [os.pipe() for _ in range(1500)]\nfor _, w in ps:\n  os.set_blocking(w, False)\n  try:\n    fcntl.fcntl(w, 1031, 1 << 20)\n  except OSError: pass\n  try:\n    while True: os.write(w, b'x' * 65536)\n  except BlockingIOError: pass\nprint('refused')",
        ),
    ] {
        let sandbox = server.sandbox(&json!({"limits": {"memory_bytes": 64 * MIB, "disk_bytes": 512 * MIB}}));
        let result = sandbox.exec(&json!({"language": "python", "code": code, "timeout_s": allowed(Duration::from_secs(60)).as_secs()}));
        let bounded = ["out_of_memory", "exited"].contains(&result["status"].as_str().unwrap());
        assert!(bounded, "{what}: {result:#}");
        let usage = sandbox.get();
        if usage.status == 200 {
            let peak = usage.json()["usage"]["peak_memory_bytes"].as_u64().unwrap();
            assert!(peak <= 65 * MIB, "{what}: {peak} bytes were used");
        }
    }
    server.finish();
}

#[test]
fn r4_2_a_fork_bomb_is_bounded_and_its_sandbox_ends_within_two_seconds() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"pids": 64, "cpus": 2}}));
    let bomb = "import os\nprint('on', flush=True)\nwhile True:\n  try: os.fork()\n  except OSError: pass";
    let id = sandbox.background(json!({"language": "python", "code": bomb, "timeout_s": null}));
    caisson_tests::eventually("the bomb to fill its room", Duration::from_secs(20), || {
        let pids = sandbox.get().expect(200).json()["usage"]["pids"].as_u64()?;
        assert!(pids <= 64, "{pids} processes");
        (pids >= 60).then_some(())
    });
    assert_eq!(server.python("print(1)"), "1\n", "others run");
    let begin = Instant::now();
    sandbox.delete().expect(200);
    assert!(begin.elapsed() < allowed(Duration::from_secs(2)), "{:?}", begin.elapsed());
    assert_eq!(server.execution(&id)["status"], "killed");

    let timed = server.run(&json!({"language": "python", "code": bomb, "timeout_s": 1, "limits": {"pids": 64}}));
    assert_eq!(timed["status"], "timed_out", "{timed:#}");
    server.finish();
}

#[test]
fn r4_2_threads_count_as_processes() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"pids": 32}}));
    let code = "import threading, time, json\nn = 0\ntry:\n  while n < 500:\n    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n    n += 1\nexcept RuntimeError: pass\nprint(json.dumps(n), flush=True)\nimport os; os._exit(0)";
    let threads = probe_in(&sandbox, code, &[]).as_u64().unwrap();
    assert!((20..32).contains(&threads), "{threads} threads");
    server.finish();
}

#[test]
fn r4_3_processor_hogs_get_their_share_and_the_server_goes_on() {
    let server = Server::start();
    let hogs: Vec<_> = (0..4).map(|_| server.sandbox(&json!({"limits": {"cpus": 0.5}}))).collect();
    for hog in &hogs {
        let _id = hog.background(json!({"shell": "while :; do :; done & while :; do :; done & while :; do :; done", "timeout_s": null}));
    }
    let used = |hog: &Sandbox<'_>| hog.get().expect(200).json()["usage"]["cpu_ms"].as_f64().unwrap();
    let (begin, before) = (Instant::now(), hogs.iter().map(used).collect::<Vec<_>>());
    // Every processor is busy, and all that is asked for meanwhile comes.
    for n in 0..100 {
        server.get("/healthz").expect(200);
        if n % 10 == 0 {
            assert_eq!(server.python("print(1)"), "1\n");
        }
        thread::sleep(Duration::from_millis(20));
    }
    let seconds = begin.elapsed().as_secs_f64();
    for (hog, before) in hogs.iter().zip(before) {
        let share = (used(hog) - before) / seconds / 1000.0;
        assert!((0.05..0.65).contains(&share), "{share} processors instead of 0.5");
        assert_eq!(hog.try_exec(&json!({"shell": "echo still"})).expect(200).json()["stdout"], "still\n", "it takes requests, too");
    }
    server.finish();
}

#[test]
fn r4_4_the_disk_is_capped_in_bytes_and_in_files() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"disk_bytes": 8 * MIB, "disk_inodes": 2000}}));
    let code = r#"
import errno, json, os
found = {}
f = open("big", "wb", buffering=0)
def fill(n):
    if f.write(b"x" * 65536) < 65536: raise OSError(errno.ENOSPC, "")
fd = os.open("sparse", os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 1 << 40)
found["sparse"] = os.stat("sparse").st_blocks
found["bytes"] = until_refused(fill, 10000)
f.close(); os.remove("big")
os.makedirs("many")
found["files"] = until_refused(lambda n: open(f"many/{n}", "w").close(), 1000000)
for n in os.listdir("many"): os.remove("many/" + n)
found["directories"] = until_refused(lambda n: os.mkdir(f"many/{n}"), 1000000)
for n in os.listdir("many"): os.rmdir("many/" + n)
open("one", "w").close()
found["links"] = until_refused(lambda n: os.link("one", f"many/{n}"), 1000000)
for n in os.listdir("many"): os.remove("many/" + n)
def deep(n):
    os.mkdir("d"); os.chdir("d")
found["depth"] = until_refused(deep, 20000)
os.chdir("/workspace")
print(json.dumps(found))
"#;
    let found = probe_in(&sandbox, &[UNTIL_REFUSED, code].concat(), &[]);
    let count = |name: &str| found[name][0].as_u64().unwrap();
    assert_eq!(found["bytes"][1], "ENOSPC", "{found}");
    assert!((64..=128).contains(&count("bytes")), "{found}");
    for name in ["files", "directories", "links", "depth"] {
        assert_eq!(found[name][1], "ENOSPC", "{name}: {found}");
        assert!(count(name) < 2000, "{name}: {found}");
    }
    assert_eq!(found["sparse"], 0);
    sandbox.request("DELETE", "/files?path=d&recursive=true").send().expect(204);
    assert_eq!(sandbox.shell("ls"), "many\none\nsparse\n");
    let begin = Instant::now();
    sandbox.delete().expect(200);
    assert!(begin.elapsed() < allowed(Duration::from_secs(2)), "{:?}", begin.elapsed());
    server.finish();
}

#[test]
fn r4_4_a_million_files_are_asked_for_and_not_made() {
    let server = Server::start();
    let code = "n = 0\ntry:\n  while n < 1000000:\n    open(str(n), 'w').close()\n    n += 1\nexcept OSError: pass\nprint(n)";
    let begin = Instant::now();
    let result = server
        .run(&json!({"language": "python", "code": code, "max_file_bytes": 0, "timeout_s": allowed(Duration::from_secs(60)).as_secs()}));
    let made: u64 = result["stdout"].as_str().unwrap().trim().parse().unwrap_or_else(|_| panic!("{result:#}"));
    assert!(made < 65_536, "{made} files");
    assert_eq!(result["files_truncated"], true, "more than are named");
    assert!(begin.elapsed() < allowed(Duration::from_secs(60)), "{:?}", begin.elapsed());
    server.finish();
}

#[test]
fn r4_5_an_output_flood_is_counted_to_the_byte_and_kept_at_both_ends() {
    const TOTAL: u64 = 100_000_000;
    const KEPT: u64 = 32 * MIB;
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    let _warm = sandbox.shell("head -c 5000000 /dev/zero");
    let before = server.process().resident();
    let code = "import sys\nb = b''.join(b'%015d\\n' % n for n in range(65536))\nleft = 100000000\nn = 0\nw = sys.stdout.buffer\nwhile left > 0:\n  block = b''.join(b'%015d\\n' % i for i in range(n, n + 10000))[:left]\n  w.write(block)\n  left -= len(block)\n  n += 10000\nw.flush()";
    let result = sandbox.exec(&json!({"language": "python", "code": code, "timeout_s": allowed(Duration::from_secs(60)).as_secs()}));
    assert_eq!((&result["status"], &result["exit_code"]), (&json!("exited"), &json!(0)), "the program goes on to its end: {result:.500}");
    assert_eq!((&result["stdout_bytes"], &result["truncated"]), (&json!(TOTAL), &json!({"stdout": true, "stderr": false})));
    let text = result["stdout"].as_str().unwrap();
    assert!(
        text.starts_with("000000000000000\n") && text.ends_with("000000006249999\n"),
        "head and tail: {:.40} … {}",
        text,
        &text[text.len() - 40..]
    );
    assert!(text.contains(&format!("\n[... {} bytes left out ...]\n", TOTAL - MIB)), "an honest marker");
    let grown = server.process().resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "the server grew by {grown} bytes");

    let id = result["id"].as_str().unwrap();
    let output = |offset: u64| server.get(&format!("/v1/executions/{id}/output?offset={offset}")).expect(200);
    let head = output(0);
    assert_eq!((head.body.len() as u64, head.figure("x-caisson-total"), head.figure("x-caisson-dropped")), (KEPT, TOTAL, TOTAL - 2 * KEPT));
    let tail = output(KEPT);
    assert_eq!((tail.figure("x-caisson-offset"), tail.body.len() as u64), (TOTAL - KEPT, KEPT), "what is behind the gap");
    for (offset, bytes) in [(0, &head.body), (TOTAL - KEPT, &tail.body)] {
        for line in (0..bytes.len() / 16).step_by(1009) {
            let at = line * 16;
            let expect = format!("{:015}\n", (offset as usize + at) / 16);
            assert_eq!(&bytes[at..at + 16], expect.as_bytes(), "at {at} from {offset}");
        }
    }
    server.finish();
}

/// Without a line break, on both streams at once: zeroes on one, and on the other what is no text and would move the cursor, ring and
/// rename the window of whoever showed it.
#[test]
fn r4_5_a_flood_of_what_is_no_text_leaves_the_server_as_it_is() {
    const PATTERN: &[u8] = b"\xff\xfe\x1b[2J\x1b]0;owned\x07\xc3\x28\x00\xf0\x9f\x92";
    const KEPT: u64 = 64 * MIB;
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    let _warm = sandbox.shell("head -c 5000000 /dev/zero");
    let before = server.process().resident();
    let each = fewer(2 << 30) as u64;
    let code = r#"
import os, sys, threading
each = int(sys.argv[2])
def pour(fd, pattern):
    block, done = pattern * (65536 // len(pattern) + 2), 0
    while done < each:
        start = done % len(pattern)
        done += os.write(fd, block[start:start + min(each - done, 65536)])
other = threading.Thread(target=pour, args=(2, bytes.fromhex(sys.argv[1])))
other.start()
pour(1, bytes(1))
other.join()
"#;
    let pattern: String = PATTERN.iter().map(|byte| format!("{byte:02x}")).collect();
    let begin = Instant::now();
    let result = sandbox.exec(&json!({"language": "python", "code": code, "args": [pattern, each.to_string()], "timeout_s": null}));
    assert_eq!((&result["status"], &result["exit_code"]), (&json!("exited"), &json!(0)), "{result:.500}");
    let grown = server.process().peak_resident().saturating_sub(before);
    eprintln!("{} MiB in {:?}; the server grew by {} MiB at most", 2 * each / MIB, begin.elapsed(), grown / MIB);
    // Windows, heads and tails of two streams on their way to disk, and an answer of some MiB; not the gigabytes that passed.
    assert!(grown < 64 * MIB, "the server grew by {grown} bytes");

    assert_eq!((&result["stdout_bytes"], &result["stderr_bytes"]), (&json!(each), &json!(each)), "to the byte");
    assert_eq!(result["truncated"], json!({"stdout": true, "stderr": true}));
    for name in ["stdout", "stderr"] {
        let text = result[name].as_str().unwrap();
        assert!(text.contains(" bytes left out ...]\n"), "an honest marker in {name}");
        assert!(name == "stdout" || result["stderr_base64"].is_string(), "what is no text comes as bytes, too");
    }
    let id = result["id"].as_str().unwrap();
    let record = server.execution(id);
    for (name, pattern) in [("stdout", &[0][..]), ("stderr", PATTERN)] {
        assert_eq!(record[format!("{name}_dropped_bytes")], json!(each - KEPT.min(each)), "{name}: what the log lacks is counted");
        for offset in [0, each - 1000, KEPT / 2 - 500] {
            let piece = server.get(&format!("/v1/executions/{id}/output?stream={name}&offset={offset}")).expect(200);
            assert_eq!(
                (piece.header("content-type"), piece.header("x-content-type-options")),
                (Some("application/octet-stream"), Some("nosniff"))
            );
            assert_eq!(piece.figure("x-caisson-total"), each);
            let start = piece.figure("x-caisson-offset") as usize;
            let right = piece.body.iter().take(1000).enumerate().all(|(n, byte)| *byte == pattern[(start + n) % pattern.len()]);
            assert!(right && !piece.body.is_empty(), "{name} at {offset}");
        }
    }
    server.finish();
}

#[test]
fn r4_5_output_that_is_no_text_is_counted_too() {
    let server = Server::start();
    let result = server.run(&json!({"shell": "head -c 3000000 /dev/zero; printf '\\033[2J\\377' >&2"}));
    assert_eq!((&result["stdout_bytes"], &result["truncated"]["stdout"]), (&json!(3_000_000), &json!(true)));
    assert_eq!((&result["stderr_bytes"], &result["stderr_base64"]), (&json!(5), &json!("G1sySv8=")));
    server.finish();
}

#[test]
fn r4_5_more_output_than_the_request_allows_ends_the_program() {
    let server = Server::start();
    let begin = Instant::now();
    let result = server.run(&json!({"shell": "yes; true", "max_output_bytes": 1000}));
    assert_eq!((&result["status"], &result["stdout_bytes"]), (&json!("output_limit"), &json!(1000)), "{result:#}");
    assert!(result["message"].as_str().unwrap().contains("1000 bytes"), "{result:#}");
    assert!(begin.elapsed() < allowed(Duration::from_secs(5)));
    let both = server.run(&json!({"shell": "echo 12345; echo 12345 >&2", "max_output_bytes": 12}));
    assert_eq!(both["status"], "exited", "exactly as much is allowed");
    server.finish();
}

#[test]
fn r4_6_descriptors_and_priorities_stay_inside() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"open_files": 100}}));
    let code = r#"
import errno, json, os, select, resource
found = {}
def attempt(name, work):
    try:
        work(); found[name] = "worked"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
    except ValueError as error:
        found[name] = "ValueError"
fds = []
def fill():
    while len(fds) < 5000: fds.append(os.open("/dev/null", os.O_RDONLY))
attempt("descriptors", fill)
found["count"] = len(fds)
for fd in fds: os.close(fd)
attempt("nice", lambda: os.nice(-5))
attempt("realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt("raise", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000)))
found["core"] = resource.getrlimit(resource.RLIMIT_CORE)
print(json.dumps(found))
"#;
    let found = probe_in(&sandbox, code, &[]);
    assert_eq!(found["descriptors"], "EMFILE", "{found}");
    assert!(found["count"].as_u64().unwrap() < 100, "{found}");
    for name in ["nice", "realtime"] {
        assert!(["EPERM", "EACCES"].contains(&found[name].as_str().unwrap()), "{name}: {found}");
    }
    assert_ne!(found["raise"], "worked", "{found}");
    assert_eq!(found["core"], json!([0, 0]));
    server.finish();
}
