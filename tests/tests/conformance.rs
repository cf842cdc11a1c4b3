//! Every backend does what every other does, or says that it does not: the table of `docs/backends.md`.
//!
//! `runsc` is the one that `tools/gvisor` builds; `runc` and `crun` are the distribution's. crun 1.8 refuses the hybrid layout of control groups: it
//! has its column where there is cgroup v2 alone, in the machine of `make test-vm`, which names the backends in `CAISSON_TEST_BACKENDS`.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{LazyLock, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{
    Context, Heard, Home, Process, Sandbox, Server, Setup, Typist, Value,
    docker::{self, Docker},
    eventually, json, kill_nine, needs,
};

const MIB: u64 = 1 << 20;
static BACKENDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let named = std::env::var("CAISSON_TEST_BACKENDS").unwrap_or_else(|_| "native,oci:runc,oci:runsc,docker".to_owned());
    named.split(',').map(str::to_owned).collect()
});
const PAGE: &str = include_str!("../../docs/backends.md");
const SOON: Duration = Duration::from_secs(20);
/// Where containers of servers are.
const CONTAINERS: &str = "/run/caisson/oci";

/// What a cell of the table says.
const DOES: &str = "yes";
const DOES_NOT: &str = "unsupported";

fn has(backend: &str) -> bool {
    BACKENDS.iter().any(|name| name == backend)
}

fn runsc() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/gvisor/runsc");
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}; tools/gvisor builds it", path.display()))
}

fn setup() -> Setup {
    needs("runc", "runc");
    let mut setup = Setup::default().env("CAISSON_BACKENDS", BACKENDS.join(","));
    if has("oci:runsc") {
        setup = setup.env("CAISSON_OCI_RUNTIMES", format!("runsc={}", runsc().display()));
    }
    if has("docker") {
        // Before the host is looked at.
        setup = setup.env("DOCKER_HOST", docker::address_of_shared());
    }
    setup
}

#[track_caller]
fn sandbox<'a>(server: &'a Server, backend: &str) -> Sandbox<'a> {
    server.sandbox(&json!({"backend": backend}))
}

/// Something that sandboxes of each backend are to do. `false` is that it was refused, as unsupported and with the name of one that does it.
type Feature = fn(&Server, &str) -> bool;

const FEATURES: [(&str, Feature); 21] = [
    ("one-shot programs, files in and out", one_shot),
    ("programs, exit codes, signals", exec),
    ("standard input and both outputs as they come", streams),
    ("time limits end all that a program started", time_limit),
    ("terminals", terminal),
    ("files: read, write, list, move", files),
    ("archives", archives),
    ("contexts", contexts),
    ("ports", ports),
    ("checkpoints and patches", patch),
    ("root inside", root_inside),
    ("images (with `docker` those of the daemon)", image),
    ("limit on memory", memory),
    ("limit on processes", processes),
    ("limit on disk", disk_limit),
    ("end by API leaves nothing", delete),
    ("end of its first process is told", crash),
    ("warm pool", pool),
    ("storage `disk`, stop and start", disk),
    ("networks", network),
    ("commit", commit),
];

#[test]
fn every_backend_has_every_feature_or_says_that_it_has_not() {
    let mut server = setup().env("CAISSON_POOL", "auto").env("CAISSON_EGRESS", "on").env("CAISSON_EGRESS_ADDRESSES", "127.0.0.1").start();
    import(&server);
    let templates = server.home().data().join("templates");
    fs::create_dir_all(&templates).unwrap();
    for backend in BACKENDS.iter() {
        let name = backend.replace(':', "-");
        fs::write(templates.join(format!("{name}.toml")), format!("backend = \"{backend}\"\nmin_warm = 1\nmax_warm = 1\n")).unwrap();
    }
    let mut table = format!("| feature | `{}` |\n|---|{}\n", BACKENDS.join("` | `"), "---|".repeat(BACKENDS.len()));
    let mut failed = Vec::new();
    for (name, feature) in FEATURES {
        write!(table, "| {name} |").unwrap();
        for backend in BACKENDS.iter() {
            let begin = Instant::now();
            let cell = match catch_unwind(AssertUnwindSafe(|| feature(&server, backend))) {
                Ok(true) => DOES,
                Ok(false) => DOES_NOT,
                Err(_) => {
                    failed.push(format!("{name} on {backend}"));
                    "FAILED"
                }
            };
            eprintln!("{name} on {backend}: {cell} after {:?}", begin.elapsed());
            write!(table, " {cell} |").unwrap();
        }
        table.push('\n');
    }
    println!("{table}");
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(PAGE.contains(&table), "docs/backends.md has another table than this one:\n{table}");
    // With all that is warm and alive.
    assert!(server.stop().success(), "{}", server.log());
    server.finish();
}

