//! Messages on the two `SOCK_SEQPACKET` sockets: server ↔ launcher, and launcher ↔ parked process.
//!
//! ```text
//! server → launcher   Setup +agent program        once, first
//!                     Launch(seq) plan +stream    a new sandbox
//!                     LaunchOnDisk(seq) plan +stream +image
//!                     Destroy(seq)                idempotent
//!                     Commit(seq) order +tar +end what its programs have changed; both pipes are closed when that is told, or cannot be
//!                     Layer(seq) order +socket    a directory becomes a lower layer; how it goes is said through the socket, see `LayerOrder`
//!                     IdsMapped                   the answer to MapIds
//! launcher → server   MapIds                      an ordinary user's: in its user namespace, which has no ids yet
//!                     Ready | Failed(0)           once, first: whether a process could be parked
//!                     Launched(seq)               the agent has been executed
//!                     Failed(seq)                 nothing of it is left
//!                     Ended(seq)                  nothing of it is left; also the answer to Destroy of an unknown one
//! parked → launcher   Parked                      then waits for the plan and the stream
//!                     Views +upper +root +storage of a root that is made of an image, for Commit and Layer
//!                     Failed                      then exits; end of file without it means: executed
//! ```
//! A message is one tag byte, the sequence number as eight bytes, and a postcard body. The closing of a socket by the other side
//! ends the launcher and every sandbox.

use serde::{Deserialize, Serialize};

use crate::plan::Kept;

/// Longest message in either direction, in bytes.
pub const MAX_MESSAGE: usize = 160 << 10;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    Setup = 1,
    Launch = 2,
    Destroy = 3,
    LaunchOnDisk = 4,
    IdsMapped = 5,
    Commit = 6,
    Layer = 7,
    Ready = 16,
    Launched = 17,
    Failed = 18,
    Ended = 19,
    Parked = 20,
    MapIds = 21,
    Views = 22,
}

impl Tag {
    fn from_byte(byte: u8) -> Option<Self> {
        use Tag::{Commit, Destroy, Ended, Failed, IdsMapped, Launch, LaunchOnDisk, Launched, Layer, MapIds, Parked, Ready, Setup, Views};
        [Setup, Launch, LaunchOnDisk, Destroy, Ready, Launched, Failed, Ended, Parked, MapIds, IdsMapped, Commit, Layer, Views]
            .into_iter()
            .find(|tag| *tag as u8 == byte)
    }

    /// How many descriptors come with a message of this kind.
    #[must_use]
    pub fn descriptors(self) -> usize {
        match self {
            Self::Setup | Self::Launch | Self::Layer => 1,
            Self::LaunchOnDisk | Self::Commit => 2,
            Self::Views => 3,
            _ => 0,
        }
    }

    /// The same for a message that was received: nonsense comes with none.
    #[must_use]
    pub fn descriptors_of(message: &[u8]) -> usize {
        message.first().and_then(|byte| Self::from_byte(*byte)).map_or(0, Self::descriptors)
    }
}

/// The sandbox's place, for reading its cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// The name of its directory in every hierarchy of [`crate::plan::Setup`].
    pub cgroup: String,
}

/// What somebody wants to know of a sandbox's files: all that was changed over the layers of its image, but for what was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitOrder {
    pub given: Vec<Given>,
}

/// Something that was there before any program ran, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Below the root; empty for the root.
    pub path: String,
    pub mode: u32,
    /// Ids inside.
    pub user: u32,
    pub group: u32,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub changed: (i64, u64),
}

/// Which directory of a sandbox becomes the lower layer of what is seen in its place. Through the socket comes [`UPPER_IS_SEEN`]; whatever is
/// answered, it goes on, and [`LAID`] comes, or why it was not done, and then all is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerOrder {
    /// From the root inside, without links on the way.
    pub path: Vec<u8>,
    /// What is there.
    pub device: u64,
    pub inode: u64,
    /// Where its storage is one.
    pub disk: Option<Kept>,
}

/// See [`LayerOrder`].
pub const UPPER_IS_SEEN: &[u8] = b"upper";
pub const LAID: &[u8] = b"laid";

/// What is said through the second pipe of a commit when the tar in the first one is whole. Anything else is the reason why it is not.
pub const WHOLE: &[u8] = b"whole";

/// The longest reason.
pub const MAX_REASON: usize = 2048;

/// How a sandbox's first process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit status, when it exited.
    pub exit: Option<i32>,
    /// Signal, when one ended it.
    pub signal: Option<i32>,
    pub oom_kills: u64,
    /// How many file locks it had, when it was ended for that.
    pub file_locks: Option<u64>,
}

/// Why a sandbox was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub stage: Stage,
    /// `errno`, or 0.
    pub errno: i32,
    /// What it was about: a path or a file name of the plan.
    pub subject: String,
}

