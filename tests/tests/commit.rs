//! From sandboxes to images: what a sandbox has become is an image, whole and nothing more, whatever its programs do meanwhile.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use caisson_tests::{
    Answer, Client, Ran, Sandbox, Server, Setup, SmallDisk, Value, allowed, encode_path, eventually, fewer, json, run_tool,
};

/// busybox with all its names, and something to change.
fn small(root: &Path) {
    for directory in ["bin", "etc", "root", "srv", "data/old", "data/whole/sub", "data/many"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap_or_else(|error| panic!("{error}; install the package busybox-static"));
    for name in run_tool("/bin/busybox", &["--list"]).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnode:x:1234:1235:Node:/srv:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nnode:x:1235:\n").unwrap();
    for name in ["data/gone", "data/changed", "data/kept", "data/old/a", "data/old/b", "data/whole/a", "data/whole/sub/b", "data/many/a"] {
        fs::write(root.join(name), format!("{name} of the image\n")).unwrap();
    }
    fs::hard_link(root.join("data/whole/a"), root.join("data/whole/sub/too")).unwrap();
}

/// Puts a root file system into a server's store.
#[track_caller]
fn import(server: &Server, name: &str, fill: &dyn Fn(&Path)) {
    let root = server.home().path().join("root");
    fs::create_dir(&root).unwrap();
    fill(&root);
    let tar = server.home().clean("tar").arg("-C").arg(&root).args(["--owner=0", "--group=0", "-cf", "-", "."]).output().unwrap();
    assert!(tar.status.success());
    fs::remove_dir_all(&root).unwrap();
    let target = format!("/v1/images/import?name={}", encode_path(name.as_bytes()));
    server.request("POST", &target).bytes(tar.stdout).send().expect(200);
}

/// Ends a server behind its sandboxes: as long as they live, they hold their images.
#[track_caller]
fn finish(server: Server) {
    for sandbox in server.get("/v1/sandboxes?state=running").expect(200).json()["data"].as_array().unwrap() {
        server.request("DELETE", &format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap())).send().expect(200);
    }
    server.finish();
}

/// A sandbox in which root works.
#[track_caller]
fn sandbox<'a>(server: &'a Server, image: &str) -> Sandbox<'a> {
    server.sandbox(&json!({"image": image, "user": "root"}))
}

#[track_caller]
fn try_commit(sandbox: &Sandbox<'_>, body: &Value) -> Answer {
    sandbox.request("POST", "/commit").json(body).send()
}

#[track_caller]
fn commit(sandbox: &Sandbox<'_>, name: &str) -> Value {
    try_commit(sandbox, &json!({"name": name})).expect(201).json()
}

#[track_caller]
fn inspect(client: &Client, name: &str) -> Answer {
    client.request("GET", &format!("/v1/images/inspect?name={}", encode_path(name.as_bytes()))).send()
}

#[track_caller]
fn layers(server: &Server, name: &str) -> usize {
    inspect(&server.client, name).expect(200).json()["layers"].as_array().unwrap().len()
}

/// All that is in a root, but for what every sandbox is given: modes, owners, links, and what is in files.
const LIST: &str = r#"find . \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/resolv.conf -o -path ./workspace \) -prune -o -print | sort | while IFS= read -r name; do
  if test -h "$name"; then echo "$(stat -c '%n %u %g' "$name") $(readlink "$name")"
  elif test -d "$name"; then stat -c '%n %f %u %g' "$name"
  else echo "$(stat -c '%n %f %u %g %h %Y' "$name") $(test -f "$name" && md5sum < "$name")"
  fi; done"#;

#[track_caller]
fn list(sandbox: &Sandbox<'_>) -> String {
    sandbox.shell(&format!("cd / && {LIST}"))
}

const CHANGES: &str = r"set -e; cd /data
rm gone
echo new > changed; chmod 4750 changed; chown 1234:1235 changed
rm -r old; mkdir old; echo new > old/c
mv whole renamed; echo more >> renamed/sub/b
mkdir -p made/deep; echo x > made/deep/file; ln made/deep/file made/link; ln -s ../nowhere made/dangling
chown -h 1234 made/dangling; chown 7:8 made; chmod 1777 made
rm many/a; mkdir many/a; touch many/a/now-a-directory
rm kept; ln -s changed kept
truncate -s 3000000 made/sparse; printf end >> made/sparse
chmod 711 /root; echo 10.0.0.1 elsewhere >> /etc/hosts
mkfifo made/fifo";

