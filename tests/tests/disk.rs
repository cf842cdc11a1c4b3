//! Storage `disk`: a file system of its own on the server's disk, with room for what was asked for and no more.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{Server, UNTIL_REFUSED, allowed, fewer, json, probe_in};

const MIB: u64 = 1 << 20;

#[test]
fn r4_4_bytes_and_inodes_on_disk_are_capped() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"storage": "disk", "limits": {"disk_bytes": 64 * MIB, "disk_inodes": 2000}}));
    // All of it can be used …
    assert_eq!(sandbox.shell("head -c 64M /dev/zero > all && stat -c %s all && rm all"), format!("{}\n", 64 * MIB));
    // … and little more.
    let result = sandbox.exec(&json!({"shell": "head -c 80M /dev/zero > more; stat -c %s more; rm more"}));
    assert!(result["stderr"].as_str().expect("text").contains("No space left"), "{result:#}");
    let held: u64 = result["stdout"].as_str().expect("text").trim().parse().expect("a number");
    assert!((64 * MIB..76 * MIB).contains(&held), "{held}");

    let made = sandbox.exec(&json!({"language": "python", "code": "import os\nn = 0\ntry:\n  while n < 10_000:\n    os.mknod(f'f{n}'); n += 1\nexcept OSError as e: print(n, e.strerror)"}));
    let text = made["stdout"].as_str().expect("text");
    let (count, why) = text.trim().split_once(' ').unwrap_or_else(|| panic!("{made:#}"));
    assert_eq!(why, "No space left on device");
    assert!((1500..4000).contains(&count.parse::<u32>().expect("a number")), "{text}");
    // A file that says it is large and is not.
    assert_eq!(sandbox.shell("rm -f f*; truncate -s 1T sparse && stat -c %s sparse"), format!("{}\n", 1u64 << 40));
    server.finish();
}

#[test]
fn a_sandbox_on_disk_does_what_one_in_memory_does() {
    let server = Server::start();
    for user in ["user", "root"] {
        let sandbox = server.sandbox(&json!({"storage": "disk", "user": user, "limits": {"memory_bytes": 64 * MIB}}));
        assert_eq!(sandbox.get().json()["storage"], "disk");
        // More than its memory.
        assert_eq!(sandbox.shell("head -c 200M /dev/urandom > f && sync && wc -c < f && ls -A / | grep -c lost; true"), "209715200\n0\n");
        drop(server.request("PUT", &sandbox.target("/files?path=/workspace/a/b")).bytes(vec![7; 100]).send().expect(200));
        assert_eq!(sandbox.shell("wc -c < a/b; rm -r a f; mkdir -p x/y && mv x z && ln z/../z/y/../../z -sf l; ls"), "100\nl\nz\n");
    }
    server.finish();
}

#[test]
fn what_does_not_fit_on_the_servers_disk_is_refused() {
    let server = Server::start();
    let answer = server.request("POST", "/v1/sandboxes").json(&json!({"storage": "disk", "limits": {"disk_bytes": 1u64 << 40}})).send();
    let message = answer.refused(503, "unavailable");
    assert!(message.contains("disk_bytes") && message.contains("MiB free"), "{message}");
    server.finish();
}

#[test]
fn one_shots_on_disk_one_after_the_other_leave_nothing() {
    let server = Server::start();
    for _ in 0..20 {
        let result = server.request("POST", "/v1/run").json(&json!({"shell": "echo x > f; cat f", "storage": "disk"})).send().expect(200);
        assert_eq!(result.json()["stdout"], "x\n");
    }
    server.finish();
}

/// Whatever a program has made of its disk, the server gets rid of it at once and answers others meanwhile.
#[test]
fn r4_4_what_is_hard_to_delete_is_deleted_at_once() {
    let code = r#"
import json, os, sys
made = {}
def deeper(n):
    os.mkdir("d")
    os.chdir("d")
made["levels"] = until_refused(deeper, int(sys.argv[1]))
os.chdir("/workspace")
open("one", "w").close()
os.mkdir("links")
made["links"] = until_refused(lambda n: os.link("one", f"links/{n}"), int(sys.argv[2]))
fd = os.open("sparse", os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 1 << 40)
for n in range(1000): os.pwrite(fd, b"x", n << 30)
os.mkdir("many")
made["files"] = until_refused(lambda n: os.mknod(f"many/{n}"), 1_000_000)
print(json.dumps(made))
"#;
    let server = Server::start();
    let (levels, links, inodes) = (fewer(10_000), fewer(30_000), fewer(100_000));
    for storage in ["memory", "disk"] {
        let limits = json!({"memory_bytes": 1u64 << 30, "disk_bytes": 512 * MIB, "disk_inodes": inodes, "cpus": 2});
        let sandbox = server.sandbox(&json!({"storage": storage, "limits": limits}));
        let made = probe_in(&sandbox, &[UNTIL_REFUSED, code].concat(), &[&levels.to_string(), &links.to_string()]);
        assert_eq!(made["levels"], json!([levels, "all"]), "{storage}: {made}");
        assert_eq!(made["links"], json!([links, "all"]), "{storage}: {made}");
        // Some inodes are the system's own, and in memory a link counts as one.
        let files = made["files"][0].as_u64().expect("a number");
        assert!(made["files"][1] == "ENOSPC" && (inodes as u64 / 2..inodes as u64).contains(&files), "{storage}: {made}");

        // One tree by way of the agent, whose own affair it is …
        sandbox.request("DELETE", "/files?path=/workspace/d&recursive=true").send().expect(204);
        assert_eq!(sandbox.shell("ls"), "links\nmany\none\nsparse\n", "{storage}");
        // … and everything by way of the kernel.
        let answered = AtomicUsize::new(0);
        let gone = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !gone.load(Ordering::Acquire) {
                    server.get("/healthz").expect(200);
                    answered.fetch_add(1, Ordering::AcqRel);
                }
            });
            let other = server.sandbox(&json!({}));
            let begin = Instant::now();
            sandbox.delete().expect(200);
            let took = begin.elapsed();
            gone.store(true, Ordering::Release);
            eprintln!("{storage}: {made} gone after {took:?}, {} other answers", answered.load(Ordering::Acquire));
            assert!(took < allowed(Duration::from_secs(2)), "{storage}: {took:?}");
            assert_eq!(other.shell("echo fine"), "fine\n");
        });
    }
    server.finish();
}
