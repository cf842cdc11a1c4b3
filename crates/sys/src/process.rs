//! What the agent needs to start, watch and end programs, and to touch files as their owner.

use std::{
    ffi::{CStr, CString, c_void},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
    time::Duration,
};

use libc::{c_int, c_long};

/// Who a program is, or as whom files are touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// A program to start, with everything made ready, so that the new process only makes system calls.
#[derive(Debug)]
pub struct Program<'a> {
    pub path: &'a CStr,
    pub argv: &'a [CString],
    pub environment: &'a [CString],
    pub directory: &'a CStr,
    /// Standard input, output and error; numbers above 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Standard input is a terminal, and becomes the controlling one of the program's session.
    pub terminal: bool,
    /// Become this, and lose every capability and the way back. `None` keeps what the caller is.
    pub identity: Option<Identity>,
    /// The user namespace in which the identity is meant, from [`crate::kernel::user_namespace`]. Its root keeps [`ROOT_CAPABILITIES`] there.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Of [`OPEN_FILES`] and others, soft and hard.
    pub limits: &'a [(u32, u64)],
    /// A compiled seccomp filter (`struct sock_filter` records), installed last of all. `None` leaves it out.
    pub filter: Option<&'a [u8]>,
}

/// `RLIMIT_NOFILE`.
pub const OPEN_FILES: u32 = libc::RLIMIT_NOFILE;
/// `RLIMIT_NPROC`, counted for each user of each user namespace since Linux 5.14.
pub const PROCESSES: u32 = libc::RLIMIT_NPROC;
/// `RLIMIT_DATA`: private, writable memory of one process since Linux 4.7.
pub const DATA: u32 = libc::RLIMIT_DATA;

/// A program that was started.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
}

/// A new cgroup namespace, as a mark of everything that is started from now on: it is inherited, and nothing that user code may call
/// leaves it. Its number is nobody else's for as long as this value lives.
#[derive(Debug)]
pub struct Mark {
    name: String,
    /// Keeps the kernel from giving the number to another.
    _namespace: OwnedFd,
}

