//! The walls, looked at from inside, and the same look on the host to show that the eyes are open.

use std::{fs, time::Duration};

use caisson_tests::{Server, Value, eventually, json, on_host, probe, probe_in};

/// What a process can learn about itself.
const SELF: &str = include_str!("../probes/self.py");
/// Forbidden system calls with arguments that make them harmless where they are allowed.
const CALLS: &str = include_str!("../probes/calls.py");
/// What can be seen of machine and neighbours.
const SIGHT: &str = include_str!("../probes/sight.py");
/// Sockets, and what can be reached.
const NETWORK: &str = include_str!("../probes/network.py");

const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

#[test]
fn r1_1_namespaces_are_the_sandboxs_own() {
    let server = Server::start();
    // Both at the same time: the number of a namespace that has ended may be given again.
    let code = format!("{SELF}\nimport sys, time\nsys.stdout.flush()\ntime.sleep(60)");
    let sandboxes = [server.sandbox(&json!({})), server.sandbox(&json!({}))];
    let programs = sandboxes.each_ref().map(|sandbox| sandbox.background(json!({"language": "python", "code": code})));
    let [one, two] = programs.map(|id| {
        eventually("what it finds", Duration::from_secs(10), || {
            serde_json::from_slice(&server.get(&format!("/v1/executions/{id}/output")).expect(200).body).ok()
        })
    });
    let host = on_host(SELF);
    for name in NAMESPACES {
        let of = |found: &Value| found["namespaces"][name].as_str().unwrap().to_owned();
        assert_ne!(of(&one), of(&host), "{name}");
        assert_ne!(of(&two), of(&host), "{name}");
        assert_ne!(of(&one), of(&two), "{name}");
    }
    let range = |found: &Value| found["uid_map"][0][1].as_u64().unwrap();
    assert!(range(&one) != range(&two) && range(&one) >= 65_536 && range(&two) >= 65_536, "{one} {two}");
    server.finish();
}

#[test]
fn r1_2_user_code_has_no_capabilities() {
    let server = Server::start();
    let found = probe(&server, SELF);
    assert_eq!((&found["uids"], &found["gids"], &found["groups"]), (&json!([1000, 1000, 1000]), &json!([1000, 1000, 1000]), &json!([])));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(found["status"][set], "0000000000000000", "{set}");
    }
    assert_eq!((&found["status"]["NoNewPrivs"], &found["status"]["Seccomp"]), (&json!("1"), &json!("2")));
    assert_eq!(found["core_limit"], json!([0, 0]));
    let host = on_host(SELF);
    assert_ne!(host["status"]["CapEff"], "0000000000000000", "the probe can see capabilities");
    server.finish();
}

#[test]
fn r1_2_every_mount_is_nosuid_and_shares_nothing() {
    let server = Server::start();
    let found = probe(&server, SELF);
    let mounts = found["mounts"].as_array().unwrap();
    assert!(mounts.len() > 5, "{found:#}");
    for mount in mounts {
        let options = mount["options"].as_str().unwrap();
        let has = |option: &str| options.split(',').any(|have| have == option);
        assert!(has("nosuid"), "{mount}");
        // On a devpts nobody can make a device, and with `nodev` no terminal could be opened.
        assert!(has("nodev") || has("ro") || mount["point"] == "/dev/pts", "{mount}");
        assert_eq!(mount["propagation"], json!([]), "neither shared nor slave: {mount}");
    }
    server.finish();
}

#[test]
fn r1_2_setuid_programs_gain_nothing() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let line = "cp /usr/bin/id mine && chmod 6755 mine && ./mine -u; for p in /usr/bin/su /usr/bin/mount /usr/bin/passwd; do [ -u $p ] && echo $p >&2; done; id -u";
    let result = sandbox.exec(&json!({"shell": line}));
    assert_eq!(result["stdout"], "1000\n1000\n", "{result:#}");
    let root = sandbox.exec(&json!({"shell": "su -c 'id -u' < /dev/null; mount -t tmpfs x /tmp; sudo -n id -u; unshare -r id -u; true"}));
    assert_eq!(root["stdout"], "", "{root:#}");
    server.finish();
}

