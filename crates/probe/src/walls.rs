//! Namespaces, identity, capabilities, mounts, processes, keyrings (1.1, 1.2, 1.9, 2.4, 2.5).

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use crate::{
    kernel::{apart, call, name, told},
    report::Report,
};

pub fn attack(report: &mut Report) {
    namespaces(report);
    identity(report);
    mounts(report);
    agent(report);
    descriptors(report);
    keyrings(report);
}

fn status(field: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(field)).map_or_else(|| "absent".to_owned(), |value| value.trim().to_owned())
}

/// None of them is the machine's first, which have the same numbers everywhere (include/linux/proc_ns.h), and no id is its own outside.
fn namespaces(report: &mut Report) {
    const FIRST: [(&str, u32); 5] =
        [("ipc", 0xEFFF_FFFF), ("uts", 0xEFFF_FFFE), ("user", 0xEFFF_FFFD), ("pid", 0xEFFF_FFFC), ("cgroup", 0xEFFF_FFFB)];
    for (kind, first) in FIRST {
        let seen = fs::read_link(format!("/proc/self/ns/{kind}")).map_or_else(|error| error.to_string(), |link| link.display().to_string());
        report.note("1.1", format!("{kind} namespace"), seen.starts_with(kind) && seen != format!("{kind}:[{first}]"), &seen);
    }
    for file in ["uid_map", "gid_map"] {
        let map = fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        let same = map.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace();
            fields.next() == fields.next()
        });
        report.note("1.1", format!("ids of the host in {file}"), !map.is_empty() && !same, map.trim());
    }
}

fn identity(report: &mut Report) {
    // SAFETY: plain questions.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    report.note("1.2", "who user code is", uid != 0 && gid != 0, format!("uid {uid}, gid {gid}"));
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:", "CapInh:"] {
        let value = status(set);
        report.note("1.2", format!("{set} in /proc/self/status"), value == "0".repeat(16), &value);
    }
    for id in [0, 1, 65_536] {
        // In a copy: one that becomes somebody else would attack as that one from then on.
        let refusal = apart(|| match call(libc::SYS_setresuid, &[id, id, id]) {
            Ok(_) => 0,
            Err(errno) => u8::try_from(errno).unwrap_or(u8::MAX),
        });
        let seen = if refusal == 0 { "it worked".to_owned() } else { name(refusal) };
        report.note("1.2", format!("setresuid to {id}"), refusal == libc::EPERM || refusal == libc::EINVAL, seen);
    }
    let mut core = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: the kernel writes the live structure.
    unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut core) };
    report.note("1.2", "RLIMIT_CORE", core.rlim_cur == 0 && core.rlim_max == 0, format!("{}", core.rlim_max));
    set_user_id(report);
}

/// A program with the set-user-id bit, of our own and of the image's, gains nothing.
fn set_user_id(report: &mut Report) {
    for path in ["/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd", "/usr/bin/sudo"] {
        let Ok(metadata) = fs::metadata(path) else { continue };
        if metadata.mode() & 0o4000 == 0 {
            continue;
        }
        // Its mount says nosuid, and no_new_privs is set: each alone would do.
        let nosuid = mount_options_of(path).is_some_and(|options| options.split(',').any(|option| option == "nosuid"));
        report.note("1.2", format!("the set-user-id bit of {path}"), nosuid, if nosuid { "nosuid" } else { "its mount honours the bit" });
    }
    let copy = Path::new("/tmp/probe-setuid");
    let made = fs::copy("/bin/true", copy).and_then(|_| fs::set_permissions(copy, fs::Permissions::from_mode(0o6755)));
    if made.is_ok() {
        let ran = Command::new(copy).status();
        report.note("1.2", "a set-user-id program of one's own", mount_is("/tmp", "nosuid"), format!("{ran:?}"));
    }
    // What cannot be removed here goes with the sandbox.
    drop(fs::remove_file(copy));
}