#[test]
fn what_a_sandbox_has_changed_is_in_the_image_and_other_runtimes_see_the_same() {
    let server = Server::start();
    import(&server, "base:1", &small);
    let first = sandbox(&server, "base:1");
    let _done = first.shell(CHANGES);
    let made =
        try_commit(&first, &json!({"name": "team/app:1", "comment": "why", "config": {"cmd": ["cat", "/data/changed"], "user": "root"}}));
    let made = made.expect(201).json();
    assert_eq!((&made["name"], &made["private"]), (&json!("docker.io/team/app:1"), &json!(false)), "{made}");
    let in_layers = made["layers"].as_array().unwrap();
    assert_eq!((in_layers.len(), &in_layers[1]["left_out_total"]), (2, &json!(1)), "a fifo: {made}");
    let seen: String = list(&first).split_inclusive('\n').filter(|line| !line.starts_with("./data/made/fifo ")).collect();
    let second = sandbox(&server, "team/app:1");
    assert_eq!(list(&second), seen);
    assert_eq!(
        second.shell("cat /data/renamed/sub/b /data/old/c; ls /data/old; grep -c elsewhere /etc/hosts || true"),
        "data/whole/sub/b of the image\nmore\nnew\nc\n0\n",
        "every sandbox has its own names of machines"
    );
    assert_eq!(server.run(&json!({"image": "team/app:1"}))["stdout"], "new\n");

    // Once more on top of it.
    let _done = second.shell("cd /data; rm -r renamed; mv made again; echo third > third");
    assert_eq!(commit(&second, "team/app:2")["layers"].as_array().unwrap().len(), 3);
    let third = sandbox(&server, "team/app:2");
    let seen = list(&third);
    assert_eq!(seen, list(&second));
    assert!(seen.contains("./data/again/deep/file") && !seen.contains("./data/renamed"), "{seen}");

    // Out of the store, into others' hands.
    let archive = server.get("/v1/images/export?name=team%2Fapp%3A2").expect(200).body;
    let (layout, bundle) = (server.home().path().join("layout"), server.home().path().join("bundle"));
    fs::create_dir(&layout).unwrap();
    fs::write(layout.join("all.tar"), archive).unwrap();
    run_tool("tar", &["-C", layout.to_str().unwrap(), "-xf", layout.join("all.tar").to_str().unwrap()]);
    run_tool("umoci", &["unpack", "--image", &format!("{}:2", layout.display()), bundle.to_str().unwrap()]);
    let listed =
        Command::new("/bin/busybox").args(["sh", "-c", LIST]).current_dir(bundle.join("rootfs")).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), seen);
    let file = bundle.join("config.json");
    let mut config: Value = fs::read_to_string(&file).unwrap().parse().unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] =
        json!(["/bin/sh", "-c", "cat /data/third /data/again/deep/file; ls -d /data/gone 2>/dev/null || echo gone"]);
    fs::write(&file, config.to_string()).unwrap();
    let mut runc = server.home().clean("runc");
    runc.arg("--root").arg(server.home().path().join("runc")).args(["run", "--bundle"]).arg(&bundle).arg("caisson-committed");
    assert_eq!(Ran::from(runc.output().unwrap()).exited(0).out(), "third\nx\ngone\n");
    finish(server);
}

