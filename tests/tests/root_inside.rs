//! Root inside: root of the sandbox, and nothing more.

use caisson_tests::{Server, json};

const BECOME_THE_AGENT: &str = r"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
tried = 0
for call in (lambda: os.setuid(65536), lambda: os.setgid(65536), lambda: os.setresuid(65536, 65536, 65536),
             lambda: os.setgroups([65536]), lambda: os.chown('/etc/hostname', 65536, -1), lambda: os.kill(1, 0), lambda: os.kill(1, 9)):
    tried += 1
    try:
        call()
        print('held not', tried)
    except OSError:
        pass
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
for request in (PTRACE_ATTACH, PTRACE_SEIZE):
    tried += 1
    if libc.ptrace(request, 1, 0, 0) == 0:
        print('traces the agent')
for name in ('mem', 'environ', 'maps', 'root', 'cwd', 'exe', 'fd'):
    tried += 1
    try:
        os.stat('/proc/1/' + name)
        print('sees', name)
    except OSError:
        pass
print('tried', tried)
";

#[test]
fn r1_3_root_inside_cannot_become_the_agent() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"user": "root"}));
    let result = sandbox.exec(&json!({"language": "python", "code": BECOME_THE_AGENT}));
    assert_eq!(result["stdout"], "tried 16\n", "{result:#}");
    // The map has no place for the agent's id, and the namespace is none of its.
    let map = sandbox.shell("cat /proc/self/uid_map /proc/self/gid_map");
    for line in map.lines() {
        let fields: Vec<u64> = line.split_whitespace().map(|field| field.parse().expect("a number")).collect();
        assert!(fields[0] + fields[2] <= 65_536, "{map}");
    }
    assert_eq!(sandbox.shell("echo fine"), "fine\n");
    server.finish();
}

#[test]
fn r1_3_every_other_wall_is_unchanged() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"user": "root"}));
    let status = sandbox.shell("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status");
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000000000fb",
        "CapEff:\t00000000000000fb",
        "CapBnd:\t00000000000000fb",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    let refused = "for try in 'mount -t tmpfs none /mnt' 'umount /proc' 'unshare -U true' 'unshare -m true' 'chroot / true' 'mknod /tmp/d b 254 0' \
                   'hostname other' 'touch /usr/bin/x' 'sysctl -w kernel.core_pattern=x' 'ip link add x type dummy' 'date -s 2000-01-01' \
                   'mount -o remount,rw /usr'; \
                   do if $try >/dev/null 2>&1; then echo \"$try\"; fi; done; echo end";
    assert_eq!(sandbox.shell(refused), "end\n");
    server.finish();
}

#[test]
fn root_inside_has_the_rights_of_root_over_its_own_files() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"user": "root"}));
    assert_eq!(
        sandbox.shell("id -u; echo $HOME; touch /etc/new && chown 1000:1000 /etc/new && stat -c %u:%g /etc/new"),
        "0\n/root\n1000:1000\n"
    );
    // Others' closed files, by program and by the files API.
    let closed = "python3 -c \"import os\nos.setgid(7); os.setuid(7)\nos.close(os.open('/tmp/closed', os.O_CREAT | os.O_WRONLY, 0))\"; cat /tmp/closed && stat -c %u /tmp/closed";
    assert_eq!(sandbox.shell(closed), "7\n");
    drop(server.request("GET", &sandbox.target("/files?path=/tmp/closed")).send().expect(200));
    // What a process says of itself is the agent's in that API, and root would be allowed to read it.
    for path in ["/proc/self/mem", "/proc/self/environ", "/proc/self/status", "/proc/1/maps", "/proc/thread-self/maps"] {
        let answer = server.request("GET", &sandbox.target(&format!("/files?path={path}"))).send();
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
    }
    assert_eq!(sandbox.get().json()["user"], "root");
    server.finish();
}
