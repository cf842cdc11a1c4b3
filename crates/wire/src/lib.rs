//! The agent protocol: what server and agent say to each other over the one duplex stream.
//!
//! The stream begins with the agent's configuration ([`AgentConfig::encode`]). Then it carries HTTP/2 with prior knowledge (RFC 9113 §3.3); the server is the HTTP client, the agent the HTTP server.
//! Paths in queries and in JSON are percent-encoded bytes ([`path`]), so that every file name survives.
//!
//! | request | body → answer |
//! |---|---|
//! | `GET /health` | → [`Health`] |
//! | `POST /exec` | frames ([`frame`]), both directions at once |
//! | `GET /given` | → [`GivenList`] |
//! | `POST /bind` | [`Bind`] → [`Bound`]; once |
//! | `POST /which` | [`Which`] → [`Found`] |
//! | `PUT /files?path=&mode=&mtime=` | bytes → [`FileStat`]; parents are made, the file appears whole or not at all |
//! | `GET /files?path=&offset=&length=` | → bytes, [`FileStat`] as JSON in the header [`STAT_HEADER`] |
//! | `DELETE /files?path=&recursive=` | → 204 |
//! | `GET /stat?path=` | → [`FileStat`] |
//! | `GET /list?path=&depth=&limit=&after=` | → [`Listing`] |
//! | `POST /mkdir?path=&parents=&mode=` | → [`Made`] |
//! | `POST /move?path=&to=&replace=` | → [`FileStat`]; parents of `to` are made |
//! | `POST /copy?path=&to=&replace=` | → [`Copied`]; likewise |
//! | `GET /archive?path=` | → a tar stream; broken off when it is not whole |
//! | `PUT /archive?path=` | a tar stream → [`Unpacked`] |
//! | `GET /glob?path=&pattern=&limit=&after=` | → [`Listing`] |
//! | `POST /grep` | [`Grep`] → [`Grepped`] |
//! | `POST /checkpoint` | [`Checkpoint`] → the patch, [`Checkpointed`] as JSON in the header [`CHECKPOINT_HEADER`] |
//! | `POST /layers` | [`Layering`] → [`Layered`] |
//! | `GET /watch?path=&recursive=` | → [`WatchEvent`] as lines of JSON |
//! | `POST /connect?port=` | frames ([`tunnel`]), both directions at once; closing the request stream early closes the connection |
//! | `POST /egress` | frames ([`egress`]), both directions at once; once, where the sandbox has ways out |
//! | `POST /egress/accept?id=` | frames ([`tunnel`]), likewise: a connection that was announced |
//!
//! A refusal is a status ≥ 400 with [`Refusal`] as its body; inside `POST /exec` it is a frame of kind [`frame::Kind::Refused`].
//! A program that is held ([`Hold`]) is started before it is known what for.
//! Closing the request stream of `POST /exec` early (`RST_STREAM`) kills the execution's process tree.

mod archive;
mod checkpoint;
pub mod egress;
pub mod frame;
mod hold;
pub mod path;
mod search;
pub mod tunnel;
mod watch;

pub use archive::{Copied, LeftOut, Unpacked};
pub use checkpoint::{Checkpoint, Checkpointed, Layered, Layering, LayeringStep};
pub use hold::{FIXED_FILE, GATE_FILE, Gate, Go, HOLD_DIR, Hold, HoldVariable, MAX_FACTS, TAKEN_FILE};
pub use search::{Grep, GrepLimit, GrepLine, GrepMatch, Grepped};
pub use watch::{MAX_WATCH_LINE, Watch, WatchEvent};

use std::io;

use serde::{Deserialize, Serialize};

/// Changes whenever an old agent could misunderstand a new server, or the reverse.
pub const VERSION: u32 = 7;

/// The answer header that carries a file's [`FileStat`] beside its bytes.
pub const STAT_HEADER: &str = "x-caisson-stat";

/// The answer header that carries [`Checkpointed`] beside the bytes of the patch.
pub const CHECKPOINT_HEADER: &str = "x-caisson-checkpoint";

/// The descriptor on which the agent finds its stream.
pub const STREAM_FD: i32 = 3;

/// What the agent is told on its command line when its stream is on standard input and output instead.
pub const STANDARD: &str = "standard";

/// What the agent is told there when it is not to serve, but to try whether it could.
pub const CHECK: &str = "check";
/// What it then writes on its stream. Where it could not, it says why on standard error, and ends.
pub const CHECKED: &[u8] = b"caisson-agent can serve here\n";

