//! The port behind which sandboxes come into being.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Limits, SandboxId, SandboxSpec, StoredImage};

/// What an agent's stream must be able to do.
pub trait AgentIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> AgentIo for T {}

/// The one duplex byte stream between server and agent; HTTP/2 is spoken on it. Every byte read from it is hostile.
pub type AgentStream = Box<dyn AgentIo>;

/// Why a backend could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The spec asks for what this backend or this machine cannot give. The message names the remedy.
    #[error("{0}")]
    Unsupported(String),
    /// The machine is out of something for the moment.
    #[error("{0}")]
    Exhausted(String),
    /// What was kept of a stopped sandbox cannot be used. The message says why.
    #[error("{0}")]
    Broken(String),
    /// It went wrong. The message says at which step.
    #[error("{0}")]
    Failed(String),
}

/// What becomes of the files of a sandbox whose storage is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// They end with it, whoever dies.
    Passing,
    /// They are new, and kept under its id until they are discarded.
    Kept,
    /// They are those that were kept under its id.
    Again,
}

/// How long files of which no record is known are left to whoever looks for them.
pub const SET_ASIDE_FOR: Duration = Duration::from_secs(24 * 3600);

/// A sandbox that a backend has something of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub id: SandboxId,
}

/// A directory of a sandbox as its agent has found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerDirectory {
    /// From the root inside.
    pub path: Vec<u8>,
    pub device: u64,
    pub inode: u64,
}

/// Whether the agent has seen what it had to.
pub type UpperSeen = Pin<Box<dyn Future<Output = bool> + Send>>;

/// What a sandbox has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub memory_bytes: u64,
    pub peak_memory_bytes: u64,
    /// Processes that the kernel killed at the memory limit.
    pub oom_kills: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes and threads that were not started because of the limit on them.
    pub refused_starts: u64,
}

/// Something that a sandbox had before any of its programs ran, as it was then: its agent's word, which concerns its own image alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Below the root; empty for the root.
    pub path: String,
    /// What it is and its permission bits.
    pub mode: u32,
    /// Ids inside.
    pub uid: u32,
    pub gid: u32,
    /// Of files.
    pub size: u64,
    /// When it was changed last: seconds since 1970 and nanoseconds.
    pub changed: (i64, u64),
}

/// A tar that may be read for as long as it takes, by whoever may block.
pub type Changes = Box<dyn std::io::Read + Send>;

/// Something that not every backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Storage `disk`, and with it sandboxes that are stopped and started again.
    Disk,
    /// Networks other than `none`.
    Network,
    /// Making an image of what a sandbox has changed.
    Commit,
}

impl Feature {
    pub const ALL: [Self; 3] = [Self::Disk, Self::Network, Self::Commit];

    /// The name in APIs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Commit => "commit",
        }
    }
}

/// What a backend says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Of the runtime behind it, as that says it.
    pub version: Option<String>,
    /// How the runtime runs code, where there is a choice.
    pub platform: Option<String>,
    /// What stands between user code and the host's kernel, in a sentence.
    pub wall: &'static str,
}

/// Something that a kernel of a backend's own shows or allows where Linux, which has many tenants, must not: an attack that is none there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// As in the security requirements.
    pub guarantee: &'static str,
    /// What the name of the attack begins with.
    pub attempt: &'static str,
    /// Why nothing is lost by it, in a sentence.
    pub why: &'static str,
}

/// How the first process of a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// How many processes of it the kernel killed for want of memory.
    pub oom_kills: u64,
    /// For people: `its agent exited with status 1`.
    pub how: String,
    /// Whether the backend ended, and all that it ran with it.
    pub of_all: bool,
    /// Set when it never came as far as an agent.
    pub launch_error: Option<BackendError>,
}

