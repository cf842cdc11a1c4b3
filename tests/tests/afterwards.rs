//! What a sandbox leaves to those that come after it: its name, its ids and its room, and nothing that was in it.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use caisson_tests::{Process, Sandbox, Server, Setup, Value, eventually, fewer, json, probe_in};

const MIB: u64 = 1 << 20;
/// What nobody may find.
const SECRET: &str = "the-secret-of-the-sandbox-before";

/// Leaves the secret wherever a program can leave something, says where, and stays. What it cannot leave ends it.
const LEAVE: &str = r#"
import ctypes, json, mmap, os, socket, sys, time
secret = sys.argv[1].encode()
libc = ctypes.CDLL(None, use_errno=True)
left = []
def checked(result):
    if result in (-1, None, 0xffffffffffffffff): raise OSError(ctypes.get_errno(), "it could not be left")
    return result
for place in ("/tmp", "/var/tmp", "/dev/shm", "/workspace", os.path.expanduser("~")):
    with open(place + "/secret", "wb") as file:
        file.write(secret * 1000)
        os.fsync(file.fileno())
    left.append("file")
libc.shmat.restype = ctypes.c_void_p
address = checked(libc.shmat(checked(libc.shmget(0x5ec2e7, 1 << 20, 0o1666)), None, 0))
ctypes.memmove(address, secret, len(secret))
left.append("System V segment")
checked(libc.msgsnd(checked(libc.msgget(0x5ec2e7, 0o1666)), ctypes.c_char_p(b"\1" * 8 + secret), len(secret), 0))
left.append("System V message")
checked(libc.semget(0x5ec2e7, 1, 0o1666))
left.append("System V semaphore")
listener = socket.socket(socket.AF_UNIX)
listener.bind("\0" + sys.argv[1])
listener.listen()
left.append("abstract socket")
# These nobody can find by a name, but their pages are given to somebody.
kept = mmap.mmap(-1, 64 << 20)
for at in range(0, len(kept), 4096): kept[at:at + len(secret)] = secret
anonymous = os.memfd_create("secret")
assert os.write(anonymous, secret * 10000) == len(secret) * 10000
pipe = os.pipe()
assert os.write(pipe[1], secret) == len(secret)
print(json.dumps(sorted(left)), flush=True)
time.sleep(1000)
"#;

/// Looks for it everywhere, and in memory and on disk that nobody has written to.
const FIND: &str = r#"
import ctypes, json, mmap, os, socket, sys
secret = sys.argv[1].encode()
libc = ctypes.CDLL(None, use_errno=True)
found = []
for top in ("/tmp", "/var", "/dev/shm", "/dev/mqueue", "/workspace", "/home", "/root", "/run", "/etc"):
    for directory, names, files in os.walk(top):
        for name in files + names:
            path = os.path.join(directory, name)
            try:
                within = os.path.isfile(path) and not path.startswith("/etc/") and secret in open(path, "rb").read(1 << 20)
            except OSError:
                within = False
            if within or "secret" in name: found.append("file")
for what, number in (("System V segment", libc.shmget(0x5ec2e7, 0, 0)), ("System V semaphore", libc.semget(0x5ec2e7, 0, 0)),
                     ("System V message", libc.msgget(0x5ec2e7, 0))):
    if number >= 0: found.append(what)
try:
    socket.socket(socket.AF_UNIX).connect("\0" + sys.argv[1])
    found.append("abstract socket")
except OSError: pass
fresh = mmap.mmap(-1, 64 << 20)
if fresh.read().strip(b"\0"): found.append("memory")
# Room that was given and not written to.
fd = os.open("/workspace/room", os.O_CREAT | os.O_RDWR)
os.posix_fallocate(fd, 0, 32 << 20)
at = 0
while at < 32 << 20:
    if os.pread(fd, 1 << 20, at).strip(b"\0"):
        found.append("room on disk")
        break
    at += 1 << 20
os.close(fd)
os.remove("/workspace/room")
print(json.dumps(sorted(found)))
"#;

/// Where a sandbox's host ids begin, and how many there are.
fn ids(sandbox: &Sandbox<'_>) -> (u64, u64) {
    let map = fs::read_to_string(format!("/proc/{}/uid_map", sandbox.agent().pid)).expect("it lives");
    let fields: Vec<u64> = map.lines().next().expect("a line").split_whitespace().map(|field| field.parse().expect("a number")).collect();
    (fields[1], fields[2])
}

