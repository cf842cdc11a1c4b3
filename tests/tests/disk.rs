//! Storage `disk`: a file system of its own on the server's disk, with room for what was asked for and no more.

use std::time::Duration;

use caisson_tests::{Server, allowed, eventually, json};

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
    // The kernel lets go of a loop device a moment after the mount.
    eventually("the loop devices to be free", allowed(Duration::from_secs(5)), || (loop_devices() == 0).then_some(()));
    server.finish();
}

/// How many have a nameless file of a data directory behind them.
fn loop_devices() -> usize {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries
        .filter(|entry| std::fs::read_to_string(entry.path().join("loop/backing_file")).is_ok_and(|file| file.contains("caisson")))
        .count()
}
