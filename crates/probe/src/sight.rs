//! What must not be visible (2.1 to 2.7).

use std::{
    collections::BTreeSet,
    fs,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use crate::{
    kernel::{call, told},
    report::Report,
};

pub fn attack(report: &mut Report) {
    root(report);
    devices(report);
    proc_and_sys(report);
    environment(report);
    identifiers(report);
}

fn names(path: &str) -> BTreeSet<String> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn root(report: &mut Report) {
    let known = [
        "bin",
        "dev",
        "etc",
        "home",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "var",
        "workspace",
    ];
    for name in names("/") {
        report.note("2.1", format!("/{name}"), known.contains(&name.as_str()), "in the root directory");
    }
    for path in
        ["/boot", "/opt", "/srv", "/mnt", "/media", "/lost+found", "/etc/ssh", "/etc/sudoers", "/var/lib", "/var/log", "/run/docker.sock"]
    {
        let there = Path::new(path).exists();
        report.note("2.2", path, !there, if there { "it is there" } else { "absent" });
    }
    for path in ["/etc/shadow", "/root"] {
        let readable = fs::read(path).is_ok_and(|bytes| !bytes.is_empty()) || !names(path).is_empty();
        report.note("2.2", path, !readable, if readable { "readable" } else { "nothing to be read" });
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    report.note("2.2", "accounts in /etc/passwd", (1..=8).contains(&passwd.lines().count()), format!("{} lines", passwd.lines().count()));
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let lent = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"];
    for line in text.lines() {
        let mut fields = line.split(' ').skip(3);
        let (source, point) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        // What a mount is of, inside its file system: the host's programs at their own names, or nothing of the host's.
        let fine = source == "/"
            || point.starts_with("/proc")
            || point.starts_with("/dev")
            || lent.iter().any(|dir| point == *dir || point.starts_with(&format!("{dir}/")));
        report.note("2.1", format!("the mount at {point}"), fine, source);
    }
}

fn devices(report: &mut Report) {
    let known = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin", "stdout", "stderr"];
    for name in names("/dev") {
        report.note("2.1", format!("/dev/{name}"), known.contains(&name.as_str()), "in /dev");
    }
    let mut found = Vec::new();
    for name in names("/dev") {
        if let Ok(metadata) = fs::symlink_metadata(format!("/dev/{name}"))
            && metadata.file_type().is_block_device()
        {
            found.push(format!("{name} {}", metadata.rdev()));
        }
    }
    report.note("2.1", "block devices", found.is_empty(), format!("{found:?}"));
}

fn proc_and_sys(report: &mut Report) {
    for name in [
        "kcore",
        "keys",
        "key-users",
        "sysrq-trigger",
        "timer_list",
        "sched_debug",
        "latency_stats",
        "interrupts",
        "kallsyms",
        "modules",
        "vmallocinfo",
        "iomem",
        "ioports",
        "cgroups",
        "devices",
        "diskstats",
        "partitions",
        "zoneinfo",
        "slabinfo",
        "kpagecount",
        "kpageflags",
        "locks",
        "softirqs",
        "schedstat",
        "cmdline",
        "config.gz",
        "kmsg",
        "mtrr",
        "swaps",
        "misc",
        "consoles",
    ] {
        let read = fs::read(format!("/proc/{name}"));
        let lines = read.as_ref().map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count());
        // An empty answer, a heading, or none at all.
        let held = read.as_ref().map_or(true, |bytes| bytes.is_empty() || (name == "swaps" && lines == 1));
        report.note(
            "2.3",
            format!("/proc/{name}"),
            held,
            read.map_or_else(|error| error.to_string(), |bytes| format!("{} bytes", bytes.len())),
        );
    }
    for name in ["acpi", "bus", "fs", "irq", "scsi", "asound", "driver"] {
        let mut written = Vec::new();
        for entry in names(&format!("/proc/{name}")) {
            let path = format!("/proc/{name}/{entry}");
            if fs::OpenOptions::new().write(true).open(&path).is_ok() {
                written.push(path);
            }
        }
        report.note("2.3", format!("writing below /proc/{name}"), written.is_empty(), format!("{written:?}"));
    }
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/kernel/hotplug",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/kernel/security/lockdown",
        "/sys/firmware/efi/efivars",
    ] {
        let opened = fs::OpenOptions::new().write(true).open(path);
        // The sandbox's own null device lies over the masked ones.
        let null = opened.as_ref().is_ok_and(|file| file.metadata().is_ok_and(|m| m.rdev() == libc::makedev(1, 3)));
        report.note(
            "2.3",
            format!("opening {path} for writing"),
            opened.is_err() || null,
            opened.map_or_else(|e| e.to_string(), |_| "opened".to_owned()),
        );
    }
    for path in ["/sys/firmware", "/sys/kernel", "/sys/fs/cgroup", "/sys/class", "/sys/block", "/sys/devices/virtual"] {
        let inside = names(path);
        report.note("2.3", path, inside.is_empty(), format!("{} entries", inside.len()));
    }
}