impl Mark {
    /// Moves the calling thread into a new namespace; what the thread starts before the next call is born into it (`cgroup_namespaces(7)`).
    pub fn begin() -> io::Result<Self> {
        crate::kernel::unshare_cgroup()?;
        let namespace = rustix::fs::open(
            "/proc/thread-self/ns/cgroup",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let name = format!("cgroup:[{}]", rustix::fs::fstat(&namespace)?.st_ino);
        Ok(Self { name, _namespace: namespace })
    }

    /// What `/proc/<pid>/ns/cgroup` points to in all that bear it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// At which step a program could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Clone,
    Session,
    Descriptors,
    Terminal,
    Limits,
    Identity,
    Capabilities,
    Directory,
    Seccomp,
    Execute,
}

/// Why a program could not be started.
#[derive(Debug)]
pub struct StartError {
    pub step: Step,
    pub error: io::Error,
}

/// What root of a child user namespace may do, there and to files that it maps: act on every user's files and processes, become
/// other users (include/uapi/linux/capability.h). Nothing of it reaches mounts or network, which belong to another namespace.
pub const ROOT_CAPABILITIES: u32 = FILE_CAPABILITIES | 1 << CAP_FSETID | 1 << CAP_KILL | 1 << CAP_SETGID | 1 << CAP_SETUID;
/// The part of it that is about other users' files.
const FILE_CAPABILITIES: u32 = 1 << CAP_CHOWN | 1 << CAP_DAC_OVERRIDE | 1 << CAP_FOWNER;
const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// include/uapi/linux/seccomp.h
const SECCOMP_SET_MODE_FILTER: c_int = 1;
/// Where the new process holds the user namespace that it enters.
const NAMESPACE_FD: RawFd = 3;
/// Enough for the child's few calls; it shares everything else with this process.
const STACK_LENGTH: usize = 64 << 10;
/// Highest capability number that any kernel may know.
const LAST_CAPABILITY: c_long = 63;

/// What parent and child share; the child writes the last.
struct Shared {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    directory: *const libc::c_char,
    stdio: [RawFd; 3],
    terminal: bool,
    identity: Option<Identity>,
    /// -1 when there is none.
    namespace: RawFd,
    limits: *const [(u32, u64)],
    /// Null when there is none.
    filter: *const libc::sock_fprog,
    failure: Option<(Step, c_int)>,
}

/// The process that [`start`] is making now, 0 when there is none. The kernel writes it before that process runs.
static STARTING: AtomicI32 = AtomicI32::new(0);
/// How many times [`start`] was called.
static STARTS: AtomicU64 = AtomicU64::new(0);

/// How many programs this process has begun to start.
pub fn starts() -> u64 {
    STARTS.load(Ordering::Acquire)
}

/// Ends the process that the `start`-th call of [`start`] is still making, and so frees its caller, who stands still as long. For another
/// thread: between becoming the user and executing the program, the new process can be stopped by that user's other processes, and
/// nothing but its death ends that for certain. Does nothing when that call has returned.
pub fn free_start(start: u64) -> io::Result<()> {
    let pid = STARTING.load(Ordering::Acquire);
    if pid == 0 || starts() != start {
        return Ok(());
    }
    let handle = pidfd(pid)?;
    // Still the same call, so the number was this process's when the handle was made: its parent, who reaps, stands still.
    if STARTING.load(Ordering::Acquire) == pid && starts() == start {
        kill_for_good(pid, handle.as_fd());
    }
    Ok(())
}

/// Whether a call of [`start`] is under way.
pub fn is_starting() -> bool {
    STARTING.load(Ordering::Acquire) != 0
}

/// Whether the process that the `start`-th call of [`start`] is still making was stopped by a signal (`proc_pid_stat(5)`).
pub fn start_is_stopped(start: u64) -> bool {
    let pid = STARTING.load(Ordering::Acquire);
    if pid == 0 || starts() != start {
        return false;
    }
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it is in parentheses and may hold some itself.
    let state = line.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('T' | 't'))
}

/// Starts a program. Like `vfork(2)`: the caller stands still until the program is executed or has failed, and memory is shared meanwhile,
/// so nothing of it is copied. The child is reaped by the caller only when this fails.
pub fn start(program: &Program<'_>) -> Result<Started, StartError> {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain(std::iter::once(ptr::null())).collect()
    };
    let (argv, environment) = (pointers(program.argv), pointers(program.environment));
    let filter = program.filter.map(sock_fprog);
    let mut shared = Shared {
        path: program.path.as_ptr(),
        argv: argv.as_ptr(),
        environment: environment.as_ptr(),
        directory: program.directory.as_ptr(),
        stdio: program.stdio.map(|fd| fd.as_raw_fd()),
        terminal: program.terminal,
        identity: program.identity,
        namespace: program.namespace.map_or(-1, |fd| fd.as_raw_fd()),
        limits: program.limits,
        filter: filter.as_ref().map_or(ptr::null(), ptr::from_ref),
        failure: None,
    };
    let mut stack = vec![0u128; STACK_LENGTH / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: all-zero is a valid signal set, filled before use; the sets are live.
    let pid = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        // No handler may run in the child on our memory.
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        STARTS.fetch_add(1, Ordering::Release);
        // SAFETY: CLONE_PARENT_SETTID makes the kernel write an int to a static that is one. CLONE_VFORK holds this thread until the child has executed or exited, so `shared`, the vectors behind its pointers
        // and the stack outlive the child's use of them. The child runs on its own stack, makes raw system calls only, and
        // writes nothing but `shared`.
        let pid = libc::clone(
            child,
            top.cast::<c_void>(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | libc::SIGCHLD,
            ptr::from_mut(&mut shared).cast::<c_void>(),
            STARTING.as_ptr(),
        );
        let error = io::Error::last_os_error();
        STARTING.store(0, Ordering::Release);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid == -1 { Err(error) } else { Ok(pid) }
    };
    let pid = pid.map_err(|error| StartError { step: Step::Clone, error })?;
    if let Some((step, errno)) = shared.failure {
        // SAFETY: reaps our own child, which has exited or is about to; no memory is passed.
        while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } == -1 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {}
        return Err(StartError { step, error: io::Error::from_raw_os_error(errno) });
    }
    Ok(Started { pid })
}

