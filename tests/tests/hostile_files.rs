//! The files API on a tree that fights back: links, pipes, devices, names that are none, and paths that change while they are walked.
//! Each operation acts inside, or fails with a reason.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::{Duration, Instant},
};

use caisson_tests::{Answer, BASE64, Base64Engine, Ran, Sandbox, Server, allowed, encode_path, eventually, json};

/// What an operation that did not work may be answered with: something about the path, never a failure of ours.
const REASONS: [u16; 5] = [400, 404, 409, 410, 429];

/// That the operation was answered with success or with a reason, and in time. Says whether it worked.
#[track_caller]
fn worked(what: &str, ask: impl FnOnce() -> Answer) -> bool {
    let begin = Instant::now();
    let answer = ask();
    assert!(begin.elapsed() < allowed(Duration::from_secs(10)), "{what}: {:?}", begin.elapsed());
    if answer.status < 300 {
        return true;
    }
    assert!(REASONS.contains(&answer.status), "{what}: {} {:.500}", answer.status, answer.text());
    assert!(answer.json()["error"]["code"].is_string(), "{what}: {}", answer.text());
    false
}

fn list(sandbox: &Sandbox<'_>, path: &str) -> Answer {
    sandbox.request("GET", &format!("/files/list?path={}&depth=3", encode_path(path.as_bytes()))).send()
}

fn delete(sandbox: &Sandbox<'_>, path: &str) -> Answer {
    sandbox.request("DELETE", &format!("/files?path={}&recursive=true", encode_path(path.as_bytes()))).send()
}

/// The command line's `cp`.
fn copy(server: &Server, from: &str, to: &str) -> Ran {
    let mut command = server.home().command(["cp", from, to]);
    command.env("CAISSON_SERVER", format!("http://{}", server.client.address)).env("CAISSON_API_KEY", server.client.key.clone().unwrap());
    command.output().unwrap().into()
}

#[test]
fn r5_2_names_may_be_any_bytes() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let mut long = vec![b'x'; 255];
    long[0] = b'y';
    let names: Vec<Vec<u8>> = vec![
        b"with space".to_vec(),
        b"new\nline".to_vec(),
        b"\xff\xfe".to_vec(),
        "ä🦀".into(),
        b"-rf".to_vec(),
        b"a%20b+c&d=e?#".to_vec(),
        b"\x1b[2J".to_vec(),
        long,
    ];
    for (index, name) in names.iter().enumerate() {
        let content = format!("content {index}");
        sandbox.write(name, content.as_bytes()).expect(200);
        assert_eq!(sandbox.read(name).expect(200).text(), content, "{:?}", String::from_utf8_lossy(name));
        let stat = sandbox.request("GET", &format!("/files/stat?path={}", encode_path(name))).send().expect(200).json();
        let whole = [b"/workspace/", name.as_slice()].concat();
        match std::str::from_utf8(&whole) {
            Ok(text) => assert_eq!((&stat["path"], stat.get("path_base64")), (&json!(text), None)),
            Err(_) => assert_eq!(stat["path_base64"], BASE64.encode(&whole)),
        }
    }
    let inside = sandbox.python("import os\nprint(sorted(n for n in os.listdir(b'.') if n != b'main.py'))");
    assert_eq!(inside.matches("b'").count() + inside.matches("b\"").count(), names.len(), "{inside}");
    let listed = sandbox.request("GET", "/files/list?path=.").send().expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), names.len());
    sandbox.write(&[b'x'; 256], b"").refused(400, "invalid_path");
    server.finish();
}

#[test]
fn r5_2_links_lead_nowhere_but_inside() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    fs::write(server.home().path().join("secret"), "of the host").unwrap();
    let outside = server.home().path().join("secret").display().to_string();
    let _made = sandbox
        .shell(&format!("ln -s {outside} a; ln -s ../../../../../../{outside} b; ln -s /proc/1/root/{outside} c; ln -s /etc/hostname d"));
    for name in ["a", "b", "c"] {
        let answer = sandbox.read(name.as_bytes());
        assert!(answer.status == 404 || answer.status == 400, "{name}: {} {}", answer.status, answer.text());
    }
    assert_eq!(sandbox.read(b"d").expect(200).text(), "sandbox\n", "the sandbox's own");
    assert_eq!(sandbox.read(b"../../../../etc/hostname").expect(200).text(), "sandbox\n");
    server.finish();
}

