//! System calls that user code may not make (1.4 to 1.7), asked with arguments that make no sense: where the filter is missing, the
//! kernel complains of them instead.

use crate::{
    kernel::{NONSENSE, apart, call, errno, told},
    report::Report,
};

macro_rules! calls {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), paste_number!($name))),*] };
}

/// `libc` names the number of `mount` `SYS_mount`.
macro_rules! paste_number {
    (mount) => {
        libc::SYS_mount
    };
    (umount2) => {
        libc::SYS_umount2
    };
    (move_mount) => {
        libc::SYS_move_mount
    };
    (open_tree) => {
        libc::SYS_open_tree
    };
    (fsopen) => {
        libc::SYS_fsopen
    };
    (fsmount) => {
        libc::SYS_fsmount
    };
    (fsconfig) => {
        libc::SYS_fsconfig
    };
    (fspick) => {
        libc::SYS_fspick
    };
    (mount_setattr) => {
        libc::SYS_mount_setattr
    };
    (pivot_root) => {
        libc::SYS_pivot_root
    };
    (chroot) => {
        libc::SYS_chroot
    };
    (bpf) => {
        libc::SYS_bpf
    };
    (userfaultfd) => {
        libc::SYS_userfaultfd
    };
    (io_uring_setup) => {
        libc::SYS_io_uring_setup
    };
    (io_uring_enter) => {
        libc::SYS_io_uring_enter
    };
    (io_uring_register) => {
        libc::SYS_io_uring_register
    };
    (keyctl) => {
        libc::SYS_keyctl
    };
    (add_key) => {
        libc::SYS_add_key
    };
    (request_key) => {
        libc::SYS_request_key
    };
    (perf_event_open) => {
        libc::SYS_perf_event_open
    };
    (kexec_load) => {
        libc::SYS_kexec_load
    };
    (init_module) => {
        libc::SYS_init_module
    };
    (finit_module) => {
        libc::SYS_finit_module
    };
    (delete_module) => {
        libc::SYS_delete_module
    };
    (open_by_handle_at) => {
        libc::SYS_open_by_handle_at
    };
    (name_to_handle_at) => {
        libc::SYS_name_to_handle_at
    };
    (setns) => {
        libc::SYS_setns
    };
    (unshare) => {
        libc::SYS_unshare
    };
    (clone3) => {
        libc::SYS_clone3
    };
    (swapon) => {
        libc::SYS_swapon
    };
    (swapoff) => {
        libc::SYS_swapoff
    };
    (acct) => {
        libc::SYS_acct
    };
    (settimeofday) => {
        libc::SYS_settimeofday
    };
    (clock_settime) => {
        libc::SYS_clock_settime
    };
    (clock_adjtime) => {
        libc::SYS_clock_adjtime
    };
    (adjtimex) => {
        libc::SYS_adjtimex
    };
    (quotactl) => {
        libc::SYS_quotactl
    };
    (syslog) => {
        libc::SYS_syslog
    };
    (sethostname) => {
        libc::SYS_sethostname
    };
    (setdomainname) => {
        libc::SYS_setdomainname
    };
    (mbind) => {
        libc::SYS_mbind
    };
    (move_pages) => {
        libc::SYS_move_pages
    };
    (migrate_pages) => {
        libc::SYS_migrate_pages
    };
    (fanotify_init) => {
        libc::SYS_fanotify_init
    };
    (pidfd_getfd) => {
        libc::SYS_pidfd_getfd
    };
    (memfd_secret) => {
        libc::SYS_memfd_secret
    };
    (seccomp) => {
        libc::SYS_seccomp
    };
    (io_setup) => {
        libc::SYS_io_setup
    };
    (mq_open) => {
        libc::SYS_mq_open
    };
    (mq_unlink) => {
        libc::SYS_mq_unlink
    };
    (mq_timedsend) => {
        libc::SYS_mq_timedsend
    };
    (mq_timedreceive) => {
        libc::SYS_mq_timedreceive
    };
    (mq_notify) => {
        libc::SYS_mq_notify
    };
    (mq_getsetattr) => {
        libc::SYS_mq_getsetattr
    };
}