/// The new process, on memory that it shares with the suspended parent. Raw system calls only: the C library's wrappers for ids would
/// reach for the parent's other threads.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `start` passes a live `Shared` and stands still.
    let shared = unsafe { &mut *argument.cast::<Shared>() };
    // SAFETY: as said above.
    let failure = unsafe { prepare_and_execute(shared) };
    shared.failure = Some(failure);
    // SAFETY: ends this process alone; shared memory stays as it is.
    unsafe { libc::syscall(libc::SYS_exit, 127) };
    127
}

/// Returns only failures.
///
/// # Safety
/// To be called in the child of [`start`] only.
unsafe fn prepare_and_execute(shared: &mut Shared) -> (Step, c_int) {
    macro_rules! step {
        ($step:expr, $($call:tt)*) => {{
            // SAFETY: arguments are numbers or pointers into `shared`, which outlives the call.
            let result = unsafe { libc::syscall($($call)*) };
            if result == -1 {
                // SAFETY: reads this thread's errno.
                return ($step, unsafe { *libc::__errno_location() });
            }
            result
        }};
    }
    step!(Step::Session, libc::SYS_setsid);
    for (number, fd) in shared.stdio.iter().enumerate() {
        step!(Step::Descriptors, libc::SYS_dup3, *fd, number as c_int, 0);
    }
    if shared.terminal {
        // A session has a terminal only through its leader, which this is since a moment; the last argument says not to take one away from
        // another session.
        step!(Step::Terminal, libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0);
    }
    let mut first_unused = 3;
    if shared.namespace >= 0 {
        // Its own number may be 3 already, and then it is marked close-on-exec as all of the agent's.
        if shared.namespace != NAMESPACE_FD {
            step!(Step::Descriptors, libc::SYS_dup3, shared.namespace, NAMESPACE_FD, libc::O_CLOEXEC);
        }
        first_unused += 1;
    }
    step!(Step::Descriptors, libc::SYS_close_range, first_unused, libc::c_uint::MAX, 0);

    // SAFETY: the caller keeps the list and stands still.
    for (resource, value) in unsafe { &*shared.limits } {
        let limit = libc::rlimit { rlim_cur: *value, rlim_max: *value };
        step!(Step::Limits, libc::SYS_prlimit64, 0, *resource, ptr::from_ref(&limit), 0);
    }
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    step!(Step::Limits, libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, ptr::from_ref(&no_core), 0);
    // When memory is short, this goes before the agent and before everything of the host.
    let score = step!(Step::Limits, libc::SYS_openat, libc::AT_FDCWD, c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
    step!(Step::Limits, libc::SYS_write, score, c"1000".as_ptr(), 4);
    step!(Step::Limits, libc::SYS_close, score);

    if let Some(Identity { uid, gid }) = shared.identity {
        let mut kept = 0;
        if shared.namespace >= 0 {
            // All capabilities there, a full bounding set included; what is not kept goes below.
            step!(Step::Identity, libc::SYS_setns, NAMESPACE_FD, libc::CLONE_NEWUSER);
            kept = ROOT_CAPABILITIES;
        }
        for capability in 0..=LAST_CAPABILITY {
            if capability < 32 && kept & 1 << capability != 0 {
                continue;
            }
            // SAFETY: no memory is passed.
            if unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == -1 {
                // SAFETY: reads this thread's errno.
                match unsafe { *libc::__errno_location() } {
                    // Beyond the last one that this kernel knows.
                    libc::EINVAL => break,
                    errno => return (Step::Capabilities, errno),
                }
            }
        }
        step!(Step::Identity, libc::SYS_setgroups, 0, ptr::null::<u32>());
        step!(Step::Identity, libc::SYS_setresgid, gid, gid, gid);
        step!(Step::Identity, libc::SYS_setresuid, uid, uid, uid);
        step!(Step::Capabilities, libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let header = CapabilityHeader::default();
        let all = [CapabilityData { effective: kept, permitted: kept, inheritable: 0 }, CapabilityData::default()];
        step!(Step::Capabilities, libc::SYS_capset, ptr::from_ref(&header), all.as_ptr());
    }
    step!(Step::Capabilities, libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);

    step!(Step::Directory, libc::SYS_chdir, shared.directory);
    let mut here = [0u8; 4096];
    step!(Step::Directory, libc::SYS_getcwd, here.as_mut_ptr(), here.len());
    // A directory outside the root, reached through somebody's descriptor, has a name that says so (getcwd(2)).
    if here[0] != b'/' {
        return (Step::Directory, libc::EACCES);
    }

    // SAFETY: all-zero is the empty set; SIG_DFL is valid for SIGPIPE, which the runtime ignores.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        // The kernel's set is eight bytes long.
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, ptr::from_ref(&none), ptr::null_mut::<c_void>(), 8);
    }
    if !shared.filter.is_null() {
        step!(Step::Seccomp, libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, shared.filter);
    }
    step!(Step::Execute, libc::SYS_execve, shared.path, shared.argv, shared.environment);
    (Step::Execute, libc::EINVAL)
}

