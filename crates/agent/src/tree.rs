//! Ending all that one execution has started, and nothing else.
//!
//! An execution's first process is born into a cgroup namespace of its own. Everything it starts is born into the same one, however often it
//! forks, changes session or loses its parent, and nothing can leave it: that needs calls which user code does not have. So the
//! namespace's name in `/proc/<pid>/ns/cgroup` is a mark that cannot be forged. The agent, which starts them, is in the namespace of the last.

use std::{
    fs,
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use caisson_sys::process;

/// How long a tree may grow faster than it is ended before everything in the sandbox is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends every process with this mark, and sees to it that the execution's first process, `pid`, can be reaped. Returns when none is left.
pub(crate) async fn kill(mark: &str, pid: i32) {
    let begin = Instant::now();
    loop {
        let left = kill_once(mark);
        if !left && !untie(pid) {
            return;
        }
        if begin.elapsed() > PATIENCE {
            process::kill_everybody_else();
        }
        // The killed must run to end, and the reaper to take them.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Ends those that are there now; says whether there were any.
fn kill_once(mark: &str) -> bool {
    let own = std::process::id().cast_signed();
    let mut found = false;
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()).filter(|pid| *pid != own) else { continue };
        if has_mark(&entry.path(), mark) {
            // The handle first, then the mark again: a number may have changed hands in between, a handle cannot.
            found |= kill_if(pid, || has_mark(&entry.path(), mark));
        }
    }
    found
}

/// Ends the process when `still` holds once there is a handle on it. Says whether it did.
fn kill_if(pid: i32, still: impl FnOnce() -> bool) -> bool {
    let Ok(handle) = process::pidfd(pid) else { return false };
    let killed = still();
    if killed {
        process::kill_for_good(pid, handle.as_fd());
    }
    killed
}

/// One that has ended and is not reaped yet has no mark any more. One whose first thread has ended has it in its others.
fn has_mark(process: &Path, mark: &str) -> bool {
    let marked = |task: &Path| fs::read_link(task.join("ns/cgroup")).is_ok_and(|link| link.as_os_str() == mark);
    marked(process) || fs::read_dir(process.join("task")).is_ok_and(|tasks| tasks.flatten().any(|task| marked(&task.path())))
}

/// A process that has ended while somebody traced it cannot be reaped until the tracer has looked or has ended (`ptrace(2)`). A tracer of
/// another execution need not look for ever, so it ends too. Says whether there was one.
fn untie(pid: i32) -> bool {
    tracer_of_dead(pid).is_some_and(|tracer| kill_if(tracer, || tracer_of_dead(pid) == Some(tracer)))
}

fn tracer_of_dead(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if !field("State:")?.starts_with('Z') {
        return None;
    }
    field("TracerPid:")?.parse().ok().filter(|tracer| *tracer > 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_cgroup_namespace() {
        let own = fs::read_link("/proc/self/ns/cgroup").unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let path = format!("/proc/{}", child.id());
        assert!(has_mark(Path::new(&path), own.to_str().unwrap()));
        assert!(!has_mark(Path::new(&path), "cgroup:[1]"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!has_mark(Path::new(&path), own.to_str().unwrap()));
    }

    #[test]
    fn a_dead_process_that_nobody_traces_has_no_tracer() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let status = format!("/proc/{pid}/status");
        while !fs::read_to_string(&status).unwrap().contains("State:\tZ") {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(tracer_of_dead(pid), None);
        child.wait().unwrap();
        assert_eq!(tracer_of_dead(pid), None);
    }
}
