//! A root on disk: a file with a file system in it, behind a loop device (`loop(4)`) that the kernel frees with the last mount of it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use caisson_sys::kernel;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen},
};

/// Others take loop devices too, between our asking for a free one and taking it.
const ATTEMPTS: u32 = 64;

/// Mounts the ext4 in `image`, attached nowhere yet, with the ids of `namespace` as owners: what is kept on it belongs to ids inside, whichever
/// those are on the host the next time.
pub(crate) fn mount(image: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (device, path) = attach(image)?;
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", &path)?;
    // Nothing is written for inodes that nobody uses.
    fsconfig_set_flag(&context, "noinit_itable")?;
    // What turns out to be broken is read and not made worse.
    fsconfig_set_string(&context, "errors", "remount-ro")?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)?;
    // From now on the mount holds the device.
    drop(device);
    kernel::map_owners(mount.as_fd(), namespace)?;
    Ok(mount)
}

fn attach(image: BorrowedFd<'_>) -> io::Result<(OwnedFd, String)> {
    let control = open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for _ in 0..ATTEMPTS {
        let path = format!("/dev/loop{}", kernel::free_loop_device(&control)?);
        let device = open(&*path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        match kernel::attach_loop_device(&device, image) {
            Ok(()) => return Ok((device, path)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::BUSY.into())
}