#[test]
fn what_every_sandbox_is_given_is_no_change() {
    let server = Server::start();
    import(&server, "base:1", &small);
    // The account, home and work dir of an ordinary user are not in the image either.
    for body in [json!({}), json!({"user": "root"}), json!({"storage": "disk"})] {
        let mut body = body;
        body["image"] = json!("base:1");
        let before = server.sandbox(&body);
        assert_eq!(commit(&before, "same:1")["layers"].as_array().unwrap().len(), 1, "{body}");
    }
    let deep = server.sandbox(&json!({"image": "base:1"}));
    try_commit(&deep, &json!({"name": "deep:1", "config": {"working_dir": "/a/b/c", "user": "node"}})).expect(201);
    let deep = server.sandbox(&json!({"image": "deep:1"}));
    assert_eq!(commit(&deep, "deep:2")["layers"].as_array().unwrap().len(), 1);
    assert_eq!(deep.shell("pwd; stat -c %U . ; ls -d /home 2>/dev/null || echo none"), "/a/b/c\nnode\nnone\n");
    let used = server.sandbox(&json!({"image": "base:1"}));
    assert_eq!(used.shell("echo x > $HOME/own; pwd"), "/workspace\n");
    let made = commit(&used, "used:1");
    assert_eq!(made["layers"].as_array().unwrap().len(), 2, "{made}");
    let blob = made["layers"][1]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let blob = server.home().data().join("images/blobs/sha256").join(blob);
    let names = run_tool("tar", &["-tzf", blob.to_str().unwrap()]);
    assert_eq!(names, "./\nhome/\nhome/.wh..wh..opq\nhome/user/\nhome/user/own\n");
    finish(server);
}

#[test]
fn what_the_image_says_is_changed_as_asked() {
    let server = Server::start();
    import(&server, "base:1", &small);
    let box_ = sandbox(&server, "base:1");
    let all = json!({"env": {"A": "1", "B": "2"}, "working_dir": "/srv", "user": "node", "entrypoint": ["/bin/sh", "-c"], "cmd": ["pwd; id -u; echo $A"],
        "labels": {"l": "1"}, "exposed_ports": ["80/tcp"], "shell": ["/bin/sh", "-ec"]});
    let made = try_commit(&box_, &json!({"name": "one:1", "config": all})).expect(201).json();
    assert_eq!(made["config"]["env"], json!(["A=1", "B=2"]));
    assert_eq!((&made["config"]["exposed_ports"], &made["config"]["labels"]), (&json!(["80/tcp"]), &json!({"l": "1"})));
    assert_eq!(server.run(&json!({"image": "one:1"}))["stdout"], "/srv\n1234\n1\n");
    let next = server.sandbox(&json!({"image": "one:1"}));
    let changed = json!({"env": {"A": "3", "C": "4"}, "cmd": [], "entrypoint": null, "labels": {"m": "2"}, "user": ""});
    let key = "an image, please";
    let again = || next.request("POST", "/commit").header("idempotency-key", key).json(&json!({"name": "two:1", "config": changed})).send();
    let made = again().expect(201).json();
    assert_eq!(again().expect(201).json(), made);
    let config = &made["config"];
    assert_eq!((&config["env"], &config["cmd"], &config["user"]), (&json!(["A=3", "B=2", "C=4"]), &json!([]), &Value::Null));
    assert_eq!((&config["entrypoint"], &config["labels"]), (&json!(["/bin/sh", "-c"]), &json!({"l": "1", "m": "2"})));
    assert_eq!(made["layers"].as_array().unwrap().len(), 1, "nothing was changed");

    let command = |arguments: &[&str]| {
        let mut command = server.home().command(arguments);
        command.env("CAISSON_SERVER", format!("http://{}", server.client.address));
        Ran::from(command.env("CAISSON_API_KEY", server.client.key.clone().unwrap()).output().unwrap())
    };
    let id = box_.id.as_str();
    let said = command(&[
        "commit",
        id,
        "cli",
        "--env",
        "X=y",
        "--cmd",
        "echo",
        "--cmd",
        "-n",
        "--cmd",
        "hi",
        "--workdir",
        "/data",
        "--label",
        "a=b",
    ]);
    assert_eq!(said.exited(0).out(), "docker.io/library/cli:latest\n");
    assert_eq!(server.run(&json!({"image": "cli"}))["stdout"], "hi");
    let told: Value = command(&["commit", id, "cli", "--json", "--cmd", ""]).exited(0).out().parse().unwrap();
    assert_eq!((&told["name"], &told["config"]["cmd"]), (&json!("docker.io/library/cli:latest"), &json!([])));
    assert!(command(&["commit", id, "Not A Name"]).exited(1).err().contains("is no name of an image"));
    finish(server);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let server = Setup::default().env("CAISSON_MAX_IMAGE_SIZE", "20M").env("CAISSON_MAX_IMAGE_ENTRIES", "800").start();
    import(&server, "base:1", &small);
    let refused = |sandbox: &Sandbox<'_>, body: Value, status: u16, code: &str| try_commit(sandbox, &body).refused(status, code);
    let name = json!({"name": "x:1"});
    let of_host = server.sandbox(&json!({}));
    assert!(refused(&of_host, name.clone(), 400, "unsupported").contains("made of `host`"));
    let box_ = sandbox(&server, "base:1");
    let digest = format!("x@sha256:{}", "0".repeat(64));
    for bad in ["", "A", "x:", "x y", "../x", digest.as_str()] {
        refused(&box_, json!({"name": bad}), 400, "invalid_image_name");
    }
    refused(&box_, json!({"name": "x", "comment": "c".repeat(1001)}), 400, "limit_out_of_range");
    refused(&box_, json!({"name": "x", "changes": []}), 400, "invalid_request");
    refused(&box_, json!({"name": "x", "config": {"env": {"": "1"}}}), 422, "invalid_image");
    refused(&box_, json!({"name": "x", "config": {"user": "a\u{0}b"}}), 422, "invalid_image");
    let _done = box_.shell("truncate -s 30M /data/hole");
    assert!(refused(&box_, name.clone(), 413, "image_too_big").contains("bytes"));
    let _done = box_.shell("rm /data/hole; mkdir /data/d; for n in $(seq 600); do : > /data/d/$n; done");
    assert!(refused(&box_, name.clone(), 413, "image_too_big").contains("entries"));
    let _done = box_.shell("rm -r /data/d; touch /data/.wh.x");
    assert!(refused(&box_, name.clone(), 422, "not_committed").contains("data/.wh.x"));
    let _done = box_.shell(
        "rm /data/.wh.x; cd /tmp; n=$(printf 'd%.0s' $(seq 200)); for i in $(seq 30); do mkdir $n && cd -P $n 2>/dev/null || break; done",
    );
    assert!(refused(&box_, name.clone(), 422, "not_committed").contains("tmp/ddd"));
    assert_eq!(box_.shell("rm -r /tmp/d*; echo fine"), "fine\n", "its programs go on");
    box_.delete().expect(200);
    refused(&box_, name.clone(), 410, "gone");
    inspect(&server.client, "x:1").refused(404, "unknown_image");
    assert_eq!(fs::read_dir(server.home().data().join("images/layers")).unwrap().count(), 1, "nothing is left of what was refused");
    finish(server);
}

