//! Hostile on purpose: tries from inside what nobody inside may do, and says what it got away with, one finding for each attempt.
//!
//! `caisson-probe [GROUP…]` prints a JSON array of findings. Without a group it tries everything. Every attempt is harmless where it
//! succeeds: the probe also runs in weakened sandboxes, to prove that it would notice.

mod calls;
mod kernel;
mod limits;
mod network;
mod report;
mod sight;
mod walls;

use std::process::ExitCode;

use report::Report;

/// A group's name, and its attempts.
type Group = (&'static str, fn(&mut Report));

const GROUPS: [Group; 8] = [
    ("calls", calls::attack),
    ("walls", walls::attack),
    ("sight", sight::attack),
    ("network", network::attack),
    ("limits", limits::attack),
    // A kernel may end all of a sandbox for one of these.
    ("processes", limits::processes),
    ("files", limits::files),
    ("memory", limits::memory),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| GROUPS.iter().all(|(group, _)| group != name)) {
        let known: Vec<&str> = GROUPS.iter().map(|(group, _)| *group).collect();
        eprintln!("caisson-probe: there is no group `{unknown}`; there are {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    if let Some(first) = visible_first_process().filter(|name| !name.trim_start_matches('/').starts_with("caisson-agent")) {
        eprintln!("caisson-probe: the first process here is `{first}`, so this is no sandbox; it would attack the machine itself");
        return ExitCode::FAILURE;
    }
    let mut report = Report::default();
    for (name, attack) in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|group| group == name) {
            attack(&mut report);
        }
    }
    report.print()
}

/// What the first process calls itself; `None` where it cannot be seen, as in a sandbox whose walls hold.
fn visible_first_process() -> Option<String> {
    let line = std::fs::read("/proc/1/cmdline").ok()?;
    let name = line.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty())
}
