//! A launch plan: everything about a sandbox that is decided before it exists. Plain data, computed by the native backend.

use serde::{Deserialize, Serialize};

use crate::protocol::Stage;

/// How many uids and gids a sandbox has: the 16 bits that images use, and the agent's own after them.
pub const ID_COUNT: u32 = 65_537;

/// The ids of a sandbox where there are too few for [`ID_COUNT`] each, ascending: root, the group `tty`, the user, nobody, the agent.
pub const FEW_IDS: [u32; FEW as usize] = [0, 5, 1000, 65_534, 65_536];

/// How many these are.
pub const FEW: u32 = 5;

/// How many file locks all programs of a sandbox may have together: two megabytes of the kernel's memory, and more than databases take. A
/// sandbox with more is ended.
pub const MOST_FILE_LOCKS: usize = 10_000;

/// What the launcher does for one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// On how many processors its programs may run at once. First, so that the launcher need not read the rest.
    pub processors: u32,
    /// Values for files of the sandbox's cgroup, by index of the hierarchy in [`Setup::hierarchies`].
    pub limits: Vec<CgroupWrite>,
    pub hostname: String,
    pub root: Root,
    /// What lies below the root, for a root that is made of an image. It then is what is written over them.
    pub layers: Option<Layers>,
    /// What the root is made of, in order.
    pub steps: Vec<Step>,
    /// The uid and gid of the agent inside the sandbox.
    pub agent_id: u32,
    /// What leads to the agent from its network namespace, if anything is to lead out of it.
    pub ways_out: Option<WaysOut>,
}

/// How programs find the agent when they want out. No packet leaves the network namespace either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaysOut {
    /// By a proxy and a name server on the loopback interface.
    Proxy,
    /// Likewise, and whatever connects to an address that is not the loopback interface's is connected to the agent.
    Redirected,
}

/// What the root is kept on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// A tmpfs of this size.
    Memory { bytes: u64, inodes: u64 },
    /// An ext4 in a file, whose descriptor comes with the plan. What owns its files are the ids inside, whatever the sandbox's are on the host.
    Disk(Kept),
}

/// Whether what is on a disk outlives the sandbox's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// Nobody mounts it again.
    Never,
    /// Somebody may, whatever becomes of everything else.
    New,
    /// It was this sandbox's root before, and what is there stays.
    Again,
}

/// The layers of an image: directories that overlayfs takes as they are, with the ids of the image as owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Where all of them are, on the host.
    pub directory: String,
    /// Their names in it, the topmost first, and each once.
    pub names: Vec<String>,
}

/// One value for one file of the sandbox's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupWrite {
    pub hierarchy: u8,
    pub file: String,
    pub value: String,
    /// Whether a kernel without this file is fine.
    pub optional: bool,
}

/// One thing in the sandbox's root. Paths are relative to it and have no `..`; owners are ids inside the sandbox. What an image has at a path
/// is never followed: where a directory is needed and something else is there, the launch fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// One that is there already stays as it is.
    Directory {
        path: String,
        mode: u32,
        owner: u32,
    },
    /// In place of what is there.
    File {
        path: String,
        mode: u32,
        owner: u32,
        content: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    Device {
        path: String,
        major: u32,
        minor: u32,
    },
    /// The host's `source` at `path`, read-only, without set-user-id programs and devices, owners mapped. Made before anything
    /// else, so that the source is the host's whatever is mounted later.
    Bind {
        source: String,
        path: String,
        file: bool,
    },
    /// A tmpfs of its own.
    Tmpfs {
        path: String,
        mode: u32,
        bytes: u64,
        inodes: u64,
        /// Whether device nodes work in it; such a one is sealed by [`Step::Seal`] before user code runs.
        devices: bool,
    },
    Devpts {
        path: String,
    },
    Proc {
        path: String,
        /// Whether processes of other users are hidden.
        private: bool,
    },
    /// Files and directories of `/proc` that become empty. Absent ones are skipped.
    Mask {
        paths: Vec<String>,
    },
    /// A file of `/proc` that says something else from now on. An absent one is skipped.
    Cover {
        path: String,
        content: String,
    },
    /// What is there becomes read-only. Absent ones are skipped.
    Seal {
        path: String,
    },
}

impl Step {
    /// What it is about, for messages: never its content.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Directory { path, .. } => format!("directory {path}"),
            Self::File { path, .. } => format!("file {path}"),
            Self::Symlink { path, .. } => format!("link {path}"),
            Self::Device { path, .. } => format!("device {path}"),
            Self::Bind { source, path, .. } => format!("{source} at {path}"),
            Self::Tmpfs { path, .. } => format!("tmpfs at {path}"),
            Self::Devpts { path } => format!("devpts at {path}"),
            Self::Proc { path, .. } => format!("proc at {path}"),
            Self::Mask { .. } => "masks in /proc".to_owned(),
            Self::Cover { path, .. } => format!("cover of {path}"),
            Self::Seal { path } => format!("read-only {path}"),
        }
    }
}

/// What the launcher is told once, before any plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// cgroup v2 when there is one hierarchy with everything, otherwise v1.
    pub unified: bool,
    /// The directories under which each sandbox gets one of its own. The first is where names are taken. None where limits are the agent's
    /// alone to set.
    pub hierarchies: Vec<String>,
    /// Whether the launcher is an ordinary user's, and how many ids this user has beside its own. It then enters a user namespace in which
    /// they are 1 and following, and its sandboxes have [`FEW_IDS`] of them each.
    pub subordinate_ids: Option<u32>,
    /// The file, in the first hierarchy, that counts kills by the kernel at the memory limit in a line `oom_kill N`.
    pub oom_file: String,
    /// How many empty processes wait in their cgroups for a plan.
    pub parked: u32,
    /// Whether sandboxes have the host's network in place of one of their own.
    pub host_network: bool,
    /// A wall to leave out.
    pub weakness: Option<Weakness>,
    /// What goes wrong in every launch.
    pub fault: Option<Fault>,
}

impl Setup {
    /// Whether sandboxes are in the network of whoever started the launcher.
    #[must_use]
    pub fn shares_network(&self) -> bool {
        self.host_network || self.weakness == Some(Weakness::Network)
    }
}

/// A wall that is left out, so that tests can prove that they would notice. For tests alone: nothing that an operator or a client can say
/// leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weakness {
    /// No seccomp filter, neither of the agent nor of user code.
    Filter,
    /// User code stays what the agent is.
    Identity,
    /// Mounts honour set-user-id bits and devices, can be written, and propagate.
    Mounts,
    /// Nothing of `/proc` is masked, and processes of others are seen.
    Sight,
    /// The network of whoever started the launcher.
    Network,
    /// No limits on memory, processes and space.
    Limits,
    /// No Landlock domain.
    Landlock,
}

/// Something that goes wrong at one stage of every launch, so that tests can see what is left of it. For tests alone, as [`Weakness`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub stage: Stage,
    pub effect: Effect,
}

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Whoever reaches the stage stands still there under the name [`Stage::mark`].
    Hold,
    /// The stage fails with this `errno`.
    Fail(i32),
}

impl Weakness {
    /// What the agent is told as `argv[1]`, where it has a part in it.
    #[must_use]
    pub fn agent_argument(self) -> Option<&'static str> {
        match self {
            Self::Filter => Some("unfiltered"),
            Self::Identity => Some("unchanged"),
            Self::Landlock => Some("unconfined"),
            Self::Mounts | Self::Sight | Self::Network | Self::Limits => None,
        }
    }
}