fn one_shot(server: &Server, backend: &str) -> bool {
    let result = server.run(&json!({
        "backend": backend, "language": "python", "code": "print(open('in').read() * 2)\nopen('out', 'w').write('made')",
        "files": [{"path": "in", "content": "ab"}],
    }));
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("abab\n"), &json!(0)), "{result:#}");
    assert_eq!(result["files"][0]["path"], "/workspace/out", "{result:#}");
    true
}

fn exec(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    assert_eq!(sandbox.get().expect(200).json()["backend"], backend);
    let result = sandbox.exec(&json!({"shell": "id -un; pwd; hostname; exit 7"}));
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("user\n/workspace\nsandbox\n"), &json!(7)), "{result:#}");
    let result = sandbox.exec(&json!({"shell": "kill -9 $$"}));
    assert_eq!((&result["status"], &result["signal"]), (&json!("signaled"), &json!(9)), "{result:#}");
    let id =
        sandbox.background(json!({"shell": "trap 'echo heard; exit 3' TERM; echo up; while :; do sleep 0.1; done", "timeout_s": null}));
    let output = || server.get(&format!("/v1/executions/{id}/output")).expect(200).text();
    eventually("its first words", SOON, || (output() == "up\n").then_some(()));
    server.request("POST", &format!("/v1/executions/{id}/signal")).json(&json!({"signal": "TERM"})).send().expect(204);
    let record = server.ended(&id, SOON);
    assert_eq!((&record["exit_code"], output().as_str()), (&json!(3), "up\nheard\n"), "{record:#}");
    true
}

fn streams(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    let body = json!({"shell": "cat; echo err >&2; head -c 3000000 /dev/zero | tr '\\0' x | wc -c", "stdin": "in\n"});
    let result = sandbox.exec(&body);
    assert_eq!((&result["stdout"], &result["stderr"]), (&json!("in\n3000000\n"), &json!("err\n")), "{result:#}");
    let large = sandbox.exec(&json!({"shell": "head -c 5000000 /dev/zero | tr '\\0' x"}));
    assert_eq!(large["stdout_bytes"], 5_000_000, "{}", large["status"]);
    let mut events = sandbox.events(&json!({"shell": "echo one; sleep 0.3; echo two"}));
    assert_eq!(events.until("stdout").bytes(), b"one\n");
    assert_eq!(events.until("stdout").bytes(), b"two\n");
    true
}

fn time_limit(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    let result =
        sandbox.exec(&json!({"shell": "setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000') & sleep 1000", "timeout_s": 0.5}));
    assert_eq!(result["status"], "timed_out", "{result:#}");
    sandbox.is_empty_of_others();
    assert_eq!(sandbox.shell("echo on"), "on\n");
    true
}

fn terminal(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    let mut typist = Typist::new(sandbox.server.socket(&sandbox.target("/pty?cols=90&rows=30")));
    typist.sees("user@sandbox:/workspace$ ");
    typist.types("stty size; tty\r");
    typist.sees("30 90\r\n/dev/pts/0\r\n");
    typist.types("sh -c 'echo in fr''ont; exec sleep 1000'\r");
    typist.sees("in front");
    typist.types("\u{3}");
    typist.sees("$ ");
    typist.resizes(70, 20);
    typist.types("stty size\r");
    typist.sees("20 70");
    typist.types("exit 3\r");
    assert_eq!(typist.socket.control("end")["exit_code"], 3);
    assert_eq!(typist.socket.hear(), Heard::Closed(1000, String::new()));
    true
}

