//! A directory that no path leads to but our own descriptor: it is gone when this program is, however that ends.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

/// A file system in memory that is mounted nowhere.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: OwnedFd,
}

impl Scratch {
    /// Needs the same privilege as sandboxes do.
    pub(crate) fn new() -> Result<Self> {
        let make = || -> rustix::io::Result<OwnedFd> {
            let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(&context, "mode", "0700")?;
            fsconfig_create(&context)?;
            let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
        };
        Ok(Self { root: make().context("cannot make a file system in memory")? })
    }

    /// Leads to it as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.root.as_raw_fd()).into()
    }
}
