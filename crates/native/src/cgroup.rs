//! Which control groups this host has (`cgroups(7)`), how limits are written in them, and how use is read.

use std::{fs, io, path::Path, time::Duration};

use caisson_core::{BackendError, Limits, Usage};
use caisson_launcher::plan::CgroupWrite;

/// The directory under which all sandboxes have theirs.
const PARENT: &str = "caisson";
/// Where the processes of a delegated cgroup go, see [`Cgroups::delegated`].
const SUPERVISOR: &str = "caisson-server";
/// The period over which processor time is measured out, in microseconds; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The files with limits that can be changed while a sandbox lives.
const LATE: [&str; 3] = ["cpu.max", "cpu.cfs_quota_us", "pids.max"];

/// Where this host keeps the controllers that we need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// cgroup v2: one directory for everything.
    Unified { root: String },
    /// cgroup v1: a hierarchy for each controller; several may share one.
    Legacy { memory: String, cpu: String, cpuacct: String, pids: String },
    /// None that may be used.
    Absent,
}

impl Cgroups {
    /// Finds the hierarchies and makes our parent directory in each.
    pub(crate) fn prepare() -> Result<Self, BackendError> {
        let found = Self::mounted()?;
        found.make()?;
        Ok(found)
    }

    /// The cgroup that an ordinary user was given for its own (`cgroups(7)`, delegation): the one it is in, if it may write there.
    pub(crate) fn delegated() -> Result<Self, BackendError> {
        let none = |why: &str| {
            BackendError::Unsupported(format!(
                "an ordinary user needs a cgroup of its own for the limits of sandboxes, and {why}: start Caisson with `systemd-run --user \
                 --scope -p Delegate=yes`, or from a service with Delegate=yes; or run it as root"
            ))
        };
        let Ok(Self::Unified { root }) = Self::mounted() else {
            return Err(none("this host has no cgroup v2, the only kind that can be given to users"));
        };
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        // Another of ours may have moved the caller below.
        let own = format!("{root}{}", own.strip_suffix(&format!("/{SUPERVISOR}")).unwrap_or(own).trim_end_matches('/'));
        let writable = ["cgroup.procs", "cgroup.subtree_control"]
            .iter()
            .all(|file| rustix::fs::access(format!("{own}/{file}"), rustix::fs::Access::WRITE_OK).is_ok());
        if !writable || !suffice(&controllers(&own)) {
            return Err(none(&format!("the one it is in, {own}, is not, or lacks the controllers cpu, memory and pids")));
        }
        leave_for_supervisor(&own).map_err(|error| unusable(&own, &error))?;
        let found = Self::Unified { root: own };
        found.make()?;
        Ok(found)
    }

    /// Makes our parent directory in each hierarchy.
    fn make(&self) -> Result<(), BackendError> {
        for hierarchy in self.hierarchies() {
            make(Path::new(&hierarchy)).map_err(|error| unusable(&hierarchy, &error))?;
        }
        if let Self::Unified { root } = self {
            for directory in [root.clone(), format!("{root}/{PARENT}")] {
                let file = format!("{directory}/cgroup.subtree_control");
                fs::write(&file, "+cpu +memory +pids").map_err(|error| unusable(&file, &error))?;
            }
        }
        Ok(())
    }