/// Where the agent puts a certificate that programs are to trust, and where it with all that the image trusts.
pub const TRUSTED: &str = "/etc/caisson/ca.pem";
pub const TRUSTED_BUNDLE: &str = "/etc/caisson/bundle.pem";

/// The uid and gid of the agent inside the sandbox: beyond the 16 bits that images use, so that no user of an image is it.
pub const AGENT_UID: u32 = 65_536;

/// How the sandbox is set up: what the agent reads from its stream before anything else. Not an argument, because everybody on the host may
/// read those, and the environment of user code is nobody's business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// Who user code is.
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    pub home: String,
    pub work_dir: String,
    /// The whole environment of user code; a request adds to it.
    pub env: Vec<(String, String)>,
    /// `RLIMIT_NOFILE` of user code.
    pub open_files: u64,
    /// Where there is no cgroup to limit the sandbox.
    pub instead_of_cgroup: Option<InsteadOfCgroup>,
    /// Where an OCI runtime has made the sandbox.
    pub of_runtime: Option<OfRuntime>,
    /// Where the root is made of an image, which is not known until somebody is inside.
    pub of_image: Option<OfImage>,
    /// What is made before any program runs, in this order.
    pub places: Vec<Place>,
    /// The ways out of the sandbox, whose sockets are open on the descriptors that [`egress`] names.
    pub ways_out: Option<egress::WaysOut>,
    /// A certificate in PEM that programs are to trust beside those of the image ([`TRUSTED`]).
    pub trusts: Option<String>,
}

/// An entry that is to be there, by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub path: String,
    /// Where a symbolic link leads; it is a directory of the user's where nothing is said.
    pub target: Option<String>,
}

impl AgentConfig {
    /// The most bytes that it may have as JSON.
    pub const MAX_BYTES: usize = 16 << 20;

    /// As it goes over the stream: its length in four bytes, the most significant first, and JSON.
    ///
    /// # Errors
    /// `InvalidInput` when it has more than [`Self::MAX_BYTES`].
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= Self::MAX_BYTES);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the agent's configuration is too large"))?;
        Ok([&length.to_be_bytes()[..], &json].concat())
    }

    /// Reads exactly what [`Self::encode`] has made, and nothing behind it.
    ///
    /// # Errors
    /// Those of the stream, `UnexpectedEof` when it breaks off, and `InvalidData` when something else is said.
    pub fn read_from(stream: &mut impl io::Read) -> io::Result<Self> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > Self::MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a configuration of {length} bytes")));
        }
        let mut json = vec![0; length];
        stream.read_exact(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

/// What OCI runtimes leave to the agent, which does it before any program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfRuntime {
    /// Where the agent itself is mounted. It takes that away.
    pub program: String,
    /// Where the kernel that the agent sees is the sandbox's own, and has a control group for all of it at `/sys/fs/cgroup`: how many
    /// processes and threads there may be. The agent says so there, and takes the mount away. Where it is the host's, the agent closes what the
    /// runtime has mounted below `/dev` and `/proc`.
    pub own_cgroup: Option<u64>,
}

/// What is settled inside a root that is made of an image, because the image's own files decide it: who user code is, the variables `HOME`,
/// `LOGNAME`, `SHELL` and `USER` where [`AgentConfig::env`] has none, that home and work dir are there, and that the user has an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfImage {
    /// `user`, `uid`, `user:group`, `uid:gid` and mixtures, to be looked up in the image's `/etc/passwd` and `/etc/group`. Without it
    /// [`AgentConfig::uid`] and what is beside it stand.
    pub user: Option<String>,
}

/// What takes the place of a cgroup's limits, as far as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsteadOfCgroup {
    /// `RLIMIT_NPROC` of user code: its processes and threads together.
    pub processes: u64,
    /// `RLIMIT_DATA` of user code: each process for itself.
    pub data_bytes: u64,
}

/// The agent is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub version: u32,
}

/// What a root that is made of an image had before anybody ran anything in it, beside what the image has: see [`AgentConfig::of_image`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenList {
    pub entries: Vec<Given>,
}

/// One entry, as it was then. Whatever is done to it later gives it another time of change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Below the root, without links on the way; empty for the root.
    pub path: String,
    /// What it is and its permission bits, as `stat(2)` has them.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of files; 0 for everything else.
    pub size: u64,
    /// Its `ctime`: seconds and nanoseconds.
    pub changed_s: i64,
    pub changed_ns: u64,
}

