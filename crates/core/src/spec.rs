//! What is asked for when a sandbox is created.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::{Error, Limits};

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Image {
    /// The built-in image: the host's `/usr` & co. read-only, plus a generated `/etc`.
    #[default]
    Host,
}

impl Image {
    /// The search path of the built-in image; the last two are where Go is installed by hand or by Debian.
    pub const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin:/usr/lib/go/bin";
}

impl FromStr for Image {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "host" => Ok(Self::Host),
            other => Err(Error::invalid(
                "unknown_image",
                format!("image `{}` is not known here; this server has `host`", other.escape_default()),
            )),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
        }
    }
}

/// Where the writable part of the root file system is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// A size-capped tmpfs, counted as the sandbox's memory and freed with it by the kernel.
    #[default]
    Memory,
    /// A file system of its own on the server's disk.
    Disk,
}

impl Storage {
    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

impl FromStr for Storage {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "memory" => Ok(Self::Memory),
            "disk" => Ok(Self::Disk),
            other => {
                Err(Error::invalid("unsupported", format!("storage `{}` is not available; use `memory` or `disk`", other.escape_default())))
            }
        }
    }
}

/// What a sandbox may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing but its own loopback interface.
    #[default]
    None,
}

impl Network {
    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "none" => Ok(Self::None),
            other => Err(Error::invalid("unsupported", format!("network `{}` is not available; use `none`", other.escape_default()))),
        }
    }
}

/// Who user code is inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    pub home: String,
}

impl Default for UserSpec {
    fn default() -> Self {
        Self { uid: 1000, gid: 1000, name: "user".into(), home: "/home/user".into() }
    }
}

impl UserSpec {
    /// Root inside: uid 0 of a user namespace of its own, with a short list of capabilities over the sandbox's own files and processes,
    /// and behind the same walls as everybody else.
    #[must_use]
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, name: "root".into(), home: "/root".into() }
    }
}

impl FromStr for UserSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "user" => Ok(Self::default()),
            "root" => Ok(Self::root()),
            other => {
                Err(Error::invalid("unsupported", format!("user `{}` is not known here; use `user` or `root`", other.escape_default())))
            }
        }
    }
}

/// Everything a backend needs to know to make a sandbox exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    pub image: Image,
    pub storage: Storage,
    pub network: Network,
    pub limits: Limits,
    pub hostname: String,
    pub user: UserSpec,
    /// Absolute path in which programs start when the request names none.
    pub work_dir: String,
    /// Variables for every program of the sandbox, over the defaults.
    pub env: BTreeMap<String, String>,
    /// The limits that the host cannot enforce in full, by their names in the API. Found when the sandbox is made; nobody asks for them.
    pub weaker_limits: Vec<String>,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            image: Image::default(),
            storage: Storage::default(),
            network: Network::default(),
            limits: Limits::default(),
            hostname: "sandbox".into(),
            user: UserSpec::default(),
            work_dir: "/workspace".into(),
            env: BTreeMap::new(),
            weaker_limits: Vec::new(),
        }
    }
}