#[test]
fn r5_2_what_is_no_file_is_refused_and_not_waited_for() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let made = sandbox.python(
        "import os, socket, stat\nos.mkfifo('fifo')\nsocket.socket(socket.AF_UNIX).bind('socket')\nos.mkdir('directory')\n\
         try: os.mknod('whiteout', stat.S_IFCHR | 0o600, 0)\nexcept PermissionError: pass\n\
         for kind in (stat.S_IFCHR, stat.S_IFBLK):\n  try: os.mknod('device', kind | 0o666, os.makedev(1, 3)); print('a device was made')\n  except OSError: pass\n\
         for name in ('fifo', 'socket', 'directory', 'whiteout'): os.symlink(name, 'to-' + name)\n\
         os.symlink('/dev/zero', 'to-zero')\nos.symlink('loop', 'loop')",
    );
    assert_eq!(made, "");
    // Where Landlock is, there is not even this one, which the kernel lets anybody make.
    let whiteout = sandbox.shell("test -c whiteout && printf whiteout || printf fifo");
    // One fifo has somebody at its other end, who writes nothing.
    let _made = sandbox.shell("mkfifo held");
    let _holder = sandbox.background(json!({"shell": "exec 3<> held; sleep 60"}));
    let special =
        ["fifo", "held", "socket", "directory", "whiteout", "to-fifo", "to-socket", "to-directory", "to-whiteout", "to-zero", "loop"];
    let devices = ["/dev/zero", "/dev/null", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/stdin", "/dev/pts", "/dev/fd/0"];
    for name in special.into_iter().chain(devices) {
        assert!(!worked(name, || sandbox.read(name.as_bytes())), "{name} was read");
        let range = format!("/files?path={}", encode_path(name.as_bytes()));
        assert!(!worked(name, || sandbox.request("GET", &range).header("range", "bytes=0-9").send()), "a part of {name} was read");
    }
    for name in ["fifo", "held", "socket", "directory", &whiteout, "/dev/zero", "/dev/null", "/dev/full", "/dev/tty", "/dev/ptmx"] {
        assert!(!worked(name, || sandbox.write(name.as_bytes(), b"x")), "{name} was written");
    }
    for name in ["held", "socket", &whiteout] {
        assert!(worked(name, || sandbox.request("GET", &format!("/files/stat?path={name}")).send()));
        assert!(worked(name, || delete(&sandbox, name)));
    }
    for name in ["/dev/null", "/dev", "/proc", "/etc/passwd", "/usr/bin"] {
        assert!(!worked(name, || delete(&sandbox, name)), "{name} was deleted");
    }
    assert_eq!(sandbox.shell("echo fine > /dev/null; ls /usr/bin | head -c 1 | wc -c"), "1\n");
    server.finish();
}

#[test]
fn r5_2_what_proc_links_to_is_out_of_reach() {
    let server = Server::start();
    let secret = server.home().path().join("secret");
    fs::write(&secret, "of the host").unwrap();
    let core_pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for user in ["user", "root"] {
        let sandbox = server.sandbox(&json!({"user": user}));
        let (mut paths, mut inside): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        for process in ["self", "1", "thread-self", "self/task/1", "1/task/1"] {
            for name in
                ["environ", "mem", "maps", "cmdline", "exe", "cwd", "root", "fd", "fdinfo", "map_files", "ns/net", "auxv", "syscall"]
            {
                paths.push(format!("/proc/{process}/{name}"));
            }
            for descriptor in 0..32 {
                paths.push(format!("/proc/{process}/fd/{descriptor}"));
            }
            for way in ["root", "cwd"] {
                // What lies behind these is the sandbox's own root, where the user may well make such a file.
                inside.push(format!("/proc/{process}/{way}{}", secret.display()));
                inside.push(format!("/proc/{process}/{way}/../../..{}", secret.display()));
                paths.push(format!("/proc/{process}/{way}/proc/1/environ"));
            }
        }
        for control in ["sysrq-trigger", "sys/kernel/core_pattern", "kcore", "kmsg", "keys", "timer_list"] {
            paths.push(format!("/proc/{control}"));
        }
        for (index, path) in paths.iter().enumerate() {
            let answer = sandbox.read(path.as_bytes());
            // What is masked is an empty file.
            let tells = !REASONS.contains(&answer.status) && !answer.body.is_empty();
            assert!(!tells, "{path} as {user}: {} with {} bytes", answer.status, answer.body.len());
            assert!(!worked(path, || sandbox.write(path.as_bytes(), b"x")), "{path} was written");
            assert!(!worked(path, || delete(&sandbox, path)), "{path} was deleted");
            worked(path, || list(&sandbox, path));
            // By way of a link of the user's own as well.
            let link = format!("link{index}");
            if index % 8 == 0 {
                let _made = sandbox.shell(&format!("ln -s {path} {link}"));
                let by_link = sandbox.read(link.as_bytes());
                assert!(REASONS.contains(&by_link.status) || by_link.body.is_empty(), "{path} was read by way of a link");
                // A link to what has no name is replaced, as one to nothing is.
                if worked(path, || sandbox.write(link.as_bytes(), b"x")) {
                    assert_eq!(sandbox.shell(&format!("test ! -L {link} && cat {link}")), "x", "{path} was written by way of a link");
                }
            }
        }
        for path in &inside {
            worked(path, || sandbox.write(path.as_bytes(), b"of the sandbox"));
            worked(path, || list(&sandbox, path));
            let read = sandbox.read(path.as_bytes());
            assert!(REASONS.contains(&read.status) || read.text() == "of the sandbox", "{path}: {} {}", read.status, read.text());
            worked(path, || delete(&sandbox, path));
            assert_eq!(fs::read(&secret).unwrap(), b"of the host", "{path} as {user}");
        }
        assert_eq!(sandbox.shell("echo fine"), "fine\n");
    }
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), core_pattern);
    assert_eq!(fs::read(&secret).unwrap(), b"of the host");
    server.finish();
}