/// Mount point, options and optional fields of every mount.
fn mount_table() -> Vec<(String, String, String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let fields: Vec<&str> = before.split(' ').collect();
        if is_covered(fields.get(4)?, fields.first()?) {
            return None;
        }
        Some(((*fields.get(4)?).to_owned(), (*fields.get(5)?).to_owned(), fields.get(6..)?.join(" "), after.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Whether another mount is seen at this place, so that nobody gets at the one of this number (`STATX_MNT_ID` of `statx(2)`).
fn is_covered(point: &str, number: &str) -> bool {
    let Ok(point) = std::ffi::CString::new(point) else { return false };
    // SAFETY: plain numbers, of which none is no valid one.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: a live C string, and a place for the answer that outlives the call.
    let result = unsafe { libc::statx(libc::AT_FDCWD, point.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, libc::STATX_MNT_ID, &raw mut found) };
    result == 0 && found.stx_mask & libc::STATX_MNT_ID != 0 && number.parse() != Ok(found.stx_mnt_id)
}

fn mount_options_of(path: &str) -> Option<String> {
    let table = mount_table();
    let best = table.iter().filter(|(point, ..)| path == point || point == "/" || path.starts_with(&format!("{point}/")));
    best.max_by_key(|(point, ..)| point.len()).map(|(_, options, ..)| options.clone())
}

fn mount_is(path: &str, option: &str) -> bool {
    mount_options_of(path).is_some_and(|options| options.split(',').any(|have| have == option))
}

fn mounts(report: &mut Report) {
    let table = mount_table();
    report.note("2.1", "the mount table can be read", !table.is_empty(), format!("{} mounts", table.len()));
    for (point, options, optional, _) in &table {
        let has = |name: &str| options.split(',').any(|option| option == name);
        report.note("1.2", format!("nosuid on {point}"), has("nosuid"), options);
        if has("rw") {
            report.note("1.2", format!("nodev on {point}"), has("nodev") || point == "/dev/pts", options);
        }
        let shared = optional.contains("shared:") || optional.contains("master:");
        report.note("1.2", format!("no propagation at {point}"), !shared, if shared { optional } else { "private" });
    }
    for (path, kind) in [("/tmp/probe-device", libc::S_IFCHR), ("/dev/probe-device", libc::S_IFCHR), ("/tmp/probe-block", libc::S_IFBLK)] {
        let text = std::ffi::CString::new(path).unwrap_or_default();
        // SAFETY: a live C string; 1:5 is `zero`.
        let result = unsafe { libc::mknod(text.as_ptr(), kind | 0o666, libc::makedev(1, 5)) };
        let seen = if result == 0 { "it was made".to_owned() } else { name(crate::kernel::errno()) };
        report.note("1.2", format!("mknod {path}"), result != 0, &seen);
        if path.starts_with("/tmp/") && has_landlock() {
            // The domain is asked before capabilities are, whose answer would be EPERM.
            report.note("1.2", format!("the second wall at mknod {path}"), seen == "EACCES", &seen);
        }
        drop(fs::remove_file(path));
    }
    for path in ["/usr/probe", "/etc/probe", "/dev/probe", "/probe", "/proc/probe", "/var/probe"] {
        let result = fs::write(path, "x");
        report.note(
            "2.9",
            format!("writing {path}"),
            result.is_err(),
            result.err().map_or_else(|| "it worked".to_owned(), |e| e.to_string()),
        );
    }
}

/// Whether this kernel has Landlock (`landlock_create_ruleset(2)`, the question for its version).
fn has_landlock() -> bool {
    const VERSION: i64 = 1;
    call(libc::SYS_landlock_create_ruleset, &[0, 0, VERSION]).is_ok()
}

/// The first process belongs to somebody else.
fn agent(report: &mut Report) {
    let visible: Vec<i32> =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    let strangers: Vec<&i32> =
        visible.iter().filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() != own_uid())).collect();
    report.note("2.4", "processes of others in /proc", strangers.is_empty(), format!("{strangers:?}"));
    for (label, signal) in [("SIGKILL", libc::SIGKILL), ("SIGSTOP", libc::SIGSTOP), ("no signal", 0)] {
        let result = call(libc::SYS_kill, &[1, signal.into()]);
        report.note("2.4", format!("{label} to the first process"), result == Err(libc::EPERM), told(&result));
    }
    // In a copy, whose end lets go of what it traced.
    const PTRACE_SEIZE: i64 = 0x4206;
    let refusal = apart(|| match call(libc::SYS_ptrace, &[PTRACE_SEIZE, 1, 0, 0]) {
        Ok(_) => 0,
        Err(errno) => u8::try_from(errno).unwrap_or(u8::MAX),
    });
    let seen = if refusal == 0 { "it worked".to_owned() } else { name(refusal) };
    report.note("2.4", "PTRACE_SEIZE on the first process", matches!(refusal, libc::EPERM | libc::ESRCH), seen);
    let mut byte = 0u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x1000), iov_len: 1 };
    let arguments = [1, &raw const local as i64, 1, &raw const remote as i64, 1, 0];
    let result = call(libc::SYS_process_vm_readv, &arguments);
    report.note("2.4", "process_vm_readv of the first process", matches!(result, Err(libc::EPERM | libc::ESRCH)), told(&result));
    for entry in ["mem", "environ", "maps", "auxv", "syscall", "stack", "cmdline"] {
        let result = fs::read(format!("/proc/1/{entry}"));
        let seen = result.as_ref().map_or_else(ToString::to_string, |bytes| format!("{} bytes", bytes.len()));
        report.note("2.4", format!("/proc/1/{entry}"), result.is_err(), seen);
    }
    for entry in ["exe", "root", "cwd", "ns/mnt", "ns/user", "fd/3"] {
        let result = fs::read_link(format!("/proc/1/{entry}"));
        let seen = result.as_ref().map_or_else(ToString::to_string, |path| path.display().to_string());
        report.note("2.4", format!("/proc/1/{entry}"), result.is_err(), seen);
    }
    let result = fs::write("/proc/1/oom_score_adj", "1000");
    report.note("2.4", "writing /proc/1/oom_score_adj", result.is_err(), format!("{result:?}"));
    let result = call(libc::SYS_prlimit64, &[1, libc::RLIMIT_NOFILE as i64, 0, 0]);
    report.note("2.4", "prlimit of the first process", matches!(result, Err(libc::EPERM | libc::ESRCH)), told(&result));
}