/// Calls that exist everywhere. `reboot` asks for magic numbers first and so does nothing with nonsense.
const REFUSED: &[(&str, libc::c_long)] = calls![
    mount,
    umount2,
    move_mount,
    open_tree,
    fsopen,
    fsmount,
    fsconfig,
    fspick,
    mount_setattr,
    pivot_root,
    chroot,
    bpf,
    userfaultfd,
    io_uring_setup,
    io_uring_enter,
    io_uring_register,
    keyctl,
    add_key,
    request_key,
    perf_event_open,
    kexec_load,
    init_module,
    finit_module,
    delete_module,
    open_by_handle_at,
    name_to_handle_at,
    setns,
    unshare,
    clone3,
    swapon,
    swapoff,
    acct,
    settimeofday,
    clock_settime,
    clock_adjtime,
    adjtimex,
    quotactl,
    syslog,
    sethostname,
    setdomainname,
    mbind,
    move_pages,
    migrate_pages,
    fanotify_init,
    pidfd_getfd,
    memfd_secret,
    seccomp,
    io_setup,
    mq_open,
    mq_unlink,
    mq_timedsend,
    mq_timedreceive,
    mq_notify,
    mq_getsetattr,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[(&str, libc::c_long)] = &[
    ("modify_ldt", libc::SYS_modify_ldt),
    ("iopl", libc::SYS_iopl),
    ("ioperm", libc::SYS_ioperm),
    ("lookup_dcookie", 212),
    ("nfsservctl", 180),
    ("kexec_file_load", libc::SYS_kexec_file_load),
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[(&str, libc::c_long)] = &[];

pub fn attack(report: &mut Report) {
    for (name, number) in REFUSED.iter().chain(REFUSED_HERE).copied() {
        refused(report, "1.4", name, call(number, &[NONSENSE; 6]));
    }
    refused(report, "1.4", "reboot", call(libc::SYS_reboot, &[0, 0, 0, 0]));
    for newer in [700, 900, 1023] {
        let result = call(newer, &[NONSENSE; 6]);
        report.note("1.4", format!("call {newer}, newer than the table"), result == Err(libc::ENOSYS), told(&result));
    }
    namespaces(report);
    personality(report);
    filters(report);
    terminals(report);
    sockets(report);
    huge_pages(report);
    other_abis(report);
}

/// EPERM or ENOSYS, before the kernel has looked at the arguments.
fn refused(report: &mut Report, guarantee: &'static str, attempt: impl std::fmt::Display, result: Result<i64, i32>) {
    report.note(guarantee, attempt, matches!(result, Err(libc::EPERM | libc::ENOSYS)), told(&result));
}

fn namespaces(report: &mut Report) {
    for (name, flag) in [
        ("CLONE_NEWNS", libc::CLONE_NEWNS),
        ("CLONE_NEWUSER", libc::CLONE_NEWUSER),
        ("CLONE_NEWPID", libc::CLONE_NEWPID),
        ("CLONE_NEWNET", libc::CLONE_NEWNET),
        ("CLONE_NEWIPC", libc::CLONE_NEWIPC),
        ("CLONE_NEWUTS", libc::CLONE_NEWUTS),
        ("CLONE_NEWCGROUP", libc::CLONE_NEWCGROUP),
        ("CLONE_NEWTIME", 0x80),
    ] {
        // In a copy: where it works, the namespace ends with it.
        let status = apart(|| u8::from(call(libc::SYS_unshare, &[flag.into()]).is_ok()));
        report.note("1.4", format!("unshare({name})"), status == 0, if status == 0 { "refused" } else { "it worked" });
        let flags = i64::from(flag) | i64::from(libc::SIGCHLD);
        let result = call(libc::SYS_clone, &[flags, 0, 0, 0, 0]);
        if result == Ok(0) {
            // SAFETY: this is the new process, which nobody asked for.
            unsafe { libc::_exit(0) };
        }
        report.note("1.4", format!("clone({name})"), result == Err(libc::EPERM), told(&result));
    }
}

fn personality(report: &mut Report) {
    const READ_IMPLIES_EXEC: i64 = 0x0040_0000;
    const ADDR_COMPAT_LAYOUT: i64 = 0x0020_0000;
    for (name, value) in [("READ_IMPLIES_EXEC", READ_IMPLIES_EXEC), ("ADDR_COMPAT_LAYOUT", ADDR_COMPAT_LAYOUT)] {
        refused(report, "1.4", format!("personality({name})"), call(libc::SYS_personality, &[value]));
    }
    // Only low bits count for the kernel, so high ones must not get a forbidden value past.
    refused(
        report,
        "1.7",
        "personality(READ_IMPLIES_EXEC) with a bit above the 32",
        call(libc::SYS_personality, &[READ_IMPLIES_EXEC | 1 << 40]),
    );
}

fn filters(report: &mut Report) {
    // SAFETY: PR_SET_SECCOMP with an address that is none.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, NONSENSE, 0, 0) };
    let seen = if result == -1 { Err(errno()) } else { Ok(0) };
    report.note("4.1", "a seccomp filter by prctl", seen == Err(libc::EINVAL), told(&seen));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (field, wanted) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let value = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("absent").trim();
        report.note("1.4", format!("{field} in /proc/self/status"), value == wanted, value);
    }
}

fn terminals(report: &mut Report) {
    const TIOCSTI: i64 = 0x5412;
    const TIOCLINUX: i64 = 0x541C;
    const TIOCCONS: i64 = 0x541D;
    const TIOCSETD: i64 = 0x5423;
    for (name, request) in [("TIOCSTI", TIOCSTI), ("TIOCLINUX", TIOCLINUX), ("TIOCCONS", TIOCCONS), ("TIOCSETD", TIOCSETD)] {
        for (how, request) in [("", request), (" with bits above the 32", request | 0xDEAD << 32)] {
            let result = call(libc::SYS_ioctl, &[NONSENSE, request, NONSENSE]);
            report.note("1.5", format!("ioctl {name}{how}"), result == Err(libc::EPERM), told(&result));
        }
    }
}

fn sockets(report: &mut Report) {
    for family in (0..48).filter(|family| ![libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].contains(family)) {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
            let result = call(libc::SYS_socket, &[family.into(), kind.into(), 0]);
            let refusal = if family == libc::AF_NETLINK { libc::EOPNOTSUPP } else { libc::EPERM };
            report.note("1.6", format!("socket of family {family}, type {kind}"), result == Err(refusal), told(&result));
        }
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        let result = call(libc::SYS_socket, &[family.into(), libc::SOCK_RAW.into(), 1]);
        report.note("1.6", format!("raw socket of family {family}"), result == Err(libc::EPERM), told(&result));
    }
    protocols(report);
    for (name, level, option) in [
        ("SO_ATTACH_FILTER", libc::SOL_SOCKET, 26),
        ("SO_ATTACH_BPF", libc::SOL_SOCKET, 50),
        ("SO_ATTACH_REUSEPORT_CBPF", libc::SOL_SOCKET, 51),
        ("SO_ATTACH_REUSEPORT_EBPF", libc::SOL_SOCKET, 52),
        ("TCP_ULP", libc::IPPROTO_TCP, 31),
    ] {
        let result = call(libc::SYS_setsockopt, &[NONSENSE, level.into(), option, NONSENSE, 4]);
        report.note("1.6", format!("setsockopt {name}"), result == Err(libc::EPERM), told(&result));
    }
}

