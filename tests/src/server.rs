//! A running `caisson serve` with a data directory of its own.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    client::{Answer, Client, Request},
    clock::{allowed, eventually},
    descriptors::Descriptors,
    home::Home,
    postgres,
    process::{self, Process},
    redis::Redis,
    sandbox::Sandbox,
};

const READY_WITHIN: Duration = Duration::from_secs(20);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// How much of a server's log a failed test shows.
const LOG_SHOWN: usize = 30_000;
/// How long a server may take to close what it needs no longer.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// Connections to the database that are made as they are needed.
const READERS: usize = 4;

/// Where records are kept in all suites: `sqlite`, or `postgres` for a database of each server's own.
const DATABASES: &str = "CAISSON_TEST_DATABASE";

/// Where locks are kept in all suites: `memory`, or `redis` for one server that all of a suite share.
const LOCKS: &str = "CAISSON_TEST_LOCKS";

/// As many as a server makes at most to a database that is not in its own process.
const CONNECTIONS: usize = 12;

/// How many connections a server may have to a database of its own.
pub(crate) fn database_connections() -> usize {
    if std::env::var(DATABASES).is_ok_and(|wanted| wanted == "postgres") { CONNECTIONS } else { 0 }
}

/// How a server is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// `None` leaves it to the server.
    pub key: Option<String>,
    pub environment: Vec<(String, OsString)>,
    pub arguments: Vec<String>,
    /// Whether others on its database are told where it is.
    pub has_peers: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { key: Some("key-of-the-tests-0123456789".to_owned()), environment: Vec::new(), arguments: Vec::new(), has_peers: false }
    }
}

impl Setup {
    #[must_use]
    pub fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// One of several on this database.
    #[must_use]
    pub fn sharing(mut self, database: &str) -> Self {
        self.has_peers = true;
        self.env("CAISSON_DATABASE_URL", database)
    }

    /// A database of its own where the suites run on PostgreSQL, unless the test names one.
    fn database(&self) -> Option<Database> {
        let wanted = std::env::var(DATABASES).unwrap_or_default();
        let named = self.environment.iter().any(|(name, _)| name.ends_with("DATABASE_URL"));
        match wanted.as_str() {
            "" | "sqlite" => None,
            "postgres" => (!named).then(|| Database(postgres::new_database())),
            other => panic!("{DATABASES} is `{other}`; it is `sqlite` or `postgres`"),
        }
    }

    /// The same with locks in Redis where the suites run on it, unless the test names one.
    fn with_locks(self) -> Self {
        static REDIS: LazyLock<Redis> = LazyLock::new(Redis::start);
        match std::env::var(LOCKS).unwrap_or_default().as_str() {
            "" | "memory" => self,
            "redis" if self.environment.iter().any(|(name, _)| name.ends_with("REDIS_URL")) => self,
            "redis" => self.env("CAISSON_REDIS_URL", REDIS.url()),
            other => panic!("{LOCKS} is `{other}`; it is `memory` or `redis`"),
        }
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    #[must_use]
    pub fn start(self) -> Server {
        let this = self.with_locks();
        // Before the host is looked at.
        let database = this.database();
        let home = Home::new();
        let address = free_address();
        let client = Client { address, key: this.key.clone() };
        let mut server = Server { client, home: Some(home), setup: this, child: None, open_at_start: Descriptors::default(), database };
        server.start_again();
        server
    }
}

/// See the module. Dropping it ends the server and proves that nothing is left.
#[derive(Debug)]
pub struct Server {
    pub client: Client,
    home: Option<Home>,
    setup: Setup,
    child: Option<Child>,
    open_at_start: Descriptors,
    /// It goes after everything else.
    database: Option<Database>,
}

/// A database of the shared cluster, which goes with this.
#[derive(Debug)]
struct Database(String);

impl Drop for Database {
    fn drop(&mut self) {
        postgres::drop_database(&self.0);
    }
}

/// An address where nobody listens.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener.local_addr().expect("a listener has an address")
}