/// What to run: the first frame of `POST /exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStart {
    /// The program and its arguments. A first element without `/` is looked up in the `PATH` of the resulting environment.
    /// An element equal to [`CODE_FILE`] is replaced by the path of the file that `code` was written to. A first element equal to
    /// [`LOGIN_SHELL`] is the value of `SHELL` in that environment.
    pub argv: Vec<String>,
    /// Other names for `argv[0]`, tried in order after it when it is not found.
    #[serde(default)]
    pub alternatives: Vec<String>,
    /// Variables over those of [`AgentConfig::env`].
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Absolute, or relative to the work dir, which is also the default.
    pub cwd: Option<String>,
    /// Whether [`frame::Kind::Stdin`] frames will come; otherwise standard input is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Standard input is one end of a socket that works both ways, for a program that is talked to beside its output: it reads
    /// [`frame::Kind::Stdin`] there, and what it writes there is [`frame::Kind::Channel`]. Whatever it has written to its outputs before is sent
    /// before.
    #[serde(default)]
    pub channel: bool,
    /// Standard input, output and error are one terminal of this size, which is the program's own. Everything it says is
    /// [`frame::Kind::Stdout`]; `stdin` does not matter, and [`frame::Kind::StdinEof`] means nothing.
    #[serde(default)]
    pub terminal: Option<WindowSize>,
    /// After this long the whole process tree is killed.
    pub timeout_ms: Option<u64>,
    /// After this many bytes on both streams together the whole process tree is killed.
    pub max_output_bytes: Option<u64>,
    /// Code to put into a file that is removed when the program has ended.
    pub code: Option<CodeFile>,
    /// A directory whose new and changed files are to be named in the [`ExecExit`].
    pub report_changes: Option<String>,
    /// Further ones.
    #[serde(default)]
    pub also_report: Vec<Reported>,
    /// The program is not to go on to its code before it is told to ([`frame::Kind::Go`]). Such a start has code without text, which is
    /// written as `{stem}.{extension}` and under no other name, and nothing else of what can come late. When that cannot be, or the program
    /// ends, writes something or has not said what it needs, it is killed and the answer is a refusal.
    #[serde(default)]
    pub hold: Option<Hold>,
}

/// A directory whose new and changed files are to be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    pub path: String,
    /// Whether those in directories below it are.
    pub deep: bool,
}

/// Stands in [`ExecStart::argv`] for the path of the code file.
pub const CODE_FILE: &str = "{file}";

/// Stands in the first element of [`ExecStart::argv`] for the user's shell.
pub const LOGIN_SHELL: &str = "{shell}";

/// How large a terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub cols: u16,
    pub rows: u16,
}

impl WindowSize {
    /// As it stands in a frame.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.cols.to_be_bytes(), self.rows.to_be_bytes());
        [a, b, c, d]
    }

    /// From a frame; `None` when it is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d] = bytes else { return None };
        Some(Self { cols: u16::from_be_bytes([a, b]), rows: u16::from_be_bytes([c, d]) })
    }
}

/// A source file that lives as long as its execution: `{stem}.{extension}` in the execution's working directory, or
/// `{stem}-{random}.{extension}` when that name is taken, or the same in `/tmp` when the directory cannot be written. An `exact` one has the first
/// name and no other, in the place of what is there, and its program is told that name without the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeFile {
    pub stem: String,
    pub extension: String,
    pub text: String,
    #[serde(default)]
    pub exact: bool,
}

/// The program has been started: payload of [`frame::Kind::Started`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// As seen inside the sandbox.
    pub pid: u32,
    /// The program that was found for `argv[0]`.
    pub program: String,
}

/// Why the agent ended a program itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    TimedOut,
    OutputLimit,
}

/// The program has ended and all its output has been sent: payload of [`frame::Kind::Exit`], the last frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Set when the agent killed it.
    pub ended: Option<Ended>,
    pub duration_us: u64,
    /// User and system time of the program and the children it waited for.
    pub cpu_us: u64,
    pub peak_memory_bytes: u64,
    /// New and changed regular files under `report_changes` and `also_report`, sorted by path, each once.
    #[serde(default)]
    pub changes: Vec<FileStat>,
    #[serde(default)]
    pub changes_truncated: bool,
}

