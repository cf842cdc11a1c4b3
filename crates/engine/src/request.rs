//! What callers hand to the engine and get back from it.

use std::{collections::BTreeMap, io, pin::Pin, time::Duration};

use bytes::Bytes;
use caisson_core::{Error, Execution, FileEvent, FileStat, Network, Result, Sandbox, SandboxId, SandboxSpec, TimeLimits};
use futures::Stream;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::workspaces::{WorkspaceReport, WorkspaceUse};

/// File contents on their way in or out.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// What happens to files, as it happens. An error is the last item.
pub type FileEvents = Pin<Box<dyn Stream<Item = Result<FileEvent>> + Send>>;

/// What a new file has beside its content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileAttributes {
    /// Those of the file that is replaced, or 0644, when nothing is said.
    pub mode: Option<u32>,
    /// Now, when nothing is said.
    pub modified_at: Option<Timestamp>,
}

/// A sandbox to be made.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// With a name, an existing living sandbox of that name is returned instead of a new one.
    pub name: Option<String>,
    pub spec: SandboxSpec,
    pub time_limits: TimeLimits,
    pub metadata: BTreeMap<String, String>,
}

/// What `create` found or made.
#[derive(Debug, Clone)]
pub enum Created {
    New(Sandbox),
    Existing(Sandbox),
}

/// Changes to a living sandbox; `None` leaves things as they are.
#[derive(Debug, Clone, Default)]
pub struct SandboxUpdate {
    /// `Some(None)` lifts the limit.
    pub lifetime: Option<Option<Duration>>,
    pub idle_timeout: Option<Option<Duration>>,
    /// Replaces all of it.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Holds at once, for connections that are open as well.
    pub network: Option<Network>,
}

impl SandboxUpdate {
    /// Whether it fits a sandbox that has no ways out, which are made with it.
    pub(crate) fn check_without_network(&self, id: SandboxId) -> Result<()> {
        if self.network.as_ref().is_some_and(|network| !network.is_none()) {
            let message = format!("sandbox `{id}` was made without a network, and stays without one; make another");
            return Err(Error::conflict("no_network", message));
        }
        Ok(())
    }

    pub(crate) fn apply(self, sandbox: &mut Sandbox) {
        if let Some(lifetime) = self.lifetime {
            sandbox.time_limits.lifetime = lifetime;
        }
        if let Some(idle_timeout) = self.idle_timeout {
            sandbox.time_limits.idle_timeout = idle_timeout;
        }
        if let Some(metadata) = self.metadata {
            sandbox.metadata = metadata;
        }
        if let Some(network) = self.network {
            sandbox.spec.network = network;
        }
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments, no shell involved.
    Argv(Vec<String>),
    /// A command line for the sandbox's shell (`bash` where there is one, else `sh`).
    Shell(String),
    /// The shell of the sandbox's user (`SHELL`; where it is not there, `bash` or `sh`), as it is after a login.
    LoginShell,
    /// What the image says itself: its entrypoint and command.
    OfImage,
    /// Source code for an interpreter or compiler of the image; `args` come after the file.
    Code { language: String, text: String, args: Vec<String> },
}

/// Standard input of an execution.
#[derive(Debug, Default)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Empty,
    /// All of it, then end of file.
    Bytes(Bytes),
    /// As it comes; end of file when the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
    /// What [`crate::Engine::write_stdin`] brings, until [`crate::Engine::end_stdin`].
    Clients,
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    pub cols: u16,
    pub rows: u16,
}

impl WindowSize {
    /// The smallest and the largest figure of either kind.
    pub const RANGE: (u16, u16) = (1, 4096);
}

