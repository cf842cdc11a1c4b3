//! A directory of a sandbox that becomes the lower layer of what is seen in its place: what is written from then on is in a directory of its own,
//! so that whoever wants to know what has changed looks there.
//!
//! ```text
//! storage of the sandbox
//! ├── …                     a root of the host's programs; in one of an image, what is written over its layers
//! └── proc/layers, layers   where no name inside leads to: below the mount of /proc, or beside the upper directory of the root
//!     └── 0
//!         ├── u, w          the upper directory, and overlayfs's own
//!         └── to            a link with the path, for when the sandbox is started again
//! ```
//! A process of the launcher's goes into the sandbox's mount namespace. There must be no program, or it would go on writing to the lower directory.
//! What it mounts belongs to the initial user namespace, as all mounts of a sandbox do.
//!
//! ```text
//! order ──▶ the upper directory is seen at the path ──▶ "on": the agent has opened it ──▶ what is made of both is seen there
//! ```

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use caisson_launcher::{
    plan::Kept,
    protocol::{LAID, LayerOrder, MAX_REASON, UPPER_IS_SEEN},
};
use caisson_sys::kernel::{self, MountAttributes};
use rustix::{
    fs::{
        AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, flistxattr, fstat, futimens,
        mkdirat, open, openat, openat2, readlinkat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
    },
    process::{Pid, chdir, fchdir},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    ids::Ids,
    message,
    slot::Slot,
    stages::{attach, make_files_as, tmpfs},
    walker::keep_only,
};

/// As many as one sandbox may have, one over the other. The kernel itself takes two.
const MOST: u32 = 4;
/// In the root of a storage that is the root of the sandbox.
const BELOW_PROC: &str = "proc/layers";
/// In one that is not.
const BESIDE: &str = "layers";
const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Carries out an order, in a process that is a copy of the launcher. What comes of it is said through the socket.
pub(crate) fn lay(slot: &Slot, members: &Path, ids: Ids, order: &LayerOrder, socket: OwnedFd) -> ! {
    let storage = slot.views.as_ref().map(|[.., storage]| storage.as_fd());
    let kept = keep_only([socket.as_fd(), storage.unwrap_or(socket.as_fd())]);
    // Its number belongs to another now.
    std::mem::forget(socket);
    let Ok([socket, other]) = kept else { kernel::exit_now(1) };
    let said = lay_over(slot.pid, members, storage.is_some().then_some(other), ids, order, &socket);
    let reason = said.as_ref().map_or_else(|error| error.to_string().into_bytes(), |()| LAID.to_vec());
    // Nobody there to hear it means that the sandbox ends.
    let heard = message::send(socket.as_fd(), &reason[..reason.len().min(MAX_REASON)], &[]);
    kernel::exit_now(i32::from(said.is_err() || heard.is_err()))
}

fn lay_over(agent: Pid, members: &Path, storage: Option<OwnedFd>, ids: Ids, order: &LayerOrder, socket: &OwnedFd) -> io::Result<()> {
    rustix::thread::set_name(c"caisson-layer")?;
    kernel::die_with_parent()?;
    rustix::process::umask(Mode::empty());
    if fs::read_to_string(members)?.split_whitespace().any(|pid| pid != agent.as_raw_nonzero().to_string()) {
        return Err(io::Error::other("programs run in the sandbox"));
    }
    let path = Path::new(OsStr::from_bytes(&order.path));
    // The agent says it, and is not believed.
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) || !components.all(|component| matches!(component, Component::Normal(_))) {
        return Err(io::Error::other("its path is not a plain one"));
    }
    if mounts(agent)?.iter().any(|mount| mount.at.starts_with(path)) {
        return Err(io::Error::other("something is mounted there"));
    }
    let inside = namespace(agent)?;
    enter(&inside)?;
    // A copy, in which nobody sees what is mounted on the way.
    kernel::unshare_mounts()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    if order.disk.is_some() {
        // On a disk only ids of the sandbox can make anything.
        make_files_as(ids.host(0)?)?;
    }
    let lower = find(path)?;
    let is_it = |stat: Stat| (stat.st_dev, stat.st_ino) == (order.device, order.inode);
    let stat = fstat(&lower)?;
    if !is_it(stat) {
        return Err(io::Error::other("another directory is there"));
    }
    // What overlayfs does below it, it does as root: of what is lent, or tells of the kernel, nothing is to be seen through it.
    if stat.st_dev != fstat(open("/", HANDLE, Mode::empty())?)?.st_dev {
        return Err(io::Error::other("it is not on the sandbox's own storage"));
    }
    let (storage, place) = match storage {
        Some(storage) => {
            // What commits an image takes it from the upper directory of the root, where it has to be therefore.
            futimens(openat(&lower, c".", READ, Mode::empty())?, &times(&stat))?;
            (storage, BESIDE)
        }
        None => (copy(CWD, "/")?, BELOW_PROC),
    };
    let site = Site::make(&lower, &storage, place, ids)?;
    let number = site.prepare(&lower, &order.path)?;
    // What leads there goes with this namespace.
    let place = openat(&site.directory, format!("s/{place}"), HANDLE, Mode::empty())?;
    let seen = site.mount(number, order.disk).and_then(|(merged, upper)| show(&merged, &upper, path, &inside, is_it, socket));
    if seen.is_err() {
        discard(&place, number);
    }
    seen
}