#[test]
fn an_image_has_an_end_of_layers() {
    let server = Server::start();
    import(&server, "base:1", &small);
    // As somebody else would have made it: the same layer again and again.
    let archive = server.get("/v1/images/export?name=base%3A1").expect(200).body;
    let layout = server.home().path().join("layout");
    fs::create_dir(&layout).unwrap();
    fs::write(layout.join("all.tar"), archive).unwrap();
    run_tool("tar", &["-C", layout.to_str().unwrap(), "-xf", layout.join("all.tar").to_str().unwrap()]);
    let blob = |digest: &str| layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let write = |text: &Value| {
        let bytes = text.to_string();
        let temporary = layout.join("temporary");
        fs::write(&temporary, &bytes).unwrap();
        let sum = run_tool("sha256sum", &[temporary.to_str().unwrap()]);
        let digest = format!("sha256:{}", sum.split(' ').next().unwrap());
        fs::rename(temporary, blob(&digest)).unwrap();
        (digest, bytes.len())
    };
    let read = |path: &Path| -> Value { fs::read_to_string(path).unwrap().parse().unwrap() };
    let mut index = read(&layout.join("index.json"));
    let mut manifest = read(&blob(index["manifests"][0]["digest"].as_str().unwrap()));
    let mut config = read(&blob(manifest["config"]["digest"].as_str().unwrap()));
    let many = |one: &Value| json!(vec![one[0].clone(); 127]);
    config["rootfs"]["diff_ids"] = many(&config["rootfs"]["diff_ids"]);
    manifest["layers"] = many(&manifest["layers"]);
    let (digest, size) = write(&config);
    (manifest["config"]["digest"], manifest["config"]["size"]) = (json!(digest), json!(size));
    let (digest, size) = write(&manifest);
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (json!(digest), json!(size));
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::remove_file(layout.join("all.tar")).unwrap();
    let tar = server.home().clean("tar").arg("-C").arg(&layout).args(["-cf", "-", "."]).output().unwrap().stdout;
    server.request("POST", "/v1/images/import?name=many%3A1").bytes(tar).send().expect(200);
    let box_ = sandbox(&server, "many:1");
    let named = try_commit(&box_, &json!({"name": "more:1", "config": {"cmd": ["pwd"]}})).expect(201).json();
    assert_eq!(named["layers"].as_array().unwrap().len(), 127, "a name alone takes no layer");
    let _done = box_.shell("echo x > /data/x");
    let message = try_commit(&box_, &json!({"name": "more:2"})).refused(422, "invalid_image");
    assert!(message.contains("127 layers"), "{message}");
    finish(server);
}

