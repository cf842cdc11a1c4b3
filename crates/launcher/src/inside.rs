//! What the launcher is told when it is the first process of a container that somebody else has made: see the module `contained` of the program.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{host::Lent, plan::Plan};

/// The words on the command line that ask for it: to make a sandbox of the container, and to say what there is on its host ([`Survey`]).
pub const COMMAND: &str = "inside";
pub const SURVEY: &str = "survey";

/// The directory with this program and the agent. Below `/dev`, which is the container's own, so that nothing of it is seen in an image.
pub const PROGRAMS: &str = "/dev/caisson";
/// Their names in it.
pub const LAUNCHER: &str = "launcher";
pub const AGENT: &str = "agent";
/// Where the host's directories are that are lent, each below its own name; for a survey, all of them.
pub const HOST: &str = "/dev/host";

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub plan: Plan,
    /// Whether the root is the container's own, which is an image, with what is written over it in memory. Otherwise it is new.
    pub is_of_image: bool,
    /// What the agent is told on its command line.
    pub arguments: Vec<String>,
}

impl Order {
    /// The most bytes that it may have.
    const MAX_BYTES: usize = 1 << 20;

    /// As it begins standard input, before what is the agent's: its length in four bytes, the most significant first, and itself.
    ///
    /// # Panics
    /// Never: a plan is far smaller than four bytes can say.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("plain data can be written to a Vec");
        let length = u32::try_from(body.len()).expect("it is small");
        [&length.to_be_bytes()[..], &body].concat()
    }

    /// Reads exactly that, and nothing behind it.
    ///
    /// # Errors
    /// Those of the stream, and `InvalidData` when it is something else.
    pub fn read_from(stream: &mut impl io::Read) -> io::Result<Self> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > Self::MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        postcard::from_bytes(&body).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// What a host is like on which nobody of ours runs but in containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    pub lent: Lent,
    /// `/proc/cpuinfo`.
    pub processors: String,
}

impl Survey {
    /// As it goes to standard output, until its end.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data can be written to a Vec")
    }

    /// From all of that; `None` when it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Root;

    #[test]
    fn an_order_is_read_to_its_end_and_no_further() {
        let plan = Plan {
            processors: 1,
            limits: Vec::new(),
            hostname: "box".to_owned(),
            root: Root::Memory { bytes: 1, inodes: 2 },
            layers: None,
            steps: Vec::new(),
            agent_id: 3,
            ways_out: None,
        };
        let order = Order { plan, is_of_image: true, arguments: vec!["x".to_owned()] };
        let mut stream = order.encode();
        stream.extend(b"rest");
        let mut rest = &stream[..];
        assert_eq!(Order::read_from(&mut rest).unwrap(), order);
        assert_eq!(rest, b"rest");
        assert!(Order::read_from(&mut &[0xff; 8][..]).is_err());
        assert!(Order::read_from(&mut &[0, 0, 0, 9, 1][..]).is_err());
    }
}