/// Where a launch stands. The order is the order of privilege; `stages.rs` of the launcher follows it line by line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Making the cgroup directories.
    Cgroup,
    /// `clone3` with the namespaces.
    Clone,
    /// Entering the cgroup and its namespace.
    EnterCgroup,
    /// Cutting mount propagation to the host.
    Propagation,
    /// Session, keyring, loopback.
    Surroundings,
    /// Making the user namespace and its maps.
    UserNamespace,
    /// Decoding the plan.
    Plan,
    /// Writing the limits.
    Limits,
    /// Hostname.
    Hostname,
    /// Making the ways out of the network namespace.
    Network,
    /// Opening what the host lends.
    Sources,
    /// Opening the layers of an image, with the sandbox's ids as owners.
    Layers,
    /// The root, or what is written over an image's layers.
    Root,
    /// Mounting them one over the other.
    Overlay,
    /// A step of the plan.
    Step,
    /// `pivot_root` and leaving the host's mounts.
    Pivot,
    /// Entering the user namespace, dropping ids and capabilities.
    Credentials,
    /// Executing the agent.
    Execute,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 18] = [
        Self::Cgroup,
        Self::Clone,
        Self::EnterCgroup,
        Self::Propagation,
        Self::Surroundings,
        Self::UserNamespace,
        Self::Plan,
        Self::Limits,
        Self::Hostname,
        Self::Network,
        Self::Sources,
        Self::Layers,
        Self::Root,
        Self::Overlay,
        Self::Step,
        Self::Pivot,
        Self::Credentials,
        Self::Execute,
    ];

    /// Whether it is there only for roots that are made of an image.
    #[must_use]
    pub fn is_of_images(self) -> bool {
        matches!(self, Self::Layers | Self::Overlay)
    }

    /// Whether the launcher itself is at work; at every other it is the new process.
    #[must_use]
    pub fn is_the_launchers(self) -> bool {
        matches!(self, Self::Cgroup | Self::Clone)
    }

    /// The name of a process that is held there by a fault, no longer than the kernel keeps (`PR_SET_NAME(2const)`).
    #[must_use]
    pub fn mark(self) -> String {
        let mut mark = format!("at:{self:?}");
        mark.truncate(15);
        mark
    }

    /// What was being done, for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Cgroup => "making the control groups",
            Self::Clone => "making the namespaces",
            Self::EnterCgroup => "entering the control groups",
            Self::Propagation => "separating the mounts from the host's",
            Self::Surroundings => "preparing session, keyring and loopback",
            Self::UserNamespace => "making the user namespace",
            Self::Plan => "reading the launch plan",
            Self::Limits => "setting the limit",
            Self::Hostname => "setting the host name",
            Self::Network => "making the ways out of the network namespace",
            Self::Sources => "opening what the host lends",
            Self::Root => "mounting the root",
            Self::Layers => "opening the layers of the image",
            Self::Overlay => "mounting the layers of the image",
            Self::Step => "preparing the root",
            Self::Pivot => "leaving the host's file system",
            Self::Credentials => "dropping privileges",
            Self::Execute => "starting the agent",
        }
    }
}

/// A message that cannot be understood; the conversation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// One message as it travels.
#[must_use]
pub fn encode(tag: Tag, seq: u64, body: &impl Serialize) -> Vec<u8> {
    let mut out = vec![tag as u8];
    out.extend_from_slice(&seq.to_be_bytes());
    postcard::to_extend(body, out).expect("plain data can be written to a Vec")
}

/// Tag, sequence number and undecoded body of a message.
pub fn split(message: &[u8]) -> Result<(Tag, u64, &[u8]), Malformed> {
    let (tag, rest) = message.split_first().ok_or(Malformed)?;
    let (seq, body) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
    Ok((Tag::from_byte(*tag).ok_or(Malformed)?, u64::from_be_bytes(*seq), body))
}

/// The first field of [`crate::plan::Plan`] in the body of a launch: on how many processors the sandbox may run.
pub fn processors(body: &[u8]) -> Result<u32, Malformed> {
    postcard::take_from_bytes(body).map(|(count, _)| count).map_err(|_| Malformed)
}

/// The body of a message.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Malformed> {
    postcard::from_bytes(body).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let failure = Failure { stage: Stage::Pivot, errno: 22, subject: "/".into() };
        let message = encode(Tag::Failed, 7, &failure);
        let (tag, seq, body) = split(&message).unwrap();
        assert_eq!((tag, seq), (Tag::Failed, 7));
        assert_eq!(decode::<Failure>(body), Ok(failure));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&b""[..], b"\x01", b"\xff12345678", b"\x1212345678"] {
            assert!(split(bad).and_then(|(_, _, body)| decode::<Failure>(body)).is_err());
        }
    }
}