fn files(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    let content: Vec<u8> = (0..2_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    sandbox.write(b"a/b/c", &content).expect(200);
    assert!(sandbox.read(b"a/b/c").expect(200).body == content);
    assert_eq!(sandbox.shell("stat -c '%U %a' a/b/c; echo own > a/own"), "user 644\n");
    assert_eq!(sandbox.read(b"a/own").expect(200).body, b"own\n");
    let listed = sandbox.request("GET", "/files/list?path=a").send().expect(200).json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2), "{listed:#}");
    sandbox.request("POST", "/files/move?from=a/own&to=moved").send().expect(200);
    assert_eq!(sandbox.shell("cat moved"), "own\n");
    // What is nobody's but the agent's or root's is not to be had.
    sandbox.write(b"/etc/made", b"x").refused(400, "permission_denied");
    true
}

fn archives(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    assert_eq!(sandbox.shell("mkdir -p d/e; echo 1 > d/e/f; ln -s e d/link; chmod 750 d/e"), "");
    let tar = sandbox.request("GET", "/files/archive?path=d").send().expect(200).body;
    sandbox.request("PUT", "/files/archive?path=copy").header("content-type", "application/x-tar").bytes(tar).send().expect(200);
    assert_eq!(sandbox.shell("cat copy/link/f; stat -c %a copy/e"), "1\n750\n");
    true
}

fn contexts(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    let python = Context::new(&sandbox, "python");
    assert_eq!(python.says("x = 41"), (String::new(), None));
    assert_eq!(python.says("print('a')\nx + 1"), ("a\n".to_owned(), Some("42".to_owned())));
    let events = python.begin("import time\nprint('ready', flush=True)\ntime.sleep(1000)");
    python.interrupt();
    drop(events);
    eventually("the context is idle again", SOON, || (python.state()["state"] == "idle").then_some(()));
    assert_eq!(python.value("x"), "41");
    true
}

fn ports(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    sandbox.write(b"page", b"served").expect(200);
    assert_eq!(sandbox.shell("python3 -m http.server 8001 </dev/null >log 2>&1 & echo started"), "started\n");
    let ask = || sandbox.request("GET", "/ports/8001/page").send();
    eventually("something that listens", SOON, || (ask().status == 200).then_some(()));
    assert_eq!(ask().body, b"served");
    // Each has a network of its own, with nobody else in it.
    assert_eq!(sandbox.python("import socket\ntry: socket.create_connection(('192.0.2.1', 80), 2)\nexcept OSError: print('no')"), "no\n");
    true
}

fn patch(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    assert_eq!(sandbox.shell("mkdir t; seq 100 > t/lines"), "");
    sandbox.request("POST", "/checkpoint").json(&json!({"path": "t"})).send().expect(200);
    assert_eq!(sandbox.shell("sed -i s/50/fifty/ t/lines; echo new > t/new"), "");
    let patch = sandbox.request("GET", "/patch?path=t").send().expect(200).text();
    assert!(patch.contains("-50\n+fifty\n") && patch.contains("+new\n"), "{patch}");
    true
}

fn root_inside(server: &Server, backend: &str) -> bool {
    let sandbox = server.sandbox(&json!({"backend": backend, "user": "root"}));
    assert_eq!(sandbox.shell("id -u; touch /etc/made && echo made; chown 7:8 /etc/made; stat -c %u:%g /etc/made"), "0\nmade\n7:8\n");
    assert_eq!(sandbox.shell("mount -t tmpfs none /mnt 2>/dev/null || echo no; kill -9 1 2>/dev/null; echo on"), "no\non\n");
    sandbox.write(b"/root/a", b"x").expect(200);
    assert_eq!(sandbox.shell("stat -c %U /root/a"), "root\n");
    true
}