/// One execution in a living sandbox.
#[derive(Debug)]
pub struct ExecRequest {
    pub program: Program,
    pub stdin: Stdin,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    /// `None`: no limit of its own.
    pub timeout: Option<Duration>,
    /// End it with `output_limit` after this many bytes on both streams together.
    pub max_output_bytes: Option<u64>,
    /// Standard input, output and error are one terminal of this size, and clients feed it. All it says is on `stdout`. Its sandbox is not
    /// in use by it alone: somebody has to be attached, or it has to say something.
    pub terminal: Option<WindowSize>,
    /// It waits when everybody who is attached is far behind. While nobody is, it never waits.
    pub wait_for_readers: bool,
    /// An absolute directory: the result names the files in it that were made or changed from just before the program starts to its end.
    pub report_changes: Option<String>,
    /// Further ones, and whether what is below them counts.
    pub also_report: Vec<(String, bool)>,
    /// Files of it are there before the program starts, and new and changed ones go out into it behind its end.
    pub workspace: Option<WorkspaceUse>,
}

impl ExecRequest {
    /// This program, with nothing on its standard input and no limits of its own.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self {
            program,
            stdin: Stdin::Empty,
            env: BTreeMap::new(),
            cwd: None,
            timeout: None,
            max_output_bytes: None,
            terminal: None,
            wait_for_readers: false,
            report_changes: None,
            also_report: Vec::new(),
            workspace: None,
        }
    }
}

/// A file to put into a one-shot's sandbox.
#[derive(Debug, Clone)]
pub struct InputFile {
    /// Absolute, or relative to the work dir.
    pub path: Vec<u8>,
    pub content: Bytes,
    pub mode: Option<u32>,
}

/// A one-shot: fresh sandbox, files in, run, result and changed files out, sandbox destroyed.
#[derive(Debug)]
pub struct RunRequest {
    pub spec: SandboxSpec,
    pub metadata: BTreeMap<String, String>,
    /// They are there behind those of the workspace.
    pub files: Vec<InputFile>,
    pub exec: ExecRequest,
    /// Bring back the contents of changed files up to this many bytes in all; 0 names them only.
    pub max_file_bytes: u64,
}

/// What one stream of a finished execution said, as far as it fits inline.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captured {
    pub head: Bytes,
    /// Empty unless something between head and tail was left out.
    pub tail: Bytes,
    pub total_bytes: u64,
}

impl Captured {
    /// Whether something is missing between head and tail.
    #[must_use]
    pub fn truncated(&self) -> bool {
        (self.head.len() + self.tail.len()) as u64 != self.total_bytes
    }
}

/// A finished execution with its output.
#[derive(Debug, Clone)]
pub struct ExecutionResult {
    /// Its `outcome` is always there.
    pub execution: Execution,
    pub stdout: Captured,
    pub stderr: Captured,
    /// Changed files, where they were asked for: known at the end alone, and not kept.
    pub changes: Vec<FileStat>,
    /// Whether there may be more of them than are named.
    pub changes_truncated: bool,
    /// What became of the files of its workspace, if it used one: known to whoever started it; others ask for [`crate::Engine::workspace_report`].
    pub workspace: Option<WorkspaceReport>,
}

/// A file that a one-shot made or changed.
#[derive(Debug, Clone)]
pub struct ChangedFile {
    pub stat: FileStat,
    /// Absent when it did not fit under `max_file_bytes`.
    pub content: Option<Bytes>,
}

/// How far a one-shot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OneShotStage {
    /// It waits for its sandbox.
    #[default]
    Asked,
    /// It has this one, and its files are on their way into it.
    Prepares(SandboxId),
    Runs(SandboxId),
    /// Its program has ended, and its files are on their way out.
    Ended(SandboxId),
}

/// A finished one-shot.
#[derive(Debug, Clone)]
pub struct RunResult {
    pub result: ExecutionResult,
    pub files: Vec<ChangedFile>,
    /// Whether there were more changed files than are named.
    pub files_truncated: bool,
    /// Limits that the host could not enforce in full.
    pub weaker_limits: Vec<String>,
}

/// How far an execution's output has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub finished: bool,
}

/// A piece of an output log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Where `data` starts in what the program wrote. Larger than the offset asked for when what was there is not kept.
    pub offset: u64,
    pub data: Bytes,
}