/// What on the host belongs to one of these ids.
fn owned_by(ids: (u64, u64)) -> Vec<String> {
    let is_one = |id: u64| (ids.0..ids.0 + ids.1).contains(&id);
    let mut found = Vec::new();
    for process in Process::all().into_values() {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u64>().ok());
        found.extend(uid.filter(|uid| is_one(*uid)).map(|_| format!("process {} ({})", process.pid, process.name)));
    }
    // Keys are counted for each user, whoever may see them (`keyrings(7)`).
    let keys = fs::read_to_string("/proc/key-users").unwrap_or_default();
    let users = keys.lines().filter_map(|line| line.split(':').next()?.trim().parse::<u64>().ok());
    found.extend(users.filter(|uid| is_one(*uid)).map(|uid| format!("keys of {uid}")));
    found
}

#[test]
fn r7_4_nothing_of_its_content_is_found_by_the_next() {
    let server = Server::start();
    for storage in ["memory", "disk"] {
        for user in ["user", "root"] {
            let spec = json!({"name": "same", "storage": storage, "user": user, "limits": {"memory_bytes": 512 * MIB}});
            let first = server.sandbox(&spec);
            let id = first.background(json!({"language": "python", "code": LEAVE, "args": [SECRET], "timeout_s": null}));
            let left: Value = eventually("everything to be left", Duration::from_secs(20), || {
                let said = server.get(&format!("/v1/executions/{id}/output")).expect(200).text();
                serde_json::from_str(&said).ok()
            });
            assert_eq!(left.as_array().expect("a list").len(), 9, "{left}");
            assert_eq!(probe_in(&first, FIND, &[SECRET]), left, "in the same sandbox all of it is found");
            let before = ids(&first);
            assert!(!owned_by(before).is_empty(), "the host knows its processes");
            first.delete().expect(200);
            eventually("its ids to be nobody's", Duration::from_secs(5), || owned_by(before).is_empty().then_some(()));

            // The name is free again, and the room behind it is another.
            let second = server.sandbox(&spec);
            assert_ne!(first.id, second.id);
            assert_eq!(probe_in(&second, FIND, &[SECRET]), json!([]), "{storage}, {user}");
            second.delete().expect(200);
        }
    }
    server.finish();
}

/// A file system of its own, so that nobody else's files disturb the count.
struct Disk {
    point: tempfile::TempDir,
}

impl Disk {
    fn new(mib: u64) -> Self {
        let point = tempfile::tempdir().expect("a temporary directory can be made");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=700"), "tmpfs"]).arg(point.path()).status();
        assert!(mounted.expect("mount can be started").success());
        Self { point }
    }

    fn data(&self) -> PathBuf {
        self.point.path().join("data")
    }

    fn used(&self) -> u64 {
        let about = rustix::fs::statvfs(self.point.path()).expect("it is mounted");
        (about.f_blocks - about.f_bfree) * about.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.point.path()).status();
        let fine = unmounted.is_ok_and(|status| status.success());
        assert!(fine || std::thread::panicking(), "the server's disk is still in use");
    }
}

#[test]
fn r7_4_room_on_disk_and_names_are_free_again() {
    let disk = Disk::new(512);
    let server = Setup::default().env("CAISSON_DATA_DIR", disk.data()).start();
    let before = disk.used();
    // Together more than there is.
    for n in 0..fewer(8).max(3) {
        let sandbox = server.sandbox(&json!({"name": "filler", "storage": "disk", "limits": {"disk_bytes": 300 * MIB}}));
        assert_eq!(sandbox.shell("head -c 256M /dev/urandom > file && sync && wc -c < file"), "268435456\n", "round {n}");
        let now = disk.used();
        assert!(now > before + 256 * MIB, "it takes room: {before} {now}");
        sandbox.delete().expect(200);
        // The kernel lets go of the loop device a moment after the mount. Records have grown by some pages.
        eventually("the room to be free", Duration::from_secs(10), || (disk.used() < before + 8 * MIB).then_some(()));
    }
    // In the middle of writing, too, and when the server is killed: then with the sandbox, which is only stopped.
    let sandbox = server.sandbox(&json!({"storage": "disk", "limits": {"disk_bytes": 300 * MIB}}));
    let id = sandbox.id.clone();
    let _running = sandbox.background(json!({"shell": "while :; do cat /dev/urandom > file; done", "timeout_s": null}));
    eventually("it to take room", Duration::from_secs(30), || (disk.used() > before + 50 * MIB).then_some(()));
    let mut server = server;
    server.kill();
    server.start_again();
    assert_eq!(server.get(&format!("/v1/sandboxes/{id}")).expect(200).json()["state"], "stopped");
    server.request("DELETE", &format!("/v1/sandboxes/{id}")).send().expect(200);
    eventually("the room to be free", Duration::from_secs(10), || (disk.used() < before + 8 * MIB).then_some(()));
    server.finish();
}
