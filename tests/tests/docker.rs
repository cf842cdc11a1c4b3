//! What goes wrong with a Docker daemon: it is not there, is not to be used, lacks an image, loses a container, dies or stands still.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::Path,
    sync::{MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{
    Client, Home, Server, Setup,
    docker::{self, Docker},
    eventually, json, make_certificates, program,
};

const SOON: Duration = Duration::from_secs(20);

fn daemon() -> MutexGuard<'static, Docker> {
    docker::shared().lock().unwrap_or_else(PoisonError::into_inner)
}

fn on(daemon: &Docker) -> Setup {
    Setup::default().env("CAISSON_BACKENDS", "native,docker").env("DOCKER_HOST", daemon.address())
}

/// Somebody who answers to everything alike.
fn impostor(path: &Path, answer: &'static str) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut request = [0; 4096];
            if connection.read(&mut request).is_ok_and(|length| length > 0) {
                drop(connection.write_all(answer.as_bytes()));
            }
        }
    });
}

#[track_caller]
fn is_unusable(server: &Server, name: &str, words: &[&str]) {
    let listed = server.get("/v1/backends").expect(200).json()["backends"].clone();
    let listed = listed.as_array().unwrap().iter().find(|backend| backend["name"] == name).unwrap();
    let reason = listed["reason"].as_str().unwrap_or_else(|| panic!("{listed:#}"));
    let message = server.post("/v1/run", &json!({"backend": name, "shell": "true"})).refused(501, "unsupported");
    for word in words {
        assert!(reason.contains(word), "`{word}` is not in {reason}");
    }
    assert!(message.contains("`native`") && !message.contains(reason), "where a daemon is, is not for everybody: {message}");
    assert_eq!(server.run(&json!({"shell": "echo on"}))["stdout"], "on\n");
}