/// busybox with a few of its names, and an account.
fn import(server: &Server) {
    let root = server.home().path().join("root");
    for directory in ["bin", "etc", "tmp", "srv"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap_or_else(|error| panic!("{error}; install the package busybox-static"));
    for name in ["sh", "cat", "id", "ls", "touch", "rm", "stat", "echo", "sleep", "pwd"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnode:x:1234:1235:Node:/srv:/bin/sh\n").unwrap();
    fs::write(root.join("srv/file"), "of the image\n").unwrap();
    let tar = server.home().clean("tar").arg("-C").arg(&root).args(["--owner=1234", "--group=1235", "-cf", "-", "."]).output().unwrap();
    assert!(tar.status.success());
    fs::remove_dir_all(&root).unwrap();
    if has("docker") {
        daemon().import("small:1", &tar.stdout);
    }
    server.request("POST", "/v1/images/import?name=small:1").bytes(tar.stdout).send().expect(200);
}

fn image(server: &Server, backend: &str) -> bool {
    let sandbox = server.sandbox(&json!({"backend": backend, "image": "small:1", "user": "root"}));
    assert_eq!(
        sandbox.shell("cat /srv/file; stat -c %u:%g /srv/file; echo more >> /srv/file; cat /srv/file; rm /srv/file; ls /srv"),
        "of the image\n1234:1235\nof the image\nmore\n"
    );
    assert!(!sandbox.shell("ls -a /").contains("caisson"), "nothing of ours is left in it");
    // Nobody else sees that.
    let other = server.run(&json!({"backend": backend, "image": "small:1", "shell": "cat /srv/file; id -u"}));
    assert_eq!(other["stdout"], "of the image\n1000\n", "{other:#}");
    true
}

fn memory(server: &Server, backend: &str) -> bool {
    let sandbox = server.sandbox(&json!({"backend": backend, "limits": {"memory_bytes": 256 * MIB}}));
    assert!(sandbox.shell("free -m | awk '/Mem:/ {print ($2 <= 256)}'").starts_with('1'), "it sees its limit");
    let line = "import mmap\nkept = []\nfor n in range(64):\n  m = mmap.mmap(-1, 16 << 20); m.write(b'x' * (16 << 20)); kept.append(m)\nprint('has it all')";
    let answer = sandbox.try_exec(&json!({"cmd": ["python3", "-c", line]}));
    let told = answer.json();
    let reason =
        if answer.status == 200 && told["status"] != "lost" { told["status"].clone() } else { sandbox.tombstone(SOON)["reason"].clone() };
    // Where the kernel is the sandbox's own, it ends with its programs.
    assert!(reason == "out_of_memory" || reason == "oom", "{told:#} {reason}");
    true
}

fn processes(server: &Server, backend: &str) -> bool {
    let sandbox = server.sandbox(&json!({"backend": backend, "limits": {"pids": 48}}));
    let line = "import os, time\nn = 0\ntry:\n  while n < 200:\n    if os.fork() == 0: time.sleep(1000)\n    n += 1\nexcept OSError: pass\nprint(n < 48 and n > 20)";
    assert_eq!(sandbox.exec(&json!({"cmd": ["python3", "-c", line], "timeout_s": 20}))["stdout"], "True\n");
    true
}

fn disk_limit(server: &Server, backend: &str) -> bool {
    let sandbox = server.sandbox(&json!({"backend": backend, "limits": {"disk_bytes": 32 * MIB}}));
    let line = "for f in /tmp/a /workspace/a; do head -c 100000000 /dev/zero > $f 2>/dev/null; done; du -cm /tmp/a /workspace/a | tail -1 | cut -f 1";
    let used: u64 = sandbox.shell(line).trim().parse().unwrap();
    assert!((24..=33).contains(&used), "{used} MiB");
    true
}

/// The processes of a sandbox: its agent, or the runtime that minds its container, first.
fn processes_of(server: &Server, sandbox: &Sandbox<'_>, backend: &str) -> Vec<Process> {
    let first = match backend {
        "native" => sandbox.agent(),
        "docker" => {
            let id = daemon().says(&["inspect", "--format", "{{.Id}}", &format!("caisson-{}", sandbox.id)]);
            let is_in_it = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(&id));
            let mut inside: Vec<Process> = Process::all().into_values().filter(|process| is_in_it(process.pid)).collect();
            inside.sort_by_key(|process| !process.is_agent());
            assert!(inside[0].is_agent(), "{inside:?}");
            return inside;
        }
        _ => server
            .below()
            .into_iter()
            .find(|process| process.parent == server.pid() && process.arguments().contains(&sandbox.id))
            .expect("it has a runtime"),
    };
    let below = Process::below(first.pid);
    std::iter::once(first).chain(below).collect()
}

fn delete(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    let _daemon = sandbox.background(json!({"shell": "trap '' TERM; setsid sleep 1000 & sleep 1000", "timeout_s": null}));
    let processes = processes_of(server, &sandbox, backend);
    sandbox.delete().expect(200);
    eventually("its processes end", SOON, || (!processes.iter().any(Process::lives)).then_some(()));
    assert!(!containers().iter().any(|path| path.ends_with(&sandbox.id)));
    assert!(backend != "docker" || !daemon().says(&["ps", "--all"]).contains(&sandbox.id));
    true
}

fn crash(server: &Server, backend: &str) -> bool {
    let sandbox = sandbox(server, backend);
    assert_eq!(sandbox.shell("echo up"), "up\n");
    let processes = processes_of(server, &sandbox, backend);
    kill_nine(processes[0].pid);
    let tombstone = sandbox.tombstone(SOON);
    assert_eq!(tombstone["reason"], "crashed", "{tombstone:#}");
    eventually("its processes end", SOON, || (!processes.iter().any(Process::lives)).then_some(()));
    true
}

fn pool(server: &Server, backend: &str) -> bool {
    let template = backend.replace(':', "-");
    eventually("one is warm", SOON, || {
        (server.get(&format!("/v1/templates/{template}")).expect(200).json()["pool"]["warm"] == 1).then_some(())
    });
    let hits = || {
        let text = server.get("/metrics").expect(200).text();
        text.lines().find_map(|line| line.strip_prefix("caisson_pool_hits_total ")?.parse::<u64>().ok()).expect("it is counted")
    };
    let before = hits();
    let result = server
        .run(&json!({"template": template, "language": "python", "code": "import os; print(os.environ['LATE'])", "env": {"LATE": "x"}}));
    assert_eq!((&result["stdout"], hits() - before), (&json!("x\n"), 1), "{result:#}");
    true
}

/// Whether it was made; otherwise it must be refused with the name of a backend that can.
#[track_caller]
fn made(server: &Server, body: &Value) -> Option<String> {
    let answer = server.post("/v1/sandboxes", body);
    if answer.status == 501 {
        let message = answer.refused(501, "unsupported");
        assert!(message.contains("use backend `native`"), "{message}");
        return None;
    }
    Some(answer.expect(201).json()["id"].as_str().unwrap().to_owned())
}

fn disk(server: &Server, backend: &str) -> bool {
    let Some(id) = made(server, &json!({"backend": backend, "storage": "disk", "limits": {"disk_bytes": 64 * MIB}})) else { return false };
    let sandbox = Sandbox { server, id };
    assert_eq!(sandbox.shell("echo kept > file"), "");
    sandbox.request("POST", "/stop").send().expect(200);
    assert_eq!(sandbox.shell("cat file"), "kept\n");
    sandbox.delete().expect(200);
    true
}

fn network(server: &Server, backend: &str) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            drop(client.read(&mut [0; 4096]));
            drop(client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nheard"));
        }
    });
    let allow = [format!("127.0.0.1:{port}"), "web.example".to_owned()];
    let Some(id) = made(server, &json!({"backend": backend, "network": {"allow": allow}})) else { return false };
    let sandbox = Sandbox { server, id };
    assert!(sandbox.shell("echo $https_proxy; cat /etc/resolv.conf").starts_with("http://127.0.0.53:3128\nnameserver 127.0.0.53\n"));
    let curl = |port: u16| sandbox.shell(&format!("curl -sS --noproxy '' -x $http_proxy http://127.0.0.1:{port}/"));
    assert_eq!(curl(port), "heard");
    assert!(curl(port ^ 1).starts_with("caisson: "), "{}", curl(port ^ 1));
    let code = "import socket\nfor ask in [lambda: socket.getaddrinfo('other.example', 80), lambda: socket.create_connection(('10.0.0.1', 80), 5).recv(1)]:\n \
                try: ask(); print('done')\n except OSError: print('refused')";
    assert_eq!(sandbox.python(code), "refused\nrefused\n");
    let told = sandbox.request("GET", "/egress").send().expect(200).json();
    assert_eq!(told["redirects"], backend == "native", "{told:#}");
    assert!(told["allowed"].as_u64() >= Some(1) && told["refused"].as_u64() >= Some(2), "{told:#}");
    sandbox.delete().expect(200);
    true
}

