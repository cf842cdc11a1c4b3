//! Caisson as an ordinary user: with ids of its own by `newuidmap(1)`, without a cgroup or with one that was given to it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use caisson_tests::{Home, Ran, Value, allowed, eventually, json, needs, program};

const UID: u32 = 54_321;

/// An ordinary user with ids, whose accounts are in a mount namespace of its own.
struct User {
    home: Home,
    directory: tempfile::TempDir,
    /// The one that it was given, on cgroup v2.
    cgroup: Option<PathBuf>,
}

impl User {
    fn new() -> Self {
        needs("newuidmap", "uidmap");
        let home = Home::new();
        // Where the program is nobody else may look.
        let directory = tempfile::tempdir().expect("a directory can be made");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        for name in ["caisson", "caisson-probe"] {
            let to = directory.path().join(name);
            fs::copy(program().with_file_name(name), &to).expect("a program can be copied");
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let own = directory.path().join("home");
        fs::create_dir(&own).expect("a directory can be made");
        std::os::unix::fs::chown(&own, Some(UID), Some(UID)).expect("root may do that");
        let write = |name: &str, content: String| fs::write(directory.path().join(name), content).expect("it is ours");
        write("passwd", format!("root:x:0:0::/root:/bin/sh\ntester:x:{UID}:{UID}::{}:/bin/sh\n", own.display()));
        write("subuid", "tester:2000000000:65536\n".to_owned());
        write("subgid", "tester:2000000000:65536\n".to_owned());
        Self { home, directory, cgroup: None }
    }

    /// Gives it a cgroup, as `Delegate=yes` does. `false` on cgroup v1, where there are none to give.
    fn with_cgroup(&mut self) -> bool {
        let root = Path::new("/sys/fs/cgroup");
        if !root.join("cgroup.subtree_control").exists() {
            return false;
        }
        fs::write(root.join("cgroup.subtree_control"), "+cpu +memory +pids").expect("the controllers are there");
        let given = root.join(format!("delegated-{}", std::process::id()));
        fs::create_dir(&given).expect("a cgroup can be made");
        for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            std::os::unix::fs::chown(given.join(name), Some(UID), Some(UID)).expect("root may do that");
        }
        self.cgroup = Some(given);
        true
    }