impl Server {
    /// One with a key and defaults.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        Setup::default().start()
    }

    /// Starts it (again) on the same address and data.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let home = self.home();
        let log = File::options().create(true).append(true).open(home.path().join("log")).expect("a log can be written");
        let errors = log.try_clone().expect("a file can be shared");
        let mut command = home.command(["serve"]);
        command.args(&self.setup.arguments).env("CAISSON_LISTEN", self.client.address.to_string());
        // Suites count what they have made; the pool's own says that it wants one.
        command.env("CAISSON_POOL", "off");
        if let Some(key) = &self.setup.key {
            command.env("CAISSON_API_KEY", key);
        }
        if let Some(database) = &self.database {
            command.env("CAISSON_DATABASE_URL", &database.0);
        }
        if self.setup.has_peers {
            command.env("CAISSON_PEER_URL", format!("http://{}", self.client.address));
        }
        command.envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        self.child = Some(command.stdout(Stdio::from(log)).stderr(Stdio::from(errors)).spawn().expect("the server can be started"));
        let begin = Instant::now();
        let anonymous = Client { key: None, ..self.client.clone() };
        loop {
            match anonymous.request("GET", "/readyz").try_send() {
                Ok(answer) if answer.status == 200 => break,
                _ if self.exit().is_some() => panic!("the server ended instead of serving; its log:\n{}", self.log()),
                _ if begin.elapsed() > allowed(READY_WITHIN) => {
                    panic!("the server is not ready after {READY_WITHIN:?}\n{}\nits log:\n{}", self.stacks(), self.log())
                }
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
        self.open_at_start = Descriptors::of(self.pid());
    }

    #[must_use]
    pub fn home(&self) -> &Home {
        self.home.as_ref().expect("it is there until the end")
    }

    /// Where it keeps its data: the home's place for it, unless the environment it was started with names another.
    fn data(&self) -> PathBuf {
        let named = self.setup.environment.iter().find(|(name, _)| name == "CAISSON_DATA_DIR");
        named.map_or_else(|| self.home().data(), |(_, directory)| directory.into())
    }

    /// The program as a client of this server.
    pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Command {
        let mut command = self.home().command(arguments);
        command.env("CAISSON_SERVER", format!("http://{}", self.client.address));
        if let Some(key) = &self.client.key {
            command.env("CAISSON_API_KEY", key);
        }
        command
    }

    /// What the server has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read(self.home().path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_SHOWN)..]).into_owned()
    }

    /// What a statement on its database answers: one row a line, with `|` between columns.
    #[track_caller]
    #[must_use]
    pub fn sql(&self, statement: &str) -> String {
        if let Some(database) = &self.database {
            return postgres::of_shared(&database.0, statement);
        }
        let code = "import sqlite3, sys\n\
                    database = sqlite3.connect(sys.argv[1], timeout=10)\n\
                    for row in database.execute(sys.argv[2]): print(*row, sep='|')\n\
                    database.commit()";
        let database = self.data().join("caisson.db");
        let ran = self.home().clean("python3").args(["-c", code]).arg(database).arg(statement).output().expect("there is Python");
        assert!(ran.status.success(), "{statement}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// Everything that its database has, as it lies there.
    #[must_use]
    pub fn records(&self) -> Vec<u8> {
        if let Some(database) = &self.database {
            return postgres::dump_of_shared(&database.0);
        }
        let read = |name| fs::read(self.data().join(name)).unwrap_or_default();
        [read("caisson.db"), read("caisson.db-wal")].concat()
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    #[must_use]
    pub fn process(&self) -> Process {
        Process::find(self.pid()).expect("it runs")
    }

    /// The program that makes its sandboxes.
    #[track_caller]
    #[must_use]
    pub fn launcher(&self) -> Process {
        Process::launcher_of(self.pid())
    }

    /// Everything below the server: the launcher, agents, and what runs in sandboxes.
    #[must_use]
    pub fn below(&self) -> Vec<Process> {
        Process::below(self.pid())
    }

    fn exit(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"))
    }

    /// Where in the kernel its processes are.
    fn stacks(&self) -> String {
        let mut text = String::new();
        for process in std::iter::once(self.process()).chain(self.below()) {
            let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", process.pid)).unwrap_or_default();
            text += &format!("{process:?} wchan {}\n{}", read("wchan"), read("stack"));
        }
        text
    }

    #[must_use]
    pub fn request(&self, method: &str, target: &str) -> Request {
        self.client.request(method, target)
    }

    #[track_caller]
    #[must_use]
    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target).send()
    }

    #[track_caller]
    #[must_use]
    pub fn post(&self, target: &str, body: &Value) -> Answer {
        self.request("POST", target).json(body).send()
    }

    /// A one-shot that is answered with a result.
    #[track_caller]
    #[must_use]
    pub fn run(&self, body: &Value) -> Value {
        self.post("/v1/run", body).expect(200).json()
    }

    /// What a one-shot in Python prints; it must end well.
    #[track_caller]
    #[must_use]
    pub fn python(&self, code: &str) -> String {
        let result = self.run(&serde_json::json!({"language": "python", "code": code}));
        assert_eq!((&result["status"], &result["exit_code"]), (&"exited".into(), &0.into()), "{result:#}");
        result["stdout"].as_str().expect("there is output").to_owned()
    }

    /// A new sandbox.
    #[track_caller]
    #[must_use]
    pub fn sandbox(&self, body: &Value) -> Sandbox<'_> {
        let made = self.post("/v1/sandboxes", body).expect(201).json();
        Sandbox { server: self, id: made["id"].as_str().expect("it has an id").to_owned() }
    }

    /// The record of an execution.
    #[track_caller]
    #[must_use]
    pub fn execution(&self, id: &str) -> Value {
        self.get(&format!("/v1/executions/{id}")).expect(200).json()
    }

    /// The record of an execution once it has ended.
    #[track_caller]
    #[must_use]
    pub fn ended(&self, id: &str, limit: Duration) -> Value {
        eventually(&format!("the end of execution {id}"), limit, || Some(self.execution(id)).filter(|record| record["status"] != "running"))
    }

    /// Asks it to stop and waits until it has.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        process::signal(self.pid(), Signal::TERM);
        let begin = Instant::now();
        let status = loop {
            match self.exit() {
                Some(status) => break status,
                None if begin.elapsed() > allowed(STOPPED_WITHIN) => {
                    panic!("the server does not stop\n{}\nits log:\n{}", self.stacks(), self.log());
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        self.child = None;
        status
    }

    /// Ends it with `kill -9`.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        let status = child.wait().expect("a child can be waited for");
        assert_eq!(status.signal(), Some(9), "it ended by itself before");
    }

    /// What it has open that it had not when it started, but for what is explained: its living sandboxes, programs that run, and readers
    /// of its database.
    #[must_use]
    pub fn left_open(&self) -> Vec<String> {
        let sandboxes = self.below().iter().filter(|process| process.is_agent()).count();
        let data = self.data().display().to_string();
        Descriptors::of(self.pid()).more_than(&self.open_at_start, |kind| match kind.strip_prefix(&data) {
            // The end of each agent's stream, twice.
            None if kind == "a socket" => 2 * sandboxes,
            Some(file) if file.starts_with("/caisson.db") && !file.ends_with(" (deleted)") => READERS,
            Some(file) if file.starts_with("/executions/") => usize::from(self.is_log_of_running(file)),
            _ => 0,
        })
    }

    fn is_log_of_running(&self, file: &str) -> bool {
        let id = file.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
        let answer = self.request("GET", &format!("/v1/executions/{id}")).try_send();
        answer.is_ok_and(|answer| answer.status == 200 && answer.json()["status"] == "running")
    }

    /// Waits until it has closed what it needs no longer.
    #[track_caller]
    fn nothing_stays_open(&self) {
        let begin = Instant::now();
        loop {
            let left = self.left_open();
            if left.is_empty() {
                return;
            }
            assert!(begin.elapsed() < allowed(CLOSED_WITHIN), "the server has left open:\n  {}", left.join("\n  "));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it, if it still runs, and proves that nothing is left.
    #[track_caller]
    pub fn finish(mut self) {
        if self.child.is_some() {
            self.nothing_stays_open();
            let status = self.stop();
            assert!(status.success(), "the server ended with {status}; its log:\n{}", self.log());
        }
        self.home.take().expect("it is there until the end").finish();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        if thread::panicking() {
            eprintln!("---- the server's log ----\n{}", String::from_utf8_lossy(&fs::read(home.path().join("log")).unwrap_or_default()));
            if let Some(mut child) = self.child.take() {
                // Whatever happens here, the test has failed already.
                drop(child.kill());
                drop(child.wait());
            }
            return;
        }
        if self.child.is_some() {
            self.nothing_stays_open();
            let status = self.stop();
            assert!(status.success(), "the server ended with {status}; its log:\n{}", self.log());
        }
    }
}