fn own_uid() -> u32 {
    // SAFETY: a plain question.
    unsafe { libc::getuid() }
}

fn descriptors(report: &mut Report) {
    let mut open: Vec<i32> = Vec::new();
    for number in 0..4096 {
        // SAFETY: asks for a flag of a descriptor that may not exist.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } != -1 {
            open.push(number);
        }
    }
    report.note("2.5", "descriptors from the start", open.iter().all(|fd| *fd <= 2), format!("{open:?}"));
    for number in &open {
        let link = fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
        let harmless = link.starts_with("pipe:") || link == Path::new("/dev/null") || link.to_string_lossy().starts_with("pipe:[");
        report.note("2.5", format!("what descriptor {number} is"), harmless, link.display());
    }
    let outside = std::env::current_dir();
    let inside = outside.as_ref().is_ok_and(|path| path.is_absolute() && path.exists());
    report.note("2.5", "the working directory is inside", inside, format!("{outside:?}"));
}

fn keyrings(report: &mut Report) {
    const KEYCTL_DESCRIBE: i64 = 6;
    let result = call(libc::SYS_keyctl, &[KEYCTL_DESCRIBE, -3, 0, 0]);
    report.note("1.9", "describing the session keyring", matches!(result, Err(libc::EPERM | libc::ENOSYS)), told(&result));
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    report.note("1.9", "/proc/keys", keys.is_empty(), format!("{} bytes", keys.len()));
}
