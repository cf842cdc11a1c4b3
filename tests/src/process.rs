//! Processes of the host as `/proc` shows them.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::clock::{allowed, eventually};

/// One process. `started` tells it from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub started: u64,
    pub state: char,
    pub name: String,
}

impl Process {
    /// The process of this number, while there is one.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split(' ').collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self { pid, parent: u32::try_from(number(1)?).ok()?, started: number(19)?, state: fields.first()?.chars().next()?, name })
    }

    /// Every process of the host, by number.
    #[must_use]
    pub fn all() -> BTreeMap<u32, Self> {
        let entries = fs::read_dir("/proc").expect("/proc can be read").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| Some((pid, Self::find(pid)?))).collect()
    }

    /// Everything below this process: its children, theirs, and so on.
    #[must_use]
    pub fn below(pid: u32) -> Vec<Self> {
        let all = Self::all();
        let mut found = vec![pid];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            found.extend(all.values().filter(|process| process.parent == parent).map(|process| process.pid));
            at += 1;
        }
        found[1..].iter().filter_map(|pid| all.get(pid).cloned()).collect()
    }

    /// The launcher that this process has started.
    #[track_caller]
    #[must_use]
    pub fn launcher_of(pid: u32) -> Self {
        eventually("a launcher", Duration::from_secs(5), || {
            Self::all().into_values().find(|process| process.parent == pid && process.is_launcher())
        })
    }

    /// Fails unless all of them have ended within two seconds; `what` is told then.
    #[track_caller]
    pub fn all_end(what: &str, processes: &[Self]) {
        let limit = allowed(Duration::from_secs(2));
        let begin = Instant::now();
        loop {
            let alive: Vec<&Self> = processes.iter().filter(|process| process.lives()).collect();
            if alive.is_empty() {
                return;
            }
            assert!(begin.elapsed() < limit, "{what}: still alive after {:?}: {alive:#?}", begin.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process that has this among its arguments.
    #[must_use]
    pub fn with_argument(argument: &str) -> Option<Self> {
        let has = |process: &Self| process.arguments().iter().any(|have| have == argument);
        Self::all().into_values().find(|process| has(process))
    }

    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    }

    /// What it executes; `None` once it has ended.
    #[must_use]
    pub fn program(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// Whether it executes the launcher, or is one of the launcher's copies that wait for a sandbox.
    #[must_use]
    pub fn is_launcher(&self) -> bool {
        self.executes("memfd:caisson-launcher")
    }

    #[must_use]
    pub fn is_agent(&self) -> bool {
        // In a container it has come as a file, and has this name alone.
        self.executes("memfd:caisson-agent") || self.name == "caisson-agent"
    }

    /// Whether it is the `caisson` program itself.
    #[must_use]
    pub fn is_caisson(&self) -> bool {
        let program = self.program();
        let name = program.as_ref().and_then(|path| path.file_name()).and_then(|name| name.to_str()).unwrap_or_default();
        name == "caisson" || name == "caisson (deleted)"
    }

    fn executes(&self, name: &str) -> bool {
        self.program().and_then(|path| Some(path.to_str()?.contains(name))).unwrap_or(false)
    }

    /// The control group of a sandbox that it is in.
    #[must_use]
    pub fn sandbox_group(&self) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).ok()?;
        text.lines().find_map(|line| Some(line.splitn(3, ':').nth(2)?.split_once("/caisson/")?.1.to_owned()))
    }

    /// Whether it is still the same process and not merely waits to be reaped.
    #[must_use]
    pub fn lives(&self) -> bool {
        Self::find(self.pid).is_some_and(|now| now.started == self.started && now.state != 'Z' && now.state != 'X')
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it ever had.
    #[must_use]
    pub fn peak_resident(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Returns when it has ended.
    #[track_caller]
    pub fn await_end(&self, limit: Duration) {
        eventually(&format!("the end of process {} ({})", self.pid, self.name), limit, || (!self.lives()).then_some(()));
    }
}

/// Sends a signal to a process that the test knows to be its own.
#[track_caller]
pub fn signal(pid: u32, signal: Signal) {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has a number");
    kill_process(number, signal).unwrap_or_else(|error| panic!("cannot signal process {pid}: {error}"));
}

/// Ends a process that the test knows to be its own.
#[track_caller]
pub fn kill_nine(pid: u32) {
    signal(pid, Signal::KILL);
}