#[test]
fn r1_4_forbidden_calls_answer_before_they_look_at_their_arguments() {
    let server = Server::start();
    let found = probe(&server, CALLS);
    let (host, calls) = (on_host(CALLS), found.as_object().unwrap());
    assert!(calls.len() > 50, "{found}");
    let mut holes = Vec::new();
    for (name, answer) in calls {
        if !["EPERM", "ENOSYS"].contains(&answer.as_str().unwrap()) {
            holes.push(format!("{name}: {answer}"));
        }
    }
    assert!(holes.is_empty(), "the filter lets through {holes:?}");
    // Without a filter the same calls get as far as their arguments, so the probe can tell.
    let seen = host.as_object().unwrap().values().filter(|answer| !["EPERM", "ENOSYS"].contains(&answer.as_str().unwrap())).count();
    assert!(seen > calls.len() / 2, "the probe sees nothing on a host without walls: {host:#}");
    server.finish();
}

#[test]
fn r1_4_every_thread_and_every_later_program_is_filtered() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let code = "import json, os, threading, subprocess\nout = []\ndef look():\n  out.append([l.split()[1] for l in open(f'/proc/self/task/{threading.get_native_id()}/status') if l.startswith(('Seccomp:', 'NoNewPrivs:'))])\n\
                t = [threading.Thread(target=look) for _ in range(4)]\n[x.start() for x in t]\n[x.join() for x in t]\n\
                out.append(subprocess.run(['grep', '-E', '^(NoNewPrivs|Seccomp):', '/proc/self/status'], capture_output=True, text=True).stdout.split()[1::2])\nprint(json.dumps(out))";
    for _ in 0..2 {
        assert_eq!(probe_in(&sandbox, code, &[]), json!([["1", "2"], ["1", "2"], ["1", "2"], ["1", "2"], ["1", "2"]]));
    }
    server.finish();
}

#[test]
fn r1_5_terminals_cannot_be_typed_into() {
    let server = Server::start();
    let code = r#"
import errno, fcntl, json, os
found = {}
main, side = os.openpty()
for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C), ("TIOCCONS", 0x541D), ("TIOCSETD", 0x5423), ("high bits", 0x100005412)):
    try:
        if request > 0xffffffff:
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syscall(ctypes.c_long(16), ctypes.c_long(side), ctypes.c_ulong(request), b"x") == -1:
                raise OSError(ctypes.get_errno(), "")
        else:
            fcntl.ioctl(side, request, b"\0\0\0\0")
        found[name] = "worked"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
found["terminals"] = [os.isatty(fd) for fd in (0, 1, 2)]
print(json.dumps(found))
"#;
    let found = probe(&server, code);
    for name in ["TIOCSTI", "TIOCLINUX", "TIOCCONS", "TIOCSETD", "high bits"] {
        assert_eq!(found[name], "EPERM", "{found}");
    }
    assert_eq!(found["terminals"], json!([false, false, false]));
    server.finish();
}

#[test]
fn r1_6_only_the_listed_sockets_can_be_made() {
    let server = Server::start();
    let found = probe(&server, NETWORK);
    let sockets = found["sockets"].as_object().unwrap();
    for (name, answer) in sockets {
        let usual = ["AF_INET/STREAM", "AF_INET/DGRAM", "AF_INET6/STREAM", "AF_INET6/DGRAM", "AF_UNIX/STREAM", "AF_UNIX/DGRAM"];
        let by_name = ["AF_INET/TCP/STREAM", "AF_INET/UDP/DGRAM", "AF_INET6/TCP/STREAM", "AF_INET6/UDP/DGRAM"];
        let wanted = if usual.contains(&name.as_str()) || by_name.contains(&name.as_str()) {
            "worked"
        } else if name.starts_with("AF_NETLINK") {
            // Python's name for EOPNOTSUPP.
            "ENOTSUP"
        } else {
            "EPERM"
        };
        assert_eq!(answer, wanted, "{name}");
    }
    assert!(sockets.len() > 30);
    let host = on_host(NETWORK);
    assert_eq!(host["sockets"]["AF_PACKET/RAW"], "worked", "the probe can tell");
    server.finish();
}

