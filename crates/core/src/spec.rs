//! What is asked for when a sandbox is created.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use crate::{Digest, Error, Limits, Network, Recipe, StoredImage};

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Image {
    /// The built-in image: the host's `/usr` & co. read-only, plus a generated `/etc`.
    #[default]
    Host,
    /// One of the store, by its name: what a request asks for, and what a record says, which has the id as well. The engine looks it up
    /// before it makes anything of it.
    Named { name: String, id: Option<Digest> },
    /// One that was looked up: its layers are there for as long as the sandbox.
    Stored(Arc<StoredImage>),
}

impl Image {
    /// Characters of a name. What a reference may be is for the store to say; this bounds what is handed to it.
    pub const NAME_LENGTH: usize = 512;

    /// The name under which it was asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Host => "host",
            Self::Named { name, .. } => name,
            Self::Stored(image) => &image.name,
        }
    }

    /// What identifies its content, where that is known.
    #[must_use]
    pub fn id(&self) -> Option<Digest> {
        match self {
            Self::Host => None,
            Self::Named { id, .. } => *id,
            Self::Stored(image) => Some(image.id),
        }
    }

    /// The refusal of a name that no image here has.
    #[must_use]
    pub fn unknown(name: &str) -> Error {
        let name = name.escape_default();
        let message = format!("there is no image `{name}` here; `caisson image pull {name}` gets it, and `host` is always there");
        Error::invalid("unknown_image", message)
    }
}

impl Image {
    /// The search path of the built-in image; the last two are where Go is installed by hand or by Debian.
    pub const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin:/usr/lib/go/bin";
}

impl FromStr for Image {
    type Err = Error;

    /// `host`, or the name of an image that is yet to be looked up.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "host" => Ok(Self::Host),
            name if (1..=Self::NAME_LENGTH).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Self::Named { name: name.to_owned(), id: None })
            }
            other => Err(Self::unknown(other)),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an image decides, because the request has left it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftToImage {
    /// Who user code is: the image's `User`, where it has one.
    pub user: bool,
    /// Where programs start: the image's `WorkingDir`, where it has one.
    pub work_dir: bool,
}

impl Default for LeftToImage {
    fn default() -> Self {
        Self { user: true, work_dir: true }
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
    /// What makes it; the server's choice where it is empty, which no record is.
    pub backend: String,
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
    /// What of `user` and `work_dir` is only for images that say nothing themselves.
    pub left_to_image: LeftToImage,
    /// What its template adds.
    pub recipe: Recipe,
    /// The limits that the host cannot enforce in full, by their names in the API. Found when the sandbox is made; nobody asks for them.
    pub weaker_limits: Vec<String>,
    /// A certificate that its programs are to trust beside those of its image, in PEM: that of whoever looks into their TLS. The engine's to
    /// say at each start; no record has it.
    pub certificate: Option<Arc<str>>,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            backend: String::new(),
            image: Image::default(),
            storage: Storage::default(),
            network: Network::default(),
            limits: Limits::default(),
            hostname: "sandbox".into(),
            user: UserSpec::default(),
            work_dir: "/workspace".into(),
            env: BTreeMap::new(),
            left_to_image: LeftToImage::default(),
            recipe: Recipe::default(),
            weaker_limits: Vec::new(),
            certificate: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_as_they_are_and_bounded() {
        assert_eq!("host".parse::<Image>().unwrap(), Image::Host);
        let name = "registry.example:5000/team/app@sha256:00";
        assert_eq!(name.parse::<Image>().unwrap(), Image::Named { name: name.to_owned(), id: None });
        assert_eq!(name.parse::<Image>().unwrap().to_string(), name);
        for bad in ["", "a b", "a\n", "é", "\0", &"x".repeat(513)] {
            assert_eq!(bad.parse::<Image>().unwrap_err().code(), "unknown_image", "{bad:?}");
        }
    }
}