    /// What is mounted on this host.
    fn mounted() -> Result<Self, BackendError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| BackendError::Failed(format!("cannot read /proc/self/mountinfo: {error}")))?;
        Self::find(&mounts, controllers)
    }

    /// Reads the mount table. v2 counts only when its root offers the three controllers; in the hybrid layout it does not.
    fn find(mountinfo: &str, controllers: impl Fn(&str) -> String) -> Result<Self, BackendError> {
        let mut legacy: Vec<(String, Vec<String>)> = Vec::new();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let (Some(point), mut after) = (before.split(' ').nth(4), after.split(' ')) else { continue };
            match (after.next(), after.nth(1)) {
                (Some("cgroup2"), _) if suffice(&controllers(point)) => return Ok(Self::Unified { root: point.to_owned() }),
                (Some("cgroup"), Some(options)) => {
                    legacy.push((point.to_owned(), options.split(',').map(str::to_owned).collect()));
                }
                _ => {}
            }
        }
        let with = |name: &str| {
            legacy.iter().find(|(_, options)| options.iter().any(|option| option == name)).map(|(point, _)| point.clone()).ok_or_else(|| {
                BackendError::Unsupported(format!(
                    "this host offers no `{name}` control group, which sandboxes need for their limits; mount cgroup v2 at /sys/fs/cgroup \
                     (or the v1 controllers memory, cpu, cpuacct and pids)"
                ))
            })
        };
        Ok(Self::Legacy { memory: with("memory")?, cpu: with("cpu")?, cpuacct: with("cpuacct")?, pids: with("pids")? })
    }

    pub(crate) fn is_unified(&self) -> bool {
        matches!(self, Self::Unified { .. })
    }

    /// The directories in which each sandbox gets one of its own, the one for memory first.
    pub(crate) fn hierarchies(&self) -> Vec<String> {
        let mut mounts: Vec<&String> = match self {
            Self::Unified { root } => vec![root],
            Self::Legacy { memory, cpu, cpuacct, pids } => vec![memory, cpu, cpuacct, pids],
            Self::Absent => Vec::new(),
        };
        let mut seen = Vec::new();
        mounts.retain(|mount| {
            let new = !seen.contains(mount);
            seen.push(mount);
            new
        });
        mounts.into_iter().map(|mount| format!("{mount}/{PARENT}")).collect()
    }

    /// How many directories of sandboxes have no process: what launchers that are gone have left. Another one that is alive may be about to
    /// enter one of them.
    pub(crate) fn left_behind(&self) -> usize {
        let first = self.hierarchies().into_iter().next();
        let entries = first.into_iter().flat_map(|hierarchy| fs::read_dir(hierarchy).into_iter().flatten().flatten());
        let of_sandboxes = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
        of_sandboxes.filter(|entry| fs::read_to_string(entry.path().join("cgroup.procs")).is_ok_and(|pids| pids.is_empty())).count()
    }

    fn index(&self, controller_mount: &str) -> u8 {
        let wanted = format!("{controller_mount}/{PARENT}");
        let index = self.hierarchies().iter().position(|hierarchy| *hierarchy == wanted);
        u8::try_from(index.expect("every mount has its hierarchy")).expect("there are at most four hierarchies")
    }

    /// The file that counts kills at the memory limit, in the first hierarchy.
    pub(crate) fn oom_file(&self) -> &'static str {
        if self.is_unified() { "memory.events" } else { "memory.oom_control" }
    }

    /// The limits as values for files.
    pub(crate) fn writes(&self, limits: &Limits) -> Vec<CgroupWrite> {
        let quota = u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000;
        let write = |hierarchy, file: &str, value: String, optional| CgroupWrite { hierarchy, file: file.to_owned(), value, optional };
        match self {
            Self::Absent => Vec::new(),
            Self::Unified { .. } => vec![
                write(0, "memory.max", limits.memory_bytes.to_string(), false),
                write(0, "memory.swap.max", "0".to_owned(), true),
                write(0, "cpu.max", format!("{quota} {CPU_PERIOD_US}"), false),
                write(0, "pids.max", limits.pids.to_string(), false),
            ],
            Self::Legacy { memory, cpu, pids, .. } => vec![
                write(self.index(memory), "memory.limit_in_bytes", limits.memory_bytes.to_string(), false),
                // Absent when the kernel does not account swap; then swap is not limited, and hosts without swap have none to limit.
                write(self.index(memory), "memory.memsw.limit_in_bytes", limits.memory_bytes.to_string(), true),
                // Buffers of TCP, which v1 counts apart from the rest and v2 with it.
                write(self.index(memory), "memory.kmem.tcp.limit_in_bytes", (limits.memory_bytes / 8).to_string(), true),
                write(self.index(cpu), "cpu.cfs_period_us", CPU_PERIOD_US.to_string(), false),
                write(self.index(cpu), "cpu.cfs_quota_us", quota.to_string(), false),
                write(self.index(pids), "pids.max", limits.pids.to_string(), false),
            ],
        }
    }

    /// Changes the limits on processes and processor time of the sandbox with the directory `name`. Its memory stays: what programs read of it
    /// was written at the launch.
    pub(crate) fn adjust(&self, name: &str, limits: &Limits) -> Result<(), BackendError> {
        if *self == Self::Absent {
            return Err(BackendError::Unsupported("without control groups limits are set at the launch alone".to_owned()));
        }
        let hierarchies = self.hierarchies();
        for CgroupWrite { hierarchy, file, value, .. } in
            self.writes(limits).into_iter().filter(|write| LATE.contains(&write.file.as_str()))
        {
            let path = format!("{}/{name}/{file}", hierarchies[usize::from(hierarchy)]);
            fs::write(&path, value).map_err(|error| BackendError::Failed(format!("cannot write {path}: {error}")))?;
        }
        Ok(())
    }

    /// What the sandbox with the directory `name` has used; `None` when it is gone.
    pub(crate) fn usage(&self, name: &str) -> Option<Usage> {
        let read = |mount: &str, file: &str| fs::read_to_string(format!("{mount}/{PARENT}/{name}/{file}")).ok();
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
        let field = |text: Option<String>, key: &str| {
            text?.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        Some(match self {
            Self::Absent => return None,
            Self::Unified { root } => {
                let memory_bytes = number(read(root, "memory.current"))?;
                Usage {
                    cpu: Duration::from_micros(field(read(root, "cpu.stat"), "usage_usec").unwrap_or(0)),
                    memory_bytes,
                    // Since Linux 5.19.
                    peak_memory_bytes: number(read(root, "memory.peak")).unwrap_or(memory_bytes),
                    oom_kills: field(read(root, self.oom_file()), "oom_kill").unwrap_or(0),
                    pids: number(read(root, "pids.current")).unwrap_or(0),
                    refused_starts: field(read(root, "pids.events"), "max").unwrap_or(0),
                }
            }
            Self::Legacy { memory, cpuacct, pids, .. } => Usage {
                cpu: Duration::from_nanos(number(read(cpuacct, "cpuacct.usage")).unwrap_or(0)),
                memory_bytes: number(read(memory, "memory.usage_in_bytes"))?,
                peak_memory_bytes: number(read(memory, "memory.max_usage_in_bytes")).unwrap_or(0),
                oom_kills: field(read(memory, self.oom_file()), "oom_kill").unwrap_or(0),
                pids: number(read(pids, "pids.current")).unwrap_or(0),
                refused_starts: field(read(pids, "pids.events"), "max").unwrap_or(0),
            },
        })
    }
}