/// The 32-bit and the x32 entrances have other tables, for which the filter is not made: they lead nowhere.
#[cfg(target_arch = "x86_64")]
#[test]
fn r1_7_other_entrances_to_the_kernel_are_closed() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    // mov eax, 20 (getpid of i386); int 0x80; ret
    let int80 = "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b814000000cd80c3'))\nf = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nprint('on', flush=True)\nr = f()\nprint('worked' if r > 0 else r)";
    let result = sandbox.exec(&json!({"language": "python", "code": int80}));
    let said = result["stdout"].as_str().unwrap();
    assert!(said.starts_with("on\n") && !said.contains("worked"), "{result:#}");
    let x32 = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint('on', flush=True)\nr = libc.syscall(ctypes.c_long(0x40000000 + 39))\nprint('worked' if r > 0 else ctypes.get_errno())";
    let result = sandbox.exec(&json!({"language": "python", "code": x32}));
    let said = result["stdout"].as_str().unwrap();
    assert!(said.starts_with("on\n") && !said.contains("worked"), "{result:#}");
    server.finish();
}

#[test]
fn r1_9_keyrings_are_out_of_reach() {
    let server = Server::start();
    let found = probe(&server, CALLS);
    for name in ["keyctl", "add_key", "request_key"] {
        assert_eq!(found[name], "EPERM");
    }
    let sight = probe(&server, SIGHT);
    for path in ["/proc/keys", "/proc/key-users"] {
        assert!(sight["readable"].get(path).is_none(), "{path} can be read: {sight:#}");
    }
    server.finish();
}

#[test]
fn r2_1_nothing_of_the_hosts_file_system_is_visible() {
    let server = Server::start();
    let secret = server.home().path().join("secret");
    fs::write(&secret, "of the host").unwrap();
    let sandbox = server.sandbox(&json!({}));
    let found = probe_in(&sandbox, SIGHT, &[]);
    let devices: Vec<&str> = found["dev"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(devices, ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]);
    for name in found["root"].as_array().unwrap() {
        let known = [
            "bin",
            "dev",
            "etc",
            "home",
            "lib",
            "lib32",
            "lib64",
            "libx32",
            "proc",
            "root",
            "run",
            "sbin",
            "sys",
            "tmp",
            "usr",
            "var",
            "workspace",
        ];
        assert!(known.contains(&name.as_str().unwrap()), "{name} in /");
    }
    let mounts = found["mountinfo"].as_str().unwrap();
    let temporary = server.home().path().display().to_string();
    for word in ["overlay", temporary.as_str()] {
        assert!(!mounts.contains(word), "{word} in {mounts}");
    }
    let lent = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"];
    assert!(mounts.lines().count() > 20, "{mounts}");
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ").expect("two halves");
        let (point, source) = (before.split(' ').nth(4).expect("a mount point"), after.split(' ').nth(1).expect("a source"));
        // A disk's name stands as the source of what is lent, and of nothing else.
        let is_lent = lent.iter().any(|top| point == *top || point.starts_with(&format!("{top}/")));
        assert!(!source.starts_with("/dev/") || is_lent, "{line}");
    }
    let missing = sandbox.exec(&json!({"cmd": ["cat", secret.to_str().unwrap()]}));
    assert_eq!(missing["exit_code"], 1, "{missing:#}");
    server.finish();
}

