//! The `caisson` program, and a place of its own for each test to run it in.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::LazyLock,
    time::Duration,
};

use tempfile::TempDir;

use crate::{clock::eventually, host::Host};

/// What programs are found by, in the tests and in the programs they start.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How the directories of all tests begin.
const PREFIX: &str = "caisson-test-";

/// The program under test.
#[must_use]
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(named) = env::var_os("CAISSON_PROGRAM") {
            let path = PathBuf::from(named);
            assert!(path.is_file(), "CAISSON_PROGRAM is {}, where there is no program", path.display());
            return path.canonicalize().expect("the program has a path");
        }
        let test = env::current_exe().expect("a test knows its own path");
        let found = test.ancestors().skip(1).take(3).map(|directory| directory.join("caisson")).find(|path| path.is_file());
        found.expect("there is no `caisson` beside the tests; run `cargo build --release` first, or set CAISSON_PROGRAM")
    });
    &PROGRAM
}

/// Fails unless the host has this program; `package` is where it comes from on Debian.
#[track_caller]
pub fn needs(program: &str, package: &str) {
    let found =
        PATH.split(':').chain(["/usr/local/go/bin", "/usr/lib/go/bin"]).any(|directory| Path::new(directory).join(program).exists());
    assert!(found, "this test needs `{program}`; install the package `{package}`");
}

/// Whether this machine is not meant to have a program, which whoever made it says in `CAISSON_WITHOUT` (names, with commas between them).
/// It is never found out by looking, so a program that is merely missing still fails.
#[must_use]
pub fn meant_to_lack(program: &str) -> bool {
    let lacks = env::var("CAISSON_WITHOUT").is_ok_and(|names| names.split(',').any(|name| name == program));
    if lacks {
        eprintln!("not tried: CAISSON_WITHOUT says that this machine has no `{program}`");
    }
    lacks
}

/// A directory for data and one for temporary files, both removed at the end. The host is looked at before and after.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    before: Host,
    finished: bool,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ran {
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The same, which must have ended with this code.
    #[track_caller]
    #[must_use]
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{:?}\nstdout: {:.2000}\nstderr: {:.4000}", self.status, self.out(), self.err());
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self { status: output.status, stdout: output.stdout, stderr: output.stderr }
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    #[must_use]
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make real sandboxes; run them as root");
        let before = Host::now();
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("a temporary directory can be made");
        fs::create_dir(directory.path().join("tmp")).expect("a directory can be made");
        Self { directory, before, finished: false }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The program with these arguments, in a clean environment, standard input empty.
    pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Command {
        let mut command = self.clean(program());
        command.args(arguments);
        command
    }

    /// Some program in the same clean environment.
    pub fn clean(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.path()).stdin(Stdio::null());
        for (name, value) in [("PATH", OsStr::new(PATH)), ("HOME", self.path().as_os_str()), ("CAISSON_DATA_DIR", self.data().as_os_str())]
        {
            command.env(name, value);
        }
        command.env("TMPDIR", self.path().join("tmp"));
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn caisson<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Ran {
        self.command(arguments).output().expect("the program can be started").into()
    }

    /// The same with something on standard input.
    #[track_caller]
    pub fn caisson_with<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I, input: &[u8]) -> Ran {
        let mut child = self.start(self.command(arguments).stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        // In a thread of its own, so that neither side waits for the other. A program that does not read is no failure.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("the program can be waited for");
        feeding.join().expect("feeding does not panic");
        output.into()
    }

    /// Starts a command with its outputs in pipes.
    #[track_caller]
    pub fn start(&self, command: &mut Command) -> Child {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be started")
    }

    /// A server with these variables ends as an error, which says these words and shows no password.
    #[track_caller]
    pub fn refuses_to_serve(&self, environment: &[(&str, &str)], words: &[&str]) {
        let mut command = self.command(["serve"]);
        command.env("CAISSON_LISTEN", "127.0.0.1:0").env("CAISSON_API_KEY", "k").envs(environment.iter().copied());
        let mut child = self.start(&mut command);
        let ended = eventually("its end", Duration::from_secs(20), || child.try_wait().expect("it can be waited for"));
        let output = child.wait_with_output().expect("its output can be read");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!ended.success(), "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is not in: {said}");
        }
        for secret in ["pass%3A", "pass:", "sesame"] {
            assert!(!said.contains(secret), "a password is shown: {said}");
        }
    }

    /// Proves that nothing is left: on the host, and of temporary files.
    #[track_caller]
    pub fn finish(mut self) {
        self.finished = true;
        let left = self.left();
        assert!(left.is_empty(), "left behind on the host:\n  {}", left.join("\n  "));
    }

    /// What is left behind, once the kernel has had time to let go.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = Host::is_as_before(&self.before).err().unwrap_or_default();
        left.retain(|thing| !self.is_of_another(thing));
        left.extend(self.files_left());
        left
    }

    /// What there is at this moment that was not there before. While something runs, that may be much.
    #[must_use]
    pub fn left_now(&self) -> Vec<String> {
        let mut left = Host::left_over_since(&self.before);
        left.extend(self.files_left());
        left
    }

    /// Whether it lies in the home of another test, which looks after it itself.
    fn is_of_another(&self, thing: &str) -> bool {
        let own = self.path().file_name().and_then(OsStr::to_str).expect("its name is made of letters");
        thing.contains(PREFIX) && !thing.contains(own)
    }

    fn files_left(&self) -> Vec<String> {
        let temporary = fs::read_dir(self.path().join("tmp")).into_iter().flatten().flatten();
        let temporary = temporary.map(|entry| format!("temporary file {}", entry.path().display()));
        temporary.chain(unknown_data(&self.data())).collect()
    }
}

/// What a data directory has beside what a server keeps there.
fn unknown_data(data: &Path) -> Vec<String> {
    const KNOWN: [&str; 16] = [
        "api-key",
        "blobs",
        "caisson.db",
        "caisson.db-shm",
        "caisson.db-wal",
        "disks",
        "docker",
        "egress-ca.key",
        "egress-ca.pem",
        "executions",
        "images",
        "lock",
        "secret",
        "server-id",
        "spool",
        "templates",
    ];
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let name = |path: &Path| path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let is_log = |path: &Path| {
        let name = name(path);
        let stream = name.strip_suffix(".tail").unwrap_or(&name).split_once('.').map(|(_, stream)| stream);
        name.starts_with("exe") && matches!(stream, Some("stdout" | "stderr"))
    };
    let unknown = entries(data).into_iter().filter(|path| !KNOWN.contains(&name(path).as_str()));
    // Output logs lie in directories of two characters.
    let shards = entries(&data.join("executions"));
    let stray = shards.iter().filter(|shard| name(shard).len() != 2).cloned();
    let logs = shards.iter().flat_map(|shard| entries(shard)).filter(|path| !is_log(path));
    let begun = entries(&data.join("images/tmp")).into_iter().flat_map(|own| entries(&own)).collect::<Vec<_>>();
    unknown.chain(stray).chain(logs).chain(begun).map(|path| format!("file in the data directory {}", path.display())).collect()
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let left = self.left();
        if left.is_empty() {
            return;
        }
        let what = format!("left behind on the host:\n  {}", left.join("\n  "));
        if std::thread::panicking() { eprintln!("{what}") } else { panic!("{what}") }
    }
}
