//! What of Caisson there is on the host, before and after a test.
//!
//! Other servers may run at the same time: what has a living `caisson` among its ancestors is theirs and not left over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{clock::allowed, process::Process};

/// How long the kernel may take to let go of the last things.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// One look at the host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Everything that could be left over, in words.
    things: BTreeSet<String>,
}

impl Host {
    /// The host as it is now.
    #[must_use]
    pub fn now() -> Self {
        let all = Process::all();
        let mut things = BTreeSet::new();
        for process in all.values() {
            let ours = process.is_launcher() || process.is_agent() || process.sandbox_group().is_some();
            if ours && !has_living_owner(process, &all) {
                things.insert(format!("process {} ({}, started at {})", process.pid, process.name, process.started));
            }
        }
        let networks = all.values().filter(|process| !has_living_owner(process, &all));
        things.extend(
            networks
                .filter_map(|p| fs::read_link(format!("/proc/{}/ns/net", p.pid)).ok())
                .map(|link| format!("network namespace {}", link.display())),
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo can be read");
        things.extend(mounts.lines().map(|line| format!("mount {line}")));
        things.extend(loop_devices());
        things.extend(ipc_objects());
        things.extend(
            control_groups().into_iter().filter(|group| !is_in_use(group, &all)).map(|group| format!("control group {}", group.display())),
        );
        Self { things }
    }

    /// What there is more of than before.
    #[must_use]
    pub fn left_over_since(before: &Self) -> Vec<String> {
        Self::now().things.difference(&before.things).cloned().collect()
    }

    /// Waits until there is nothing more than there was before; otherwise says what is left.
    ///
    /// Left is what is there at every look: what others make meanwhile comes and goes.
    pub fn is_as_before(before: &Self) -> Result<(), Vec<String>> {
        let begin = Instant::now();
        let mut left = Self::left_over_since(before);
        while !left.is_empty() {
            if begin.elapsed() > allowed(GONE_WITHIN) {
                return Err(left);
            }
            thread::sleep(Duration::from_millis(20));
            let now = Self::left_over_since(before);
            left.retain(|thing| now.contains(thing));
        }
        Ok(())
    }
}

/// Whether a living `caisson` is above it.
fn has_living_owner(process: &Process, all: &BTreeMap<u32, Process>) -> bool {
    let mut at = process;
    // Deeper than any tree of ours; a table that changes while it is read could otherwise lead in circles.
    for _ in 0..64 {
        let Some(parent) = all.get(&at.parent) else { return false };
        if parent.is_caisson() && parent.lives() {
            return true;
        }
        at = parent;
    }
    false
}

/// The directories of sandboxes in every hierarchy, v1 and v2.
fn control_groups() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies =
        fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink());
    let parents = hierarchies.chain([root.clone()]).map(|hierarchy| hierarchy.join("caisson"));
    parents
        .flat_map(|parent| fs::read_dir(parent).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Those that have a file behind them (`loop(4)`).
fn loop_devices() -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.path());
    let used = devices.filter_map(|device| {
        let file = fs::read_to_string(device.join("loop/backing_file")).ok()?;
        Some(format!("loop device {} of {}", device.file_name()?.display(), file.trim_end()))
    });
    used.collect()
}

/// System V objects (`sysvipc(7)`) and files for shared memory, which live until somebody removes them.
fn ipc_objects() -> Vec<String> {
    let mut found = Vec::new();
    for kind in ["msg", "sem", "shm"] {
        let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        // The others of the fields change with their use.
        let ids = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        found.extend(ids.map(|id| format!("System V object {kind} {id}")));
    }
    let shared = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    found.extend(shared.map(|entry| format!("shared memory {}", entry.path().display())));
    found
}

fn is_in_use(group: &std::path::Path, all: &BTreeMap<u32, Process>) -> bool {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut pids = members.lines().filter_map(|line| line.parse::<u32>().ok());
    pids.any(|pid| all.get(&pid).is_some_and(|process| has_living_owner(process, all)))
}

/// Whether this machine lets root say who goes first when memory is short: root of a container often lacks CAP_SYS_RESOURCE.
#[must_use]
pub fn may_set_the_order() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").expect("it can be read");
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("the kernel has capabilities");
    u64::from_str_radix(set.trim(), 16).expect("a number") & 1 << CAP_SYS_RESOURCE != 0
}
