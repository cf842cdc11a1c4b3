//! The harness itself: whatever is left behind, it notices and names.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use caisson_tests::{Descriptors, Home, needs};

/// Something that a test might leave. Dropping it takes it away again.
struct Leak {
    undo: Option<Box<dyn FnOnce()>>,
}

impl Drop for Leak {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            undo();
        }
    }
}

fn leak(undo: impl FnOnce() + 'static) -> Leak {
    Leak { undo: Some(Box::new(undo)) }
}

/// What it prints; it must end well.
#[track_caller]
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn started(program: &str, arguments: &[&str]) -> Child {
    Command::new(program).args(arguments).stdout(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn end(mut child: Child) {
    child.kill().expect("a child can be ended");
    child.wait().expect("a child can be waited for");
}

/// Leaves something, and fails unless it is named by these words.
#[track_caller]
fn notices(words: &[&str], leave: impl FnOnce(&Path, &Path) -> Leak) {
    let home = Home::new();
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let left = leave(home.path(), place.path());
    let named = home.left_now();
    for word in words {
        assert!(named.iter().any(|name| name.contains(word)), "`{word}` is not in {named:#?}");
    }
    drop(left);
    home.finish();
}

#[test]
fn a_mount_is_noticed() {
    notices(&["mount ", "caisson-forgotten"], |_, place| {
        let place = place.display().to_string();
        let _mounted = output("mount", &["-t", "tmpfs", "caisson-forgotten", &place]);
        leak(move || drop(output("umount", &[&place])))
    });
}

#[test]
fn a_loop_device_is_noticed() {
    needs("losetup", "mount");
    notices(&["loop device", "forgotten-image"], |_, place| {
        let file = place.join("forgotten-image");
        fs::File::create(&file).and_then(|file| file.set_len(1 << 20)).expect("a file can be made");
        let device = output("losetup", &["--find", "--show", &file.display().to_string()]);
        leak(move || drop(output("losetup", &["--detach", &device])))
    });
}

#[test]
fn ipc_objects_are_noticed() {
    needs("ipcmk", "util-linux");
    for (kind, make, remove) in [("shm", "-M4096", "-m"), ("sem", "-S1", "-s"), ("msg", "-Q", "-q")] {
        notices(&[&format!("System V object {kind}")], |_, _| {
            let told = output("ipcmk", &[make]);
            let id = told.rsplit(' ').next().expect("it ends with the number").to_owned();
            leak(move || drop(output("ipcrm", &[remove, &id])))
        });
    }
    notices(&["shared memory /dev/shm/forgotten-"], |_, _| {
        let path = format!("/dev/shm/forgotten-{}", std::process::id());
        fs::write(&path, "x").expect("root may write there");
        leak(move || fs::remove_file(path).expect("it is there"))
    });
}

#[test]
fn a_control_group_and_what_runs_in_it_are_noticed() {
    let unified = Path::new("/sys/fs/cgroup/cgroup.procs").exists();
    let parent = Path::new(if unified { "/sys/fs/cgroup/caisson" } else { "/sys/fs/cgroup/memory/caisson" });
    let group = parent.join("forgotten");
    notices(&["process ", "(sleep,", "control group", "forgotten"], |_, _| {
        fs::create_dir_all(&group).expect("a control group can be made");
        let child = started("sleep", &["1000"]);
        fs::write(group.join("cgroup.procs"), child.id().to_string()).expect("a process can be put there");
        let group = group.clone();
        leak(move || {
            end(child);
            caisson_tests::eventually("the group to be empty", std::time::Duration::from_secs(5), || fs::remove_dir(&group).ok());
        })
    });
}

#[test]
fn a_network_namespace_is_noticed() {
    needs("unshare", "util-linux");
    notices(&["network namespace"], |home, _| {
        let mark = home.join("unshared");
        let child = started("unshare", &["--net", "sh", "-c", &format!("touch {}; exec sleep 1000", mark.display())]);
        caisson_tests::eventually("the namespace", std::time::Duration::from_secs(5), || mark.exists().then_some(()));
        leak(move || end(child))
    });
}

#[test]
fn files_are_noticed() {
    for (directory, name, words) in [
        ("tmp", "forgotten", "temporary file"),
        ("data", "forgotten", "file in the data directory"),
        ("data/executions", "forgotten", "file in the data directory"),
        ("data/executions/ab", "exeforgotten.stdout.lock", "file in the data directory"),
    ] {
        notices(&[words, name], |home, _| {
            let directory = home.join(directory);
            fs::create_dir_all(&directory).expect("a directory can be made");
            let path = directory.join(name);
            fs::write(&path, "x").expect("a file can be made");
            leak(move || fs::remove_file(path).expect("it is there"))
        });
    }
    // What a server keeps there is none.
    notices(&[], |home, _| {
        let shard = home.join("data/executions/ab");
        fs::create_dir_all(&shard).expect("a directory can be made");
        for path in
            [shard.join("exeabc.stdout"), shard.join("exeabc.stderr.tail"), home.join("data/lock"), home.join("data/caisson.db-wal")]
        {
            fs::write(path, "x").expect("a file can be made");
        }
        leak(|| {})
    });
}

/// A shell that does as it is told, in place of a server.
struct Shell {
    child: Child,
}

impl Shell {
    fn start() -> Self {
        let child = Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash can be started");
        Self { child }
    }

    /// Returns when it has done that.
    fn does(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        stdin.write_all(format!("{line}; echo done\n").as_bytes()).expect("it reads");
        let mut said = String::new();
        let stdout = self.child.stdout.as_mut().expect("it is piped");
        // One line at a time: nothing is read ahead and lost.
        BufReader::with_capacity(1, stdout).read_line(&mut said).expect("it answers");
        assert_eq!(said, "done\n", "after {line}");
    }

    fn open(&self) -> Descriptors {
        Descriptors::of(self.child.id())
    }
}

#[test]
fn descriptors_are_noticed() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("kept").display().to_string();
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let port = listener.local_addr().expect("it has an address").port();
    let mut shell = Shell::start();
    let before = shell.open();
    let none = |_: &str| 0;
    assert!(shell.open().more_than(&before, none).is_empty());

    shell.does(&format!("exec 10> {file}"));
    let named = shell.open().more_than(&before, none);
    assert!(named.len() == 1 && named[0].contains(&file) && !named[0].contains("(deleted)"), "{named:?}");
    assert!(shell.open().more_than(&before, |kind| usize::from(kind == file)).is_empty(), "what is explained is none");
    shell.does(&format!("rm {file}"));
    let named = shell.open().more_than(&before, |kind| usize::from(kind == file));
    assert!(named.len() == 1 && named[0].contains(&format!("{file} (deleted)")), "{named:?}");
    shell.does("exec 10>&-");

    shell.does("exec 11> >(cat)");
    let named = shell.open().more_than(&before, none);
    assert!(named.len() == 1 && named[0].contains("a pipe"), "{named:?}");
    shell.does("exec 11>&-");

    shell.does(&format!("exec 12<> /dev/tcp/127.0.0.1/{port}"));
    let (other_end, _) = listener.accept().expect("it connects");
    assert!(shell.open().more_than(&before, none).is_empty(), "we hold the other end");
    drop(other_end);
    let named = caisson_tests::eventually("the end of the connection", std::time::Duration::from_secs(5), || {
        Some(shell.open().more_than(&before, none)).filter(|named| !named.is_empty())
    });
    assert!(named[0].contains("left (state 08)"), "{named:?}");
    end(shell.child);
}