#[test]
fn r6_2_sandboxes_and_images_are_each_tenants_own() {
    let server = Server::start();
    import(&server, "base:1", &small);
    let client = |tenant: &str, scope: &str| {
        let key = server.post("/v1/keys", &json!({"tenant": tenant, "scope": scope})).expect(201).json();
        Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..server.client.clone() }
    };
    let (admin, run, other) = (client("a", "admin"), client("a", "run"), client("b", "admin"));
    let body = json!({"image": "base:1", "user": "root"});
    let id = run.request("POST", "/v1/sandboxes").json(&body).send().expect(201).json()["id"].as_str().unwrap().to_owned();
    let commit =
        |client: &Client, id: &str| client.request("POST", &format!("/v1/sandboxes/{id}/commit")).json(&json!({"name": "own:1"})).send();
    commit(&run, &id).refused(403, "forbidden");
    let (foreign, unknown) = (commit(&other, &id), commit(&other, "sbx0123456789abcdefghjkmnpqr"));
    assert_eq!(
        foreign.refused(404, "not_found").replace(&id, "ID"),
        unknown.refused(404, "not_found").replace("sbx0123456789abcdefghjkmnpqr", "ID")
    );
    assert_eq!(commit(&admin, &id).expect(201).json()["private"], true);
    assert_eq!(inspect(&run, "own:1").expect(200).json()["private"], true);
    for client in [&other, &server.client] {
        inspect(client, "own:1").refused(404, "unknown_image");
    }
    // What is made of it stays the tenant's, and what had the name for everybody stays as it is.
    let body = json!({"image": "own:1", "cmd": ["echo", "mine"]});
    assert_eq!(run.request("POST", "/v1/run").json(&body).send().expect(200).json()["stdout"], "mine\n");
    for client in [&run, &admin] {
        client.request("DELETE", &format!("/v1/sandboxes/{id}")).send();
    }
    finish(server);
}