/// `struct __user_cap_header_struct`, include/uapi/linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

impl Default for CapabilityHeader {
    fn default() -> Self {
        // _LINUX_CAPABILITY_VERSION_3, the calling thread.
        Self { version: 0x2008_0522, pid: 0 }
    }
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn raw(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The effective capabilities of the calling thread, taken away and given back.
fn capabilities() -> io::Result<[CapabilityData; 2]> {
    let header = CapabilityHeader::default();
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: header and data are live and of the layout that version 3 asks for.
    raw(unsafe { libc::syscall(libc::SYS_capget, ptr::from_ref(&header), data.as_mut_ptr()) })?;
    Ok(data)
}

fn set_capabilities(data: &[CapabilityData; 2]) -> io::Result<()> {
    let header = CapabilityHeader::default();
    // SAFETY: as above; the kernel only reads.
    raw(unsafe { libc::syscall(libc::SYS_capset, ptr::from_ref(&header), data.as_ptr()) }).map(drop)
}

fn set_file_identity(identity: Identity) -> io::Result<()> {
    // SAFETY: no memory is passed. These calls change the calling thread alone and answer with the value before.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, identity.gid);
        libc::syscall(libc::SYS_setfsuid, identity.uid);
        // They do not fail visibly, so ask.
        (libc::syscall(libc::SYS_setfsuid, u32::MAX), libc::syscall(libc::SYS_setfsgid, u32::MAX))
    };
    if now == (c_long::from(identity.uid), c_long::from(identity.gid)) {
        return Ok(());
    }
    // SAFETY: reads this thread's errno.
    match unsafe { *libc::__errno_location() } {
        libc::ENOSYS if now == (-1, -1) => set_effective_identity(identity),
        _ => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

/// The same for a kernel that knows no identity for files alone (gVisor's): the effective one serves. The real and the saved one stay, so that
/// nobody may signal or trace this thread who might not before (`kill(2)`, `ptrace(2)`).
fn set_effective_identity(Identity { uid, gid }: Identity) -> io::Result<()> {
    const SAME: u32 = u32::MAX;
    // SAFETY: no memory is passed. By system call they change the calling thread alone.
    unsafe {
        // Permitted capabilities outlive that root stops to be one of the three.
        raw(libc::syscall(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        raw(libc::syscall(libc::SYS_setresgid, SAME, gid, SAME))?;
        raw(libc::syscall(libc::SYS_setresuid, SAME, uid, SAME))?;
    }
    Ok(())
}

/// Makes the calling thread, and with it a process that has no other, make files as `identity`, with the capabilities that it has.
pub fn make_files_as(identity: Identity) -> io::Result<()> {
    let before = capabilities()?;
    set_file_identity(identity)?;
    // The kernel takes those away that are about files.
    set_capabilities(&before)
}

/// What whoever touches files as `identity` may do beyond it: root, everybody's files; everybody else, nothing.
fn file_capabilities(identity: Identity) -> [CapabilityData; 2] {
    let kept = if identity.uid == 0 { FILE_CAPABILITIES } else { 0 };
    [CapabilityData { effective: kept, permitted: kept, inheritable: 0 }, CapabilityData::default()]
}

/// Makes the calling thread touch files as `identity` for the rest of its life, without any capability that is not about files.
pub fn become_file_owner(identity: Identity) -> io::Result<()> {
    // SAFETY: an empty list; changes the calling thread alone.
    raw(unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()) })?;
    set_file_identity(identity)?;
    set_capabilities(&file_capabilities(identity))?;
    stay_hidden()
}

/// What the kernel undoes when a thread changes whose files it touches (`prctl(2)`, `PR_SET_PDEATHSIG` and `PR_SET_DUMPABLE`).
fn stay_hidden() -> io::Result<()> {
    hide_from_tracers()?;
    crate::kernel::die_with_parent()
}

/// Runs `work` with the calling thread touching files as `identity`, as [`become_file_owner`] does, and gives everything back after it.
/// For work that is short and does not panic.
pub fn as_file_owner<T>(identity: Identity, work: impl FnOnce() -> T) -> io::Result<T> {
    // SAFETY: plain questions.
    let own = unsafe { Identity { uid: libc::geteuid(), gid: libc::getegid() } };
    let before = capabilities()?;
    set_file_identity(identity)?;
    let mut meanwhile = before;
    for (data, allowed) in meanwhile.iter_mut().zip(file_capabilities(identity)) {
        data.effective &= allowed.effective;
    }
    let result = match set_capabilities(&meanwhile) {
        Ok(()) => Ok(work()),
        Err(error) => Err(error),
    };
    // Capabilities first: they are what allows the way back. And once more: on the way from root the kernel takes those about files.
    let back = set_capabilities(&before)
        .and_then(|()| set_file_identity(own))
        .and_then(|()| set_capabilities(&before))
        .and_then(|()| stay_hidden());
    if back.is_err() {
        // Going on with the wrong identity would be worse than ending the sandbox.
        std::process::abort();
    }
    result
}

/// How a process ended, and what it used with the children that it waited for (`getrusage(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub pid: i32,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub cpu: Duration,
    /// Largest resident set of any of them, in bytes.
    pub peak_memory: u64,
}

/// Reaps one child that has ended, whoever started it. `None` when there is none at the moment.
pub fn reap() -> io::Result<Option<Exit>> {
    let mut status = 0;
    // SAFETY: all-zero is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are live and written by the kernel.
    let pid = unsafe { libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage) };
    match pid {
        0 => Ok(None),
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error => Err(error),
        },
        pid => {
            let time = |t: libc::timeval| Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_usec).unwrap_or(0) * 1000);
            Ok(Some(Exit {
                pid,
                exit_code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
                signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
                cpu: time(usage.ru_utime) + time(usage.ru_stime),
                peak_memory: usage.ru_maxrss.unsigned_abs() * 1024,
            }))
        }
    }
}