fn commit(server: &Server, backend: &str) -> bool {
    let sandbox = server.sandbox(&json!({"backend": backend, "image": "small:1", "user": "root"}));
    assert_eq!(sandbox.shell("echo more > /srv/more"), "");
    let name = format!("committed:{}", backend.replace(':', "-"));
    let answer = sandbox.request("POST", "/commit").json(&json!({"name": name})).send();
    if answer.status == 501 {
        let message = answer.refused(501, "unsupported");
        assert!(message.contains("use backend `native`"), "{message}");
        return false;
    }
    answer.expect(201);
    true
}

fn daemon() -> MutexGuard<'static, Docker> {
    docker::shared().lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directories of containers that there are.
fn containers() -> Vec<PathBuf> {
    let servers = fs::read_dir(CONTAINERS).into_iter().flatten().flatten();
    servers
        .flat_map(|server| fs::read_dir(server.path()).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

#[test]
fn kill_nine_of_the_server_leaves_no_container() {
    let mut server = setup().start();
    let before = containers();
    let ids: Vec<String> = BACKENDS
        .iter()
        .map(|backend| {
            let sandbox = sandbox(&server, backend);
            let _noise = sandbox.background(
                json!({"shell": "trap '' TERM; setsid sleep 1000 & while :; do echo noise; sleep 0.1; done", "timeout_s": null}),
            );
            sandbox.id.clone()
        })
        .collect();
    let made = || containers().into_iter().filter(|path| !before.contains(path)).collect::<Vec<_>>();
    assert!(made().len() >= 2, "{:?}", containers());
    assert!(!has("docker") || daemon().containers().len() == 1);
    let all = server.below();
    server.kill();
    Process::all_end("below the server", &all);
    server.start_again();
    for id in ids {
        let answer = server.get(&format!("/v1/sandboxes/{id}"));
        answer.refused(410, "gone");
        assert_eq!(answer.json()["error"]["details"]["reason"], "server_lost");
    }
    eventually("what is left of containers is taken away", SOON, || made().is_empty().then_some(()));
    if has("docker") {
        eventually("and of Docker's", SOON, || daemon().containers().is_empty().then_some(()));
    }
    for backend in BACKENDS.iter() {
        assert_eq!(server.run(&json!({"backend": backend, "shell": "echo on"}))["stdout"], "on\n");
    }
    server.finish();
    assert!(!has("docker") || daemon().says(&["volume", "ls", "--quiet"]).is_empty());
}

#[test]
fn a_container_that_is_removed_behind_our_back_is_told_and_leaves_nothing() {
    let server = setup().start();
    for backend in BACKENDS.iter().filter(|name| name.starts_with("oci:")) {
        let runtime = match backend.as_str() {
            "oci:runsc" => runsc(),
            "oci:crun" => "/usr/bin/crun".into(),
            _ => "/usr/sbin/runc".into(),
        };
        let sandbox = sandbox(&server, backend);
        let id = sandbox.background(json!({"cmd": ["sleep", "1000"], "timeout_s": null}));
        let directory = containers().into_iter().find(|path| path.ends_with(&sandbox.id)).expect("it has a directory");
        let mut delete = server.home().clean(&runtime);
        delete.arg("--root").arg(directory.join("state")).args(["delete", "--force", &sandbox.id]);
        let deleted = delete.output().unwrap();
        let said = String::from_utf8_lossy(&deleted.stderr);
        // As soon as it has ended, the server takes away what the runtime looks at.
        assert!(deleted.status.success() || said.contains("No such file"), "{said}");
        let tombstone = sandbox.tombstone(SOON);
        assert_eq!(tombstone["reason"], "crashed", "{tombstone:#}");
        assert!(tombstone["message"].as_str().unwrap().contains("ended by signal 9"), "{tombstone:#}");
        assert_eq!(server.execution(&id)["status"], "lost");
        eventually("its directory is gone", SOON, || (!directory.exists()).then_some(()));
    }
    server.finish();
}

/// A runtime that is a script.
fn script(home: &Home, name: &str, text: &str) -> PathBuf {
    let path = home.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_runtime_that_is_of_no_use_is_refused_with_the_reason() {
    let home = Home::new();
    let version = "[ \"$1\" = --version ] && echo 'runc version 1.1.5' && exit 0";
    let cases = [
        (PathBuf::from("/nowhere/runc"), "No such file"),
        (script(&home, "old", "echo runc version 1.0.3"), "1.1 or later is needed"),
        (script(&home, "other", "echo frobnicate version 3"), "is no `runc`"),
        (script(&home, "broken", "echo 'no room' >&2; exit 3"), "no room"),
        (script(&home, "silent", "exec sleep 1000"), "did not end within"),
        (script(&home, "fails", &format!("{version}\necho 'cannot do that' >&2; exit 1")), "cannot do that"),
        (script(&home, "hangs", &format!("{version}\nsleep 1000 & sleep 1000")), "it hung"),
    ];
    for (path, what) in &cases {
        let server = Setup::default()
            .env("CAISSON_BACKENDS", "native,oci:runc")
            .env("CAISSON_OCI_RUNTIMES", format!("runc={}", path.display()))
            .start();
        let listed = server.get("/v1/backends").expect(200).json()["backends"].clone();
        assert_eq!((&listed[0]["name"], &listed[0]["default"], &listed[0]["state"]), (&json!("native"), &json!(true), &json!("usable")));
        assert_eq!((&listed[1]["name"], &listed[1]["state"]), (&json!("oci:runc"), &json!("unusable")));
        assert!(listed[1]["reason"].as_str().unwrap().contains(what), "{listed:#} {what}");
        let message = server.post("/v1/run", &json!({"backend": "oci:runc", "shell": "true"})).refused(501, "unsupported");
        assert!(!message.contains(what) && message.contains("`native`"), "where things are on the host is not for everybody: {message}");
        assert_eq!(server.run(&json!({"shell": "echo on"}))["stdout"], "on\n");
        server.finish();
    }
    // A server whose own choice cannot be used does not start.
    let refused = home.caisson(["run", "--backend", "oci:nobody", "--", "true"]).exited(125);
    assert!(refused.err().contains("expected the name of a backend"), "{}", refused.err());
    home.refuses_to_serve(
        &[
            ("CAISSON_BACKEND", "oci:runc"),
            ("CAISSON_OCI_RUNTIMES", "runc=/nowhere/runc"),
            ("CAISSON_DATA_DIR", home.data().to_str().unwrap()),
        ],
        &["backend `oci:runc` cannot be used", "/nowhere/runc"],
    );
    home.finish();
}

#[test]
fn the_template_the_request_and_the_server_choose_in_this_order() {
    let server = Setup::default().env("CAISSON_BACKEND", "oci:runc").env("CAISSON_BACKENDS", "native,oci:runc").start();
    let templates = server.home().data().join("templates");
    fs::create_dir_all(&templates).unwrap();
    fs::write(templates.join("t.toml"), "backend = \"native\"\n").unwrap();
    let made_by = |body: Value| {
        let sandbox = server.sandbox(&body);
        let backend = sandbox.get().expect(200).json()["backend"].clone();
        sandbox.delete().expect(200);
        backend
    };
    assert_eq!(made_by(json!({})), "oci:runc");
    assert_eq!(made_by(json!({"backend": "native"})), "native");
    assert_eq!(made_by(json!({"template": "t"})), "native");
    assert_eq!(made_by(json!({"template": "t", "backend": "native"})), "native");
    for target in ["/v1/sandboxes", "/v1/run"] {
        let other = json!({"template": "t", "backend": "oci:runc"});
        let other = if target == "/v1/run" { json!({"template": "t", "backend": "oci:runc", "shell": "true"}) } else { other };
        let message = server.post(target, &other).refused(400, "backend_of_template");
        assert!(message.contains("has backend `native`"), "{message}");
    }
    for bad in ["oci:runsc", "docker", "\u{1b}"] {
        let message = server.post("/v1/sandboxes", &json!({"backend": bad})).refused(400, "unknown_backend");
        assert!(message.contains("`oci:runc` or `native`") && !message.contains('\u{1b}'), "{message}");
    }
    server.post("/v1/sandboxes", &json!({"backend": ""})).refused(400, "invalid_request");
    let disk = server.post("/v1/sandboxes", &json!({"storage": "disk"})).refused(501, "unsupported");
    assert!(disk.contains("backend `oci:runc` has no storage `disk`; use backend `native`"), "{disk}");
    let table = server.command(["backend", "ls"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("oci:runc") && table.contains("usable, default"), "{table}");
    server.finish();
}

#[test]
fn sessions_of_daiv_sandbox_run_under_gvisor_where_its_setting_says_so() {
    if !has("oci:runsc") {
        return;
    }
    let runtimes = format!("runsc={}", runsc().display());
    let server = Setup::default().env("DAIV_SANDBOX_RUNTIME", "runsc").env("CAISSON_OCI_RUNTIMES", runtimes).start();
    let backends = server.get("/v1/backends").expect(200).json()["backends"].clone();
    assert_eq!((&backends[0]["name"], &backends[1]["name"]), (&json!("native"), &json!("oci:runsc")));
    let made = server
        .request("POST", "/session/")
        .header("x-api-key", server.client.key.as_deref().unwrap())
        .json(&json!({"base_image": "host"}))
        .send();
    assert!(made.status < 300, "{}", made.text());
    let sandboxes = server.get("/v1/sandboxes").expect(200).json()["data"].clone();
    assert_eq!(sandboxes[0]["backend"], "oci:runsc", "{sandboxes:#}");
    let id = sandboxes[0]["id"].as_str().unwrap();
    server.request("DELETE", &format!("/v1/sandboxes/{id}")).send().expect(200);
    server.finish();
}

#[test]
fn the_doctor_attacks_each_backend() {
    let server = setup().start();
    let held = |backend: &str, report: &Value| {
        let guarantees = report["guarantees"].as_array().unwrap();
        let broken: Vec<&Value> = guarantees.iter().filter(|guarantee| guarantee["state"] != "held").collect();
        assert!(broken.is_empty(), "{backend}: {broken:#?} {:#}", report["warnings"]);
        let differs = report["warnings"].to_string().contains("otherwise than on Linux");
        assert_eq!(differs, backend == "oci:runsc", "{backend}: {:#}", report["warnings"]);
    };
    let is_attacked = |name: &str| name.starts_with("oci:") && name != "oci:runsc";
    for backend in BACKENDS.iter().filter(|name| is_attacked(name)) {
        held(backend, &server.get(&format!("/v1/doctor?backend={backend}")).expect(200).json());
    }
    let listed = server.get("/v1/backends").expect(200).json()["backends"].clone();
    for listed in listed.as_array().unwrap() {
        let expect = if is_attacked(listed["name"].as_str().unwrap()) { json!("held") } else { Value::Null };
        assert_eq!(listed["doctor"]["state"], expect, "{listed:#}");
    }
    // It takes its time, since gVisor makes files slowly.
    if has("oci:runsc") {
        let mut doctor = server.home().clean(caisson_tests::program());
        doctor.args(["doctor", "--backend", "oci:runsc", "--json"]).env("CAISSON_OCI_RUNTIMES", format!("runsc={}", runsc().display()));
        let told = doctor.output().unwrap();
        held("oci:runsc", &serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&told.stderr))));
    }
    server.get("/v1/doctor?backend=nobody").refused(400, "unknown_backend");
    server.finish();
}