#[test]
fn a_large_tree_with_layers_is_there_as_it_is_seen() {
    let server = Server::start();
    import(&server, "small", &small);
    let sandbox = sandbox(&server, "small");
    // One is new, of the other a part is the image's.
    let listed = |sandbox: &Sandbox<'_>| {
        sandbox.shell(
            "cd /; find t -type d | sort | xargs stat -c '%n %f %u %g'; find t beside ! -type d | sort | xargs stat -c '%n %f %u %g %h %s'",
        )
    };
    let is_same = |one: &str, other: &str| {
        let pairs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
        assert!(one == other, "{pairs:?} and {} lines for {}", one.lines().count(), other.lines().count());
    };
    let _made = sandbox.shell("mkdir -p /t/d/e /t/gone; cd /t; for n in $(seq 60); do seq $((n * 100)) $((n * 100 + 99)); done | xargs touch; echo 1 > d/f; echo 2 > d/e/g; chown 7:8 d");
    let checkpoint =
        |path: &str| sandbox.request("POST", "/checkpoint").json(&json!({"path": path, "patch": true})).send().expect(200).json();
    let first = checkpoint("/t");
    assert_eq!(sandbox.shell("grep -c '^overlay /t ' /proc/self/mounts"), "1\n", "{first}");
    let _made = sandbox.shell(
        "cd /t; rm -r gone; seq 100 199 | xargs rm; mv d moved; echo 3 >> moved/f; echo 4 > 200; mkdir gone; echo 7 > new; ln new gone/linked; chmod 700 .; echo 5 > /beside",
    );
    assert_eq!(checkpoint("/t")["changed"].as_u64().unwrap(), 100 + 4 + 1 + 2);
    let before = listed(&sandbox);
    assert!(before.contains("t/moved/e/g ") && before.contains("t/gone/linked ") && !before.contains("t/150 "), "{before:.500}");
    commit(&sandbox, "with-layers");
    let made = self::sandbox(&server, "with-layers");
    is_same(&listed(&made), &before);
    assert_eq!(made.shell("cat /t/moved/f /t/200 /beside; stat -c %h /t/new"), "1\n3\n4\n5\n2\n");
    // And once more, of a directory that the image has.
    let _first = made.request("POST", "/checkpoint").json(&json!({"path": "/t"})).send().expect(200);
    let _made = made.shell("rm -r /t/moved; echo 6 > /t/201");
    let before = listed(&made);
    commit(&made, "once-more");
    is_same(&listed(&self::sandbox(&server, "once-more")), &before);
    finish(server);
}

#[test]
fn programs_stand_still_while_their_files_are_read_and_go_on() {
    let server = Server::start();
    import(&server, "base:1", &small);
    let box_ = sandbox(&server, "base:1");
    // Whoever looks in between sees the second number behind the first, and never by more than one.
    let writer = "n=0; while :; do n=$((n+1)); echo $n > /data/a; echo $n > /data/z; done";
    let writer = box_.background(json!({"shell": writer, "timeout_s": null}));
    let stopped = box_.background(json!({"shell": "echo $$ > /data/pid; kill -STOP $$; echo never", "timeout_s": null}));
    let _done = box_.shell("mkdir /data/many/b; for n in $(seq 2000); do echo $n > /data/many/b/$n; done; until test -s /data/pid && test -s /data/z; do :; done");
    for round in 0..fewer(5) {
        let name = format!("still:{round}");
        assert_eq!(commit(&box_, &name)["layers"].as_array().unwrap().len(), 2);
        let body = json!({"image": name, "user": "root", "shell": "cat /data/a /data/z; ls /data/many/b | wc -l"});
        let said = server.run(&body)["stdout"].as_str().unwrap().to_owned();
        let numbers: Vec<i64> = said.lines().map(|line| line.trim().parse().unwrap_or(-1)).collect();
        // A file that is being written anew is empty for a moment.
        let (a, z) = match numbers[..] {
            [a, z, 2000] => (a, z),
            [only, 2000] => (only, only),
            _ => panic!("{said}"),
        };
        assert!((0..=1).contains(&(a - z)), "{said}");
    }
    let before = box_.shell("cat /data/z");
    eventually("the writer goes on", allowed(Duration::from_secs(10)), || {
        let now = box_.shell("cat /data/z");
        (!now.is_empty() && now != before).then_some(())
    });
    assert_eq!(box_.shell("grep State /proc/$(cat /data/pid)/status"), "State:\tT (stopped)\n", "what was stopped stays stopped");
    for id in [writer, stopped] {
        server.request("POST", &format!("/v1/executions/{id}/kill")).send().expect(204);
    }
    finish(server);
}