/// What a sandbox that has waited for somebody is told before anything is done for its owner: it can be told once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Variables over those of [`AgentConfig::env`].
    pub env: Vec<(String, String)>,
    /// In place of [`AgentConfig::open_files`].
    pub open_files: u64,
}

/// It is somebody's from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {}

/// Which programs to look for in the `PATH` of [`AgentConfig::env`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    pub names: Vec<String>,
}

/// The names of [`Which`] that are there, in the order asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub names: Vec<String>,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Other,
}

/// One directory entry; links are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Absolute, percent-encoded ([`path::encode`]).
    pub path: String,
    pub kind: FileKind,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// As seen inside the sandbox.
    pub uid: u32,
    pub gid: u32,
    pub inode: u64,
    /// Where a link points, percent-encoded.
    pub target: Option<String>,
}

/// Answer to `GET /list` and `GET /glob`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub entries: Vec<FileStat>,
    /// Where to go on when there is more: the `after` of the next request. Percent-encoded, below the directory asked for.
    pub next: Option<String>,
    /// Directories that could not be read, and so were not looked into.
    pub unreadable: u64,
}

/// Answer to `POST /mkdir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub stat: FileStat,
    /// Whether it was there before.
    pub existed: bool,
}

/// A request that the agent does not carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: RefusalCode,
    /// For people; names the path or program.
    pub message: String,
}

/// What kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The request makes no sense; our own bug or an impossible path.
    Invalid,
    /// No such file, directory or program.
    NotFound,
    /// Something is there already and is not to be replaced.
    AlreadyExists,
    /// A stream that is no archive, or has something in it that is not taken.
    InvalidArchive,
    /// A pattern that cannot be read.
    InvalidPattern,
    /// `argv[0]` and its alternatives are nowhere in `PATH`.
    ProgramNotFound,
    PermissionDenied,
    NotADirectory,
    IsADirectory,
    DirectoryNotEmpty,
    /// Not a regular file, so it cannot be read or replaced.
    NotAFile,
    /// The disk limit is reached.
    NoSpace,
    /// A limit on processes, memory or descriptors is reached.
    Exhausted,
    /// The file is a program that cannot be executed (`ENOEXEC`, `EACCES`).
    NotExecutable,
    /// Nobody listens on the port.
    NotListening,
    /// There is no checkpoint of the directory.
    NoCheckpoint,
    /// There are as many as there may be.
    TooManyCheckpoints,
    /// The directory has more than a checkpoint takes.
    TreeTooLarge,
    PatchTooLarge,
    /// It changes while it is read, again and again.
    Changing,
    /// It takes longer than it may.
    TooSlow,
    /// The image of the sandbox says what cannot be, so that nothing runs in it.
    Image,
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AgentConfig {
        AgentConfig {
            uid: 1000,
            gid: 1000,
            name: "user".to_owned(),
            home: "/".to_owned(),
            work_dir: "/".to_owned(),
            env: vec![("A".to_owned(), "x".repeat(70_000))],
            open_files: 5,
            instead_of_cgroup: None,
            of_runtime: None,
            of_image: Some(OfImage { user: Some("0:5".to_owned()) }),
            places: vec![Place { path: "/a".to_owned(), target: Some("/b".to_owned()) }],
            ways_out: None,
            trusts: Some("x".to_owned()),
        }
    }

    #[test]
    fn what_is_read_is_the_configuration_and_nothing_behind_it() {
        let bytes = [config().encode().unwrap(), b"PRI * HTTP/2.0".to_vec()].concat();
        let mut stream = &bytes[..];
        assert_eq!(AgentConfig::read_from(&mut stream).unwrap(), config());
        assert_eq!(stream, b"PRI * HTTP/2.0");
    }

    #[test]
    fn what_is_no_configuration_is_an_error() {
        let bytes = config().encode().unwrap();
        for length in [0, 3, 4, 100, bytes.len() - 1] {
            assert_eq!(AgentConfig::read_from(&mut &bytes[..length]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{length} bytes");
        }
        for lie in [&[0xff; 8][..], &[0, 0, 0, 2, b'{', b'}'], &[0, 0, 0, 1, 0xff]] {
            assert_eq!(AgentConfig::read_from(&mut &lie[..]).unwrap_err().kind(), io::ErrorKind::InvalidData, "{lie:?}");
        }
        let large = AgentConfig { env: vec![("A".to_owned(), "x".repeat(AgentConfig::MAX_BYTES))], ..config() };
        assert_eq!(large.encode().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