fn environment(report: &mut Report) {
    let known = ["HOME", "HOSTNAME", "LANG", "LOGNAME", "PATH", "SHELL", "USER", "PWD", "OLDPWD", "SHLVL", "_"];
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        report.note("2.6", format!("the variable {name}"), known.contains(&name.as_str()), value.to_string_lossy());
    }
}

fn identifiers(report: &mut Report) {
    for path in ["/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid", "/sys/class/net/eth0/address"] {
        let there = fs::read(path).is_ok_and(|bytes| !bytes.is_empty());
        report.note("2.7", path, !there, if there { "readable" } else { "absent" });
    }
    // Counts of the whole host, by which two sandboxes could find that they are neighbours.
    for name in ["fs/aio-nr", "fs/dentry-state", "fs/file-nr", "fs/inode-nr", "fs/inode-state", "kernel/pty/nr"] {
        let count = fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
        report.note("2.7", format!("/proc/sys/{name}"), count.is_empty(), count.trim());
    }
    disks(report);
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the live structure.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    let seconds = uptime.split('.').next().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    // Younger than the host, unless the host has just started.
    report.note("2.7", "/proc/uptime", time.tv_sec < 60 || (seconds - time.tv_sec).abs() > 5, format!("{seconds} s"));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    report.note("2.7", "processes in /proc/loadavg", load.split(' ').nth(3).is_some_and(|field| field == "1/1"), load.trim());
    let net: BTreeSet<String> = fs::read_to_string("/proc/net/dev")
        .unwrap_or_default()
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    report.note("2.7", "interfaces in /proc/net/dev", net.iter().eq(["lo"]), format!("{net:?}"));
}

/// What tells one disk from all others, asked of a file that is lent.
fn disks(report: &mut Report) {
    const REQUESTS: [(&str, i64); 10] = [
        ("FS_IOC_GETFSUUID", 0x8011_1500),
        ("FS_IOC_GETFSSYSFSPATH", 0x8081_1501),
        ("FS_IOC_GETFSLABEL", 0x8100_9431),
        ("EXT4_IOC_GETFSUUID", 0x8008_662C),
        ("XFS_IOC_FSGEOMETRY", 0x8100_587E),
        ("XFS_IOC_FSGEOMETRY_V4", 0x8070_587C),
        ("XFS_IOC_FSGEOMETRY_V1", 0x8070_5864),
        ("BTRFS_IOC_FS_INFO", 0x8400_941F),
        ("BTRFS_IOC_DEV_INFO", 0xD000_941E),
        ("BTRFS_IOC_GET_SUBVOL_INFO", 0x81F8_943C),
    ];
    let lent = fs::File::open("/usr");
    for (name, request) in REQUESTS {
        for (how, request) in [("", request), (" with bits above the 32", request | 0xDEAD << 32)] {
            // As long as the longest of the answers; the first four bytes say how long an UUID may be.
            let mut answer = [0u8; 4096];
            answer[0] = 16;
            let file = lent.as_ref().map_or(-1, |file| i64::from(file.as_raw_fd()));
            let result = call(libc::SYS_ioctl, &[file, request, answer.as_mut_ptr() as i64]);
            report.note("2.7", format!("ioctl {name}{how}"), file >= 0 && result == Err(libc::EPERM), told(&result));
        }
    }
}