/// What makes a sandbox exist. A backend launches, destroys and lists; everything that is done *inside* a sandbox goes
/// through the agent stream that `launch` hands over.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The name in records, metrics and errors.
    fn name(&self) -> &'static str;

    /// A program that attacks from inside a sandbox and says what it got away with, for this backend's machine; see `caisson doctor`.
    fn probe(&self) -> &'static [u8];

    /// The limits that this host cannot enforce in full, by their names in the API. The operator has accepted that.
    fn weaker_limits(&self) -> &'static [&'static str] {
        &[]
    }

    /// What stands behind the name.
    fn about(&self) -> About {
        About::default()
    }

    /// What attacks find in its sandboxes that is no weakness there.
    fn differences(&self) -> &'static [Difference] {
        &[]
    }

    /// What it can do beyond running programs.
    fn features(&self) -> &'static [Feature] {
        &Feature::ALL
    }

    /// Whether programs of a sandbox that has a network get out without knowing of the proxy. Elsewhere the proxy is the only way.
    fn redirects(&self) -> bool {
        false
    }

    /// The image of this name, where the backend has images of its own; they are everybody's who may use it. `None` where images are those of
    /// the store.
    async fn image(&self, name: &str) -> Option<crate::Result<StoredImage>> {
        let _ = name;
        None
    }

    /// Begins to make the sandbox exist and hands over the stream to its agent, which may be written to at once: nobody has to
    /// wait for the agent before telling it what to do. On an error nothing of it is left. A launch that fails later ends the
    /// stream, and then `death` has the `launch_error`. Called once per id, and again with [`Files::Again`] after it was destroyed.
    /// Cancel-safe: a caller that goes away leaves a sandbox that `destroy` and `list` know.
    async fn launch(&self, id: SandboxId, spec: &SandboxSpec, files: Files) -> Result<AgentStream, BackendError>;

    /// Ends every process of the sandbox and frees what it held but kept files. Returns when that is done. Idempotent: an unknown id is fine.
    async fn destroy(&self, id: SandboxId) -> Result<(), BackendError>;

    /// Removes the files that are kept under this id. Idempotent likewise.
    async fn discard(&self, id: SandboxId) -> Result<(), BackendError> {
        let _ = id;
        Ok(())
    }

    /// Keeps files of which no record is known where nobody finds them, for [`SET_ASIDE_FOR`]: perhaps it is the records that are not there.
    async fn set_aside(&self, id: SandboxId) -> Result<(), BackendError> {
        self.discard(id).await
    }

    /// Of whom files are kept.
    async fn kept(&self) -> Result<Vec<SandboxId>, BackendError> {
        Ok(Vec::new())
    }

    /// How it ended by itself, once it has; `None` while it lives or when the backend knows nothing of it.
    async fn death(&self, id: SandboxId) -> Option<Death>;

    /// What it has used; `None` when the backend knows nothing of it.
    async fn usage(&self, id: SandboxId) -> Option<Usage>;

    /// Changes the limits on processes and processor time of a sandbox that nobody uses yet. `Unsupported` leaves it as it was; after another
    /// error it is of no use any more.
    async fn adjust(&self, id: SandboxId, limits: &Limits) -> Result<(), BackendError> {
        let _ = limits;
        Err(BackendError::Unsupported(format!("the backend `{}` cannot change the limits of sandbox `{id}`", self.name())))
    }

    /// What the programs of a living sandbox have changed over the layers of its image, as a tar in the form of a layer. They stand still until
    /// it is read or dropped, for half a minute at most. `given` is what was there before any of them ran: it is not in the tar unless it was
    /// changed. A tar that is not whole ends with an error of the stream that says why.
    async fn changes(&self, id: SandboxId, given: &[Given]) -> Result<Changes, BackendError> {
        let _ = given;
        Err(BackendError::Unsupported(format!("the backend `{}` cannot say what has changed in sandbox `{id}`", self.name())))
    }

    /// Makes a directory of a living sandbox, in which no program runs, the lower layer of what is seen in its place. When the upper one, with
    /// nothing in it, is seen there, waits for `seen`, and goes on if that is true. After an error all is as it was.
    async fn layer(&self, id: SandboxId, directory: &LowerDirectory, seen: UpperSeen) -> Result<(), BackendError> {
        let _ = (directory, seen);
        Err(BackendError::Unsupported(format!("the backend `{}` has no layers for sandbox `{id}`", self.name())))
    }

    /// Ground truth after a crash: everything this backend has something of.
    async fn list(&self) -> Result<Vec<Observed>, BackendError>;

    /// Ends everything that is left and releases the backend's own resources. Called once, last.
    async fn shutdown(&self);
}
