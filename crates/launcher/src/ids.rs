//! Which ids of the host a sandbox has.

use std::io;

use caisson_launcher::plan::{FEW, FEW_IDS, ID_COUNT};
use rustix::io::Errno;

/// A sandbox's ids, inside and on the host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ids {
    /// All of [`ID_COUNT`], one after the other from this one on.
    Range(u32),
    /// [`FEW_IDS`] alone, one after the other from this one on.
    Few(u32),
}

impl Ids {
    /// The host's id for one inside; an error for one that the sandbox does not have.
    pub(crate) fn host(self, id: u32) -> io::Result<u32> {
        let offset = match self {
            Self::Range(_) => (id < ID_COUNT).then_some(id),
            Self::Few(_) => FEW_IDS.iter().position(|few| *few == id).and_then(|position| u32::try_from(position).ok()),
        };
        let (Self::Range(first) | Self::Few(first)) = self;
        Ok(first + offset.ok_or(Errno::INVAL)?)
    }

    /// Whether this id of the host is one of the sandbox.
    pub(crate) fn contain(self, host: u32) -> bool {
        let (first, count) = match self {
            Self::Range(first) => (first, ID_COUNT),
            Self::Few(first) => (first, FEW),
        };
        host.checked_sub(first).is_some_and(|offset| offset < count)
    }

    /// Whether each has the same number outside.
    pub(crate) fn are_the_hosts(self) -> bool {
        matches!(self, Self::Range(0))
    }

    /// For `uid_map` and `gid_map` (`user_namespaces(7)`).
    pub(crate) fn map(self) -> String {
        match self {
            Self::Range(first) => format!("0 {first} {ID_COUNT}"),
            Self::Few(first) => FEW_IDS.iter().zip(first..).map(|(inside, outside)| format!("{inside} {outside} 1\n")).collect(),
        }
    }
}