/// In the sandbox's own namespace.
fn show(
    merged: &OwnedFd,
    upper: &OwnedFd,
    path: &Path,
    inside: &OwnedFd,
    is_it: impl Fn(Stat) -> bool,
    socket: &OwnedFd,
) -> io::Result<()> {
    enter(inside)?;
    let directory = find(path)?;
    if !is_it(fstat(&directory)?) {
        return Err(io::Error::other("another directory is there"));
    }
    attach_over(upper, &directory)?;
    let covered = find(path)?;
    let mut answer = Vec::new();
    let laid = message::send(socket.as_fd(), UPPER_IS_SEEN, &[])
        .and_then(|()| message::receive(socket.as_fd(), &mut answer, |_| 0))
        .and_then(|heard| heard.ok_or_else(|| io::Error::other("nobody waits for it any more")))
        // The upper one stays below it: the agent reaches it by names that lead to the root, as Landlock wants it.
        .and_then(|_| attach_over(merged, &covered));
    if laid.is_err() {
        fchdir(&covered)?;
        unmount(".", UnmountFlags::DETACH)?;
    }
    laid
}

/// Lays over the root of a sandbox that is started again what was over it before; `storage` is a name for its storage below a handle.
pub(crate) fn lay_again(root: &OwnedFd, storage: (&OwnedFd, &str), disk: Kept, ids: Ids) -> io::Result<()> {
    let place = if storage.1.is_empty() { BELOW_PROC } else { BESIDE };
    for number in 0..MOST {
        let tree = copy(storage.0, storage.1)?;
        let path = match readlinkat(&tree, format!("{place}/{number}/to"), Vec::new()) {
            // None, or one that was being made, or taken back, when that broke off: nobody has seen it.
            Err(Errno::NOENT) => continue,
            path => path?.into_bytes(),
        };
        let lower = beneath(root, Path::new(OsStr::from_bytes(&path)))?;
        let site = Site::make(&lower, &tree, place, ids)?;
        let (merged, _) = site.mount(number, Some(disk))?;
        // What is mounted holds what it needs.
        chdir("/")?;
        unmount("/proc", UnmountFlags::DETACH)?;
        attach_over(&merged, &lower)?;
    }
    Ok(())
}

/// What is laid over a directory of a sandbox: where, below its root, and a read-only view of that.
pub(crate) fn covering(agent: Pid) -> io::Result<Option<(Vec<u8>, OwnedFd)>> {
    let Some(Mount { at, .. }) = mounts(agent)?.into_iter().rfind(|mount| mount.is_overlay && mount.at != Path::new("/")) else {
        return Ok(None);
    };
    let own = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    enter(&namespace(agent)?)?;
    let tree = find(&at).and_then(|directory| copy(&directory, ""));
    enter(&own)?;
    let tree = tree?;
    kernel::mount_setattr(tree.as_fd(), closed())?;
    let path = at.into_os_string().into_vec();
    Ok(Some((path.strip_prefix(b"/").unwrap_or(&path).to_vec(), tree)))
}

/// A place with short names, which is nobody's business: the table of mounts has them as they were given.
struct Site<'a> {
    directory: OwnedFd,
    place: &'a str,
    is_over_image: bool,
}

impl<'a> Site<'a> {
    /// Any directory that every root has will do as its place.
    fn make(lower: &OwnedFd, storage: &OwnedFd, place: &'a str, ids: Ids) -> io::Result<Self> {
        let tree = copy(lower, "")?;
        let directory = tmpfs(4096, 8, 0o700, ids, false)?;
        attach(&directory, CWD, "/proc")?;
        for name in ["l", "s"] {
            mkdirat(&directory, name, Mode::from_raw_mode(0o700))?;
        }
        attach(&tree, &directory, "l")?;
        attach(storage, &directory, "s")?;
        Ok(Self { directory, place, is_over_image: place == BESIDE })
    }

    fn at(&self, number: u32, name: &str) -> String {
        format!("s/{}/{number}/{name}", self.place)
    }