/// They count against no memory limit. Whether the host has any to give makes no difference to the answer.
fn huge_pages(report: &mut Report) {
    const LENGTH: i64 = 2 << 20;
    const MAP_HUGETLB: i64 = 0x4_0000;
    const MFD_HUGETLB: i64 = 4;
    const SHM_HUGETLB: i64 = 0o4000;
    /// The size of a page, as `log2` in the upper bits of the flags.
    const SIZES: [(&str, i64); 3] = [("the usual size", 0), ("2 MiB", 21 << 26), ("1 GiB", 30 << 26)];
    let map = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let name = c"probe".as_ptr() as i64;
    for (size, bits) in SIZES {
        for (how, high) in [("", 0), (", with bits above the 32", 0xDEAD << 32)] {
            let attempts = [
                ("mmap", call(libc::SYS_mmap, &[0, LENGTH, libc::PROT_READ.into(), map | MAP_HUGETLB | bits | high, -1, 0])),
                ("memfd_create", call(libc::SYS_memfd_create, &[name, MFD_HUGETLB | bits | high])),
                ("shmget", call(libc::SYS_shmget, &[0, LENGTH, i64::from(libc::IPC_CREAT) | 0o600 | SHM_HUGETLB | bits | high])),
            ];
            for (kind, result) in attempts {
                report.note("1.4", format!("huge pages of {size} by {kind}{how}"), result == Err(libc::EPERM), told(&result));
            }
        }
    }
}