    /// The second time in its cgroup the user is where the first has moved its processes to.
    fn command(&self, words: &[&str]) -> Command {
        let script = "cd \"$1\" && for name in passwd subuid subgid; do mount --bind $name /etc/$name || exit 99; done; \
                      if [ -n \"$2\" ]; then in=$2; [ ! -d \"$2/caisson-server\" ] || in=$2/caisson-server; \
                      echo $$ > \"$in/cgroup.procs\" || exit 98; fi; \
                      id=$3; cd home; shift 3; exec setpriv --reuid $id --regid $id --clear-groups -- \"$@\"";
        let mut command = self.home.clean("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(self.directory.path()).arg(self.cgroup.as_deref().unwrap_or(Path::new(""))).arg(UID.to_string());
        command.arg(self.directory.path().join("caisson")).args(words);
        let own = self.directory.path().join("home");
        command.env("CAISSON_DATA_DIR", own.join("data")).env("HOME", own);
        command
    }

    fn caisson(&self, words: &[&str]) -> Ran {
        self.command(words).output().expect("it can be started").into()
    }

    fn finish(mut self) {
        if let Some(given) = self.cgroup.take() {
            eventually("its cgroups to be empty", std::time::Duration::from_secs(10), || {
                for below in ["caisson", "caisson-server", ""] {
                    for inner in fs::read_dir(given.join(below)).into_iter().flatten().flatten() {
                        drop(fs::remove_dir(inner.path()));
                    }
                }
                fs::remove_dir(&given).ok()
            });
        }
        self.home.finish();
    }
}

#[test]
fn without_a_cgroup_of_its_own_it_is_refused_with_the_remedy() {
    let user = User::new();
    let ran = user.caisson(&["run", "-l", "bash", "-c", "id"]).exited(125);
    let said = ran.err();
    for word in ["Delegate=yes", "run it as root", "--accept-weaker-limits"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    user.finish();
}

#[test]
fn without_ids_it_is_refused_with_the_remedy() {
    let user = User::new();
    fs::write(user.directory.path().join("subuid"), "").expect("it is ours");
    let said = user.caisson(&["run", "--accept-weaker-limits", "-l", "bash", "-c", "id"]).exited(125).err();
    assert!(said.contains("usermod --add-subuids") && said.contains("tester"), "{said}");
    user.finish();
}

/// The kernel takes nobody's word but root's for who goes first when memory is short. Everything else holds as for root.
#[test]
fn the_doctor_tells_an_ordinary_user_what_only_root_can_enforce() {
    let user = User::new();
    let ran = user.caisson(&["doctor", "--accept-weaker-limits", "--json"]).exited(2);
    let report: Value = ran.out().parse().expect("JSON");
    assert_eq!(report["state"], "not_enforceable", "{report:#}");
    for guarantee in report["guarantees"].as_array().expect("a list") {
        let state = if guarantee["number"] == "4.1" { "not_enforceable" } else { "held" };
        assert_eq!(guarantee["state"], state, "{guarantee:#}");
    }
    let mut warnings = report["warnings"].as_array().expect("a list").iter().map(|warning| warning.as_str().expect("text"));
    assert!(warnings.any(|warning| warning.contains("CAP_SYS_RESOURCE") && warning.contains("oom_score_adj")), "{report:#}");
    user.finish();
}

#[test]
fn weaker_limits_are_accepted_and_told() {
    let user = User::new();
    let code = "id -u; nproc; ulimit -u; ulimit -d; cat /proc/self/uid_map";
    let ran = user.caisson(&["run", "--accept-weaker-limits", "--memory", "256M", "--pids", "77", "-l", "bash", "-c", code]).exited(0);
    let (out, err) = (ran.out(), ran.err());
    assert!(out.starts_with("1000\n1\n77\n262144\n"), "{out}");
    assert!(err.contains("WARNING") && err.contains("memory_bytes"), "{err}");
    // Nobody's ids but those that the user was given: this one's own is not among them.
    assert!(!out.contains(&UID.to_string()) && out.lines().skip(4).count() == 5, "{out}");
    let ran = user.caisson(&["run", "--accept-weaker-limits", "--json", "-l", "python", "-c", "print(6 * 7)"]).exited(0);
    let result: Value = ran.out().parse().expect("JSON");
    assert_eq!((&result["stdout"], &result["weaker_limits"]), (&json!("42\n"), &json!(["memory_bytes", "cpus"])));
    // One process more than may be.
    let bomb = "import os, sys\nn = 0\ntry:\n  while n < 200:\n    if os.fork() == 0: os.pause() if hasattr(os, 'pause') else __import__('signal').pause()\n    n += 1\nexcept OSError as e: print(n < 64, e.strerror)";
    let ran = user.caisson(&["run", "--accept-weaker-limits", "--pids", "64", "-l", "python", "-c", bomb]).exited(0);
    assert_eq!(ran.out(), "True Resource temporarily unavailable\n");
    let said = user.caisson(&["run", "--accept-weaker-limits", "--storage", "disk", "--", "true"]).exited(125).err();
    assert!(said.contains("`memory`"), "{said}");
    user.finish();
}

#[test]
fn every_wall_that_is_not_a_limit_holds() {
    let user = User::new();
    let probe = user.directory.path().join("caisson-probe");
    let file = format!("{}:/workspace/probe", probe.display());
    for (group, at_least) in [("calls", 250), ("walls", 70), ("sight", 100), ("network", 60)] {
        let line = format!("chmod +x probe; ./probe {group}");
        let words = ["run", "--accept-weaker-limits", "--cpus", "2", "--timeout", "10m", "--file", &file, "-l", "bash", "-c", &line];
        let findings: Value = user.caisson(&words).exited(0).out().parse().expect("the probe prints JSON");
        let findings = findings.as_array().expect("findings");
        assert!(findings.len() >= at_least, "{group}: only {} attempts", findings.len());
        let broken: Vec<&Value> = findings.iter().filter(|finding| finding["held"] != true).collect();
        assert!(broken.is_empty(), "{group}: {broken:#?}");
    }
    user.finish();
}

#[test]
fn root_inside_is_root_there_alone() {
    let user = User::new();
    let code = "id -u; touch /etc/new && stat -c %u /etc/new; python3 -c 'import os; os.setuid(65536)' 2>&1 | tail -1; ls /proc/1 2>&1";
    let ran = user.caisson(&["run", "--accept-weaker-limits", "--user", "root", "-l", "bash", "-c", code]);
    let out = ran.out();
    assert!(out.starts_with("0\n0\n") && out.contains("Invalid argument") && out.contains("No such file"), "{out}");
    user.finish();
}

#[test]
fn a_cgroup_that_was_given_enforces_every_limit() {
    let mut user = User::new();
    let given = user.with_cgroup();
    let words = ["run", "--json", "--memory", "64M", "-l", "python", "-c", "x = bytearray(200_000_000)"];
    if given {
        let result: Value = user.caisson(&words).out().parse().expect("JSON");
        assert_eq!(result["status"], "out_of_memory", "{result:#}");
        assert_eq!(result.get("weaker_limits"), None);
        // A second time finds everything there.
        drop(user.caisson(&["run", "--", "true"]).exited(0));
    } else {
        let said = user.caisson(&words).exited(125).err();
        assert!(said.contains("no cgroup v2"), "{said}");
    }
    user.finish();
}

#[test]
fn it_serves_as_an_ordinary_user() {
    let user = User::new();
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        listener.local_addr().expect("a listener has an address")
    };
    let mut command = user.command(&["serve", "--accept-weaker-limits", "--listen", &address.to_string()]);
    command.env("CAISSON_API_KEY", "key-of-the-tests-0123456789");
    let mut server = user.home.start(&mut command);
    let client = caisson_tests::Client { address, key: Some("key-of-the-tests-0123456789".to_owned()) };
    eventually("the server to answer", allowed(std::time::Duration::from_secs(20)), || {
        client.request("GET", "/readyz").try_send().ok().filter(|answer| answer.status == 200)
    });
    let made = client.request("POST", "/v1/sandboxes").json(&json!({})).send().expect(201).json();
    assert_eq!(made["weaker_limits"], json!(["memory_bytes", "cpus"]));
    let target = format!("/v1/sandboxes/{}/exec", made["id"].as_str().expect("an id"));
    let result = client.request("POST", &target).json(&json!({"shell": "id -un"})).send().expect(200).json();
    assert_eq!(result["stdout"], "user\n");
    caisson_tests::signal(server.id(), rustix::process::Signal::TERM);
    assert!(server.wait().expect("it ends").success());
    user.finish();
}