#[test]
fn r2_2_the_hosts_secrets_are_not_there() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let found = probe_in(&sandbox, SIGHT, &[]);
    for path in [
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sudoers",
        "/etc/machine-id",
        "/var/lib/dbus/machine-id",
        "/root/.bashrc",
        "/etc/ssh",
        "/boot",
        "/opt",
        "/srv",
        "/mnt",
    ] {
        assert!(found["exists"].get(path).is_none(), "{path} is there");
    }
    for directory in ["/home", "/root", "/run", "/var/tmp", "/tmp"] {
        let names = &found["listed"][directory];
        assert!(*names == json!([]) || *names == json!(["user"]) || *names == Value::Null, "{directory}: {names}");
    }
    assert_eq!(sandbox.shell("id -un; getent passwd user"), "user\nuser:x:1000:1000::/home/user:/bin/bash\n");
    for path in ["/usr/x", "/etc/x", "/x", "/var/x", "/proc/x", "/dev/x"] {
        let result = sandbox.exec(&json!({"cmd": ["touch", path]}));
        assert_eq!(result["exit_code"], 1, "{path}: {result:#}");
    }
    server.finish();
}

#[test]
fn r2_3_the_kernels_controls_are_masked() {
    let server = Server::start();
    let found = probe(&server, SIGHT);
    let (readable, writable) = (&found["readable"], &found["writable"]);
    assert_eq!(*writable, json!({}), "can be written");
    assert_eq!(*readable, json!({}), "can be read and is not empty");
    let host = on_host(SIGHT);
    assert!(host["readable"].as_object().unwrap().len() >= 5, "the probe can tell: {host:#}");
    server.finish();
}

#[test]
fn r2_4_no_process_but_the_sandboxs_own_is_visible_and_the_agent_is_out_of_reach() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let found = probe_in(&sandbox, SIGHT, &[]);
    let pids = found["pids"].as_array().unwrap();
    assert!(pids.len() <= 2, "the agent at most, and whoever looks: {pids:?}");
    for (what, answer) in found["agent"].as_object().unwrap() {
        assert!(["EPERM", "EACCES", "ESRCH", "ENOENT"].contains(&answer.as_str().unwrap()), "{what}: {answer}");
    }
    assert!(found["agent"].as_object().unwrap().len() >= 8);
    let _tried = sandbox.exec(&json!({"shell": "kill -9 1; kill -STOP 1; kill -9 -1"}));
    assert_eq!(sandbox.shell("echo alive"), "alive\n");
    server.finish();
}

#[test]
fn r2_5_no_descriptor_is_inherited() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let found = probe_in(&sandbox, SELF, &[]);
                assert_eq!(found["descriptors"], json!([0, 1, 2]), "{found}");
            });
        }
    });
    for cwd in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/cwd", "/proc/1/root"] {
        let answer = sandbox.try_exec(&json!({"shell": "pwd; ls", "cwd": cwd}));
        assert_eq!(answer.status, 400, "{cwd}: {}", answer.text());
    }
    server.finish();
}

#[test]
fn r2_6_the_environment_is_what_was_asked_for() {
    let server = Server::start();
    let found = probe(&server, SELF);
    let mut names: Vec<&str> = found["environment"].as_object().unwrap().keys().map(String::as_str).collect();
    names.retain(|name| *name != "LC_CTYPE");
    assert_eq!(names, ["HOME", "HOSTNAME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"]);
    assert_eq!(found["hostname"], "sandbox");
    let host = on_host(SELF);
    assert_ne!(found["hostname"], host["hostname"]);
    let key = server.client.key.clone().unwrap();
    assert!(!found.to_string().contains(&key));
    server.finish();
}

