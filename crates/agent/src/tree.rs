//! Ending all that one execution has started, and nothing else.
//!
//! An execution's first process enters a cgroup namespace of its own before it loses its privileges. Everything it starts is born into the
//! same one, however often it forks, changes session or loses its parent, and nothing can leave it: that needs calls which user code
//! does not have. So the namespace's name in `/proc/<pid>/ns/cgroup` is a mark that cannot be forged.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use caisson_sys::process;

/// How long a tree may grow faster than it is ended before everything in the sandbox is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends every process with this mark. Returns when none is left.
pub(crate) async fn kill(mark: &str) {
    let begin = Instant::now();
    loop {
        if !kill_once(mark) {
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
    let mut found = false;
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if !has_mark(pid, mark) {
            continue;
        }
        // The handle first, then the mark again: a number may have changed hands in between, a handle cannot.
        if let Ok(handle) = process::pidfd(pid)
            && has_mark(pid, mark)
        {
            process::kill_for_good(pid, handle.as_fd());
            found = true;
        }
    }
    found
}

/// One that has ended and is not reaped yet has no mark any more.
fn has_mark(pid: i32, mark: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/ns/cgroup")).is_ok_and(|link| link.as_os_str() == mark)
}