/// What a cgroup of v2 offers to those below it.
fn controllers(directory: &str) -> String {
    fs::read_to_string(format!("{directory}/cgroup.controllers")).unwrap_or_default()
}

/// Whether these controllers are all that we need.
fn suffice(offered: &str) -> bool {
    ["cpu", "memory", "pids"].iter().all(|name| offered.split_whitespace().any(|offer| offer == *name))
}

/// Moves every process of a cgroup into one below it, because one with processes can have no controllers for others below it.
fn leave_for_supervisor(own: &str) -> io::Result<()> {
    let below = format!("{own}/{SUPERVISOR}");
    make(Path::new(&below))?;
    for pid in fs::read_to_string(format!("{own}/cgroup.procs"))?.lines() {
        match fs::write(format!("{below}/cgroup.procs"), pid) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result?,
        }
    }
    Ok(())
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn unusable(path: &str, error: &io::Error) -> BackendError {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root",
        io::ErrorKind::ReadOnlyFilesystem => "mount the control groups writable (in a container: run it privileged)",
        _ => "see cgroups(7)",
    };
    BackendError::Unsupported(format!("cannot use the control group {path}: {error}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn the_hybrid_layout_is_v1() {
        let found = Cgroups::find(HYBRID, |_| String::new()).unwrap();
        assert!(!found.is_unified());
        let expect = ["/sys/fs/cgroup/memory/caisson", "/sys/fs/cgroup/cpu,cpuacct/caisson", "/sys/fs/cgroup/pids/caisson"];
        assert_eq!(found.hierarchies(), expect);
        let writes = found.writes(&Limits { cpu_millis: 1500, pids: 64, ..Limits::default() });
        assert!(writes.iter().any(|w| (w.hierarchy, w.file.as_str(), w.value.as_str()) == (1, "cpu.cfs_quota_us", "150000")));
        assert!(writes.iter().any(|w| (w.hierarchy, w.file.as_str(), w.value.as_str()) == (2, "pids.max", "64")));
    }

    #[test]
    fn the_unified_layout_is_v2() {
        let found =
            Cgroups::find("34 30 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", |_| "cpuset cpu io memory pids".to_owned()).unwrap();
        assert_eq!(found, Cgroups::Unified { root: "/sys/fs/cgroup".to_owned() });
        let writes = found.writes(&Limits::default());
        assert!(writes.iter().any(|w| w.file == "cpu.max" && w.value == "100000 100000"));
    }

    #[test]
    fn a_host_without_controllers_is_told_what_to_do() {
        let error = Cgroups::find("", |_| String::new()).unwrap_err();
        assert!(error.to_string().contains("memory") && error.to_string().contains("mount"), "{error}");
    }
}
