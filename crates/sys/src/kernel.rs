//! System calls that the launcher needs and no safe library offers. Each takes and returns owned descriptors.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use rustix::process::Pid;

/// Proof that this process has one thread, so that a `fork` copies all of it: the child may allocate, lock and log.
#[derive(Debug, Clone, Copy)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Looks at `/proc/self/status`; an error when there is more than one thread. This program must start none afterwards.
    pub fn verify() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).map(str::trim);
        if threads == Some("1") { Ok(Self(())) } else { Err(io::Error::other("the launcher must have exactly one thread")) }
    }
}

/// The two returns of [`clone_process`].
#[derive(Debug)]
pub enum Cloned {
    /// In the new process.
    Child,
    /// In the caller: the child's pid here and its pidfd, close-on-exec.
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// For [`clone_process`]: a user namespace and, owned by it, a mount namespace.
pub const NEW_USER_AND_MOUNTS: i32 = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;

/// `clone3(2)` without a new stack, like `fork`, with `CLONE_*` namespace flags and, on cgroup v2, the cgroup to be born into.
pub fn clone_process(_proof: SingleThreaded, flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // Does not fit into libc's int.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // Layout of `struct clone_args`, include/uapi/linux/sched.h (version 2, with `cgroup`).
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()) | libc::CLONE_PIDFD as u64,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is live and fully initialised and its size is passed along; `pidfd` is a live int. There is no CLONE_VM,
    // so the child has its own copy of memory and stack; this process has one thread, so no lock can be held by another.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&args), size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just written a descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("clone3 gave an impossible pid"))?;
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Makes a user namespace with this map of uids and gids (`user_namespaces(7)`: lines of first id inside, first id outside, count) and
/// does not enter it. A short-lived child makes and enters it, so that this process may write the map and keep a handle.
///
/// What the kernel counts for each user (inotify instances, queued signals, and what else `/proc/sys/user` and `getrlimit(2)` name so) is
/// counted for `owner` as well, and his limits hold for the namespace as a whole. Whoever may use a limit up must therefore have an owner
/// of his own. `None` is the caller's effective user; another needs `CAP_SETUID`, and keeps the caller's capabilities.
pub fn user_namespace(alone: SingleThreaded, map: &str, owner: Option<u32>) -> io::Result<OwnedFd> {
    use std::{
        fs,
        io::{Read, Write},
    };

    use rustix::fs::{Mode, OFlags, open};
    let (mut to_parent, mut to_child) = (io::pipe()?, io::pipe()?);
    let Cloned::Parent { pidfd, .. } = clone_process(alone, 0, None)? else {
        if let Err(error) = enter_user_namespace_of(owner) {
            // No pid begins so.
            let told = write!(to_parent.1, "!{}", error.raw_os_error().unwrap_or(libc::EPERM));
            exit_now(1 + i32::from(told.is_err()));
        }
        // The number by which the `/proc` that both see knows it.
        let pid = fs::read_link("/proc/self").unwrap_or_default();
        let told = to_parent.1.write_all(pid.as_os_str().as_encoded_bytes());
        drop(to_parent);
        drop(to_child.1);
        let released = to_child.0.read(&mut [0]);
        exit_now(i32::from(told.is_err() || released.is_err()));
    };
    drop(to_parent.1);
    drop(to_child.0);
    let mut pid = String::new();
    to_parent.0.read_to_string(&mut pid)?;
    let handle = (|| {
        if let Some(errno) = pid.strip_prefix('!') {
            return Err(io::Error::from_raw_os_error(errno.parse().unwrap_or(libc::EPERM)));
        }
        fs::write(format!("/proc/{pid}/uid_map"), map)?;
        fs::write(format!("/proc/{pid}/gid_map"), map)?;
        Ok::<_, io::Error>(open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    })();
    to_child.1.flush()?;
    drop(to_child.1);
    rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), rustix::process::WaitIdOptions::EXITED)?;
    handle
}

/// Makes a user namespace that belongs to `owner`, and enters it. The first of a sandbox; nothing of the caller's is left to use.
fn enter_user_namespace_of(owner: Option<u32>) -> io::Result<()> {
    if let Some(owner) = owner {
        let sets = rustix::thread::capabilities(None)?;
        let root = rustix::process::getuid();
        // The effective user alone, which may take back what it loses by that.
        rustix::thread::set_thread_res_uid(root, rustix::process::Uid::from_raw(owner), root)?;
        rustix::thread::set_capabilities(None, sets)?;
        // What has changed users is closed to all but the host's root, and the parent may be root of a namespace below.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
    }
    unshare_user()
}

/// Ends the process at once: no destructors, no exit handlers, nothing flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` touches no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Attributes for [`mount_setattr`].
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttributes {
    pub read_only: bool,
    pub no_suid: bool,
    pub no_dev: bool,
    pub no_exec: bool,
    /// Make the mount private, so that nothing propagates.
    pub private: bool,
    /// The whole tree below, not this mount alone.
    pub recursive: bool,
    /// Take the first four away instead of setting them.
    pub allow: bool,
}

/// `mount_setattr(2)` on a mount that `tree` (from `open_tree` or `fsmount`) refers to.
pub fn mount_setattr(tree: BorrowedFd<'_>, attributes: MountAttributes) -> io::Result<()> {
    let mut set = 0;
    for (on, flag) in [
        (attributes.read_only, libc::MOUNT_ATTR_RDONLY),
        (attributes.no_suid, libc::MOUNT_ATTR_NOSUID),
        (attributes.no_dev, libc::MOUNT_ATTR_NODEV),
        (attributes.no_exec, libc::MOUNT_ATTR_NOEXEC),
    ] {
        if on {
            set |= flag;
        }
    }
    let args = libc::mount_attr {
        attr_set: if attributes.allow { 0 } else { set },
        attr_clr: if attributes.allow { set } else { 0 },
        propagation: if attributes.private { libc::MS_PRIVATE } else { 0 },
        userns_fd: 0,
    };
    set_attributes(tree, &args, attributes.recursive)
}