/// Exchanges two names as often as it can, until it is killed: usage: EXCHANGE NAME NAME …
const EXCHANGE: &str = r"
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_EXCHANGE = -100, 2
pairs = [(a.encode(), b.encode()) for a, b in zip(sys.argv[1::2], sys.argv[2::2])]
print('on', flush=True)
while True:
    for a, b in pairs:
        if libc.renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) != 0:
            sys.exit(f'errno {ctypes.get_errno()}')
";

/// Begins to exchange names in the work dir.
fn exchange(sandbox: &Sandbox<'_>, names: &[&str]) -> String {
    let id = sandbox.background(json!({"language": "python", "code": EXCHANGE, "args": names, "timeout_s": null}));
    eventually("the exchanges to begin", Duration::from_secs(10), || {
        let answer = sandbox.server.get(&format!("/v1/executions/{id}/output")).expect(200);
        (answer.text() == "on\n").then_some(())
    });
    id
}

#[test]
fn r5_2_a_directory_and_a_link_that_are_exchanged_for_twenty_seconds_lead_nowhere() {
    let server = Server::start();
    let outside = server.home().path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), "of the host").unwrap();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    let _made = sandbox.shell(&format!(
        "mkdir a b c elsewhere; for d in a b c elsewhere; do echo inside > $d/f; done; echo precious > elsewhere/kept
         ln -s {} a-link; ln -s /proc/1 b-link; ln -s elsewhere c-link",
        outside.display()
    ));
    let exchanging = exchange(&sandbox, &["a", "a-link", "b", "b-link", "c", "c-link"]);
    let begin = Instant::now();
    let (mut went_well, mut failed, mut round) = (0, 0, 0);
    while begin.elapsed() < Duration::from_secs(20) {
        round += 1;
        for directory in ["a", "b", "c"] {
            let file = format!("{directory}/f");
            let text = format!("inside {round}\n");
            let written = worked(&file, || sandbox.write(file.as_bytes(), text.as_bytes()));
            let made = worked(&file, || sandbox.write(format!("{directory}/new/{round}").as_bytes(), b"inside\n"));
            let read = worked(&file, || {
                let answer = sandbox.read(file.as_bytes());
                assert!(answer.status != 200 || answer.text().starts_with("inside"), "{}", answer.text());
                answer
            });
            let listed = worked(&file, || list(&sandbox, directory));
            let deleted = worked(&file, || delete(&sandbox, &format!("{directory}/new")));
            for done in [written, made, read, listed, deleted] {
                if done { went_well += 1 } else { failed += 1 }
            }
        }
    }
    let still = server.execution(&exchanging);
    assert_eq!(still["status"], "running", "the exchanges stopped early: {still:#}");
    assert!(went_well > 50 && failed > 50, "only one side was ever seen: {went_well} went well, {failed} failed");
    let left: Vec<_> = fs::read_dir(&outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!((left, fs::read(outside.join("f")).unwrap()), (vec!["f".into()], b"of the host".to_vec()));
    assert_eq!(sandbox.read(b"elsewhere/kept").expect(200).text(), "precious\n");
    server.finish();
}