/// Gives every signal that is ignored its default effect, but SIGPIPE, which the runtime ignores and [`start`] gives back. A server that was
/// started by `nohup(1)` ignores some, and what is ignored stays so in all that it starts.
pub fn ignore_no_signals() {
    /// `struct kernel_sigaction`, which begins with the handler and is no longer than this; zeroes are the default.
    type Action = [usize; 8];
    // By system call: the C library does not let two be changed that it keeps for itself.
    let action = |signal: c_int, new: *const Action, old: *mut Action| {
        // SAFETY: each pointer is null or to a live action. Only defaults are set, and no handler is replaced.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, 8) }
    };
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        let mut now: Action = [0; 8];
        if action(signal, ptr::null(), &mut now) == 0 && now[0] == libc::SIG_IGN {
            action(signal, &[0; 8], ptr::null_mut());
        }
    }
}

/// Blocks SIGCHLD and gives a descriptor that is readable when children have ended (`signalfd(2)`), non-blocking, close-on-exec.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: all-zero is the empty set; the set is live; the new descriptor is owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let fd = libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd == -1 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// `PR_SET_DUMPABLE` 0: no process without capabilities may trace this one or read its `/proc` entries.
pub fn hide_from_tracers() -> io::Result<()> {
    // SAFETY: no memory is passed.
    raw(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into()).map(drop)
}

