//! What an ordinary user needs to make sandboxes: ids beside its own (`subuid(5)`), and the programs that map them.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use caisson_core::BackendError;
use caisson_launcher::plan::FEW;

use crate::program;

/// Where the programs are.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];
/// Fewer sandboxes at one time than this are not worth it.
const FEWEST_SANDBOXES: u32 = 8;

/// A kind of id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subordinate {
    own: u32,
    first: u32,
    count: u32,
    program: PathBuf,
}

/// An ordinary user's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rootless {
    uids: Subordinate,
    gids: Subordinate,
}

impl Rootless {
    /// Those of the user that this program runs as. An error names what is missing and the remedy.
    pub(crate) fn find() -> Result<Self, BackendError> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = name_of(&accounts, uid);
        let find = |file: &str, program: &str, own: u32| {
            let table = fs::read_to_string(file).unwrap_or_default();
            let (first, count) = range_of(&table, name, uid).ok_or_else(|| no_range(file, name, uid))?;
            if count / FEW < FEWEST_SANDBOXES {
                return Err(no_range(file, name, uid));
            }
            let program = program::find(&DIRECTORIES, program).ok_or_else(|| {
                BackendError::Unsupported(
                    "an ordinary user's sandboxes need `newuidmap` and `newgidmap`, so that code in them is somebody else than their agent: \
                     install the package uidmap (shadow-utils), or run as root"
                        .to_owned(),
                )
            })?;
            Ok(Subordinate { own, first, count, program })
        };
        Ok(Self { uids: find("/etc/subuid", "newuidmap", uid)?, gids: find("/etc/subgid", "newgidmap", gid)? })
    }

    /// How many ids there are of both kinds beside the user's own.
    pub(crate) fn count(&self) -> u32 {
        self.uids.count.min(self.gids.count)
    }

    /// Gives the user namespace of a process its ids: the user's own as 0, the others from 1.
    pub(crate) fn map(&self, pid: u32) -> Result<(), BackendError> {
        for ids in [&self.uids, &self.gids] {
            let numbers = [pid, 0, ids.own, 1, 1, ids.first, ids.count].map(|number| number.to_string());
            program::run(Command::new(&ids.program).args(numbers).stdin(Stdio::null()))
                .map_err(|why| BackendError::Unsupported(format!("{} failed: {why}", ids.program.display())))?;
        }
        Ok(())
    }
}

fn no_range(file: &str, name: Option<&str>, uid: u32) -> BackendError {
    let who = name.map_or_else(|| uid.to_string(), str::to_owned);
    BackendError::Unsupported(format!(
        "{file} gives the user {who} no ids (or too few) for sandboxes: as root, run `usermod --add-subuids 100000-165535 --add-subgids \
         100000-165535 {who}` with numbers that are free there; or run Caisson as root"
    ))
}

/// The name of the account, by `passwd(5)`.
fn name_of(accounts: &str, uid: u32) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The largest range that a table gives to a user, by `subuid(5)`: its first id and how many.
fn range_of(table: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    let ranges = table.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let ours = Some(owner) == name || owner.parse() == Ok(uid);
        let range: (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        ours.then_some(range)
    });
    ranges.max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let table = "alice:100000:65536\nbob:200000:10\n1001:300000:1000\nbob:400000:65536\nbroken\nbob:x:1\n";
        assert_eq!(range_of(table, Some("alice"), 5), Some((100_000, 65_536)));
        assert_eq!(range_of(table, Some("bob"), 7), Some((400_000, 65_536)), "the largest");
        assert_eq!(range_of(table, None, 1001), Some((300_000, 1000)));
        assert_eq!(range_of(table, Some("carol"), 9), None);
        assert_eq!(name_of("root:x:0:0::/:/bin/sh\nbob:x:7:7::/:/bin/sh\n", 7), Some("bob"));
    }

    #[test]
    fn what_is_missing_is_said_with_the_remedy() {
        let text = no_range("/etc/subuid", Some("bob"), 7).to_string();
        assert!(text.contains("/etc/subuid") && text.contains("usermod --add-subuids") && text.contains("bob"), "{text}");
    }
}
