//! What a process has open, by kind, so that a test can say that nothing has been forgotten.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
};

/// `st` of an established connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

/// One look. Connections whose other end is still held are no kind of their own: whoever holds it explains them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptors {
    kinds: BTreeMap<String, usize>,
}

impl Descriptors {
    /// Those of a process, which must be alive.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let links: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("a living process shows its descriptors")
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .collect();
        let connections = connections(pid);
        let mut kinds = BTreeMap::new();
        for link in links {
            if let Some(kind) = kind(&link.display().to_string(), &connections) {
                *kinds.entry(kind).or_default() += 1;
            }
        }
        Self { kinds }
    }

    /// How many there are of a kind.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.kinds.get(kind).copied().unwrap_or(0)
    }

    /// What there is more of than before, in words. `explained` says how many more of a kind there may be.
    #[must_use]
    pub fn more_than(&self, before: &Self, explained: impl Fn(&str) -> usize) -> Vec<String> {
        let more = self.kinds.iter().filter(|(kind, count)| **count > before.count(kind) + explained(kind));
        more.map(|(kind, count)| format!("descriptor: {count} of {kind}, {} before", before.count(kind))).collect()
    }
}

fn kind(link: &str, connections: &HashMap<String, String>) -> Option<String> {
    if let Some(inode) = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
        return match connections.get(inode).map(String::as_str) {
            Some(ESTABLISHED) => None,
            Some(LISTENING) => Some("a TCP listener".to_owned()),
            Some(state) => Some(format!("a TCP connection that its other end has left (state {state})")),
            None => Some("a socket".to_owned()),
        };
    }
    // `pipe:[4711]` and the like: the number is of no interest.
    let unnumbered = link.split_once(":[").filter(|(_, rest)| rest.strip_suffix(']').is_some_and(|number| number.parse::<u64>().is_ok()));
    Some(unnumbered.map_or_else(|| link.to_owned(), |(kind, _)| format!("a {kind}")))
}

/// The states of TCP connections by inode, as the process's network namespace has them.
fn connections(pid: u32) -> HashMap<String, String> {
    let mut states = HashMap::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let (Some(state), Some(inode)) = (fields.get(3), fields.get(9)) {
                states.insert((*inode).to_owned(), (*state).to_owned());
            }
        }
    }
    states
}
