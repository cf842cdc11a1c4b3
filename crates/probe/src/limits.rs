//! What there is only so much of (4.1, 4.2, 4.4, 4.6). Each attempt stops by itself, also where nothing holds it.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Write,
};

use crate::{
    kernel::{apart, call, errno, name},
    report::Report,
};

/// Attempts end here where no limit does. More than any sandbox that is probed has, less than hurts a machine.
const ENOUGH_PROCESSES: usize = 2_000;
const ENOUGH_FILES: [(&str, usize); 2] = [("/tmp", 100_000), ("/dev/shm", 10_000)];
const ENOUGH_BYTES: u64 = 3 << 30;

pub fn attack(report: &mut Report) {
    descriptors(report);
    bytes(report);
    attributes(report);
    scheduling(report);
}

/// 4.2: sleeping children until there may be no more.
pub fn processes(report: &mut Report) {
    let mut children = Vec::new();
    let mut refusal = None;
    while children.len() < ENOUGH_PROCESSES {
        // SAFETY: one thread; the copy only waits to be ended.
        match unsafe { libc::fork() } {
            -1 => {
                refusal = Some(errno());
                break;
            }
            0 => loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            },
            pid => children.push(pid),
        }
    }
    for pid in &children {
        // SAFETY: our own children, ended and reaped.
        unsafe {
            libc::kill(*pid, libc::SIGKILL);
            libc::waitpid(*pid, std::ptr::null_mut(), 0);
        }
    }
    report.note(
        "4.2",
        "processes without end",
        refusal == Some(libc::EAGAIN),
        format!("{} processes, then {}", children.len(), refusal.map_or("no refusal".to_owned(), name)),
    );
}

/// 4.6
fn descriptors(report: &mut Report) {
    let mut open = Vec::new();
    let error = loop {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => break error.raw_os_error(),
        }
        if open.len() > 2_000_000 {
            break None;
        }
    };
    report.note("4.6", "descriptors without end", error == Some(libc::EMFILE), format!("{} descriptors", open.len()));
}

/// 4.4: empty files until there may be no more.
pub fn files(report: &mut Report) {
    for (directory, enough) in ENOUGH_FILES {
        let place = format!("{directory}/probe-files");
        if let Err(error) = fs::create_dir(&place) {
            report.note("4.4", format!("files without end in {directory}"), false, format!("not tried: {error}"));
            continue;
        }
        let mut count = 0;
        let error = loop {
            match File::create(format!("{place}/{count}")) {
                Ok(_) => count += 1,
                Err(error) => break error.raw_os_error(),
            }
            if count >= enough {
                break None;
            }
        };
        report.note(
            "4.4",
            format!("files without end in {directory}"),
            error == Some(libc::ENOSPC),
            format!("{count} files, then {}", error.map_or("no refusal".to_owned(), name)),
        );
        drop(fs::remove_dir_all(&place));
    }
}

/// 4.4: one file until it may not grow. Where memory is shorter than space, that ends it, in a process of its own.
fn bytes(report: &mut Report) {
    for directory in ["/tmp", "/dev/shm"] {
        let path = format!("{directory}/probe-bytes");
        let status = apart(|| {
            let Ok(mut file) = File::create(&path) else { return 3 };
            let chunk = vec![1u8; 1 << 20];
            for _ in 0..ENOUGH_BYTES >> 20 {
                if let Err(error) = file.write_all(&chunk) {
                    return if error.raw_os_error() == Some(libc::ENOSPC) { 0 } else { 2 };
                }
            }
            1
        });
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        drop(fs::remove_file(&path));
        report.note(
            "4.4",
            format!("bytes without end in {directory}"),
            status == 0 || status == -libc::SIGKILL,
            format!("{length} bytes, status {status}"),
        );
    }
}

/// 4.1: a tmpfs keeps extended attributes in memory of the kernel's.
fn attributes(report: &mut Report) {
    let path = "/tmp/probe-attributes";
    drop(File::create(path));
    let (path_text, value) = (CString::new(path).unwrap_or_default(), [0u8; 1024]);
    // SAFETY: live C strings and a live buffer of the length that is passed.
    let result = unsafe { libc::setxattr(path_text.as_ptr(), c"user.probe".as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    let seen = if result == 0 { "it worked".to_owned() } else { name(errno()) };
    report.note("4.1", "an extended attribute", result != 0, seen);
    drop(fs::remove_file(path));
}

/// 4.6
fn scheduling(report: &mut Report) {
    let parameters = libc::sched_param { sched_priority: 1 };
    for (label, policy) in [("SCHED_FIFO", libc::SCHED_FIFO), ("SCHED_RR", libc::SCHED_RR)] {
        let result = call(libc::SYS_sched_setscheduler, &[0, policy.into(), &raw const parameters as i64]);
        report.note("4.6", label, result.is_err(), crate::kernel::told(&result));
    }
    // SAFETY: no memory is passed.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    report.note("4.6", "nice -20", result == -1, if result == -1 { name(errno()) } else { "it worked".to_owned() });
    // IOPRIO_CLASS_RT.
    let result = call(libc::SYS_ioprio_set, &[1, 0, 1 << 13]);
    report.note("4.6", "real-time I/O", result.is_err(), crate::kernel::told(&result));
    out_of_memory(report);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the live structure.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    report.note("4.1", "RLIMIT_MEMLOCK", limit.rlim_max <= 8 << 20, limit.rlim_max);
}

/// 4.1: when the host is short of memory, user code goes first, then its agent, then the rest. The kernel keeps a process from going
/// below what it was given only where the giver had CAP_SYS_RESOURCE in the machine's first user namespace (`proc_pid_oom_score_adj(5)`).
fn out_of_memory(report: &mut Report) {
    /// What the launcher gives the agent.
    const AGENT: i32 = 900;
    const OWN: &str = "1000";
    let path = "/proc/self/oom_score_adj";
    let given = fs::read_to_string(path).unwrap_or_default();
    report.note("4.1", "going first when the host is short of memory", given.trim() == OWN, given.trim());
    for score in [AGENT - 1, 0, -1000] {
        let result = fs::write(path, score.to_string());
        let seen = result.as_ref().map_or_else(ToString::to_string, |()| "it worked".to_owned());
        let attempt = format!("going after the agent: {score} in {path}");
        if score < 0 {
            // Below what everybody begins with nobody without the capability gets.
            report.note("4.1", attempt, result.is_err(), seen);
        } else {
            report.note_resting_on("CAP_SYS_RESOURCE", "4.1", attempt, result.is_err(), seen);
        }
        // For the attempts that follow. Upwards everybody may go.
        drop(fs::write(path, OWN));
    }
}

/// 4.1: memory until somebody ends it.
pub fn memory(report: &mut Report) {
    let status = apart(|| {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        while (kept.len() as u64) << 20 < ENOUGH_BYTES {
            kept.push(vec![1u8; 1 << 20]);
        }
        u8::from(kept.len() > 1)
    });
    report.note("4.1", "memory without end", status == -libc::SIGKILL || status == -libc::SIGABRT, format!("status {status}"));
}
