//! Images from end to end: from a real registry into sandboxes and out again, by command and over HTTP. Every image here is made by `umoci`.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Stdio,
};

use caisson_tests::{Client, DockerRegistry, Home, Ran, Server, Setup, Value, encode_path, json, run_tool};
use tempfile::TempDir;

/// Images in the making: an OCI layout, one tag each.
struct Workshop {
    directory: TempDir,
}

impl Workshop {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        run_tool("umoci", &["init", "--layout", directory.path().join("layout").to_str().unwrap()]);
        Self { directory }
    }

    fn layout(&self) -> PathBuf {
        self.directory.path().join("layout")
    }

    fn image(&self, tag: &str) -> String {
        format!("{}:{tag}", self.layout().display())
    }

    /// An image of layers that are made one above the other, and of what it says about itself.
    fn make(&self, tag: &str, layers: &[&dyn Fn(&Path)], config: &[&str]) {
        let (image, bundle) = (self.image(tag), self.directory.path().join(format!("bundle-{tag}")));
        let place = bundle.to_str().unwrap();
        run_tool("umoci", &["new", "--image", &image]);
        run_tool("umoci", &["unpack", "--image", &image, place]);
        for fill in layers {
            fill(&bundle.join("rootfs"));
            run_tool("umoci", &["repack", "--image", &image, "--refresh-bundle", place]);
        }
        if !config.is_empty() {
            run_tool("umoci", &[&["config", "--image", &image], config].concat());
        }
    }

    /// Puts it into a registry.
    fn push(&self, tag: &str, registry: &DockerRegistry, name: &str, more: &[&str]) -> String {
        registry.fill(Path::new(&self.image(tag)), name, more);
        registry.name(name)
    }
}