#[test]
fn r5_3_hostile_trees_become_layers_or_are_named() {
    let server = Server::start();
    import(&server, "base:1", &small);
    let limits = json!({"disk_inodes": 200_000, "disk_bytes": 1_u64 << 30, "memory_bytes": 1_u64 << 30});
    let box_ = server.sandbox(&json!({"image": "base:1", "user": "root", "limits": limits}));
    let count = fewer(100_000);
    let fill = format!(
        "cd /data/many; mkdir d; for i in $(seq {}); do mkdir d/$i; cd d/$i; touch $(seq 1000); cd ../..; done; \
         n=$(printf 'n%.0s' $(seq 250)); touch $n; ln $n link; p=.; for i in $(seq 400); do p=$p/deep; done; mkdir -p $p; \
         touch \"$(printf 'a\\nb\\377')\"; chmod 0 $n; mkdir closed; touch closed/x; chmod 0 closed; mkfifo fifo; \
         chmod 7777 d",
        count / 1000
    );
    let result = box_.exec(&json!({"shell": fill, "timeout_s": 300}));
    assert_eq!(result["exit_code"].as_i64().map(|code| code < 128), Some(true), "{result:#}");
    let launcher = server.launcher();
    let begun = Instant::now();
    let made = commit(&box_, "hostile:1");
    println!("{count} files in {:?}", begun.elapsed());
    assert!(launcher.resident() < 64 << 20, "the launcher has {} bytes", launcher.resident());
    assert_eq!(made["layers"].as_array().unwrap().len(), 2);
    let body = json!({"image": "hostile:1", "user": "root", "shell": "cd /data/many; find d | wc -l; ls -ld closed | cut -c1-10; ls closed; find . -mindepth 1 -maxdepth 1 -print0 | tr -dc '\\0' | wc -c; ls -ld d | cut -c1-10"});
    let lines = 1 + count / 1000 * 1001;
    assert_eq!(server.run(&body)["stdout"], format!("{lines}\nd---------\nx\n7\ndrwsrwsrwt\n"));
    finish(server);
}

