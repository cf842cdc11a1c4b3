//! What is shipped: one program with everything in it, and what it says of itself and of its host.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
};

use caisson_tests::{Home, Process, Server, Value, json, program};

/// What of an ELF file is of interest (`elf(5)`), 64 bits, little endian.
struct Elf(Vec<u8>);

impl Elf {
    fn of(process: &Process) -> Self {
        let elf = Self(fs::read(format!("/proc/{}/exe", process.pid)).expect("a running program can be read"));
        assert_eq!(elf.0[..6], *b"\x7fELF\x02\x01");
        elf
    }

    fn number(&self, at: usize, size: usize) -> usize {
        self.0[at..at + size].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }

    /// The kinds of its segments.
    fn segments(&self) -> Vec<usize> {
        let (table, size, count) = (self.number(32, 8), self.number(54, 2), self.number(56, 2));
        (0..count).map(|n| self.number(table + n * size, 4)).collect()
    }

    /// The kinds of its sections.
    fn sections(&self) -> Vec<usize> {
        let (table, size, count) = (self.number(40, 8), self.number(58, 2), self.number(60, 2));
        (0..count).map(|n| self.number(table + n * size + 4, 4)).collect()
    }

    #[track_caller]
    fn is_static_and_stripped(&self) {
        const INTERPRETER: usize = 3;
        const SYMBOLS: usize = 2;
        assert!(!self.segments().contains(&INTERPRETER), "it needs a dynamic linker");
        assert!(!self.sections().contains(&SYMBOLS), "it has its symbols still");
    }
}

#[test]
fn agent_and_launcher_are_static_and_small_and_sealed() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let (agent, launcher) = (sandbox.agent(), server.launcher());
    for process in [&agent, &launcher] {
        let elf = Elf::of(process);
        elf.is_static_and_stripped();
        assert!(elf.0.len() <= 3 << 20, "{} has {} bytes", process.name, elf.0.len());
        let link = process.program().unwrap().display().to_string();
        assert!(link.starts_with("/memfd:"), "no file of the host: {link}");
        let written = fs::OpenOptions::new().write(true).open(format!("/proc/{}/exe", process.pid));
        assert!(written.is_err(), "a running program cannot be written, by root either");
    }
    server.finish();
}

#[test]
fn the_launcher_has_one_thread_and_nothing_of_the_server() {
    let server = Server::start();
    let launcher = server.launcher();
    let read = |name: &str| fs::read(format!("/proc/{}/{name}", launcher.pid)).unwrap();
    assert_eq!(read("environ"), b"");
    assert_eq!(fs::read_dir(format!("/proc/{}/task", launcher.pid)).unwrap().count(), 1);
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", launcher.pid)).unwrap().to_str(), Some("/"));
    let key = server.client.key.clone().unwrap();
    let memory = server.log() + &String::from_utf8_lossy(&read("cmdline"));
    assert!(!memory.contains(&key));
    server.finish();
}

#[test]
fn the_running_servers_description_is_the_checked_in_one() {
    let checked_in: Value = serde_json::from_str(include_str!("../../crates/server/openapi.json")).unwrap();
    let server = Server::start();
    let served = server.get("/openapi.json").expect(200).json();
    assert!(served == checked_in, "crates/server/openapi.json is not what is served");
    assert!(served["openapi"].as_str().unwrap().starts_with("3."));
    let page = server.get("/docs").expect(200);
    assert_eq!(page.header("content-security-policy").map(|policy| policy.contains("default-src 'none'")), Some(true));
    let page = page.text();
    for operation in served["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values()) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(page.contains(&format!("<details id='{id}'>")), "{id} is not on the page");
    }
    for schema in served["components"]["schemas"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("<details id='schema-{schema}'>")), "{schema} is not on the page");
    }
    assert!(!page.contains("<script") && !page.contains("src="), "the page is whole by itself");
    server.finish();
}

#[test]
fn an_idle_sandbox_is_small() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let agent = sandbox.agent();
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", agent.pid)).unwrap();
    let pss: u64 = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap();
    assert!(pss <= 3 << 10, "{pss} KiB in the agent's memory, its own program included");
    server.finish();
}

/// Whoever cannot make sandboxes is told what is missing and what helps.
#[test]
fn without_root_the_remedy_is_named() {
    let home = Home::new();
    let mut permissions = fs::metadata(home.path()).unwrap().permissions();
    permissions.set_mode(0o777);
    for directory in [home.path().to_owned(), home.path().join("tmp")] {
        fs::set_permissions(directory, permissions.clone()).unwrap();
    }
    // Where the program lies may be out of reach for others.
    let copy = home.path().join("caisson");
    fs::copy(program(), &copy).unwrap();
    let mut command = home.clean(&copy);
    command.args(["run", "-l", "python", "-c", "print(1)"]).env_remove("CAISSON_DATA_DIR");
    let output = command.uid(65_534).gid(65_534).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("root"), "{said}");
    home.finish();
}

/// A host without control groups, as a container often is: here made by hiding them from this one program.
#[test]
fn without_control_groups_the_remedy_is_named() {
    let home = Home::new();
    caisson_tests::needs("unshare", "util-linux");
    let script = "mount --make-rprivate / && umount -l /sys/fs/cgroup && exec \"$0\" run -l python -c 'print(1)'";
    let output = home.clean("unshare").args(["--mount", "--fork", "sh", "-c", script]).arg(program()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    for word in ["control group", "mount"] {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    home.finish();
}

/// A kernel that allows no more namespaces. The limit is that of a user namespace made for this, so the host's own stays as it is.
#[test]
fn without_namespaces_the_remedy_is_named() {
    let home = Home::new();
    caisson_tests::needs("unshare", "util-linux");
    // Root of the new namespace, mapped to root outside, may lower its own limits only.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" run -l python -c 'print(1)'";
    let output = home.clean("unshare").args(["--user", "--map-root-user", "--fork", "sh", "-c", script]).arg(program()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("user.max_user_namespaces"), "{said}");
    assert_eq!(home.caisson(["run", "-l", "python", "-c", "print(1)"]).exited(0).out(), "1\n", "the host itself is as before");
    home.finish();
}