/// What else a stream and a datagram can be made of: some are whole networks of their own, and the kernel loads modules for them.
fn protocols(report: &mut Report) {
    const OTHERS: [(&str, i64); 13] = [
        ("ICMP", 1),
        ("IGMP", 2),
        ("TCP of the wrong type", 6),
        ("UDP of the wrong type", 17),
        ("DCCP", 33),
        ("ICMPv6", 58),
        ("L2TP", 115),
        ("SCTP", 132),
        ("UDP-Lite", 136),
        ("raw", 255),
        ("SMC", 256),
        ("MPTCP", 262),
        ("one that is not known", 199),
    ];
    let mut attempt = |name: &str, number, family: i32, kind: i32, protocol: i64| {
        for (how, protocol) in [("", protocol), (" with bits above the 32", protocol | 0xDEAD << 32)] {
            let mut pair = [0i32; 2];
            let result = call(number, &[family.into(), (kind | libc::SOCK_CLOEXEC).into(), protocol, &raw mut pair as i64]);
            let attempt = format!("{name} of family {family}, type {kind}{how}");
            report.note("1.6", attempt, result == Err(libc::EPERM), told(&result));
        }
    };
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, its_own) in [(libc::SOCK_STREAM, 6), (libc::SOCK_DGRAM, 17)] {
            for (name, protocol) in OTHERS.into_iter().filter(|(_, protocol)| *protocol != its_own) {
                attempt(name, libc::SYS_socket, family, kind, protocol);
            }
            attempt("a pair", libc::SYS_socketpair, family, kind, 0);
        }
    }
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        for (name, protocol) in OTHERS.into_iter().filter(|(_, protocol)| *protocol != 1) {
            attempt(name, libc::SYS_socket, libc::AF_UNIX, kind, protocol);
            attempt(&format!("a pair by {name}"), libc::SYS_socketpair, libc::AF_UNIX, kind, protocol);
        }
    }
}

/// Calls of 32-bit programs and of the x32 interface.
#[cfg(target_arch = "x86_64")]
fn other_abis(report: &mut Report) {
    const X32: libc::c_long = 0x4000_0000;
    let result = call(X32 | 39, &[]);
    report.note("1.7", "getpid by x32", matches!(result, Err(libc::EPERM | libc::ENOSYS)), told(&result));
    for (name, number, argument) in [("getpid", 20u64, 0u64), ("mount", 21, 0), ("socketcall", 102, 1)] {
        let status = apart(|| {
            let mut result = number;
            // SAFETY: `int 0x80` changes rax alone (and r8 to r11 on old kernels); addresses are not followed by these calls.
            unsafe {
                std::arch::asm!("push rbx", "mov rbx, {0}", "int 0x80", "pop rbx", in(reg) argument, inout("rax") result,
                        out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            }
            // A number of a process, or EFAULT: somebody has answered. ENOSYS: the kernel has no such interface.
            u8::from(result.cast_signed() as i32 != -libc::ENOSYS)
        });
        let seen = if status < 0 { format!("ended by signal {}", -status) } else { format!("status {status}") };
        report.note("1.7", format!("{name} by int 0x80"), status <= 0, seen);
    }
}

/// Other architectures have one interface.
#[cfg(not(target_arch = "x86_64"))]
fn other_abis(_report: &mut Report) {}