/// Waits in a directory that is being emptied, and moves it elsewhere when the first of its files has gone.
const MOVE_AWAY: &str = r"
import os, sys
full = len(os.listdir('tree/a/b'))
print('on', flush=True)
try:
    while len(os.listdir('tree/a/b')) == full: pass
    os.rename('tree/a/b', 'keep/b')
    print('moved', len(os.listdir('keep/b')))
except FileNotFoundError:
    print('too late 0')
";

#[test]
fn r5_2_deleting_follows_neither_links_nor_what_is_moved_away() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2, "disk_inodes": 100_000}}));
    let _made = sandbox.shell(
        "mkdir keep tree; echo precious > keep/precious; ln -s ../keep tree/link; ln -s / tree/root; ln keep/precious tree/same; ln -s . tree/self",
    );
    delete(&sandbox, "tree").expect(204);
    assert_eq!(sandbox.shell("cat keep/precious; ls; ls /usr/bin | head -c 1 | wc -c"), "precious\nkeep\n1\n");

    let mut moved = false;
    for _ in 0..20 {
        let _made = sandbox.shell("rm -rf tree keep/b; mkdir -p tree/a/b; cd tree/a/b; seq 20000 | xargs touch");
        let mover = sandbox.background(json!({"language": "python", "code": MOVE_AWAY}));
        let said = |server: &Server| server.get(&format!("/v1/executions/{mover}/output")).expect(200).text();
        eventually("the mover to wait", Duration::from_secs(10), || said(&server).starts_with("on\n").then_some(()));
        let answer = delete(&sandbox, "tree");
        let ended = server.ended(&mover, Duration::from_secs(30));
        assert_eq!(ended["exit_code"], 0, "{ended:#}");
        let said = said(&server);
        let left: u32 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(answer.status == 204 || answer.refused(409, "failed_inside").contains("tree"), "{}", answer.text());
        assert_eq!(sandbox.read(b"keep/precious").expect(200).text(), "precious\n", "what was never asked for is gone; {said}");
        // Moved while there was something left to remove in it: this is what the test is about.
        moved = said.contains("moved") && left > 0;
        if moved {
            assert_eq!(answer.status, 409, "{said}");
            break;
        }
    }
    assert!(moved, "the directory was never moved in time, so this shows nothing");
    server.finish();
}

#[test]
fn r5_2_names_and_paths_have_an_end() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"disk_inodes": 10_000}}));
    for (what, path) in [
        ("a name of 256 bytes", "x".repeat(256)),
        ("a name of 4,096 bytes", "x".repeat(4096)),
        ("a name of 64 KiB", "x".repeat(64 << 10)),
        ("a path of 4,096 bytes", format!("/{}", "d/".repeat(2047) + "f")),
        ("a relative path that is too long as a whole", "d/".repeat(2045) + "f"),
        ("NUL", "a\0b".to_owned()),
        ("nothing but NUL", "\0".to_owned()),
        ("a name in front of a path that is too long", format!("{}/f", "x".repeat(300))),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = sandbox.request(method, &format!("/files?path={}", encode_path(path.as_bytes()))).send();
            // One whose address is too long does not come this far.
            if answer.status != 414 {
                answer.refused(400, "invalid_path");
            }
        }
        let answer = list(&sandbox, &path);
        assert!([400, 414].contains(&answer.status), "{what}: {}", answer.text());
    }
    let deep = "d/".repeat(1500);
    let file = format!("{deep}f");
    assert!(worked("a deep path", || sandbox.write(file.as_bytes(), b"deep")));
    assert_eq!(sandbox.read(file.as_bytes()).expect(200).text(), "deep");
    assert_eq!(sandbox.read(format!("{}{file}", "./".repeat(500)).as_bytes()).expect(200).text(), "deep");
    delete(&sandbox, "d").expect(204);
    assert_eq!(sandbox.shell("ls -A"), "");
    server.finish();
}

#[test]
fn r5_2_a_file_of_many_names_is_replaced_and_not_written_through() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("echo old > one; ln one two; ln /etc/passwd stolen 2>/dev/null; ln /usr/bin/env lent 2>/dev/null; true");
    sandbox.write(b"one", b"new").expect(200);
    assert_eq!((sandbox.read(b"one").expect(200).text().as_str(), sandbox.read(b"two").expect(200).text().as_str()), ("new", "old\n"));
    for name in ["stolen", "lent"] {
        sandbox.read(name.as_bytes()).refused(404, "not_found");
    }
    let _made = sandbox.shell("ln -s one link");
    sandbox.write(b"link", b"by way of the link").expect(200);
    assert_eq!(sandbox.shell("readlink link; cat one"), "one\nby way of the link", "a link is written through, to what is inside");
    server.finish();
}

