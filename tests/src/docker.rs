//! A Docker daemon for tests: its own socket, data and namespaces of processes and mounts, which end with the test that uses it, however that ends.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{clock::allowed, home::needs};

/// How long it may take to come up.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// The first process of both namespaces: starts and stops the daemon as it is told. With it all end that run in them, and all mounts.
const KEEPER: &str = r#"
trap '' INT TERM
mount -t tmpfs tmpfs /run
pid=
start() { (trap - INT TERM; exec dockerd --config-file "$PLACE/daemon.json") </dev/null >>"$PLACE/log" 2>&1 & pid=$!; }
stop() { if [ -n "$pid" ]; then kill -s CONT "$pid"; kill -s "$1" "$pid"; wait "$pid"; pid=; rm -f "$PLACE/pid" "$PLACE/socket"; fi; }
while read -r what; do
    case "$what" in
        start) start ;;
        kill) stop KILL ;;
        freeze) kill -s STOP "$pid" ;;
        thaw) kill -s CONT "$pid" ;;
    esac
    echo done
done
stop TERM
"#;

/// Outlives whoever killed the test, to take the rest away.
const OUTER: &str = r#"
trap '' INT TERM
unshare --fork --pid --kill-child --mount --propagation private --mount-proc sh -c "$KEEPER"
for directory in /sys/fs/cgroup/*"$GROUP" /sys/fs/cgroup"$GROUP"; do
    [ ! -d "$directory" ] || find "$directory" -depth -type d -exec rmdir {} +
done
rm -rf "$PLACE"
"#;

/// One daemon.
#[derive(Debug)]
pub struct Docker {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    place: PathBuf,
}

/// The one that tests share. It ends with their process.
pub fn shared() -> &'static Mutex<Docker> {
    static SHARED: LazyLock<Mutex<Docker>> = LazyLock::new(|| Mutex::new(Docker::start()));
    &SHARED
}

/// The address of that, as `DOCKER_HOST` has it.
#[must_use]
pub fn address_of_shared() -> OsString {
    shared().lock().unwrap_or_else(PoisonError::into_inner).address()
}

impl Docker {
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[], &serde_json::json!({}))
    }

    /// One that listens on a port of the loopback interface as well, with `ca.pem`, `cert.pem` and `key.pem` of a directory on both sides; and its address
    /// there.
    #[must_use]
    pub fn with_tls(certificates: &Path) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = format!("tcp://{}", listener.local_addr().expect("it has an address"));
        drop(listener);
        let of = |name: &str| certificates.join(name);
        let settings =
            serde_json::json!({"tlsverify": true, "tlscacert": of("ca.pem"), "tlscert": of("cert.pem"), "tlskey": of("key.pem")});
        (Self::with(&[&address], &settings), address)
    }

    fn with(hosts: &[&str], settings: &serde_json::Value) -> Self {
        needs("dockerd", "docker.io");
        needs("docker", "docker.io");
        let place = tempfile::Builder::new().prefix("caisson-docker-").tempdir_in("/tmp").expect("a directory can be made").keep();
        let group = format!("/{}", place.file_name().and_then(|name| name.to_str()).expect("it has a name"));
        let of = |name: &str| place.join(name);
        let socket = format!("unix://{}", of("socket").display());
        let hosts: Vec<&str> = [socket.as_str()].into_iter().chain(hosts.iter().copied()).collect();
        let mut config = serde_json::json!({
            "hosts": hosts, "data-root": of("data"), "exec-root": of("exec"), "pidfile": of("pid"),
            "deprecated-key-path": of("key.json"), "bridge": "none", "iptables": false, "ip-forward": false, "ip-masq": false,
            "cgroup-parent": group, "exec-opts": ["native.cgroupdriver=cgroupfs"],
        });
        for (name, value) in settings.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        fs::write(of("daemon.json"), config.to_string()).expect("it can be written");
        let mut keeper = Command::new("sh")
            .args(["-c", OUTER])
            .current_dir("/")
            .env_clear()
            .envs([("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("KEEPER", KEEPER), ("GROUP", &group)])
            .env("PLACE", &place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().expect("it is piped"));
        let mut docker = Self { keeper, orders, answers, place };
        docker.start_again();
        docker
    }

    /// After [`Self::kill`]; returns when it answers.
    pub fn start_again(&mut self) {
        self.order("start");
        let begun = Instant::now();
        while !self.command(&["version"]).status.success() {
            let log = || fs::read_to_string(self.place.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < allowed(UP_WITHIN), "dockerd does not come up: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it at once, as a crash would. What it runs goes on.
    pub fn kill(&mut self) {
        self.order("kill");
    }

    /// It answers nothing any more, and does not end.
    pub fn freeze(&mut self) {
        self.order("freeze");
    }

    pub fn thaw(&mut self) {
        self.order("thaw");
    }

    fn order(&mut self, what: &str) {
        let orders = self.orders.as_mut().expect("it is there until the end");
        writeln!(orders, "{what}").and_then(|()| orders.flush()).expect("the keeper listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the keeper answers");
        assert_eq!(answer.trim(), "done");
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.join("socket")
    }

    /// As `DOCKER_HOST` has it.
    #[must_use]
    pub fn address(&self) -> OsString {
        format!("unix://{}", self.socket().display()).into()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &self.place).env("DOCKER_HOST", self.address());
        command.current_dir("/").stdin(Stdio::null()).output().expect("docker can be started")
    }

    /// What the daemon says to this; it must be content.
    #[track_caller]
    #[must_use]
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The containers that there are, running or not, by their ids.
    #[track_caller]
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        self.says(&["ps", "--all", "--quiet", "--no-trunc"]).lines().map(str::to_owned).collect()
    }

    /// Makes an image of a tar.
    #[track_caller]
    pub fn import(&self, name: &str, tar: &[u8]) {
        let path = self.place.join("import.tar");
        fs::write(&path, tar).expect("it can be written");
        let _id = self.says(&["import", &path.display().to_string(), name]);
        fs::remove_file(path).expect("it is there");
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // The end of its input.
        drop(self.orders.take());
        drop(self.keeper.wait());
    }
}
