//! The process that reads what a sandbox has written over its image, and says it as a tar.
//!
//! It is a copy of the launcher, and gives away everything before it looks at the first name: descriptors but for the two views and two pipes; the
//! host's files, for an empty root; network and processes; its id; all capabilities but those to read whatever belongs to whom, and overlayfs's
//! attributes; and in the end, by a filter, all calls but those to read files and write to pipes (`seccomp/walker.toml`). Both views are
//! read-only, so the worst that whoever made the files can make of it is a wrong image of their own.

use std::{
    error::Error as _,
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use caisson_launcher::protocol::{CommitOrder, Given, MAX_REASON, WHOLE};
use caisson_sys::{
    kernel::{self, MountAttributes},
    process::install_filter,
};
use caisson_tree::{Delta, Error};
use rustix::{
    fs::{CWD, Mode, OFlags, open},
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    process::{Gid, Resource, Rlimit, Uid, fchdir, pivot_root, setrlimit},
    thread::{CapabilitySet, CapabilitySets},
};

use crate::{
    ids::Ids,
    layer,
    slot::Slot,
    stages::{attach, tmpfs},
};

/// Of its own, and with nothing in them.
pub(crate) const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

const CALLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/walker.bpf"));
/// To read what belongs to others, and attributes that only the host may read (`xattr(7)`, trusted).
const CAPABILITIES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::SYS_ADMIN);
/// Nobody's.
const ID: u32 = 65_534;
/// Names of a directory are known many at a time, and those of linked files until the end.
const MEMORY: u64 = 512 << 20;
/// Directories on the way down, twice, and some more.
const DESCRIPTORS: u64 = 256;
/// Where descriptors are after [`keep_only`].
const FIRST: i32 = 3;

/// Ends when all is said, or with the reason why it is not.
pub(crate) fn read_out(slot: &Slot, views: &[OwnedFd; 3], order: CommitOrder, tar: OwnedFd, end: OwnedFd, ids: Ids) -> ! {
    let [upper, merged, _] = views;
    let covering = layer::covering(slot.pid).map_err(|error| format!("what is laid over the files cannot be found: {error}"));
    let cover = covering.as_ref().ok().and_then(Option::as_ref).map_or(upper.as_fd(), |(_, directory)| directory.as_fd());
    let kept = keep_only([upper.as_fd(), merged.as_fd(), tar.as_fd(), end.as_fd(), cover]);
    let covering = covering.map(|covering| {
        covering.map(|(path, directory)| {
            std::mem::forget(directory);
            path
        })
    });
    // Their numbers belong to others now.
    std::mem::forget((tar, end));
    let Ok([upper, merged, tar, end, cover]) = kept else { kernel::exit_now(1) };
    let said = covering.and_then(|path| {
        confine(ids)
            .and_then(|()| ids.host(0))
            .map(|first_id| (path, first_id))
            .map_err(|error| format!("the reading cannot be confined: {error}"))
    });
    let said = said.and_then(|(path, first_id)| {
        let covered = path.map(|path| (path, cover));
        tell((upper, merged), covered, first_id, order, &mut File::from(tar)).map_err(|error| shown(&error))
    });
    let reason = said.as_ref().map_or_else(|reason| reason.as_bytes(), |()| WHOLE);
    // Nobody there to hear it means that nobody wants it.
    let heard = File::from(end).write_all(&reason[..reason.len().min(MAX_REASON)]);
    kernel::exit_now(i32::from(said.is_err() || heard.is_err()))
}

/// Closes everything that this copy of the launcher holds but these and standard streams that lead nowhere.
pub(crate) fn keep_only<const N: usize>(kept: [BorrowedFd<'_>; N]) -> io::Result<[OwnedFd; N]> {
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // Out of the way first, so that none is overwritten by another.
    let mut aside = Vec::with_capacity(kept.len());
    for fd in kept {
        aside.push(rustix::io::fcntl_dupfd_cloexec(fd, 64)?);
    }
    for standard in 0..FIRST {
        kernel::donate_fd(null.as_fd(), standard)?;
    }
    for (number, fd) in (FIRST..).zip(&aside) {
        kernel::donate_fd(fd.as_fd(), number)?;
    }
    std::mem::forget((null, aside));
    let end = FIRST + i32::try_from(N).map_err(io::Error::other)?;
    kernel::close_from(end)?;
    let fds: Vec<OwnedFd> = (FIRST..end).map(kernel::adopt_fd).collect::<io::Result<_>>()?;
    fds.try_into().map_err(|_| io::Error::from(rustix::io::Errno::BADF))
}

/// Each line takes something away.
fn confine(ids: Ids) -> io::Result<()> {
    rustix::thread::set_name(c"caisson-commit")?;
    kernel::die_with_parent()?;
    fs::write("/proc/self/oom_score_adj", "900")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = tmpfs(4096, 1, 0o555, ids, false)?;
    kernel::mount_setattr(root.as_fd(), MountAttributes { read_only: true, no_exec: true, ..MountAttributes::default() })?;
    // Any directory that every host has will do as its place.
    attach(&root, CWD, "/proc")?;
    fchdir(&root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    drop(root);
    for (resource, most) in
        [(Resource::Core, 0), (Resource::Nproc, 0), (Resource::Fsize, 0), (Resource::Data, MEMORY), (Resource::Nofile, DESCRIPTORS)]
    {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    for capability in CapabilitySet::all().difference(CAPABILITIES).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Err(rustix::io::Errno::INVAL) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(ID), Gid::from_raw(ID));
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    let sets = CapabilitySets { effective: CAPABILITIES, permitted: CAPABILITIES, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    // A change of credentials has cleared it.
    kernel::die_with_parent()?;
    install_filter(CALLS)
}

fn tell(
    (upper, merged): (OwnedFd, OwnedFd),
    covered: Option<(Vec<u8>, OwnedFd)>,
    first_id: u32,
    order: CommitOrder,
    tar: &mut File,
) -> Result<(), Error> {
    let given = order.given.into_iter().map(|Given { path, mode, user, group, size, changed }| caisson_tree::Given {
        path: path.into_bytes(),
        mode,
        user,
        group,
        size,
        changed,
    });
    let mut delta = Delta::new(upper, merged, first_id, given.collect())?;
    if let Some((path, directory)) = covered {
        delta = delta.with_covered(path, directory);
    }
    while let Some(piece) = delta.next_piece()? {
        tar.write_all(&piece).map_err(Error::Stream)?;
    }
    Ok(())
}

/// With its cause.
fn shown(error: &Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
