//! A directory that no path leads to but our own descriptor: it is gone when this program is, however that ends.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result};
use caisson_sys::{
    kernel::{Cloned, NEW_USER_AND_MOUNTS, SingleThreaded, clone_process, exit_now},
    message::{receive, send},
};
use rustix::{
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{WaitId, WaitIdOptions, getegid, geteuid, waitid},
};

/// A file system in memory that is mounted nowhere.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: OwnedFd,
}

impl Scratch {
    /// To be called before there are threads.
    pub(crate) fn new() -> Result<Self> {
        let root = if geteuid().is_root() { mount() } else { mount_elsewhere() };
        Ok(Self { root: root.context("cannot make a file system in memory")? })
    }

    /// Leads to it as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.root.as_raw_fd()).into()
    }
}

fn mount() -> std::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0700")?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// For an ordinary user: a short-lived child mounts it in a user namespace of its own, in which it is still this user, and hands it over.
fn mount_elsewhere() -> std::io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let Cloned::Parent { pidfd, .. } = clone_process(SingleThreaded::verify()?, NEW_USER_AND_MOUNTS, None)? else {
        let handed_over = (|| {
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
            std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
            let root = mount()?;
            send(theirs.as_fd(), b"!", &[root.as_fd()])
        })();
        exit_now(handed_over.err().map_or(0, |error| error.raw_os_error().unwrap_or(255)));
    };
    drop(theirs);
    let received = receive(ours.as_fd(), &mut Vec::new(), 1, |_| 1)?.and_then(|fds| fds.into_iter().next());
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
    received.ok_or_else(|| {
        let errno = status.and_then(|status| status.exit_status()).unwrap_or(Errno::IO.raw_os_error());
        std::io::Error::from_raw_os_error(errno)
    })
}
