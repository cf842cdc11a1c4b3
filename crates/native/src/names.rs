//! Files of `/etc` that say what machines are called, in every sandbox.

use std::{fs::File, io::Read};

use caisson_core::BackendError;
use caisson_wire::egress::ADDRESS;

/// All of a plan has to fit into one message.
const MAX_FILE: u64 = 32 << 10;

/// Whose names are known inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Names {
    /// The sandbox's own alone: it reaches nobody else.
    Own,
    /// The agent is asked for others.
    Asked,
    /// Those that the host knows too, and whom it asks for others.
    Host { hosts: String, resolv: String },
}

impl Names {
    /// What the host has in its files now.
    pub(crate) fn of_host() -> Result<Self, BackendError> {
        Ok(Self::Host { hosts: read("/etc/hosts")?, resolv: read("/etc/resolv.conf")? })
    }

    /// Name and content of each file.
    pub(crate) fn files(&self, hostname: &str) -> [(&'static str, String); 3] {
        let own = format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n");
        let (hosts, resolv) = match self {
            Self::Own => (own, "# This sandbox has no network.\n".to_owned()),
            Self::Asked => (own, format!("nameserver {ADDRESS}\n")),
            Self::Host { hosts, resolv } => (format!("{own}{hosts}"), resolv.clone()),
        };
        [("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", resolv)]
    }
}

/// A host without such a file has nothing to say there.
fn read(path: &str) -> Result<String, BackendError> {
    let mut text = String::new();
    let read = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(text),
        file => file.and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text)),
    };
    read.map_err(|error| BackendError::Unsupported(format!("the host's {path} cannot be read: {error}")))?;
    if text.len() as u64 > MAX_FILE {
        return Err(BackendError::Unsupported(format!("the host's {path} is larger than {} KiB, too large to be lent", MAX_FILE >> 10)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_knows_comes_behind_the_sandboxs_own_names() {
        let host = Names::Host { hosts: "10.0.0.1 mirror\n".to_owned(), resolv: "nameserver 10.0.0.2\n".to_owned() };
        let [hostname, hosts, resolv] = host.files("box");
        assert_eq!(hostname.1, "box\n");
        assert!(hosts.1.starts_with("127.0.0.1 localhost\n127.0.1.1 box\n") && hosts.1.ends_with("10.0.0.1 mirror\n"));
        assert_eq!(resolv, ("resolv.conf", "nameserver 10.0.0.2\n".to_owned()));
        assert!(!Names::Own.files("box")[2].1.contains("nameserver"));
    }
}