    /// Makes an upper directory that looks like the lower one. Gives its number.
    fn prepare(&self, lower: &OwnedFd, path: &[u8]) -> io::Result<u32> {
        let lower = openat(lower, c".", READ, Mode::empty())?;
        let stat = fstat(&lower)?;
        let mut names = [0u8; 4096];
        let length = match flistxattr(&lower, &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            length => length?,
        };
        if names[..length].split(|byte| *byte == 0).any(|name| !name.is_empty() && name != b"security.selinux") {
            return Err(io::Error::other("the directory has attributes of its own"));
        }
        let private = Mode::from_raw_mode(0o700);
        match mkdirat(&self.directory, format!("s/{}", self.place), private) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
        let number = (0..MOST).find_map(|number| match mkdirat(&self.directory, format!("s/{}/{number}", self.place), private) {
            Err(Errno::EXIST) => None,
            made => Some(made.map(|()| number)),
        });
        let number = number.ok_or_else(|| io::Error::other("there are as many layers as there may be"))??;
        let made = || -> rustix::io::Result<()> {
            for name in ["u", "w"] {
                mkdirat(&self.directory, self.at(number, name), private)?;
            }
            let (upper, owner) = (self.at(number, "u"), (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)));
            chownat(&self.directory, &upper, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
            chmodat(&self.directory, &upper, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
            utimensat(&self.directory, &upper, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
            symlinkat(path, &self.directory, self.at(number, "to"))
        };
        if let Err(error) = made() {
            discard(&openat(&self.directory, format!("s/{}", self.place), HANDLE, Mode::empty())?, number);
            return Err(error.into());
        }
        Ok(number)
    }

    /// What is made of both, and the upper directory, read-only: neither is attached anywhere.
    ///
    /// Whether a directory is shown as that of both is told by its number, which overlayfs takes from the lower one: where both are on one file
    /// system, as it is, otherwise with `xino`.
    fn mount(&self, number: u32, disk: Option<Kept>) -> io::Result<(OwnedFd, OwnedFd)> {
        let upper = copy(&self.directory, &self.at(number, "u"))?;
        kernel::mount_setattr(upper.as_fd(), closed())?;
        // Relative names start at the working directory.
        fchdir(&self.directory)?;
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [
            ("source", "overlay"),
            ("lowerdir", "l"),
            ("upperdir", &self.at(number, "u")),
            ("workdir", &self.at(number, "w")),
            ("redirect_dir", "on"),
            ("metacopy", "off"),
            ("index", "off"),
            ("xino", if self.is_over_image { "on" } else { "off" }),
        ] {
            fsconfig_set_string(&context, key, value)?;
        }
        if !matches!(disk, Some(Kept::New | Kept::Again)) {
            fsconfig_set_flag(&context, "volatile")?;
        }
        fsconfig_create(&context)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok((fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?, upper))
    }
}

/// Takes back what was prepared and is of no use. Where that fails, there are layers again when the sandbox is started again, with nothing in the
/// upper one.
fn discard(place: &OwnedFd, number: u32) {
    unlinkat(place, format!("{number}/to"), AtFlags::empty()).ok();
    for name in ["u", "w/index", "w/work", "w", ""] {
        unlinkat(place, format!("{number}/{name}"), AtFlags::REMOVEDIR).ok();
    }
}

/// A mount of a sandbox, as it sees it.
struct Mount {
    at: PathBuf,
    is_overlay: bool,
}

fn mounts(agent: Pid) -> io::Result<Vec<Mount>> {
    let table = fs::read(format!("/proc/{}/mountinfo", agent.as_raw_nonzero()))?;
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines
        .filter_map(|line| {
            // proc_pid_mountinfo(5): behind the lone hyphen comes the type.
            let mut fields = line.split(|byte| *byte == b' ');
            let at = plain(fields.nth(4)?);
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            Some(Mount { at: PathBuf::from(OsStr::from_bytes(&at)), is_overlay: kind == b"overlay" })
        })
        .collect())
}

/// Without the kernel's way to write some bytes as `\ooo`.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, behind)) = rest.split_first() {
        let octal =
            behind.get(..3).filter(|_| *byte == b'\\').and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(octal.unwrap_or(*byte));
        rest = if octal.is_some() { &behind[3..] } else { behind };
    }
    plain
}

fn namespace(agent: Pid) -> io::Result<OwnedFd> {
    Ok(open(format!("/proc/{}/ns/mnt", agent.as_raw_nonzero()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Root and working directory are those of the namespace then (`setns(2)`).
fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?)
}

/// A directory by its path in the present root. No link is followed.
fn find(path: &Path) -> io::Result<OwnedFd> {
    beneath(&open("/", HANDLE, Mode::empty())?, path)
}

fn beneath(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, HANDLE, Mode::empty(), resolve)?)
}

/// To the directory itself, which may be the root of another mount.
fn attach_over(tree: &OwnedFd, directory: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", directory, "", flags)?)
}

/// One mount, attached nowhere.
fn copy(at: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(at, path, flags)?)
}

fn closed() -> MountAttributes {
    MountAttributes { read_only: true, no_suid: true, no_dev: true, no_exec: true, private: true, ..MountAttributes::default() }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    Timestamps { last_access: time(stat.st_atime, stat.st_atime_nsec), last_modification: time(stat.st_mtime, stat.st_mtime_nsec) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mounts_is_read_as_it_is_written() {
        assert_eq!(plain(br"/a\040b\134c\x\04"), br"/a b\c\x\04");
        let own = Pid::from_raw(std::process::id().cast_signed()).unwrap();
        let mounts = mounts(own).unwrap();
        assert!(mounts.iter().any(|mount| mount.at == Path::new("/")) && mounts.iter().any(|mount| mount.at == Path::new("/proc")));
    }
}
