//! A root that is made of an image: overlayfs over its layers, which stay as they are on disk.
//!
//! ```text
//! site, a tmpfs that goes with the host's mounts at `pivot_root`
//! ├── l         the directory of all layers, with the sandbox's ids as owners: one mount, however many layers there are
//! ├── 0 1 2 …   links to l/<name>, the topmost layer first: short, so that 127 of them go into one page of options
//! ├── e         nothing, the layer of an image that has none
//! ├── s         the storage: s/u is what the sandbox writes, s/w overlayfs's own
//! └── r         the root
//! ```
//! Everything is mounted in the initial user namespace, so what overlayfs notes are trusted attributes, which nobody inside can make. (In the
//! user namespace it would need `userxattr`, which tmpfs has since Linux 6.6 only.) Options have relative names: the table of mounts, which
//! is read inside, has no path of the host.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
};

use caisson_launcher::plan::{Kept, Layers, Root};
use caisson_sys::kernel::{self, MountAttributes};
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, mkdirat, openat, symlinkat},
    io::Errno,
    mount::{MountFlags, OpenTreeFlags, mount as mount_at, open_tree},
    process::fchdir,
};

use crate::{
    ids::Ids,
    stages::{attach, tmpfs},
};

/// Links, and the sheets that are laid over files of `/proc`.
const SITE_BYTES: u64 = 1 << 20;
const SITE_INODES: u64 = 512;

/// A detached, read-only copy of the mount at the directory of all layers.
pub(crate) fn open(layers: &Layers) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, &layers.directory, flags)?;
    let attributes = MountAttributes { read_only: true, no_suid: true, no_dev: true, private: true, ..MountAttributes::default() };
    kernel::mount_setattr(tree.as_fd(), attributes)?;
    Ok(tree)
}

/// Makes the site around the storage and that mount, at `place`.
pub(crate) fn site(storage: &OwnedFd, tree: &OwnedFd, layers: &Layers, ids: Ids, place: &str) -> io::Result<OwnedFd> {
    let site = tmpfs(SITE_BYTES, SITE_INODES, 0o700, ids, false)?;
    attach(&site, CWD, place)?;
    for name in ["l", "e", "s", "r"] {
        mkdirat(&site, name, Mode::from_raw_mode(0o755))?;
    }
    attach(tree, &site, "l")?;
    for (number, name) in layers.names.iter().enumerate() {
        symlinkat(format!("l/{name}"), &site, number.to_string())?;
    }
    attach(storage, &site, "s")?;
    for name in ["u", "w"] {
        match mkdirat(storage, name, Mode::from_raw_mode(0o755)) {
            // Of a storage that was this sandbox's before. Nobody inside can reach these names.
            Err(Errno::EXIST) => {}
            made => made?,
        }
    }
    // The root directory is the upper one's.
    let root = ids.host(0)?;
    chownat(storage, "u", Some(Uid::from_raw(root)), Some(Gid::from_raw(root)), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(site)
}

/// Mounts them one over the other, and the storage over all. By `mount(2)`, whose one page of options every kernel takes alike.
pub(crate) fn mount(site: &OwnedFd, layers: &Layers, root: &Root) -> io::Result<OwnedFd> {
    // Relative names start at the working directory.
    fchdir(site)?;
    mount_at("overlay", "r", "overlay", MountFlags::NOSUID | MountFlags::NODEV, Some(options(layers.names.len(), root)?.as_c_str()))?;
    Ok(openat(site, "r", OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// The upper directory, and the root that is made of it without anything that is mounted there, both read-only; and the storage. They are
/// attached nowhere, and there for as long as anybody holds them.
pub(crate) fn views(site: &OwnedFd) -> io::Result<[OwnedFd; 3]> {
    let tree = |name: &str| open_tree(site, name, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    let view = |name: &str| -> io::Result<OwnedFd> {
        let tree = tree(name)?;
        let closed =
            MountAttributes { read_only: true, no_suid: true, no_dev: true, no_exec: true, private: true, ..MountAttributes::default() };
        kernel::mount_setattr(tree.as_fd(), closed)?;
        Ok(tree)
    };
    Ok([view("s/u")?, view("r")?, tree("s")?])
}

/// What kernels are built with differs, so everything is said:
/// - renaming a directory of the image is renaming (`redirect_dir`), as programs expect it;
/// - a file is copied as a whole, and nothing is noted that ties the storage to these very layers;
/// - where nobody mounts the storage again, nothing is ever flushed for that (`volatile`, after which nobody could).
fn options(layers: usize, root: &Root) -> io::Result<CString> {
    let lower: Vec<String> = (0..layers).map(|number| number.to_string()).collect();
    let lower = if lower.is_empty() { "e".to_owned() } else { lower.join(":") };
    let volatile = if matches!(root, Root::Memory { .. } | Root::Disk(Kept::Never)) { ",volatile" } else { "" };
    let text = format!("lowerdir={lower},upperdir=s/u,workdir=s/w,redirect_dir=on,metacopy=off,index=off,xino=off{volatile}");
    Ok(CString::new(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_as_many_layers_as_an_image_may_have_fit_into_a_page() {
        let memory = Root::Memory { bytes: 1, inodes: 1 };
        assert!(options(127, &memory).unwrap().as_bytes().len() < 1024);
        assert!(options(2, &memory).unwrap().to_str().unwrap().starts_with("lowerdir=0:1,upperdir=s/u,"));
        assert!(options(0, &memory).unwrap().to_str().unwrap().starts_with("lowerdir=e,"));
        assert!(options(1, &memory).unwrap().to_str().unwrap().contains("volatile"));
        assert!(options(1, &Root::Disk(Kept::Never)).unwrap().to_str().unwrap().contains("volatile"));
        assert!(!options(1, &Root::Disk(Kept::New)).unwrap().to_str().unwrap().contains("volatile"));
    }
}
