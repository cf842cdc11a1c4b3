//! What OCI runtimes leave open ([`OfRuntime`]), while the agent still may do something about it.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use caisson_sys::kernel::{MountAttributes, mount_setattr};
use caisson_wire::OfRuntime;
use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount},
};

/// Where the sandbox's own kernel has its control groups.
const CGROUPS: &str = "/sys/fs/cgroup";
const CORE: &str = "/dev/core";
/// Of the mounts below `/dev`, those that programs write to; the rest are devices.
const WRITABLE: [&str; 2] = ["/dev/pts", "/dev/shm"];

pub(crate) fn finish(of_runtime: &OfRuntime) -> io::Result<()> {
    remove(&of_runtime.program).map_err(|error| named(&of_runtime.program, &error))?;
    match of_runtime.own_cgroup {
        Some(count) => limit_processes(count).map_err(|error| named(&format!("the kernel's own control group in {CGROUPS}"), &error)),
        None => {
            // A link to all of the machine's memory, which runtimes make where the kernel has such a file.
            match fs::remove_file(CORE) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(CORE, &error)),
                _ => {}
            }
            close_mounts()
        }
    }
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The program runs on without a name.
fn remove(program: &str) -> io::Result<()> {
    unmount(program, UnmountFlags::DETACH)?;
    fs::remove_file(program)
}

/// Limits all that runs in the sandbox. The group is the only one, and nobody gets at it afterwards.
fn limit_processes(count: u64) -> io::Result<()> {
    let group = fs::read_dir(CGROUPS)?.flatten().find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let group = group.ok_or(io::ErrorKind::NotFound)?;
    fs::write(group.path().join("pids.max"), count.to_string())?;
    Ok(unmount(CGROUPS, UnmountFlags::DETACH)?)
}

/// Nothing below `/proc` and no device is a way to set-user-id programs or to other devices, and `/dev` itself cannot be written.
fn close_mounts() -> io::Result<()> {
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let Some(path) = line.split(' ').nth(4) else { continue };
        let is_of_proc = path.starts_with("/proc/");
        if !is_of_proc && (path != "/dev" && !path.starts_with("/dev/") || WRITABLE.contains(&path)) {
            continue;
        }
        let closed = MountAttributes { read_only: true, no_suid: true, no_exec: true, no_dev: is_of_proc, ..MountAttributes::default() };
        let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let mount: io::Result<OwnedFd> = open_tree(CWD, path, flags).map_err(io::Error::from);
        mount.and_then(|mount| mount_setattr(mount.as_fd(), closed)).map_err(|error| named(path, &error))?;
    }
    Ok(())
}