#[test]
fn a_daemon_that_is_of_no_use_is_refused_with_the_reason() {
    let home = Home::new();
    let place = |name: &str| home.path().join(name);
    let old = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 42\r\n\r\n{\"Version\":\"19.03.1\",\"ApiVersion\":\"1.40\" }\n";
    impostor(&place("old"), old);
    impostor(
        &place("other"),
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ncontent-length: 23\r\n\r\n{\"message\":\"go away\"}\r\n",
    );
    impostor(&place("nonsense"), "220 mail.example\r\n");
    fs::write(place("file"), "").unwrap();
    let address = |name: &str| format!("unix://{}", place(name).display());
    for (address, words) in [
        (address("nobody"), ["there is no Docker daemon", "DOCKER_HOST"]),
        (address("file"), ["there is no Docker daemon", "refused"]),
        (address("old"), ["version 19.03.1", "1.41 is needed"]),
        (address("other"), ["could not ask for its version", "go away"]),
        (address("nonsense"), ["does not answer", "DOCKER_HOST"]),
        ("tcp://127.0.0.1:1".to_owned(), ["does not answer", "refused"]),
    ] {
        let server = Setup::default().env("CAISSON_BACKENDS", "native,docker").env("DOCKER_HOST", &address).start();
        is_unusable(&server, "docker", &words);
        server.finish();
    }
    // A server whose own choice cannot be used does not start.
    home.refuses_to_serve(
        &[("CAISSON_BACKEND", "docker"), ("DOCKER_HOST", "unix:///nowhere"), ("CAISSON_DATA_DIR", home.data().to_str().unwrap())],
        &["backend `docker` cannot be used", "/nowhere", "DOCKER_HOST"],
    );
    let refused = home.command(["run", "--backend", "docker", "--", "true"]).env("DOCKER_HOST", "ssh://host").output().unwrap();
    assert_eq!(refused.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected unix:///path or tcp://host:port"));
    home.finish();
}

#[test]
fn a_socket_that_may_not_be_used_is_told_with_the_remedy() {
    let socket = daemon().socket();
    let home = Home::new();
    // To somebody else the directory is closed.
    let mut run = home.clean("setpriv");
    run.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program());
    run.args(["run", "--backend", "docker", "--", "true"]).env("DOCKER_HOST", format!("unix://{}", socket.display())).current_dir("/");
    let refused = run.output().unwrap();
    assert_eq!(refused.status.code(), Some(125));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("no permission to use the socket") && said.contains("socket's group"), "{said}");
    home.finish();
}

#[test]
fn an_image_or_a_runtime_that_the_daemon_does_not_have_is_named() {
    let address = docker::address_of_shared();
    let server = Setup::default().env("CAISSON_BACKENDS", "native,docker:nonesuch,docker").env("DOCKER_HOST", &address).start();
    is_unusable(&server, "docker:nonesuch", &["no runtime `nonesuch`", "runc", "daemon.json"]);
    for target in ["/v1/run", "/v1/sandboxes"] {
        let mut body = json!({"backend": "docker", "image": "nobody/has:this"});
        if target == "/v1/run" {
            body["shell"] = json!("true");
        }
        let message = server.post(target, &body).refused(400, "unknown_image");
        assert!(message.contains("the Docker daemon has no image `nobody/has:this`") && message.contains("docker pull"), "{message}");
    }
    let message = server.post("/v1/sandboxes", &json!({"backend": "docker", "image": "../containers/x"})).refused(400, "invalid_image");
    assert!(message.contains("is no name of an image"), "{message}");
    assert!(daemon().containers().is_empty());
    server.finish();
}

#[test]
fn a_container_that_is_removed_behind_our_back_is_told_and_leaves_nothing() {
    let daemon = daemon();
    let server = on(&daemon).start();
    for how in [&["rm", "--force"][..], &["kill"], &["stop", "--time=0"]] {
        let sandbox = server.sandbox(&json!({"backend": "docker"}));
        let id = sandbox.background(json!({"cmd": ["sleep", "1000"], "timeout_s": null}));
        let name = format!("caisson-{}", sandbox.id);
        let _said = daemon.says(&[how, &[&name]].concat());
        let tombstone = sandbox.tombstone(SOON);
        assert_eq!(tombstone["reason"], "crashed", "{tombstone:#}");
        let message = tombstone["message"].as_str().unwrap();
        assert!(message.contains("ended by signal") || message.contains("is gone"), "{message}");
        assert_eq!(server.execution(&id)["status"], "lost");
        eventually("its container is gone", SOON, || daemon.containers().is_empty().then_some(()));
    }
    server.finish();
}

#[test]
fn a_daemon_that_dies_in_the_middle_is_told_and_what_it_leaves_is_taken_away_when_it_is_back() {
    let mut daemon = Docker::start();
    let server = on(&daemon).start();
    let sandbox = server.sandbox(&json!({"backend": "docker"}));
    let id = sandbox.background(json!({"shell": "while :; do echo noise; sleep 0.1; done", "timeout_s": null}));
    daemon.kill();
    let tombstone = sandbox.tombstone(SOON);
    assert_eq!(tombstone["reason"], "crashed", "{tombstone:#}");
    assert!(tombstone["message"].as_str().unwrap().contains("the Docker daemon does not answer any more"), "{tombstone:#}");
    assert_eq!(server.execution(&id)["status"], "lost");
    let begun = Instant::now();
    let answer = server.post("/v1/run", &json!({"backend": "docker", "shell": "true"}));
    assert!(answer.status == 503 && answer.text().contains("the Docker daemon does not answer"), "{} {}", answer.status, answer.text());
    assert!(begun.elapsed() < SOON);
    assert_eq!(server.run(&json!({"shell": "echo on"}))["stdout"], "on\n");
    daemon.start_again();
    eventually("what it had is gone", 3 * SOON, || daemon.containers().is_empty().then_some(()));
    eventually("it serves again", SOON, || {
        (server.post("/v1/run", &json!({"backend": "docker", "shell": "echo on"})).json()["stdout"] == "on\n").then_some(())
    });
    server.finish();
    drop(daemon);
}

#[test]
fn another_server_of_the_daemon_keeps_its_containers() {
    let daemon = daemon();
    let other = on(&daemon).start();
    let kept = other.sandbox(&json!({"backend": "docker"}));
    let mut server = on(&daemon).start();
    let lost = server.sandbox(&json!({"backend": "docker"})).id.clone();
    assert_eq!(daemon.containers().len(), 2);
    server.kill();
    server.start_again();
    eventually("one is left", SOON, || (daemon.containers().len() == 1).then_some(()));
    server.get(&format!("/v1/sandboxes/{}", lost)).refused(410, "gone");
    assert_eq!(kept.shell("echo on"), "on\n");
    kept.delete().expect(200);
    server.finish();
    drop(kept);
    other.finish();
    assert!(daemon.containers().is_empty());
    assert_eq!(daemon.says(&["volume", "ls", "--quiet"]), "");
}

#[test]
fn the_wall_of_a_container_is_what_it_is_said_to_be() {
    let daemon = daemon();
    let server = on(&daemon).start();
    let sandbox = server.sandbox(&json!({"backend": "docker", "limits": {"memory_bytes": 268_435_456, "pids": 99, "cpus": 0.5}}));
    let container: caisson_tests::Value =
        serde_json::from_str(&daemon.says(&["inspect", "--format", "{{json .}}", &format!("caisson-{}", sandbox.id)])).unwrap();
    let config = &container["HostConfig"];
    for (name, expected) in [
        ("NetworkMode", json!("none")),
        ("IpcMode", json!("private")),
        ("CgroupnsMode", json!("private")),
        ("ReadonlyRootfs", json!(true)),
        ("Privileged", json!(false)),
        ("PidsLimit", json!(99)),
        ("Memory", json!(268_435_456)),
        ("MemorySwap", json!(268_435_456)),
        ("NanoCpus", json!(500_000_000)),
        ("CapDrop", json!(["ALL"])),
        ("AutoRemove", json!(true)),
    ] {
        assert_eq!(config[name], expected, "{name}");
    }
    assert_eq!(container["Config"]["Healthcheck"]["Test"], json!(["NONE"]));
    let options = config["SecurityOpt"].as_array().unwrap();
    assert!(options.iter().any(|option| option == "no-new-privileges"));
    assert!(options.iter().any(|option| option.as_str().unwrap().starts_with("seccomp={\"")));
    // Of the launcher's privileges nothing is left, to programs or to their agent, and of the host nothing but what is lent.
    let status = sandbox.shell("grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status; cat /proc/self/uid_map");
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    let map: Vec<u64> = status.lines().last().unwrap().split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert!(map[0] == 0 && map[1] >= 1 << 30 && map[2] == 65_537, "{status}");
    assert!(!sandbox.shell("ls -A / /dev").lines().any(|name| name == "host" || name == "caisson" || name == ".dockerenv"));
    sandbox.delete().expect(200);
    server.finish();
}

/// A small image of the program and its libraries, from the host's own files.
fn image_of_caisson(home: &Home) -> Vec<u8> {
    let stage = home.path().join("stage");
    let libraries = home.clean("ldd").arg(program()).output().unwrap();
    assert!(libraries.status.success());
    let text = String::from_utf8(libraries.stdout).unwrap();
    let libraries = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    for file in libraries.map(Path::new) {
        let to = stage.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    fs::copy(program(), stage.join("caisson")).unwrap();
    fs::create_dir_all(stage.join("data")).unwrap();
    let tar = home.clean("tar").arg("-C").arg(&stage).args(["--owner=0", "--group=0", "-cf", "-", "."]).output().unwrap();
    assert!(tar.status.success());
    fs::remove_dir_all(stage).unwrap();
    tar.stdout
}

#[test]
fn the_server_may_be_a_container_itself_with_the_socket_and_no_privileges() {
    const KEY: &str = "key-of-the-tests-0123456789";
    let daemon = daemon();
    let home = Home::new();
    daemon.import("caisson:test", &image_of_caisson(&home));
    let socket = daemon.socket();
    let group = fs::metadata(&socket).unwrap().gid().to_string();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mount, listen) = (format!("{}:/var/run/docker.sock", socket.display()), format!("CAISSON_LISTEN={address}"));
    let arguments = ["run", "--detach", "--name", "caisson-server", "--user", "10001:10001", "--group-add", &group, "--read-only"];
    let walls = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host", "--volume", &mount];
    let data = ["--tmpfs", "/data:uid=10001,mode=0700", "--env", "CAISSON_DATA_DIR=/data", "--env", &listen];
    let key = format!("CAISSON_API_KEY={KEY}");
    let rest = ["--env", "CAISSON_BACKEND=docker", "--env", &key, "caisson:test", "/caisson", "serve"];
    let _id = daemon.says(&[&arguments[..], &walls, &data, &rest].concat());
    let client = Client { address, key: Some(KEY.to_owned()) };
    eventually("it serves", SOON, || client.request("GET", "/healthz").try_send().is_ok_and(|answer| answer.status == 200).then_some(()));
    let body = json!({"language": "python", "code": "import os; print(os.getpid() > 1, open('in').read())", "files": [{"path": "in", "content": "x"}]});
    let result = client.request("POST", "/v1/run").json(&body).send().expect(200).json();
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("True x\n"), &json!(0)), "{result:#}");
    // It ends in order, and nothing is left of it.
    let _name = daemon.says(&["stop", "--time=30", "caisson-server"]);
    assert_eq!(daemon.says(&["inspect", "--format", "{{.State.ExitCode}}", "caisson-server"]), "0");
    let _name = daemon.says(&["rm", "caisson-server"]);
    assert!(daemon.containers().is_empty());
    assert_eq!(daemon.says(&["volume", "ls", "--quiet"]), "");
    home.finish();
}