#[test]
fn r2_7_the_machine_shown_is_the_sandboxs() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 1, "memory_bytes": 256 << 20}}));
    let (found, host) = (probe_in(&sandbox, SIGHT, &[]), on_host(SIGHT));
    for name in ["boot_id", "btime", "loadavg"] {
        assert_ne!(found["machine"][name], host["machine"][name], "{name}");
    }
    assert_eq!(found["machine"]["processors"], json!([1, 1, 1, 1]), "affinity, cpuinfo, stat, os.cpu_count");
    assert_eq!(found["machine"]["memory_kib"], (256 << 20) / 1024);
    for path in ["/sys/class/dmi", "/sys/class/net", "/sys/block", "/dev/kmsg", "/sys/firmware", "/sys/kernel"] {
        assert!(found["exists"].get(path).is_none(), "{path} is there");
    }
    server.finish();
}

#[test]
fn r2_8_two_sandboxes_share_nothing() {
    let server = Server::start();
    let (one, two) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let leave = r#"
import ctypes, json, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(socket.AF_UNIX); s.bind("\0caisson-meeting"); s.listen()
shm = libc.shmget(0x1234, 4096, 0o1666)
msg = libc.msgget(0x1234, 0o1666)
for place in ("/tmp", "/dev/shm", "/var/tmp", "/workspace", "/home/user"):
    open(place + "/meeting", "w").write("x")
t = socket.socket(); t.bind(("127.0.0.1", 4567)); t.listen()
print("left", shm >= 0, msg >= 0, flush=True)
time.sleep(60)
"#;
    let id = one.background(json!({"language": "python", "code": leave}));
    eventually("what is to be found", Duration::from_secs(10), || {
        (server.get(&format!("/v1/executions/{id}/output")).expect(200).text() == "left True True\n").then_some(())
    });
    let find = r#"
import ctypes, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
found = []
def attempt(name, work):
    try:
        if work() is not False: found.append(name)
    except OSError: pass
attempt("abstract socket", lambda: socket.socket(socket.AF_UNIX).connect("\0caisson-meeting"))
attempt("shared memory", lambda: libc.shmget(0x1234, 4096, 0) >= 0)
attempt("message queue", lambda: libc.msgget(0x1234, 0) >= 0)
attempt("loopback", lambda: socket.create_connection(("127.0.0.1", 4567), 1))
for place in ("/tmp", "/dev/shm", "/var/tmp", "/workspace", "/home/user"):
    attempt(place, lambda: os.stat(place + "/meeting"))
print(json.dumps(found))
"#;
    assert_eq!(probe_in(&two, find, &[]), json!([]));
    let all = probe_in(&one, find, &[]);
    assert_eq!(all.as_array().unwrap().len(), 9, "in the same sandbox all of it is found: {all}");
    server.finish();
}

#[test]
fn r2_9_what_is_lent_stays_as_it_is() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let line = "for f in /usr/bin/env /proc/self/exe /proc/1/exe /etc/hostname /etc/passwd; do [ -e $f ] || continue; (echo x > $f) 2>/dev/null && echo $f; (chmod 777 $f) 2>/dev/null && echo chmod $f; (rm -f $f) 2>/dev/null && [ ! -e $f ] && echo rm $f; done; true";
    assert_eq!(sandbox.shell(line), "");
    server.finish();
}

#[test]
fn r3_1_nothing_but_loopback_can_be_reached() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let port = server.client.address.port().to_string();
    let found = probe_in(&sandbox, NETWORK, &[&port]);
    assert_eq!(found["interfaces"], json!(["lo"]), "{found:#}");
    let reached = found["reached"].as_object().unwrap();
    assert!(reached.len() > 12);
    for (target, answer) in reached {
        assert!(
            ["ENETUNREACH", "ECONNREFUSED", "EHOSTUNREACH", "EADDRNOTAVAIL", "gaierror"].contains(&answer.as_str().unwrap()),
            "{target}: {answer}"
        );
    }
    assert!(found["seconds"].as_f64().unwrap() < caisson_tests::allowed(Duration::from_secs(5)).as_secs_f64(), "at once: {found:#}");
    let bound = sandbox.python(
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\nc = socket.create_connection(s.getsockname())\nprint('own loopback')",
    );
    assert_eq!(bound, "own loopback\n");
    server.finish();
}
