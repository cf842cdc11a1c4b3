//! PostgreSQL for tests: clusters of their own, which end with the test that uses them, however that ends.
//!
//! This file stands by itself, because the tests of the store use it as well.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long it may take to come up.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// Of everybody who may log in.
const PASSWORD: &str = "pass:word/of@tests";
const PASSWORD_IN_URLS: &str = "pass%3Aword%2Fof%40tests";

/// Starts and stops the server as it is told, and at the end of its input removes everything. It outlives whoever killed the test.
/// Its own IPC namespace takes what the server has of System V with it.
const KEEPER: &str = r#"
trap '' INT TERM
start() { ${RUN:-} "$BIN/postgres" -D "$PLACE/data" </dev/null >>"$PLACE/log" 2>&1 & pid=$!; }
stop() { if [ -n "$pid" ]; then kill -s CONT "$pid"; kill -s "$1" "$pid"; wait "$pid"; pid=; fi; }
pid=
while read -r what; do
    case "$what" in
        start) start ;;
        stop) stop INT ;;
        kill) stop QUIT ;;
        freeze) kill -s STOP "$pid" $(ps -o pid= --ppid "$pid") ;;
        thaw) kill -s CONT "$pid" $(ps -o pid= --ppid "$pid") ;;
    esac
    echo done
done
stop QUIT
rm -rf "$PLACE"
"#;

/// One server with its own data, on a port of the loopback interface.
#[derive(Debug)]
pub struct Cluster {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    place: PathBuf,
    port: u16,
    databases: u32,
}

/// The one that tests share which need no more than a database.
pub fn shared() -> &'static Mutex<Cluster> {
    static SHARED: LazyLock<Mutex<Cluster>> = LazyLock::new(|| Mutex::new(Cluster::start()));
    &SHARED
}

/// A new empty database in the shared cluster.
#[must_use]
pub fn new_database() -> String {
    shared().lock().unwrap_or_else(PoisonError::into_inner).new_database()
}

/// It goes, whoever uses it.
pub fn drop_database(url: &str) {
    shared().lock().unwrap_or_else(PoisonError::into_inner).drop_database(url);
}

/// What a statement answers on one of its databases.
#[track_caller]
#[must_use]
pub fn of_shared(url: &str, statement: &str) -> String {
    let caisson = format!("set search_path to caisson; {statement}");
    shared().lock().unwrap_or_else(PoisonError::into_inner).sql(url, &caisson)
}

/// Everything that one of its databases has, as text.
#[must_use]
pub fn dump_of_shared(url: &str) -> Vec<u8> {
    let cluster = shared().lock().unwrap_or_else(PoisonError::into_inner);
    cluster.client("pg_dump", url).output().expect("pg_dump can be started").stdout
}

/// Where the programs of a server are: distributions keep them out of the way.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let there = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("postgres").exists());
    there.max().expect("this test needs PostgreSQL; tools/setup installs the package `postgresql`")
}

/// PostgreSQL refuses to run as root: as whom, by `/etc/passwd`.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").expect("it can be read");
    let find = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("there is an account for it"))
}

impl Cluster {
    #[must_use]
    pub fn start() -> Self {
        let bin = programs();
        let place = tempfile::Builder::new().prefix("caisson-postgres-").tempdir_in("/tmp").expect("a directory can be made").keep();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let password = place.join("password");
        fs::write(&password, PASSWORD).expect("it can be written");
        let mut run = String::new();
        if let Some((user, group)) = account() {
            chown(&place, Some(user), Some(group)).expect("root may do that");
            chown(&password, Some(user), Some(group)).expect("root may do that");
            run = format!("unshare --ipc -- setpriv --reuid={user} --regid={group} --clear-groups --");
        }
        let mut initdb = run.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        initdb.push(bin.join("initdb").display().to_string());
        initdb.extend(
            ["--auth=scram-sha-256", "--username=caisson", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
                .map(str::to_owned),
        );
        initdb.extend([format!("--pwfile={}", password.display()), format!("--pgdata={}", place.join("data").display())]);
        let made =
            Command::new(&initdb[0]).args(&initdb[1..]).current_dir("/").stdin(Stdio::null()).output().expect("initdb can be started");
        assert!(made.status.success(), "initdb: {}{}", String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").expect("there are free ports").local_addr().expect("it has an address").port();
        let settings = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\nmax_connections = 200\n\
             shared_buffers = 32MB\ndynamic_shared_memory_type = mmap\nautovacuum = off\nlog_min_messages = warning\n",
            place.display()
        );
        let mut config = fs::OpenOptions::new().append(true).open(place.join("data/postgresql.conf")).expect("initdb has made it");
        config.write_all(settings.as_bytes()).expect("it can be written");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .current_dir("/")
            .env_clear()
            .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("RUN", &run)])
            .env("BIN", bin)
            .env("PLACE", &place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell can be started");
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().expect("it is piped"));
        let mut cluster = Self { keeper, orders, answers, place, port, databases: 0 };
        cluster.start_again();
        cluster
    }

    /// After [`Self::stop`] or [`Self::kill`]; returns when it takes connections.
    pub fn start_again(&mut self) {
        self.order("start");
        let begun = Instant::now();
        while !self.try_sql("postgres", "select 1").is_ok_and(|answer| answer == "1") {
            let log = || fs::read_to_string(self.place.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < UP_WITHIN, "PostgreSQL does not come up: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it in order; connections break.
    pub fn stop(&mut self) {
        self.order("stop");
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
    pub fn new_database(&mut self) -> String {
        self.databases += 1;
        let name = format!("d{}", self.databases);
        self.sql("postgres", &format!("create database {name}"));
        self.url(&name)
    }

    pub fn drop_database(&self, url: &str) {
        let name = url.rsplit('/').next().expect("it has a name");
        self.sql("postgres", &format!("drop database if exists {name} with (force)"));
    }

    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://caisson:{PASSWORD_IN_URLS}@127.0.0.1:{}/{database}", self.port)
    }

    /// What a statement answers, one row a line.
    #[track_caller]
    pub fn sql(&self, database: &str, statement: &str) -> String {
        self.try_sql(database, statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    fn try_sql(&self, database: &str, statement: &str) -> Result<String, String> {
        let mut psql = self.client("psql", database);
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]);
        let output = psql.output().expect("psql can be started");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Cluster {
    /// A program that asks one of its databases, named or by its URL.
    fn client(&self, program: &str, database: &str) -> Command {
        let database = database.rsplit('/').next().expect("it has a name");
        let mut command = Command::new(programs().join(program));
        command.args(["-h", "127.0.0.1", "-U", "caisson", "-p", &self.port.to_string(), "-d", database]);
        command.env("PGPASSWORD", PASSWORD).current_dir("/").stdin(Stdio::null());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The end of its input.
        drop(self.orders.take());
        drop(self.keeper.wait());
    }
}