#[test]
fn a_package_that_was_installed_is_there() {
    const PACKAGES: &str = "base-files bash coreutils dash debianutils diffutils dpkg grep libc-bin libc6 libacl1 libattr1 libbz2-1.0 libgmp10 \
                            liblzma5 libmd0 libpcre2-8-0 libselinux1 libssl3 libtinfo6 libzstd1 sed tar zlib1g";
    let debian = |root: &Path| {
        for directory in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let line = format!(
            "set -eo pipefail; dpkg-query --listfiles {PACKAGES} | grep '^/' | sort -u | grep -v '^/usr/share/\\(man\\|locale\\|doc\\)' | \
             tar -C / --no-recursion --ignore-failed-read -cf - -T - 2>/dev/null | tar -C \"$0\" --warning=no-timestamp -xpf -"
        );
        let made = Command::new("bash").args(["-c", &line]).arg(root).stdin(Stdio::null()).status().unwrap();
        assert!(made.success(), "this needs a Debian of the packages {PACKAGES}");
        for directory in ["etc", "tmp", "srv", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for list in ["status", "available"] {
            fs::write(root.join("var/lib/dpkg").join(list), "").unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
    };
    let server = Server::start();
    import(&server, "debian:1", &debian);
    let package = server.home().path().join("package");
    fs::create_dir_all(package.join("DEBIAN")).unwrap();
    fs::create_dir_all(package.join("usr/bin")).unwrap();
    let control = "Package: caisson-test\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n";
    fs::write(package.join("DEBIAN/control"), control).unwrap();
    fs::write(package.join("usr/bin/caisson-test"), "#!/bin/sh\necho it is there\n").unwrap();
    fs::set_permissions(package.join("usr/bin/caisson-test"), fs::Permissions::from_mode(0o755)).unwrap();
    let deb = server.home().path().join("test.deb");
    run_tool("dpkg-deb", &["-b", package.to_str().unwrap(), deb.to_str().unwrap()]);
    let box_ = sandbox(&server, "debian:1");
    box_.write(b"/srv/test.deb", &fs::read(deb).unwrap()).expect(200);
    assert!(box_.shell("dpkg -i /srv/test.deb && rm /srv/test.deb").contains("Setting up caisson-test"));
    commit(&box_, "with-package:1");
    let said = server.run(&json!({"image": "with-package:1", "shell": "caisson-test; dpkg -s caisson-test | grep ^Status; ls /srv"}));
    assert_eq!(said["stdout"], "it is there\nStatus: install ok installed\n", "{said:#}");
    finish(server);
}

#[test]
fn r7_1_kill_nine_in_the_middle_changes_nothing() {
    let mut server = Server::start();
    import(&server, "base:1", &small);
    for step in 0..fewer(6) {
        let id = {
            let box_ = sandbox(&server, "base:1");
            let _done = box_.shell("cd /data/many; dd if=/dev/urandom of=big bs=1M count=60 2>/dev/null; touch $(seq 3000)");
            box_.id.clone()
        };
        let below = server.below();
        let client = server.client.clone();
        let asked = std::thread::spawn(move || {
            drop(client.request("POST", &format!("/v1/sandboxes/{id}/commit")).json(&json!({"name": "half:1"})).try_send());
        });
        std::thread::sleep(Duration::from_millis(150) * u32::try_from(step).unwrap());
        let mid_way: Vec<_> = below.into_iter().chain(server.below()).collect();
        server.kill();
        caisson_tests::Process::all_end("below the server", &mid_way);
        asked.join().unwrap();
        server.start_again();
        let answer = inspect(&server.client, "half:1");
        match answer.status {
            404 => {}
            _ => {
                assert_eq!(
                    server.run(&json!({"image": "half:1", "user": "root", "shell": "ls /data/many | wc -l; wc -c < /data/many/big"}))["stdout"],
                    "3002\n62914560\n"
                );
                server.request("DELETE", "/v1/images?name=half%3A1").send().expect(200);
            }
        }
        let begun = fs::read_dir(server.home().data().join("images/tmp")).unwrap();
        let begun: Vec<_> = begun.flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap()).collect();
        assert!(begun.is_empty(), "{begun:?}");
        server.request("POST", "/v1/images/gc").send().expect(200);
        assert_eq!(fs::read_dir(server.home().data().join("images/layers")).unwrap().count(), 1);
    }
    assert_eq!(layers(&server, "base:1"), 1);
    finish(server);
}

#[test]
fn a_sandbox_that_ends_and_a_disk_that_is_full_change_nothing() {
    let disk = SmallDisk::new(200 << 20);
    let server = Setup::default().env("CAISSON_DATA_DIR", disk.path().join("data")).start();
    import(&server, "base:1", &small);
    let box_ = server.sandbox(&json!({"image": "base:1", "user": "root", "limits": {"disk_bytes": 400 << 20, "memory_bytes": 800 << 20}}));
    let _done = box_.shell("dd if=/dev/urandom of=/data/big bs=1M count=300 2>/dev/null");
    let message = try_commit(&box_, &json!({"name": "big:1"})).refused(507, "disk_full");
    assert!(message.contains("make room"), "{message}");
    inspect(&server.client, "big:1").refused(404, "unknown_image");
    assert_eq!(box_.shell("rm /data/big; echo fine"), "fine\n");
    commit(&box_, "big:1");

    // Its end ends the reading.
    let _done = box_.shell("truncate -s 10G /data/hole");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| try_commit(&box_, &json!({"name": "hole:1"})));
        let reader = || {
            server
                .below()
                .into_iter()
                .find(|process| fs::read_to_string(format!("/proc/{}/comm", process.pid)).is_ok_and(|name| name == "caisson-commit\n"))
        };
        let reader = eventually("the reading begins", allowed(Duration::from_secs(10)), reader);
        // It has given away everything.
        let status = fs::read_to_string(format!("/proc/{}/status", reader.pid)).unwrap();
        for line in
            ["CapEff:\t0000000000200004", "CapBnd:\t0000000000200004", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t65534\t65534\t65534\t65534"]
        {
            assert!(status.contains(line), "{line} is not in\n{status}");
        }
        assert_eq!(fs::read_dir(format!("/proc/{}/root/", reader.pid)).unwrap().count(), 0);
        box_.delete().expect(200);
        let message = asked.join().unwrap().refused(422, "not_committed");
        assert!(message.contains("has ended"), "{message}");
        reader.await_end(Duration::from_secs(2));
    });
    inspect(&server.client, "hole:1").refused(404, "unknown_image");
    finish(server);
}