/// Makes a detached mount show owners as the user namespace maps them: what belongs to an id inside belongs to that id's own on the host
/// (`mount_setattr(2)`, idmapped mounts; Linux 5.12). `EINVAL`: its file system cannot do that.
pub fn map_owners(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let args = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attributes(tree, &args, false)
}

fn set_attributes(tree: BorrowedFd<'_>, args: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `args` is a live, fully initialised `mount_attr` and its size is passed along.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, ptr::from_ref(args), size_of::<libc::mount_attr>())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of a loop device that nobody uses at the moment; `control` is open on `/dev/loop-control` (`loop(4)`, `LOOP_CTL_GET_FREE`).
pub fn free_loop_device(control: &OwnedFd) -> io::Result<u32> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
    // SAFETY: takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Puts `file` behind a loop device, past the page cache where its file system can do that, until the device is closed by the last who has it
/// open or mounted (`LOOP_CONFIGURE`, Linux 5.8). `EBUSY`: somebody else took the device.
pub fn attach_loop_device(device: &OwnedFd, file: BorrowedFd<'_>) -> io::Result<()> {
    const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    const LO_FLAGS_DIRECT_IO: u32 = 16;
    // `struct loop_config` with `struct loop_info64` in it, include/uapi/linux/loop.h.
    #[repr(C)]
    struct LoopConfig {
        fd: u32,
        block_size: u32,
        device: u64,
        inode: u64,
        rdevice: u64,
        offset: u64,
        size_limit: u64,
        number: u32,
        encrypt_type: u32,
        encrypt_key_size: u32,
        flags: u32,
        file_name: [u8; 64],
        crypt_name: [u8; 64],
        encrypt_key: [u8; 32],
        init: [u64; 2],
        reserved: [u64; 8],
    }
    let configure = |flags| {
        // SAFETY: plain numbers, for which all zeroes is valid.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd().cast_unsigned();
        config.flags = flags;
        // SAFETY: reads one `loop_config`, which is live and fully initialised.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, ptr::from_ref(&config)) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    match configure(LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => configure(LO_FLAGS_AUTOCLEAR),
        result => result,
    }
}

/// Leaves the cgroup namespace for a new one whose root is the current cgroup (`cgroup_namespaces(7)`).
pub fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: CLONE_NEWCGROUP changes neither memory nor descriptors.
    if unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Leaves the mount namespace for a copy of it (`mount_namespaces(7)`).
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: CLONE_NEWNS changes neither memory nor descriptors.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Enters a new user namespace that has no ids yet (`user_namespaces(7)`).
pub fn unshare_user() -> io::Result<()> {
    // SAFETY: CLONE_NEWUSER changes neither memory nor descriptors.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Replaces the session keyring, which namespaces do not separate, by a fresh empty one (`keyctl_join_session_keyring(3)`).
/// A kernel without keyrings (`ENOSYS`) has nothing to separate.
pub fn fresh_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    if unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) } != -1 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOSYS) { Ok(()) } else { Err(error) }
}

/// Brings the loopback interface of the current network namespace up (`netdevice(7)`).
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes_with_nul()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which is live and initialised.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ptr::from_ref(&request)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from `first` on (`close_range(2)`, Linux 5.9), whoever thinks to own it. For a new process that keeps
/// nothing of its parent: it must leave by [`exit_now`] or [`execute`], so that no destructor closes a number a second time.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: see above; nothing in the caller uses those descriptors any more.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Takes over the descriptor `number` that the parent left open for this process by agreement.
///
/// Must be called once for each number, by the one who owns it from then on.
pub fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: reads descriptor flags only.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the agreement above nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor from `first` on close-on-exec (`close_range(2)`, Linux 5.11).
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: changes descriptor flags only.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts `fd` at the number `number`, without close-on-exec; what was there is closed. The caller gives the number away to the
/// program that it will execute and must own nothing there itself.
pub fn donate_fd(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: the source is open; whoever owned `number` in this process is never used again, as the caller executes a program next.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } == -1 {
        return Err(io::Error::last_os_error());
    }
    if fd.as_raw_fd() == number {
        // `dup2` onto itself leaves close-on-exec as it was.
        // SAFETY: changes one descriptor flag.
        if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Executes the program that `program` is open on (`execveat(2)` with `AT_EMPTY_PATH`) with an empty environment. Returns only errors.
pub fn execute(program: BorrowedFd<'_>, argv: &[CString]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(ptr::null());
    let environment = [ptr::null::<libc::c_char>()];
    // SAFETY: argv and environment are null-terminated arrays of live C strings.
    unsafe {
        libc::syscall(libc::SYS_execveat, program.as_raw_fd(), c"".as_ptr(), pointers.as_ptr(), environment.as_ptr(), libc::AT_EMPTY_PATH);
    }
    io::Error::last_os_error()
}

/// `PR_SET_PDEATHSIG`: SIGKILL for this process when its parent thread ends (`prctl(2)`). Cleared by changes of credentials, so set it last.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A sealed, anonymous, executable copy of `content`: nobody can change it, whoever holds it (`memfd_create(2)`).
pub fn sealed_program(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    const MFD_EXEC: MemfdFlags = MemfdFlags::from_bits_retain(0x10);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC came with Linux 6.3; before it, every memfd is executable.
    let fd = memfd_create(name, flags | MFD_EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest)?;
        rest = &rest[written..];
    }
    fcntl_add_seals(&fd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(fd)
}
