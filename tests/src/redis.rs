//! Redis for tests: servers of their own, which end with the test that uses them, however that ends.
//!
//! This file stands by itself, because the tests of locks use it as well.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// How long it may take to come up.
const UP_WITHIN: Duration = Duration::from_secs(30);
/// Of everybody who may log in.
pub const PASSWORD: &str = "pass:word/of@tests";
pub const PASSWORD_IN_URLS: &str = "pass%3Aword%2Fof%40tests";

/// Starts and stops the server as it is told, and at the end of its input removes everything. It outlives whoever killed the test.
const KEEPER: &str = r#"
trap '' INT TERM
pid=
stop() { if [ -n "$pid" ]; then kill -s CONT "$pid"; kill -s "$1" "$pid"; wait "$pid"; pid=; fi; }
while read -r what; do
    case "$what" in
        start) (trap - INT TERM; exec redis-server "$PLACE/redis.conf") </dev/null >>"$PLACE/log" 2>&1 & pid=$! ;;
        kill) stop KILL ;;
        freeze) kill -s STOP "$pid" ;;
        thaw) kill -s CONT "$pid" ;;
    esac
    echo done
done
stop KILL
rm -rf "$PLACE"
"#;

/// One server with its own data, on a port of the loopback interface.
#[derive(Debug)]
pub struct Redis {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    place: PathBuf,
    port: u16,
    tls_port: Option<u16>,
}

impl Redis {
    /// One that forgets everything when it ends.
    #[must_use]
    pub fn start() -> Self {
        Self::with("save \"\"\nappendonly no\n", None)
    }

    /// One that has its data on disk.
    #[must_use]
    pub fn persistent() -> Self {
        Self::with("save \"\"\nappendonly yes\nappendfsync always\n", None)
    }

    /// One that speaks TLS as well, with `cert.pem` and `key.pem` of a directory.
    #[must_use]
    pub fn with_tls(certificates: &Path) -> Self {
        Self::with("save \"\"\nappendonly no\ntls-auth-clients no\n", Some(certificates))
    }

    fn with(settings: &str, certificates: Option<&Path>) -> Self {
        let there = Command::new("redis-server").arg("--version").output();
        assert!(there.is_ok(), "this test needs Redis; tools/setup installs the package `redis-server`");
        let place = tempfile::Builder::new().prefix("caisson-redis-").tempdir_in("/tmp").expect("a directory can be made").keep();
        let port = free_port();
        let tls_port = certificates.map(|_| free_port());
        let mut config = format!(
            "bind 127.0.0.1 127.0.0.2\nport {port}\ndir {}\ndaemonize no\nrequirepass \"{PASSWORD}\"\nuser limited on >{PASSWORD} ~* +@all -eval\n{settings}",
            place.display()
        );
        if let (Some(port), Some(of)) = (tls_port, certificates.map(Path::display)) {
            config += &format!("tls-port {port}\ntls-cert-file {of}/cert.pem\ntls-key-file {of}/key.pem\ntls-ca-cert-file {of}/ca.pem\n");
        }
        fs::write(place.join("redis.conf"), config).expect("it can be written");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("PLACE", &place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It says whom it killed.
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().expect("it is piped"));
        let mut redis = Self { keeper, orders, answers, place, port, tls_port };
        redis.start_again();
        redis
    }

    /// After [`Self::kill`]; returns when it answers.
    pub fn start_again(&mut self) {
        self.order("start");
        let begun = Instant::now();
        while self.ask(&["PING"]) != "PONG" {
            let log = || fs::read_to_string(self.place.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < UP_WITHIN, "Redis does not come up: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once, as a crash would.
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
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD_IN_URLS}@127.0.0.1:{}/0", self.port)
    }

    /// Of one that speaks TLS, under this name.
    #[must_use]
    pub fn tls_url(&self, host: &str) -> String {
        format!("rediss://:{PASSWORD_IN_URLS}@{host}:{}/0", self.tls_port.expect("it has TLS"))
    }

    /// What it answers to a command, as text.
    #[must_use]
    pub fn ask(&self, command: &[&str]) -> String {
        let mut client = Command::new("redis-cli");
        client.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(command);
        client.env("REDISCLI_AUTH", PASSWORD).current_dir("/").stdin(Stdio::null());
        let output = client.output().expect("redis-cli can be started");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("there are free ports").local_addr().expect("it has an address").port()
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The end of its input.
        drop(self.orders.take());
        drop(self.keeper.wait());
    }
}
