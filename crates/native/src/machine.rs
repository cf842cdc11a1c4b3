//! What programs inside are told about the machine: the sandbox's processors and memory instead of the host's (`proc(5)`).
//!
//! The figures are those of the limits, written at the launch; `sysinfo(2)` and `CPUID` cannot be changed and still tell the host's.

use std::{fmt::Write, fs};

use caisson_core::{BackendError, Limits};
use caisson_launcher::plan::Step;

/// What the host has, read once at start.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// The block of `/proc/cpuinfo` for each processor that this process may use.
    processors: Vec<String>,
}

impl Machine {
    pub(crate) fn find() -> Result<Self, BackendError> {
        let text =
            fs::read_to_string("/proc/cpuinfo").map_err(|error| BackendError::Failed(format!("cannot read /proc/cpuinfo: {error}")))?;
        let allowed = rustix::thread::sched_getaffinity(None)
            .map_err(|error| BackendError::Failed(format!("cannot learn on which processors this process may run: {error}")))?;
        Ok(Self::of(&text, allowed.count().max(1) as usize))
    }

    /// From `/proc/cpuinfo` of a machine, of which so many may be used.
    pub(crate) fn of(cpuinfo: &str, allowed: usize) -> Self {
        let mut processors: Vec<String> =
            cpuinfo.split("\n\n").filter(|block| block.starts_with("processor")).take(allowed).map(str::to_owned).collect();
        if processors.is_empty() {
            processors = vec!["processor\t: 0".to_owned(); allowed];
        }
        Self { processors }
    }

    /// How many processors a sandbox with these limits sees: whole ones, rounded up, never more than there are.
    pub(crate) fn processors(&self, limits: &Limits) -> u32 {
        let there = u32::try_from(self.processors.len()).unwrap_or(u32::MAX);
        limits.cpu_millis.div_ceil(1000).clamp(1, there)
    }

    /// The steps that cover what `/proc` and `/sys` say of processors, memory, load and uptime.
    pub(crate) fn steps(&self, limits: &Limits) -> Vec<Step> {
        let count = self.processors(limits);
        let cover = |name: &str, content: String| Step::Cover { path: format!("proc/{name}"), content };
        let mut steps = vec![
            cover("cpuinfo", self.cpuinfo(count)),
            cover("loadavg", "0.00 0.00 0.00 1/1 1\n".to_owned()),
            cover("meminfo", meminfo(limits.memory_bytes)),
            cover("stat", stat(count)),
            cover("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned()),
            cover("uptime", "1.00 1.00\n".to_owned()),
            cover("sys/kernel/random/boot_id", format!("{}\n", random_uuid())),
        ];
        let mut path = String::new();
        for part in ["sys", "devices", "system", "cpu"] {
            write!(path, "{}{part}", if path.is_empty() { "" } else { "/" }).expect("a String takes everything");
            steps.push(Step::Directory { path: path.clone(), mode: 0o755, owner: 0 });
        }
        let range = if count == 1 { "0\n".to_owned() } else { format!("0-{}\n", count - 1) };
        for name in ["online", "possible", "present"] {
            steps.push(Step::File { path: format!("{path}/{name}"), mode: 0o444, owner: 0, content: range.clone() });
        }
        steps
    }

    fn cpuinfo(&self, count: u32) -> String {
        let mut text = String::new();
        for (number, block) in self.processors.iter().take(count as usize).enumerate() {
            for line in block.lines() {
                let key = line.split('\t').next().unwrap_or("").trim_end();
                match key {
                    "processor" | "core id" | "apicid" | "initial apicid" => writeln!(text, "{key}\t: {number}"),
                    "siblings" | "cpu cores" => writeln!(text, "{key}\t: {count}"),
                    _ => writeln!(text, "{line}"),
                }
                .expect("a String takes everything");
            }
            text.push('\n');
        }
        text
    }
}

fn meminfo(bytes: u64) -> String {
    let total = bytes / 1024;
    let free = total - total / 50;
    let mut text = String::new();
    for (name, kib) in [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("CommitLimit", total),
        ("Committed_AS", 0),
    ] {
        writeln!(text, "{:<15} {kib:>8} kB", format!("{name}:")).expect("a String takes everything");
    }
    text
}

fn stat(count: u32) -> String {
    let times = "0 0 0 0 0 0 0 0 0 0";
    let mut text = format!("cpu  {times}\n");
    for number in 0..count {
        writeln!(text, "cpu{number} {times}").expect("a String takes everything");
    }
    text.push_str("intr 0\nctxt 0\nbtime 0\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n");
    text
}

/// In place of the host's boot id, which would name the host (RFC 9562, version 4).
fn random_uuid() -> String {
    let mut bytes = [0u8; 16];
    // The kernel's generator gives this many at once or, before the machine has booted, none; zeroes name no host either.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        bytes = [0; 16];
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
        write!(text, "{dash}{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_see_the_limits() {
        let machine = Machine { processors: vec!["processor\t: 5\nmodel name\t: x\ncpu cores\t: 64".to_owned(); 8] };
        let limits = Limits { cpu_millis: 1500, memory_bytes: 256 << 20, ..Limits::default() };
        assert_eq!(machine.processors(&limits), 2);
        let text = machine.cpuinfo(2);
        assert_eq!(text.matches("processor\t: ").count(), 2);
        assert!(text.contains("processor\t: 1\n") && text.contains("cpu cores\t: 2\n"), "{text}");
        assert!(meminfo(limits.memory_bytes).starts_with("MemTotal:         262144 kB\n"));
        assert_eq!(stat(2).lines().filter(|line| line.starts_with("cpu")).count(), 3);
    }

    #[test]
    fn there_are_never_more_processors_than_the_host_has() {
        let machine = Machine { processors: vec![String::new(); 2] };
        assert_eq!(machine.processors(&Limits { cpu_millis: 64_000, ..Limits::default() }), 2);
        assert_eq!(machine.processors(&Limits { cpu_millis: 10, ..Limits::default() }), 1);
    }
}