/// Installs a compiled seccomp filter for the calling thread and all that it will start, after giving up new privileges, without which the
/// kernel takes none (`seccomp(2)`).
pub fn install_filter(filter: &[u8]) -> io::Result<()> {
    let program = sock_fprog(filter);
    // SAFETY: no memory is passed.
    raw(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    // SAFETY: `program` and the filter behind it are live; the kernel copies them.
    raw(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

fn sock_fprog(filter: &[u8]) -> libc::sock_fprog {
    libc::sock_fprog {
        len: u16::try_from(filter.len() / size_of::<libc::sock_filter>()).unwrap_or(u16::MAX),
        filter: filter.as_ptr().cast_mut().cast(),
    }
}

/// Adopts orphans of its descendants, as the first process of a pid namespace does anyway (`PR_SET_CHILD_SUBREAPER`).
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: no memory is passed.
    raw(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into()).map(drop)
}

/// Sends a signal to a process group.
pub fn signal_group(group: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed. Groups below 2 would mean everybody.
    if group < 2 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: no memory is passed.
    raw(unsafe { libc::kill(-group, signal) }.into()).map(drop)
}

/// Sends SIGKILL to every process of this pid namespace but this one. Does nothing unless this is its first process: elsewhere it would
/// mean the whole machine.
pub fn kill_everybody_else() {
    // SAFETY: plain question; no memory is passed.
    unsafe {
        if libc::getpid() == 1 {
            libc::kill(-1, libc::SIGKILL);
        }
    }
}

/// Sends SIGKILL to exactly the process that `pidfd` names, after forbidding it to start others (`RLIMIT_NPROC` 0).
pub fn kill_for_good(pid: i32, pidfd: BorrowedFd<'_>) {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is live; nothing is written. Failure of either means that it has ended.
    unsafe {
        libc::prlimit(pid, libc::RLIMIT_NPROC, &none, ptr::null_mut());
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, ptr::null::<c_void>(), 0);
    }
}

/// A handle on a process that stays its own (`pidfd_open(2)`).
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; the new descriptor is owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(raw(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as RawFd)) }
}

/// The processor time that a process has used so far, all its threads together (`clock_getcpuclockid(3)`).
pub fn cpu_time(pid: i32) -> io::Result<Duration> {
    /// `CPUCLOCK_SCHED` of a process, include/linux/posix-timers.h.
    const SCHED: i32 = 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`.
    raw(unsafe { libc::syscall(libc::SYS_clock_gettime, !pid << 3 | SCHED, &raw mut time) })?;
    Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// How many bytes wait in a pipe (`FIONREAD`).
pub fn waiting_bytes(pipe: BorrowedFd<'_>) -> usize {
    let mut count: c_int = 0;
    // SAFETY: FIONREAD writes one int.
    let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut count) };
    if result == -1 { 0 } else { usize::try_from(count).unwrap_or(0) }
}