/// busybox with its names: small and linked with nothing, as Alpine is.
fn small(root: &Path) {
    for directory in ["bin", "etc", "root", "home"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap_or_else(|error| panic!("{error}; install the package busybox-static"));
    for name in ["sh", "cat", "echo", "env", "id", "ls", "pwd", "sleep", "stat", "touch"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnode:x:1234:1235:Node:/home/node:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nnode:x:1235:\n").unwrap();
    fs::write(root.join("etc/os-release"), "ID=small\n").unwrap();
    fs::write(root.join("etc/old"), "goes\n").unwrap();
}

/// What hides something of the layer below.
fn change(root: &Path) {
    fs::remove_file(root.join("etc/old")).unwrap();
    fs::write(root.join("etc/new"), "new\n").unwrap();
}

/// bash with the libraries that it is linked with, as this machine has them.
fn linked(root: &Path) {
    let libraries = run_tool("ldd", &["/bin/bash"]);
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/')).chain(["/bin/bash"]);
    for path in paths.map(Path::new) {
        let target = root.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
    symlink("bash", root.join("bin/sh")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/os-release"), "ID=linked\n").unwrap();
}

/// One program and nothing else.
fn bare(root: &Path) {
    fs::copy("/bin/busybox", root.join("echo")).unwrap();
}

fn insecure(registry: &DockerRegistry) -> Setup {
    Setup::default().env("CAISSON_INSECURE_REGISTRIES", &registry.host)
}

/// The command, which may ask this registry.
#[track_caller]
fn caisson(home: &Home, registry: &DockerRegistry, arguments: &[&str]) -> Ran {
    home.command(arguments).env("CAISSON_INSECURE_REGISTRIES", &registry.host).output().expect("the program can be started").into()
}

#[track_caller]
fn says(ran: Ran, expect: &str) {
    let ran = ran.exited(0);
    assert_eq!((ran.out().as_str(), ran.err().as_str()), (expect, ""));
}

fn query(name: &str) -> String {
    encode_path(name.as_bytes())
}

#[track_caller]
fn names(server: &Server) -> Vec<String> {
    listed(&server.client)
}

#[track_caller]
fn listed(client: &Client) -> Vec<String> {
    let page = client.request("GET", "/v1/images").send().expect(200).json();
    page["data"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_command_has_all_of_it_without_a_server() {
    let (registry, shop) = (DockerRegistry::start(), Workshop::new());
    shop.make("small", &[&small, &change], &["--config.env", "GREETING=hello", "--config.cmd", "cat", "--config.cmd", "/etc/new"]);
    let name = shop.push("small", &registry, "team/small:1", &[]);
    let home = Home::new();
    let refused = caisson(&home, &registry, &["run", "--pull", "never", "--image", &name, "--", "true"]).exited(125);
    assert!(refused.err().contains(&format!("caisson image pull {name}")), "{}", refused.err());
    says(caisson(&home, &registry, &["image", "ls"]), "NAME  ID  SIZE  UNPACKED  ADDED  WHOSE\n");

    says(caisson(&home, &registry, &["run", "--image", &name, "--", "cat", "/etc/os-release"]), "ID=small\n");
    says(
        caisson(&home, &registry, &["run", "--image", &name, "--", "sh", "-c", "echo $GREETING; ls -d /etc/o*"]),
        "hello\n/etc/os-release\n",
    );
    says(caisson(&home, &registry, &["run", "--image", &name]), "new\n");
    let list = caisson(&home, &registry, &["image", "ls", "--json"]).exited(0).out();
    let list: Value = list.parse().unwrap();
    assert_eq!((&list["data"][0]["name"], list["data"].as_array().unwrap().len()), (&json!(name), 1), "{list}");
    let about: Value = caisson(&home, &registry, &["image", "inspect", &name]).exited(0).out().parse().unwrap();
    assert_eq!((&about["config"]["cmd"], &about["private"]), (&json!(["cat", "/etc/new"]), &json!(false)), "{about}");
    assert_eq!(about["layers"].as_array().unwrap().len(), 2);

    // What is here is not fetched again: the registry could not give it out any more.
    for layer in about["layers"].as_array().unwrap() {
        registry.lose(layer["digest"].as_str().unwrap());
    }
    says(caisson(&home, &registry, &["image", "pull", &name]), &format!("{name}\n"));
    says(caisson(&home, &registry, &["run", "--pull", "always", "--image", &name, "--", "echo", "again"]), "again\n");

    let archive = home.path().join("small.tar");
    says(caisson(&home, &registry, &["image", "export", &name, "-o", archive.to_str().unwrap()]), "");
    says(caisson(&home, &registry, &["image", "rm", &name]), &format!("{name}\n"));
    let gone = caisson(&home, &registry, &["image", "rm", &name]).exited(1);
    assert!(gone.err().contains("there is no image"), "{}", gone.err());
    says(caisson(&home, &registry, &["image", "import", archive.to_str().unwrap()]), &format!("{name}\n"));
    says(caisson(&home, &registry, &["run", "--pull", "never", "--image", &name]), "new\n");
    let again: Value = caisson(&home, &registry, &["image", "inspect", &name]).exited(0).out().parse().unwrap();
    assert_eq!((&again["digest"], &again["id"]), (&about["digest"], &about["id"]), "digests stay");
    // A root file system, from standard input.
    let root = home.path().join("root");
    fs::create_dir(&root).unwrap();
    small(&root);
    let tar = home.clean("tar").arg("-C").arg(&root).args(["-czf", "-", "."]).output().unwrap().stdout;
    let imported = home.caisson_with(["image", "import", "-", "--name", "rootfs:1"], &tar).exited(0);
    assert_eq!(imported.out(), "docker.io/library/rootfs:1\n");
    says(home.caisson(["run", "--image", "rootfs:1", "--", "cat", "/etc/old"]), "goes\n");
    says(home.caisson(["image", "rm", "rootfs:1", &name]), &format!("rootfs:1\n{name}\n"));
    let collected: Value = home.caisson(["image", "gc", "--json"]).exited(0).out().parse().unwrap();
    assert_eq!((&collected["images"], &collected["pull_under_way"]), (&json!(0), &json!(false)));
    assert_eq!(fs::read_dir(home.data().join("images/layers")).unwrap().count(), 0);
    fs::remove_dir_all(&root).unwrap();
    home.finish();
}

#[test]
fn a_server_has_all_of_it_over_http() {
    let (registry, shop) = (DockerRegistry::start(), Workshop::new());
    shop.make("small", &[&small, &change], &["--config.cmd", "echo", "--config.cmd", "of the image"]);
    let name = shop.push("small", &registry, "team/small:1", &[]);
    let server = insecure(&registry).start();
    assert_eq!(names(&server), Vec::<String>::new());
    let message = server.post("/v1/run", &json!({"image": name, "cmd": ["echo", "x"]})).refused(400, "unknown_image");
    assert!(message.contains("caisson image pull"), "{message}");
    server.get(&format!("/v1/images/inspect?name={}", query(&name))).refused(404, "unknown_image");

    let events: Vec<_> = server.request("POST", "/v1/images/pull").json(&json!({"name": name})).events().collect();
    let (last, before) = events.split_last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["name"]), ("result", &json!(name)), "{events:?}");
    let told = &before.last().unwrap().data;
    assert_eq!((&told["percent"], &told["bytes"], told["layers"].as_array().unwrap().len()), (&json!(100), &told["total_bytes"], 2));
    assert!(told["layers"].as_array().unwrap().iter().all(|layer| layer["phase"] == "done" && layer["percent"] == 100), "{told}");
    let again = server.post("/v1/images/pull", &json!({"name": name})).expect(200).json();
    assert_eq!(again["id"], last.data["id"]);
    assert_eq!(names(&server), std::slice::from_ref(&name));

    let result = server.run(&json!({"image": name}));
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("of the image\n"), &json!(0)));
    let sandbox = server.sandbox(&json!({"image": name}));
    assert_eq!(sandbox.get().expect(200).json()["image"], json!(name));
    assert_eq!(sandbox.shell("cat /etc/new; ls -d /etc/old 2>/dev/null || echo gone"), "new\ngone\n");

    // It is in use: neither removed nor collected, by nobody.
    let one = format!("/v1/images?name={}", query(&name));
    server.request("DELETE", &one).send().refused(409, "image_in_use");
    let forced = server.request("DELETE", &format!("{one}&force=true")).send().expect(200).json();
    assert_eq!((&forced["in_use"], &forced["layers"]), (&json!(1), &json!(0)), "{forced}");
    assert_eq!(names(&server), Vec::<String>::new());
    let kept = server.request("POST", "/v1/images/gc").send().expect(200).json();
    assert_eq!((&kept["in_use"], &kept["layers"]), (&json!(1), &json!(0)), "{kept}");
    assert_eq!(sandbox.shell("cat /etc/new"), "new\n");
    sandbox.delete().expect(200);
    let collected = server.request("POST", "/v1/images/gc").send().expect(200).json();
    assert_eq!((&collected["in_use"], &collected["images"], &collected["layers"]), (&json!(0), &json!(1), &json!(2)), "{collected}");

    // Got with the request, where it asks for that.
    let result = server.run(&json!({"image": name, "pull": "missing", "cmd": ["cat", "/etc/os-release"]}));
    assert_eq!(result["stdout"], "ID=small\n");
    server.post("/v1/run", &json!({"image": name, "pull": "sometimes", "cmd": ["echo"]})).refused(400, "invalid_request");

    // Out, and in again under another name.
    let archive = server.get(&format!("/v1/images/export?name={}", query(&name))).expect(200).body;
    assert!(archive.ends_with(&[0; 1024]) && archive.windows(10).any(|window| window == b"oci-layout"));
    let imported = server.request("POST", "/v1/images/import?name=other%3A1").bytes(archive.clone()).send().expect(200).json();
    assert_eq!(imported["images"][0]["name"], "docker.io/library/other:1");
    assert_eq!(server.run(&json!({"image": "other:1"}))["stdout"], "of the image\n");
    let broken = archive[..archive.len() / 2].to_vec();
    server.request("POST", "/v1/images/import?name=half%3A1").bytes(broken).send().refused(422, "invalid_image");
    server.request("DELETE", &one).send().expect(200);
    assert_eq!(names(&server), ["docker.io/library/other:1"]);

    // The command talks to a server that is named, and shares what it sees.
    let command = |arguments: &[&str]| {
        let mut command = server.home().command(arguments);
        command.env("CAISSON_SERVER", format!("http://{}", server.client.address));
        let ran: Ran = command.env("CAISSON_API_KEY", server.client.key.clone().unwrap()).output().unwrap().into();
        ran
    };
    says(command(&["image", "pull", &name]), &format!("{name}\n"));
    assert!(command(&["image", "ls"]).exited(0).out().contains(&name));
    let file = server.home().path().join("out.tar");
    says(command(&["image", "export", &name, "-o", file.to_str().unwrap()]), "");
    says(command(&["image", "import", file.to_str().unwrap(), "--name", "third:1"]), "docker.io/library/third:1\n");
    says(command(&["image", "rm", "third:1", "other:1"]), "third:1\nother:1\n");
    let made = command(&["new", "--image", &name]).exited(0).out();
    assert!(command(&["image", "rm", &name]).exited(1).err().contains("is in use"));
    says(command(&["exec", made.trim(), "--", "cat", "/etc/new"]), "new\n");
    // Without a server, from the same directory.
    says(server.home().caisson(["run", "--pull", "never", "--image", &name, "--", "cat", "/etc/new"]), "new\n");
    assert!(server.home().caisson(["image", "rm", &name]).exited(1).err().contains("is in use"), "the server's sandbox has a lease");
    says(command(&["rm", made.trim()]), &made);
    says(server.home().caisson(["image", "rm", &name]), &format!("{name}\n"));
    assert_eq!(names(&server), Vec::<String>::new());
    server.finish();
}

#[test]
fn what_an_image_says_of_its_programs_holds() {
    let (registry, shop) = (DockerRegistry::start(), Workshop::new());
    let config = [
        "--config.env",
        "GREETING=hello",
        "--config.workingdir",
        "/srv/app",
        "--config.user",
        "node",
        "--config.entrypoint",
        "/bin/sh",
        "--config.entrypoint",
        "-c",
        "--config.cmd",
        "echo $GREETING; pwd; id -un; id -u",
    ];
    shop.make("app", &[&small], &config);
    shop.make("linked", &[&linked], &[]);
    shop.make("bare", &[&bare], &["--config.entrypoint", "/echo", "--config.cmd", "alone"]);
    let server = insecure(&registry).start();
    for tag in ["app", "linked", "bare"] {
        let name = shop.push(tag, &registry, &format!("{tag}:1"), &[]);
        server.post("/v1/images/pull", &json!({"name": name})).expect(200);
    }
    let name = |tag: &str| registry.name(&format!("{tag}:1"));
    assert_eq!(server.run(&json!({"image": name("app")}))["stdout"], "hello\n/srv/app\nnode\n1234\n");
    let other = json!({"image": name("app"), "user": "root", "env": {"GREETING": "other"}, "cmd": ["sh", "-c", "echo $GREETING; id -un"]});
    assert_eq!(server.run(&other)["stdout"], "other\nroot\n");
    let debian = json!({"image": name("linked"), "language": "bash", "code": "echo ${BASH_VERSINFO[0]} $(< /etc/os-release)"});
    assert_eq!(server.run(&debian)["stdout"], "5 ID=linked\n");
    assert_eq!(server.run(&json!({"image": name("bare")}))["stdout"], "alone\n");
    assert_eq!(server.run(&json!({"image": name("bare"), "cmd": ["/echo", "no", "shell"]}))["stdout"], "no shell\n");
    server.finish();
}

#[test]
fn what_goes_wrong_is_named_and_leaves_nothing() {
    let (registry, closed, shop) = (DockerRegistry::start(), DockerRegistry::with_login(), Workshop::new());
    shop.make("small", &[&small], &[]);
    let name = shop.push("small", &registry, "small:1", &[]);
    let private = shop.push("small", &closed, "private:1", &["--dest-creds", "user:secret"]);
    let hosts = format!("{},{},127.0.0.1:1", registry.host, closed.host);
    let server = Setup::default().env("CAISSON_INSECURE_REGISTRIES", &hosts).start();
    let pull = |body: Value| server.post("/v1/images/pull", &body);
    let message = pull(json!({"name": registry.name("small:2")})).refused(404, "image_not_found");
    assert!(message.contains("small:2"), "{message}");
    pull(json!({"name": registry.name("Small:1")})).refused(400, "invalid_image_name");
    pull(json!({"name": "127.0.0.1:1/x:1"})).refused(502, "registry_unreachable");
    pull(json!({"name": "127.0.0.2:5000/x:1"})).refused(400, "registry_not_allowed");
    pull(json!({"name": private})).refused(403, "registry_denied");
    pull(json!({"name": private, "login": {"user": "user", "password": "wrong"}})).refused(403, "registry_denied");
    pull(json!({"name": name, "log_in": {}})).refused(400, "invalid_request");
    let layer = run_tool("skopeo", &["inspect", "--tls-verify=false", "--format", "{{index .Layers 0}}", &format!("docker://{name}")]);
    registry.spoil(layer.trim());
    let message = pull(json!({"name": name})).refused(502, "digest_mismatch");
    assert!(message.contains(layer.trim()), "{message}");
    let events: Vec<_> = server.request("POST", "/v1/images/pull").json(&json!({"name": name})).events().collect();
    assert_eq!((events.last().unwrap().name.as_str(), &events.last().unwrap().data["error"]["code"]), ("error", &json!("digest_mismatch")));
    server.request("POST", "/v1/images/import?name=x%3A1").bytes(vec![7; 5000]).send().refused(422, "invalid_image");
    server.request("POST", "/v1/images/import").bytes(Vec::new()).send().refused(422, "invalid_image");
    assert_eq!(names(&server), Vec::<String>::new());
    assert_eq!(fs::read_dir(server.home().data().join("images/layers")).unwrap().count(), 0);
    server.finish();
}

/// A caller of a tenant.
#[track_caller]
fn tenant(server: &Server, name: &str, scope: &str) -> Client {
    let key = server.post("/v1/keys", &json!({"tenant": name, "scope": scope})).expect(201).json();
    Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..server.client.clone() }
}

#[test]
fn r6_2_what_a_tenants_login_has_opened_is_the_tenants_own() {
    let (closed, shop) = (DockerRegistry::with_login(), Workshop::new());
    shop.make("small", &[&small], &[]);
    let name = shop.push("small", &closed, "private:1", &["--dest-creds", "user:secret"]);
    let server = insecure(&closed).start();
    let (admin, mine, theirs) = (tenant(&server, "a", "admin"), tenant(&server, "a", "run"), tenant(&server, "b", "run"));
    let login = json!({"name": name, "login": {"user": "user", "password": "secret"}});
    for client in [&mine, &theirs] {
        client.request("POST", "/v1/images/pull").json(&login).send().refused(403, "forbidden");
        let run = json!({"image": name, "pull": "missing", "cmd": ["echo"]});
        client.request("POST", "/v1/run").json(&run).send().refused(403, "forbidden");
    }
    let made = admin.request("POST", "/v1/images/pull").json(&login).send().expect(200).json();
    assert_eq!(made["private"], true);
    assert_eq!(listed(&mine), std::slice::from_ref(&name));
    let run = |client: &Client| client.request("POST", "/v1/run").json(&json!({"image": name, "cmd": ["echo", "x"]})).send();
    assert_eq!(run(&mine).expect(200).json()["stdout"], "x\n");
    for client in [&theirs, &server.client] {
        assert_eq!(listed(client), Vec::<String>::new());
        run(client).refused(400, "unknown_image");
        for what in ["inspect", "export"] {
            client.request("GET", &format!("/v1/images/{what}?name={}", query(&name))).send().refused(404, "unknown_image");
        }
    }
    // That its layers are here opens it to nobody else either.
    server.post("/v1/images/pull", &json!({"name": name})).refused(403, "registry_denied");
    server.request("DELETE", &format!("/v1/images?name={}", query(&name))).send().refused(404, "unknown_image");
    assert!(!server.log().contains("secret"));
    server.finish();
}

#[test]
fn logins_of_the_server_come_from_dockers_file() {
    let (closed, shop) = (DockerRegistry::with_login(), Workshop::new());
    shop.make("small", &[&small], &[]);
    let name = shop.push("small", &closed, "private:1", &["--dest-creds", "user:secret"]);
    let home = Home::new();
    fs::create_dir(home.path().join(".docker")).unwrap();
    let refused = caisson(&home, &closed, &["image", "pull", &name]).exited(1);
    assert!(refused.err().contains("log in"), "{}", refused.err());
    let file = json!({"auths": {&closed.host: {"auth": "dXNlcjpzZWNyZXQ="}}});
    fs::write(home.path().join(".docker/config.json"), file.to_string()).unwrap();
    says(caisson(&home, &closed, &["run", "--image", &name, "--", "cat", "/etc/os-release"]), "ID=small\n");
    let other = home.command(["image", "pull", &name]).env("CAISSON_REGISTRY_LOGINS", "/nothing").output().unwrap();
    assert!(!other.status.success());
    home.finish();
}

#[test]
fn mirrors_are_asked_first() {
    let (registry, shop) = (DockerRegistry::start(), Workshop::new());
    shop.make("small", &[&small], &[]);
    shop.push("small", &registry, "library/small:1", &[]);
    let home = Home::new();
    let mut command = home.command(["run", "--image", "small:1", "--", "cat", "/etc/os-release"]);
    command.env("CAISSON_INSECURE_REGISTRIES", &registry.host).env("CAISSON_REGISTRY_MIRRORS", format!("docker.io={}", registry.host));
    says(Ran::from(command.output().unwrap()), "ID=small\n");
    says(home.caisson(["run", "--pull", "never", "--image", "docker.io/library/small:1", "--", "echo", "x"]), "x\n");
    home.finish();
}

#[test]
fn other_runtimes_run_what_is_exported() {
    let shop = Workshop::new();
    shop.make("small", &[&small, &change], &[]);
    let home = Home::new();
    let archive = home.path().join("made.tar");
    let tar = home.clean("tar").arg("-C").arg(shop.layout()).arg("-cf").arg(&archive).arg(".").status().unwrap();
    assert!(tar.success());
    says(home.caisson(["image", "import", archive.to_str().unwrap(), "--name", "made:1"]), "docker.io/library/made:1\n");
    let mut export = home.start(&mut home.command(["image", "export", "made:1"]));
    let layout = home.path().join("exported");
    fs::create_dir(&layout).unwrap();
    let exported = export.stdout.take().unwrap();
    let unpacked = home.clean("tar").arg("-C").arg(&layout).args(["-xf", "-"]).stdin(Stdio::from(exported)).status().unwrap();
    assert!(unpacked.success() && export.wait().unwrap().success());
    let bundle = home.path().join("bundle");
    run_tool("umoci", &["unpack", "--image", &format!("{}:1", layout.display()), bundle.to_str().unwrap()]);
    let file = bundle.join("config.json");
    let mut config: Value = fs::read_to_string(&file).unwrap().parse().unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/sh", "-c", "cat /etc/os-release /etc/new; ls -d /etc/old 2>/dev/null || echo gone"]);
    fs::write(&file, config.to_string()).unwrap();
    let mut runc = home.clean("runc");
    runc.arg("--root").arg(home.path().join("runc")).args(["run", "--bundle"]).arg(&bundle).arg("caisson-exported");
    let ran: Ran = runc.output().unwrap_or_else(|error| panic!("{error}; install the package runc")).into();
    assert_eq!(ran.exited(0).out(), "ID=small\nnew\ngone\n");
    home.finish();
}

#[test]
fn templates_of_boxed_are_images_that_are_here() {
    let (registry, shop) = (DockerRegistry::start(), Workshop::new());
    shop.make("linked", &[&linked], &[]);
    let name = shop.push("linked", &registry, "linked:1", &[]);
    let server = insecure(&registry).env("BOXED_API_KEY", OsString::from("boxed-key-0123456789")).start();
    let boxed = |method: &str, target: &str| server.request(method, target).header("x-boxed-api-key", "boxed-key-0123456789");
    let create = || boxed("POST", "/v1/sandbox").json(&json!({"template": name})).send();
    assert!(create().expect(500).text().contains("caisson image pull"));
    server.post("/v1/images/pull", &json!({"name": name})).expect(200);
    let made = create().expect(201).json();
    let exec = json!({"language": "bash", "code": "echo $(< /etc/os-release)"});
    let said = boxed("POST", &format!("/v1/sandbox/{}/exec", made["sandbox_id"].as_str().unwrap())).json(&exec).send().expect(200).json();
    assert_eq!(said["stdout"], "ID=linked\n", "{said}");
    boxed("DELETE", &format!("/v1/sandbox/{}", made["sandbox_id"].as_str().unwrap())).send().expect(204);
    server.finish();
}

#[test]
fn images_of_modbox_come_from_the_workspaces_registries() {
    let (closed, shop) = (DockerRegistry::with_login(), Workshop::new());
    shop.make("linked", &[&linked], &[]);
    let name = shop.push("linked", &closed, "team/linked:1", &["--dest-creds", "user:secret"]);
    let server = insecure(&closed).start();
    let (admin, member) = (tenant(&server, "team", "admin"), tenant(&server, "team", "run"));
    let post = |client: &Client, target: &str, body: Value| client.request("POST", target).json(&body).send();
    let registry = json!({"name": "r", "server": closed.host, "username": "user", "password": "secret"});
    let registry = post(&admin, "/registries", registry).expect(201).json();
    let image = json!({"name": "linked", "image": "team/linked", "tag": "1", "registry_id": registry["id"]});
    let image = post(&admin, "/sandbox-images", image).expect(201).json();
    let provision = |client: &Client, task: &str| post(client, "/sandboxes/provision", json!({"image_id": image["id"], "task_id": task}));
    provision(&member, "early").refused(404, "image_not_found");
    let made = provision(&admin, "first").expect(201).json();
    assert_eq!(listed(&member), std::slice::from_ref(&name), "it is the workspace's own");
    assert_eq!(names(&server), Vec::<String>::new());
    provision(&member, "second").expect(201);
    let waited = post(&admin, "/sandboxes/wait", json!({"task_id": "first", "timeout": 30})).expect(200).json();
    assert_eq!(waited["ready"], true, "{waited}");
    let api = made["endpoint"]["api_url"].as_str().unwrap().split_once("://").unwrap().1.split_once('/').unwrap().1.to_owned();
    let bearer = Client { key: Some(made["endpoint"]["access_token"].as_str().unwrap().to_owned()), ..server.client.clone() };
    let said = post(&bearer, &format!("/{api}/exec"), json!({"command": "echo $(< /etc/os-release)"})).expect(200).json();
    assert_eq!((&said["stdout"], &said["exitCode"]), (&json!("ID=linked\n"), &json!(0)), "{said}");
    for sandbox in admin.request("GET", "/v1/sandboxes").send().expect(200).json()["data"].as_array().unwrap() {
        admin.request("DELETE", &format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap())).send().expect(200);
    }
    server.finish();
}
