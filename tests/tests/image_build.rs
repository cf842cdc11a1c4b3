//! `caisson image build`: Dockerfiles become images, step by step in sandboxes, with a server and without.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use caisson_tests::{Home, Ran, Server, Value, eventually, json, run_tool, signal};
use rustix::process::Signal;

const PROGRAMS: [&str; 18] = [
    "sh", "cat", "chmod", "chown", "cp", "echo", "env", "false", "id", "ls", "mkdir", "pwd", "readlink", "rm", "sleep", "stat", "touch",
    "tr",
];

/// An image with a shell, called `base:1`: busybox, a user `app` with a home directory, and `/sbin` as a link.
fn base(home: &Home) {
    let root = home.path().join("base-root");
    for directory in ["bin", "etc", "root", "home/app", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap_or_else(|error| panic!("{error}; install the package busybox-static"));
    for name in PROGRAMS {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    symlink("bin", root.join("sbin")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\nstaff:x:50:\n").unwrap();
    std::os::unix::fs::chown(root.join("home/app"), Some(1000), Some(1001)).unwrap();
    let tar = home.clean("tar").arg("-C").arg(&root).args(["--numeric-owner", "-cf", "-", "."]).output().unwrap().stdout;
    drop(home.caisson_with(["image", "import", "-", "--name", "base:1"], &tar).exited(0));
    fs::remove_dir_all(&root).unwrap();
}

/// A context with a Dockerfile and further files.
fn context(home: &Home, dockerfile: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = home.path().join("context");
    fs::create_dir_all(&directory).unwrap();
    for (name, content) in files.iter().chain(&[("Dockerfile", dockerfile)]) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

/// The command that builds `app:1` in the context.
fn build(home: &Home, more: &[&str]) -> Command {
    home.command([&["image", "build", "-t", "app:1"], more, &["context"]].concat())
}

#[track_caller]
fn built(home: &Home, more: &[&str]) -> Ran {
    Ran::from(build(home, more).output().unwrap()).exited(0)
}

/// Builds, and says how many steps there were and how many of them had been done before.
#[track_caller]
fn counts(home: &Home, more: &[&str]) -> (u64, u64, Value) {
    let told: Value = built(home, &[&["--json"], more].concat()).out().parse().unwrap();
    (told["steps"].as_u64().unwrap(), told["cached"].as_u64().unwrap(), told)
}

#[track_caller]
fn refused(home: &Home, more: &[&str]) -> String {
    Ran::from(build(home, more).output().unwrap()).exited(1).err()
}

/// What a program of `app:1` writes, as root.
#[track_caller]
fn says(home: &Home, command: &str) -> String {
    home.caisson(["run", "--image", "app:1", "--pull", "never", "--user", "root", "--", "/bin/sh", "-c", command]).exited(0).out()
}

fn steps(home: &Home) -> usize {
    let all: Value = home.caisson(["image", "ls", "--steps", "--json"]).exited(0).out().parse().unwrap();
    all["data"].as_array().unwrap().iter().filter(|image| image["name"].as_str().unwrap().starts_with("localhost/caisson-build:")).count()
}

#[test]
fn what_the_reference_has_is_built() {
    let home = Home::new();
    base(&home);
    let dockerfile = r#"# syntax=docker/dockerfile:1
ARG BASE=base:1
FROM ${BASE} AS build
ARG VERSION=1
WORKDIR /src
COPY main.c *.h ./
RUN cat main.c a.h b.h | tr a-z A-Z > /out \
    # in between
    && chown app:staff /out && chmod 4755 /out
RUN <<EOF
echo one > /script
echo "$VERSION" >> /script
EOF

FROM base:1
ENV GREETING="hello there" \
    EMPTY=
ENV OLD style value
LABEL org.example="a b" n=1
COPY --from=build /out /script /copied/
COPY --from=0 /src /all
COPY --chown=app:app --chmod=640 docs /home/app/docs
COPY docs/link /linked
COPY one.txt /sbin/
ADD archive.tar.gz /unpacked
ADD one.txt /added/
COPY <<"EOF" /document
$NOT replaced
EOF
WORKDIR /work
WORKDIR inner
RUN ["/bin/touch", "made by exec"]
RUN echo "$GREETING:$EMPTY:$OLD" > env && pwd > where
USER app
RUN id -un > /home/app/who && echo "$HOME" >> /home/app/who
EXPOSE 8080 53/udp
SHELL ["/bin/sh", "-e", "-c"]
ENTRYPOINT ["/bin/sh", "-c", "echo $GREETING; id -un; pwd; echo \"$@\"", "--"]
CMD ["from", "cmd"]
"#;
    let directory = context(
        &home,
        dockerfile,
        &[
            ("main.c", "main\n"),
            ("a.h", "a\n"),
            ("b.h", "b\n"),
            ("one.txt", "one\n"),
            ("docs/index", "index\n"),
            ("docs/deep/more", "more\n"),
            ("docs/secret", "no\n"),
            (".dockerignore", "# nothing of this\n**/secret\n*.tar\n"),
        ],
    );
    symlink("deep/more", directory.join("docs/link")).unwrap();
    fs::write(directory.join("inside"), "inside\n").unwrap();
    let mut tar = home.clean("tar");
    tar.arg("-C").arg(&directory).args(["--owner=7", "--group=8", "--numeric-owner", "-czf"]);
    assert!(tar.arg(directory.join("archive.tar.gz")).arg("inside").status().unwrap().success());

    let ran = built(&home, &["--build-arg", "VERSION=2", "--build-arg", "NOBODY=1"]);
    let (digest, name) = ran.out().trim().split_once(' ').map(|(digest, name)| (digest.to_owned(), name.to_owned())).unwrap();
    assert!(digest.starts_with("sha256:") && name == "docker.io/library/app:1", "{}", ran.out());
    for line in ["[build 1/6] FROM ${BASE} AS build", "[build 4/6] COPY main.c *.h ./", "] COPY --from=0 /src /all", "NOBODY"] {
        assert!(ran.err().contains(line), "{line}: {}", ran.err());
    }

    assert_eq!(says(&home, "cat /copied/out /copied/script"), "MAIN\nA\nB\none\n2\n");
    assert_eq!(says(&home, "stat -c '%a %u:%g' /copied/out"), "4755 1000:50\n", "owners and bits come along from other stages");
    assert_eq!(says(&home, "ls /all"), "a.h\nb.h\nmain.c\n");
    assert_eq!(says(&home, "cd /home/app; stat -c '%n %a %u:%g' docs/index docs/deep; ls docs; readlink docs/link"), {
        "docs/index 640 1000:1001\ndocs/deep 640 1000:1001\ndeep\nindex\nlink\ndeep/more\n"
    });
    assert_eq!(says(&home, "cat /linked; readlink /sbin; cat /bin/one.txt; ls -a /added"), "more\nbin\none\n.\n..\none.txt\n");
    assert_eq!(says(&home, "stat -c '%u:%g' /unpacked/inside; cat /document"), "7:8\n$NOT replaced\n");
    assert_eq!(
        says(&home, "cat /work/inner/env /work/inner/where; ls /work/inner"),
        "hello there::style value\n/work/inner\nenv\nmade by exec\nwhere\n"
    );
    assert_eq!(says(&home, "cat /home/app/who; stat -c '%u:%g' /home/app/who /work/inner"), "app\n/home/app\n1000:1001\n0:0\n");
    let plain = home.caisson(["run", "--image", "app:1", "--pull", "never"]).exited(0);
    assert_eq!(plain.out(), "hello there\napp\n/work/inner\nfrom cmd\n");

    let about: Value = home.caisson(["image", "inspect", "app:1"]).exited(0).out().parse().unwrap();
    let config = &about["config"];
    assert_eq!((&config["user"], &config["work_dir"], &config["cmd"]), (&json!("app"), &json!("/work/inner"), &json!(["from", "cmd"])));
    assert_eq!((&config["exposed_ports"], &config["labels"]), (&json!(["53/udp", "8080/tcp"]), &json!({"n": "1", "org.example": "a b"})));
    assert!(config["env"].as_array().unwrap().contains(&json!("OLD=style value")), "{config}");
    // Nothing that every sandbox is given.
    let layers = exported(&home, "app:1");
    for foreign in ["workspace", "etc/hosts", "etc/hostname", "etc/resolv.conf", "proc/version"] {
        assert!(!layers.join("rootfs").join(foreign).exists(), "{foreign} is in the image");
    }
    // And elsewhere.
    assert_eq!(run_under_runc(&home, &layers), "hello there\napp\n/work/inner\nfrom cmd\n");
    fs::remove_dir_all(home.path().join("bundle")).unwrap();
    home.finish();
}

/// The image as a bundle for other programs.
fn exported(home: &Home, name: &str) -> PathBuf {
    let (archive, layout, bundle) = (home.path().join("out.tar"), home.path().join("layout"), home.path().join("bundle"));
    drop(home.caisson(["image", "export", name, "-o", archive.to_str().unwrap()]).exited(0));
    fs::create_dir(&layout).unwrap();
    run_tool("tar", &["-C", layout.to_str().unwrap(), "-xf", archive.to_str().unwrap()]);
    let index: Value = fs::read_to_string(layout.join("index.json")).unwrap().parse().unwrap();
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned();
    run_tool("umoci", &["unpack", "--image", &format!("{}:{tag}", layout.display()), bundle.to_str().unwrap()]);
    fs::remove_dir_all(&layout).unwrap();
    bundle
}

fn run_under_runc(home: &Home, bundle: &Path) -> String {
    let path = bundle.join("config.json");
    let mut config: Value = fs::read_to_string(&path).unwrap().parse().unwrap();
    config["process"]["terminal"] = json!(false);
    fs::write(&path, config.to_string()).unwrap();
    let mut runc = home.clean("runc");
    runc.arg("--root").arg(home.path().join("runc")).args(["run", "--bundle"]).arg(bundle).arg("caisson-built");
    Ran::from(runc.output().unwrap_or_else(|error| panic!("{error}; install the package runc"))).exited(0).out()
}

#[test]
fn steps_are_done_once_for_the_same_image_with_the_same_files() {
    let home = Home::new();
    base(&home);
    let dockerfile = "FROM base:1\nARG A=1\nCOPY data /data\nRUN cat /data/f > /f\nENV B=1\nWORKDIR /w\n";
    let directory = context(&home, dockerfile, &[("data/f", "f"), ("other", "o")]);
    let (steps_done, cached, first) = counts(&home, &[]);
    assert_eq!((steps_done, cached), (5, 0));
    let (_, cached, again) = counts(&home, &[]);
    assert_eq!((cached, &again["digest"]), (3, &first["digest"]), "all of it, and the image stays what it is");
    // A file that no step copies, a time, and a note say nothing.
    fs::write(directory.join("other"), "changed").unwrap();
    assert!(home.clean("touch").arg("-d").arg("2001-01-01").arg(directory.join("data/f")).status().unwrap().success());
    fs::write(directory.join("Dockerfile"), dockerfile.replace("ARG", "# note\nARG")).unwrap();
    assert_eq!(counts(&home, &[]).1, 3);

    let edit = |from: &str, to: &str| fs::write(directory.join("Dockerfile"), dockerfile.replace(from, to)).unwrap();
    for (why, cached, change) in [
        ("a file's content", 0, &(|| fs::write(directory.join("data/f"), "g").unwrap()) as &dyn Fn()),
        ("a file's bits", 0, &|| fs::set_permissions(directory.join("data/f"), fs::Permissions::from_mode(0o600)).unwrap()),
        ("another file", 0, &|| fs::write(directory.join("data/g"), "").unwrap()),
        ("a file that came and went", 3, &|| fs::remove_file(directory.join("data/g")).unwrap()),
        ("a command", 1, &|| edit("> /f", ">> /f")),
        ("a variable that steps before do not see", 2, &|| edit("ENV B=1", "ENV B=2")),
        ("a variable that they see", 1, &|| edit("ARG A=1", "ARG A=2")),
        ("a directory", 2, &|| edit("/w\n", "/x\n")),
    ] {
        fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
        counts(&home, &[]);
        change();
        assert_eq!(counts(&home, &[]).1, cached, "{why}");
    }
    fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
    counts(&home, &[]);
    assert_eq!(counts(&home, &["--build-arg", "A=3"]).1, 1, "a value of the command line");
    counts(&home, &[]);
    assert_eq!(counts(&home, &["--no-cache"]).1, 0);

    // They are shown to those who ask, and go when they are to.
    let shown = home.caisson(["image", "ls"]).exited(0).out();
    assert!(!shown.contains("caisson-build") && shown.contains("app:1"), "{shown}");
    assert!(steps(&home) > 5);
    drop(home.caisson(["image", "gc"]).exited(0));
    assert!(steps(&home) > 5);
    drop(home.caisson(["image", "gc", "--steps"]).exited(0));
    assert_eq!(steps(&home), 0);
    assert_eq!(says(&home, "cat /f"), "g");
    assert_eq!(counts(&home, &[]).1, 0);
    home.finish();
}

#[test]
fn what_cannot_be_built_is_refused_by_its_line_before_anything_runs() {
    let home = Home::new();
    base(&home);
    let directory = context(&home, "FROM base:1\nRUN echo ran\nVOLUME /data\nRUN --mount=type=cache,target=/x true\n", &[]);
    let error = refused(&home, &[]);
    for word in ["line 3: VOLUME", "line 4: RUN --mount", "buildah", "caisson image import"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(!error.contains("[1/"), "{error}");
    let write = |text: &str| fs::write(directory.join("Dockerfile"), text).unwrap();
    for (text, more, word) in [
        ("FROM base:1\nADD https://example.com/x /x\n", &[][..], "line 2: ADD of `https://example.com/x`"),
        ("FROM --platform=linux/s390x base:1\n", &[], "line 1: images of `linux/s390x`"),
        ("FROM base:1\n", &["--target", "final"], "there is no stage `final`"),
        ("FROM base:1\nCOPY missing /x\n", &[], "line 2, COPY missing /x: `missing` is not in the context"),
        ("FROM base:1\nCOPY --from=base:1 /missing /x\n", &[], "line 2, COPY --from=base:1 /missing /x: there is no `/missing`"),
        ("FROM base:1\nCOPY --chown=nobody Dockerfile /x\n", &[], "no user `nobody`"),
        ("FROM base:1\nUSER nobody\nRUN id\n", &[], "line 3, RUN id: "),
        ("FROM base:1\nRUN [\"/no/such/program\"]\n", &[], "line 2, RUN [\"/no/such/program\"]: "),
        ("FROM base:1\nWORKDIR /etc/passwd\n", &[], "is no directory"),
    ] {
        write(text);
        let error = refused(&home, more);
        assert!(error.contains(word), "{text}: {error}");
    }
    write("FROM base:1\nRUN echo first; echo second >&2; false && true; exit 7\n");
    let error = refused(&home, &[]);
    assert!(error.contains("first\n") && error.contains("second\n"), "{error}");
    assert!(error.contains("line 2, RUN echo first") && error.ends_with("it ended with exit code 7\n"), "{error}");
    let quiet = refused(&home, &["-q"]);
    assert!(
        quiet.contains("first\n") && quiet.contains("second\n") && !quiet.contains("[1/2]") && quiet.contains("exit code 7"),
        "{quiet}"
    );
    let names = home.caisson(["image", "ls", "--json"]).exited(0).out();
    assert!(!names.contains("app:1"), "{names}");

    // From standard input, and from an image that has nothing.
    write("FROM none\n");
    let mut from_stdin = home.start(build(&home, &["-q", "-f", "-"]).stdin(Stdio::piped()));
    from_stdin
        .stdin
        .take()
        .unwrap()
        .write_all(b"FROM scratch\nCOPY --from=base:1 /bin /bin\nCOPY --from=base:1 /etc/passwd /etc/\n")
        .unwrap();
    let ran = Ran::from(from_stdin.wait_with_output().unwrap()).exited(0);
    assert!(ran.out().starts_with("sha256:") && ran.err().is_empty(), "{} {}", ran.out(), ran.err());
    assert_eq!(says(&home, "cat /etc/passwd").lines().count(), 2);
    home.finish();
}

#[test]
fn whoever_interrupts_leaves_nothing() {
    let home = Home::new();
    base(&home);
    context(&home, "FROM base:1\nRUN echo begun; sleep 1000\n", &[]);
    for what in [Signal::INT, Signal::TERM] {
        let mut child = home.start(&mut build(&home, &[]));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "begun"));
        signal(child.id(), what);
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(128 + what.as_raw()), "{:?}", lines.map_while(Result::ok).collect::<Vec<_>>());
    }
    home.finish();
}

#[test]
fn a_server_builds_and_stands_beside_builds_without_it() {
    let server = Server::start();
    let home = server.home();
    base(home);
    context(home, "FROM base:1\nCOPY f /f\nRUN cat /f > /g\nCMD [\"/bin/cat\", \"/g\"]\n", &[("f", "content")]);
    // Without it, on the same directory, while it runs.
    built(home, &[]);
    let run = |server: &Server| server.run(&json!({"image": "app:1"}))["stdout"].clone();
    assert_eq!(run(&server), "content");

    let through = |more: &[&str]| {
        let mut command = build(home, more);
        command
            .env("CAISSON_SERVER", format!("http://{}", server.client.address))
            .env("CAISSON_API_KEY", server.client.key.clone().unwrap());
        command
    };
    let told: Value = Ran::from(through(&["--json"]).output().unwrap()).exited(0).out().parse().unwrap();
    assert_eq!(told["cached"], json!(2), "the steps are those of the machine");
    let anew: Value = Ran::from(through(&["--json", "--no-cache"]).output().unwrap()).exited(0).out().parse().unwrap();
    assert_eq!((&anew["cached"], run(&server)), (&json!(0), json!("content")));
    let living =
        |server: &Server| server.get("/v1/sandboxes?state=creating&state=running&state=stopping").expect(200).json()["data"].clone();
    // A one-shot is destroyed behind its answer.
    eventually("no sandbox is left", Duration::from_secs(10), || (living(&server) == json!([])).then_some(()));

    // A step that fails and one that is interrupted leave no sandbox there.
    context(home, "FROM base:1\nRUN echo begun; sleep 1000\n", &[]);
    let mut child = home.start(&mut through(&[]));
    assert!(BufReader::new(child.stderr.take().unwrap()).lines().any(|line| line.unwrap() == "begun"));
    assert_ne!(living(&server), json!([]));
    signal(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(living(&server), json!([]));
    context(home, "FROM base:1\nRUN false\n", &[]);
    drop(Ran::from(through(&[]).output().unwrap()).exited(1));
    assert_eq!(living(&server), json!([]));
    server.finish();
}

/// Answers every request with what it is told, until the test ends.
fn answering(body: &'static str) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            // Whoever asked may have gone.
            drop(write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    address
}

#[test]
fn steps_have_the_hosts_network_and_its_mirrors_where_that_is_asked_for() {
    let home = Home::new();
    base(&home);
    let address = answering("package");
    let dockerfile = format!(
        "FROM base:1\nRUN /bin/busybox wget -q -O /got http://{address}/ && echo \"$PIP_INDEX_URL\" >> /got\n\
         RUN cat \"$PIP_CERT\" /etc/resolv.conf > /lent\n"
    );
    context(&home, &dockerfile, &[]);
    fs::write(home.path().join("ca.pem"), "certificates\n").unwrap();
    let with_mirror = |more: &[&str]| {
        let mut command = build(&home, more);
        command.env("PIP_INDEX_URL", "http://mirror.example/simple").env("PIP_CERT", home.path().join("ca.pem"));
        Ran::from(command.output().unwrap())
    };
    let refused = with_mirror(&[]).exited(1).err();
    assert!(refused.contains("line 2, RUN"), "{refused}");
    drop(with_mirror(&["--network", "host"]).exited(0));
    assert_eq!(says(&home, "cat /got"), "packagehttp://mirror.example/simple\n");
    let lent = says(&home, "cat /lent");
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(lent, format!("certificates\n{resolv}"));
    // Nothing of it is in the image.
    let inside = says(&home, "env; cat /etc/resolv.conf; ls /dev/shm");
    assert!(inside.contains("no network") && !inside.contains("mirror") && !inside.contains("lent"), "{inside}");
    let image = home.caisson(["image", "inspect", "app:1"]).exited(0).out();
    assert!(!image.contains("mirror.example/simple\""), "{image}");

    let server = with_mirror(&["--network", "host", "--server", "http://127.0.0.1:9"]).exited(1).err();
    assert!(server.contains("a server gives its network to nobody"), "{server}");
    assert!(with_mirror(&["--network", "bridge"]).exited(2).err().contains("bridge"));
    drop(with_mirror(&["--network", "host"]).exited(0));
    fs::remove_file(home.path().join("ca.pem")).unwrap();
    let gone = with_mirror(&["--network", "host", "--no-cache"]).exited(1).err();
    assert!(gone.contains("PIP_CERT is") && gone.contains("cannot be lent"), "{gone}");
}