#[test]
fn the_doctor_attacks_the_wall() {
    let server = on(&daemon()).start();
    let report = server.get("/v1/doctor?backend=docker").expect(200).json();
    let guarantees = report["guarantees"].as_array().unwrap();
    let broken: Vec<_> = guarantees.iter().filter(|guarantee| guarantee["state"] != "held").collect();
    assert!(guarantees.len() > 10 && broken.is_empty(), "{broken:#?} {:#}", report["warnings"]);
    server.finish();
}

#[test]
fn one_shots_of_the_command_line_have_the_daemons_images_and_say_no_to_others() {
    let address = docker::address_of_shared();
    let home = Home::new();
    let run = |arguments: &[&str]| {
        let ran = home.command([&["run", "--backend", "docker"][..], arguments].concat()).env("DOCKER_HOST", &address).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
    };
    assert_eq!(run(&["-l", "python", "-c", "print(1)"]), (Some(0), "1\n".to_owned(), String::new()));
    assert_eq!(run(&["--", "sh", "-c", "echo x >&2; exit 7"]), (Some(7), String::new(), "x\n".to_owned()));
    let (code, _, said) = run(&["--image", "nobody/has:this", "--", "true"]);
    assert!(code == Some(125) && said.contains("docker pull"), "{said}");
    let (code, _, said) = run(&["--pull", "always", "--image", "a", "--", "true"]);
    assert!(code == Some(125) && said.contains("docker pull"), "{said}");
    assert!(daemon().containers().is_empty());
    assert_eq!(daemon().says(&["volume", "ls", "--quiet"]), "");
    home.finish();
}

#[test]
fn a_daemon_on_tcp_is_asked_with_certificates_on_both_sides() {
    let home = Home::new();
    make_certificates(&home);
    let (daemon, address) = Docker::with_tls(home.path());
    let run = |verify: &str, certificates: &Path| {
        let mut run = home.command(["run", "--backend", "docker", "--", "echo", "on"]);
        run.env("DOCKER_HOST", &address).env("DOCKER_TLS_VERIFY", verify).env("DOCKER_CERT_PATH", certificates);
        let ran = run.output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    assert_eq!(run("1", home.path()), (Some(0), "on\n".to_owned(), String::new()));
    // Without any, and without those.
    let (code, _, said) = run("", home.path());
    assert!(code == Some(125) && said.contains("HTTPS server"), "{said}");
    let (code, _, said) = run("1", Path::new("/nowhere"));
    assert!(code == Some(125) && said.contains("/nowhere/ca.pem"), "{said}");
    drop(daemon);
    home.finish();
}
