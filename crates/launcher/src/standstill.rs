//! Programs of a sandbox that stand still (`SIGSTOP`) while somebody looks at their files, and go on as if nothing had been.
//!
//! Stopped processes are ended by `SIGKILL` like any others, on both kinds of cgroups, whoever dies meanwhile; frozen ones are not on v1. The agent
//! is not stopped: it is asked whether it is there. What it starts meanwhile is stopped as soon as it is a program of its own; before that, the
//! agent waits for it.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Processes that are signalled in one go: each takes a descriptor for a moment.
const AT_ONCE: usize = 256;

/// The processes of one sandbox that were stopped by us.
#[derive(Debug, Default)]
pub(crate) struct Standstill {
    stopped: BTreeSet<i32>,
}

impl Standstill {
    /// Stops what runs of the processes in `members`, a `cgroup.procs`, and says whether nothing did. To be said again until then.
    pub(crate) fn stop(&mut self, members: &Path, agent: Pid) -> io::Result<bool> {
        let agents = program(agent.as_raw_nonzero().get());
        let mut running = Vec::new();
        for pid in listed(members)? {
            if pid == agent.as_raw_nonzero().get() || !runs(pid) {
                continue;
            }
            running.push((pid, self.stopped.contains(&pid) || program(pid).is_none_or(|program| Some(program) != agents)));
        }
        let is_still = running.is_empty();
        let ours: Vec<i32> = running.into_iter().filter(|(_, is_program)| *is_program).map(|(pid, _)| pid).collect();
        self.stopped.extend(&ours);
        signal(members, &ours, Signal::STOP)?;
        Ok(is_still)
    }

    /// Lets them go on, those that were started last first, so that no parent sees its children stopped.
    pub(crate) fn end(&mut self, members: &Path) -> io::Result<()> {
        let mut ours: Vec<i32> = std::mem::take(&mut self.stopped).into_iter().collect();
        ours.reverse();
        signal(members, &ours, Signal::CONT)
    }
}

fn signal(members: &Path, pids: &[i32], signal: Signal) -> io::Result<()> {
    for pids in pids.chunks(AT_ONCE) {
        let open = |pid: &i32| Some((*pid, pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?));
        let handles: Vec<(i32, OwnedFd)> = pids.iter().filter_map(open).collect();
        // A number may have become somebody else's; a handle on a process that has ended reaches nobody.
        let still_there = listed(members)?;
        for (_, handle) in handles.iter().filter(|(pid, _)| still_there.contains(pid)) {
            match pidfd_send_signal(handle, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn listed(members: &Path) -> io::Result<BTreeSet<i32>> {
    Ok(fs::read_to_string(members)?.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Whether it is neither stopped, by whomever, nor at its end.
fn runs(pid: i32) -> bool {
    // The name before it may have anything in it (`proc_pid_stat(5)`).
    let text = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = text.iter().rposition(|byte| *byte == b')').and_then(|end| text.get(end + 2));
    state.is_some_and(|state| !b"TtZXx".contains(state))
}

/// Which program a process is: until it has executed another one, a new process of the agent's is the agent.
fn program(pid: i32) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/exe")).ok().map(|about| (about.dev(), about.ino()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn what_runs_is_stopped_and_goes_on_and_what_was_stopped_stays_so() {
        let directory = std::env::temp_dir().join(format!("standstill-{}", std::process::id()));
        let mut children: Vec<_> = (0..2)
            .map(|_| {
                let script = "while :; do echo x; done";
                Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let pids: Vec<i32> = children.iter().map(|child| child.id().cast_signed()).collect();
        let own = Pid::from_raw(std::process::id().cast_signed()).unwrap();
        fs::write(&directory, format!("{}\n{}\n{}\n", own.as_raw_nonzero(), pids[0], pids[1])).unwrap();
        let await_state = |pid: i32, wanted: bool| {
            let begun = Instant::now();
            while runs(pid) != wanted {
                assert!(begun.elapsed() < Duration::from_secs(10), "process {pid}");
                std::thread::yield_now();
            }
        };
        signal(&directory, &pids[1..], Signal::STOP).unwrap();
        await_state(pids[1], false);
        let mut standstill = Standstill::default();
        let begun = Instant::now();
        while !standstill.stop(&directory, own).unwrap() {
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        assert!(!runs(pids[0]) && runs(own.as_raw_nonzero().get()));
        standstill.end(&directory).unwrap();
        let mut line = String::new();
        BufReader::new(children[0].stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "x\n");
        assert!(!runs(pids[1]), "it was not ours to start");
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        fs::remove_file(&directory).unwrap();
    }
}