#[test]
fn r5_2_no_right_leaves_the_sandbox_with_a_file() {
    let server = Server::start();
    let here = server.home().path().to_owned();
    for mode in ["4755", "2755", "1777", "7777", "10000", "-1"] {
        let sandbox = server.sandbox(&json!({}));
        sandbox.request("PUT", &format!("/files?path=f&mode={mode}")).bytes("x").send().refused(400, "invalid_parameter");
        assert_eq!(sandbox.shell("ls -A"), "");
    }
    let sandbox = server.sandbox(&json!({"user": "root"}));
    // Capabilities and other attributes cannot even be set.
    let set = "import os, struct\nfor name in ('security.capability', 'user.note', 'trusted.note'):\n  try:\n    os.setxattr('tree/f', name, struct.pack('<5I', 0x02000001, 1, 0, 0, 0)); print(name)\n  except OSError: pass";
    let _made = sandbox.shell(
        "mkdir -p tree/sub; cp /usr/bin/true tree/f; chmod 6755 tree/f; chmod 7777 tree/sub; mkfifo tree/fifo; ln -s /etc/shadow tree/link",
    );
    assert_eq!(sandbox.python(set), "");
    let stat = sandbox.request("GET", "/files/stat?path=tree/f").send().expect(200).json();
    assert_eq!(stat["mode"], 0o6755, "inside it is told as it is");
    let ran = copy(&server, &format!("{}:tree", sandbox.id), here.join("copy").to_str().unwrap());
    assert!(
        ran.status.code() == Some(1) && ran.err().contains("fifo") && ran.err().contains("link"),
        "what was left out is said: {}",
        ran.err()
    );
    for name in ["copy", "copy/sub", "copy/f"] {
        let found = fs::symlink_metadata(here.join(name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7000, 0, "{name} has {:o}", found.permissions().mode());
    }
    let mut names = [0; 1024];
    assert_eq!(rustix::fs::listxattr(here.join("copy/f"), &mut names[..]).unwrap(), 0);
    assert_eq!(fs::read_dir(here.join("copy")).unwrap().count(), 2, "the file and the directory");
    // Written anew, it keeps who may run it, and not as whom.
    sandbox.write(b"tree/f", b"harmless").expect(200);
    assert_eq!(sandbox.shell("stat -c %a tree/f"), "755\n");
    server.finish();
}

#[test]
fn r5_2_a_tebibyte_of_nothing_costs_nothing() {
    const TEBIBYTE: u64 = 1 << 40;
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let before = server.process().resident();
    let _made = sandbox.shell("truncate -s 1T sparse; printf end | dd of=sparse bs=1 seek=1099511627773 conv=notrunc status=none");
    let stat = sandbox.request("GET", "/files/stat?path=sparse").send().expect(200).json();
    assert_eq!(stat["size"], TEBIBYTE);
    let part = sandbox.request("GET", "/files?path=sparse").header("range", "bytes=-5").send().expect(206);
    assert_eq!((&part.body[..], part.header("content-range")), (&b"\0\0end"[..], Some("bytes 1099511627771-1099511627775/1099511627776")));
    let mut whole = sandbox.request("GET", "/files?path=sparse").open();
    assert_eq!(whole.header("content-length"), Some("1099511627776"));
    let mut taken = vec![1; 64 << 20];
    std::io::Read::read_exact(&mut whole.body, &mut taken).unwrap();
    assert!(taken.iter().all(|byte| *byte == 0));
    drop(whole);
    // As a one-shot's result it is named and not carried.
    let result = server.run(&json!({"shell": "truncate -s 1T sparse", "max_file_bytes": 256 << 20}));
    let file = &result["files"][0];
    assert_eq!(
        (&file["path"], &file["size"], file.get("content"), file.get("content_base64")),
        (&json!("/workspace/sparse"), &json!(TEBIBYTE), None, None)
    );
    let grown = server.process().resident().saturating_sub(before);
    assert!(grown < 64 << 20, "the server grew by {grown} bytes");
    let kept: u64 = walk(&server.home().data()).iter().map(|path| fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512)).sum();
    assert!(kept < 64 << 20, "the server keeps {kept} bytes on disk");
    assert_eq!(sandbox.shell("rm sparse; echo gone"), "gone\n");
    server.finish();
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() && !path.is_symlink() { walk(&path) } else { vec![path] }).collect()
}
