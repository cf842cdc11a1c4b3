//! What the launcher is told when it is to become the runtime of one container: see the module `container` of the program.

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, Setup};

/// The word on the command line that asks for it; the path of an [`Order`] follows.
pub const COMMAND: &str = "container";

/// Stands in [`Order::config`], quotes included, for the first id of the host that the sandbox has.
pub const FIRST_ID: &str = "\"@first-id\"";
/// Stands there for the name of the sandbox's directory in every hierarchy of [`Setup::hierarchies`].
pub const CGROUP: &str = "@cgroup";

/// Files in [`Order::directory`].
pub const CONFIG_FILE: &str = "config.json";
/// The name that [`CGROUP`] stands for, a space, and the inode of that directory in the first hierarchy.
pub const CGROUP_FILE: &str = "cgroup";
/// Where the root is mounted, seen by the runtime and its container alone.
pub const ROOT: &str = "root";
/// Where [`Order::figures`] are, likewise.
pub const FIGURES: &str = "proc";
/// The user namespace, if the container is to join one.
pub const NAMESPACE: &str = "user";
/// Below the root, that of an image.
pub const ROOT_OF_IMAGE: &str = "root/r";

/// The descriptor on which the runtime finds the agent's stream.
pub const STREAM_FD: i32 = 3;

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The process without which nothing of it is to live.
    pub server: u32,
    pub setup: Setup,
    pub plan: Plan,
    /// Whether the runtime makes a control group of its own below the sandbox's, with limits of its own.
    pub has_own_cgroup: bool,
    /// Whether the runtime joins the user namespace that is made for the sandbox, instead of making one that belongs to the host's root.
    pub joins: bool,
    /// The agent's program on the host.
    pub agent: String,
    /// The bundle: a directory of the host.
    pub directory: String,
    /// Files that say something else than those of `/proc`, by their names, and what.
    pub figures: Vec<(String, String)>,
    /// `config.json` of it, but for what is known late.
    pub config: String,
    /// The runtime and its arguments.
    pub argv: Vec<String>,
}

impl Order {
    /// As it stands in a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data can be written to a Vec")
    }

    /// From a file; `None` when it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}
