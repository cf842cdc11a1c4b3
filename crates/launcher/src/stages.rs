//! From a fresh process to the agent, in one line from top to bottom. The order of privilege is the design:
//!
//! 1. Parking, before any plan: cgroup, namespaces, surroundings, a user namespace made but not entered.
//! 2. The plan arrives. Everything that needs the host's privileges or files is done while still in the initial user namespace,
//!    so that mounts belong to it and nothing inside can ever change them.
//! 3. `pivot_root`; the host's files are gone.
//! 4. The user namespace is entered, ids and capabilities are dropped, `no_new_privs` is set, the agent is executed.
//!
//! This process is a copy of the single-threaded launcher, so it may allocate. Every failure is reported with its stage and ends it.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use caisson_launcher::{
    plan::{ID_COUNT, Kept, Plan, Root, Setup, Step, Weakness},
    protocol::{self, Failure, Stage, Tag},
};
use caisson_sys::{
    kernel::{self, MountAttributes},
    process,
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, open, openat, symlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
    },
    process::{Gid, Resource, Rlimit, Uid, fchdir, pivot_root, setrlimit, setsid},
    thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space},
};

use crate::{cgroup::Cgroup, disk, fault, ids::Ids, layer, message, network, overlay, places::Places};

/// Any directory that every host has will do as the place from which to pivot; nothing there is needed any more.
pub(crate) const PIVOT: &str = "/proc";
/// Where descriptors are after [`keep_only`].
const SOCKET_FD: i32 = 3;
const AGENT_FD: i32 = 4;

/// What the agent may do in its own user namespace: become the user, act on the user's files and processes, mark executions
/// with a cgroup namespace, and (`SETFCAP`, since Linux 5.12) map its root into a namespace below. Nothing of it reaches the mounts or the
/// network, which belong to the initial user namespace.
const AGENT_CAPABILITIES: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::SYS_ADMIN);

/// A stage that failed, and on what.
pub(crate) struct Trouble {
    stage: Stage,
    subject: String,
    error: io::Error,
}

impl Trouble {
    /// As it is told.
    pub(crate) fn report(self) -> Failure {
        match self.error.raw_os_error() {
            Some(errno) => Failure { stage: self.stage, errno, subject: self.subject },
            None => Failure { stage: self.stage, errno: 0, subject: format!("{}: {}", self.subject, self.error) },
        }
    }
}

pub(crate) type Done<T = ()> = Result<T, Trouble>;

/// Adds stage and subject to an error.
pub(crate) trait At<T> {
    fn at(self, stage: Stage, subject: &str) -> Done<T>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, stage: Stage, subject: &str) -> Done<T> {
        self.map_err(|error| Trouble { stage, subject: subject.to_owned(), error: error.into() })
    }
}

/// To be said on entering each stage.
fn reach(setup: &Setup, stage: Stage) -> Done {
    fault::reach(setup, stage).at(stage, "")
}

/// The namespaces that a sandbox's first process is born into. The user namespace comes last, see the module; on cgroup v1 the
/// cgroup namespace comes after the cgroup has been entered.
pub(crate) fn namespaces(setup: &Setup) -> i32 {
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if !setup.shares_network() {
        flags |= libc::CLONE_NEWNET;
    }
    if setup.unified { flags | libc::CLONE_NEWCGROUP } else { flags }
}

/// The life of the new process. Ends in the agent, or in a report and an exit.
pub(crate) fn sandbox_process(socket: OwnedFd, agent: BorrowedFd<'_>, setup: &Setup, cgroup: &Cgroup) -> ! {
    let kept = keep_only(&socket, agent).at(Stage::Surroundings, "descriptors");
    // Their numbers belong to nobody any more; dropping them would close what is there now.
    std::mem::forget(socket);
    let Ok((socket, agent)) = kept else { kernel::exit_now(1) };
    let Err(trouble) = park_and_launch(socket.as_fd(), agent.as_fd(), setup, cgroup) else { kernel::exit_now(0) };
    // Nobody there to hear it means that the launcher has gone, and then this process goes too.
    let heard = message::send(socket.as_fd(), &protocol::encode(Tag::Failed, 0, &trouble.report()), &[]);
    kernel::exit_now(if heard.is_ok() { 1 } else { 2 })
}

/// `Ok` only when the launcher went away before there was a plan.
fn park_and_launch(socket: BorrowedFd<'_>, agent: BorrowedFd<'_>, setup: &Setup, cgroup: &Cgroup) -> Done {
    let namespace = park(setup, cgroup)?;
    message::send(socket, &protocol::encode(Tag::Parked, 0, &()), &[]).at(Stage::Surroundings, "socket")?;

    let mut buffer = Vec::new();
    let Some(fds) = message::receive(socket, &mut buffer, Tag::descriptors_of).at(Stage::Plan, "socket")? else { return Ok(()) };
    reach(setup, Stage::Plan)?;
    let nonsense = || io::Error::from(Errno::PROTO);
    let (_, _, body) = protocol::split(&buffer).map_err(|_| nonsense()).at(Stage::Plan, "message")?;
    let plan: Plan = protocol::decode(body).map_err(|_| nonsense()).at(Stage::Plan, "plan")?;
    let mut fds = fds.into_iter();
    let stream = fds.next().ok_or_else(nonsense).at(Stage::Plan, "stream")?;
    let image = fds.next();

    limit(&plan, setup, cgroup)?;
    reach(setup, Stage::Hostname)?;
    rustix::system::sethostname(plan.hostname.as_bytes()).at(Stage::Hostname, &plan.hostname)?;
    reach(setup, Stage::Network)?;
    let ways_out = match plan.ways_out {
        None => Vec::new(),
        // Somebody else's network namespace is not ours to change.
        Some(_) if setup.shares_network() => return Err(io::Error::from(Errno::PROTO)).at(Stage::Network, "shared"),
        Some(ways) => network::ways_out(ways).at(Stage::Network, "")?,
    };
    build_root(&plan, setup, image, cgroup.ids(setup), namespace.as_fd(), socket)?;
    reach(setup, Stage::Credentials)?;
    drop_privileges(&plan, namespace.as_fd())?;
    execute(setup, socket, agent, &stream, &ways_out)
}

/// Closes everything that this copy of the launcher holds but these two and standard streams that lead nowhere: descriptors of
/// other slots would keep their sockets open when the launcher dies.
fn keep_only(socket: &OwnedFd, agent: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // Out of the way first, so that neither is overwritten by the other.
    let socket = rustix::io::fcntl_dupfd_cloexec(socket, 64)?;
    let agent = rustix::io::fcntl_dupfd_cloexec(agent, 64)?;
    for standard in 0..=2 {
        kernel::donate_fd(null.as_fd(), standard)?;
    }
    kernel::donate_fd(socket.as_fd(), SOCKET_FD)?;
    kernel::donate_fd(agent.as_fd(), AGENT_FD)?;
    for owned in [null, socket, agent] {
        std::mem::forget(owned);
    }
    kernel::close_from(AGENT_FD + 1)?;
    kernel::close_on_exec_from(SOCKET_FD)?;
    Ok((kernel::adopt_fd(SOCKET_FD)?, kernel::adopt_fd(AGENT_FD)?))
}

/// Everything that needs no plan. Returns the sandbox's user namespace, made but not entered.
fn park(setup: &Setup, cgroup: &Cgroup) -> Done<OwnedFd> {
    kernel::die_with_parent().at(Stage::Surroundings, "parent death signal")?;
    // Modes are those of the plan.
    rustix::process::umask(Mode::empty());
    // When the host is short of memory, sandboxes go before everything else of it; user code, with 1000, goes before its agent.
    fs::write("/proc/self/oom_score_adj", "900").at(Stage::Surroundings, "oom_score_adj")?;
    reach(setup, Stage::EnterCgroup)?;
    if !setup.unified {
        for hierarchy in &setup.hierarchies {
            let file = cgroup.directory(hierarchy).join("cgroup.procs");
            fs::write(&file, "0").at(Stage::EnterCgroup, hierarchy)?;
        }
        kernel::unshare_cgroup().at(Stage::EnterCgroup, "namespace")?;
    }
    reach(setup, Stage::Propagation)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).at(Stage::Propagation, "/")?;
    reach(setup, Stage::Surroundings)?;
    setsid().at(Stage::Surroundings, "session")?;
    kernel::fresh_session_keyring().at(Stage::Surroundings, "keyring")?;
    if !setup.shares_network() {
        kernel::loopback_up().at(Stage::Surroundings, "loopback")?;
        // All ports of a network that ends at itself are for everybody. A host that does not let us say so has one convenience less.
        drop(fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"));
    }
    reach(setup, Stage::UserNamespace)?;
    user_namespace(cgroup.ids(setup))
}

/// Makes the user namespace of a sandbox, and does not enter it.
pub(crate) fn user_namespace(ids: Ids) -> Done<OwnedFd> {
    let alone = kernel::SingleThreaded::verify().at(Stage::UserNamespace, "threads")?;
    // What the kernel counts for each user it counts for the owner too: nobody else's, so that no sandbox uses up what others need.
    for (resource, value) in [(Resource::Memlock, 64 << 10), (Resource::Sigpending, 16_384)] {
        // Whoever makes a user namespace gives it his limits, for all of its users together.
        set_limit(resource, value).at(Stage::UserNamespace, "limits")?;
    }
    let owner = ids.host(ID_COUNT - 1).at(Stage::UserNamespace, "owner")?;
    kernel::user_namespace(alone, &ids.map(), Some(owner)).at(Stage::UserNamespace, "")
}

pub(crate) fn limit(plan: &Plan, setup: &Setup, cgroup: &Cgroup) -> Done {
    reach(setup, Stage::Limits)?;
    if setup.weakness == Some(Weakness::Limits) {
        return Ok(());
    }
    for write in &plan.limits {
        let hierarchy = setup.hierarchies.get(usize::from(write.hierarchy)).ok_or(Errno::INVAL).at(Stage::Limits, &write.file)?;
        match fs::write(cgroup.directory(hierarchy).join(&write.file), &write.value) {
            Err(error) if write.optional && error.kind() == io::ErrorKind::NotFound => {}
            result => result.at(Stage::Limits, &format!("{} to {}", write.file, write.value))?,
        }
    }
    Ok(())
}

/// Builds the root and makes it the root of this process. Afterwards the host's files cannot be reached.
fn build_root(plan: &Plan, setup: &Setup, disk: Option<OwnedFd>, ids: Ids, namespace: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Done {
    let raised = raise_root(plan, setup, disk, ids, namespace, PIVOT)?;
    if let Some(site) = &raised.site {
        // For the launcher, which has no other way to what is written here. Afterwards the site is gone.
        let [upper, merged, storage] = overlay::views(site).at(Stage::Step, "views")?;
        let views = [upper.as_fd(), merged.as_fd(), storage.as_fd()];
        let told = message::send(socket, &protocol::encode(Tag::Views, 0, &()), &views);
        told.at(Stage::Step, "views")?;
    }
    enter_root(raised, setup)?;
    if setup.weakness == Some(Weakness::Mounts) { weaken_mounts().at(Stage::Root, "weaken") } else { Ok(()) }
}

/// Makes it the root of this process, and lets go of the one before.
pub(crate) fn enter_root(Raised { root, site: _ }: Raised, setup: &Setup) -> Done {
    reach(setup, Stage::Pivot)?;
    fchdir(&root).at(Stage::Pivot, "enter")?;
    pivot_root(".", ".").at(Stage::Pivot, "pivot_root")?;
    // The old root now lies over the new one at "." (`pivot_root(2)`, the form with two dots).
    unmount(".", UnmountFlags::DETACH).at(Stage::Pivot, "leave")?;
    rustix::process::chdir("/").at(Stage::Pivot, "root")
}

/// A root that is mounted and furnished.
pub(crate) struct Raised {
    root: OwnedFd,
    /// What lies around the root of an image, see [`overlay`].
    site: Option<OwnedFd>,
}

/// Mounts the root at `place`, a directory of the host, and carries out the steps of the plan in it.
pub(crate) fn raise_root(
    plan: &Plan,
    setup: &Setup,
    disk: Option<OwnedFd>,
    ids: Ids,
    namespace: BorrowedFd<'_>,
    place: &str,
) -> Done<Raised> {
    reach(setup, Stage::Sources)?;
    // What the host lends is opened before anything is mounted, so that each path means the host's.
    let mut sources = Vec::new();
    for step in &plan.steps {
        if let Step::Bind { source, .. } = step {
            sources.push(lend(source).at(Stage::Sources, source)?);
        }
    }
    let mut sources = sources.into_iter();
    let layers = match &plan.layers {
        None => None,
        Some(layers) => {
            reach(setup, Stage::Layers)?;
            let tree = overlay::open(layers).at(Stage::Layers, "directory")?;
            // Where ids inside are those of the host, owners are right as they are.
            if !ids.are_the_hosts() {
                kernel::map_owners(tree.as_fd(), namespace).at(Stage::Layers, "owners")?;
            }
            Some((layers, tree))
        }
    };

    reach(setup, Stage::Root)?;
    let storage = match (&plan.root, disk) {
        (Root::Memory { bytes, inodes }, None) => tmpfs(*bytes, *inodes, 0o755, ids, false).at(Stage::Root, "tmpfs")?,
        (Root::Disk(_), Some(disk)) => {
            let storage = disk::mount(disk.as_fd(), namespace).at(Stage::Root, "disk")?;
            // On it only ids of the sandbox can make anything.
            make_files_as(ids.host(0).at(Stage::Root, "owner")?).at(Stage::Root, "owner")?;
            storage
        }
        _ => return Err(io::Error::from(Errno::PROTO)).at(Stage::Root, "plan"),
    };
    let (root, site) = match layers {
        None => {
            attach(&storage, CWD, place).at(Stage::Root, "attach")?;
            if matches!(plan.root, Root::Disk(Kept::Never | Kept::New)) {
                rustix::fs::unlinkat(&storage, "lost+found", rustix::fs::AtFlags::REMOVEDIR).at(Stage::Root, "lost+found")?;
            }
            (storage, None)
        }
        Some((layers, tree)) => {
            let site = overlay::site(&storage, &tree, layers, ids, place).at(Stage::Root, "site")?;
            reach(setup, Stage::Overlay)?;
            (overlay::mount(&site, layers, &plan.root).at(Stage::Overlay, "")?, Some(site))
        }
    };
    reach(setup, Stage::Step)?;
    let blind =
        |step: &Step| matches!(step, Step::Mask { .. } | Step::Cover { .. }) || matches!(step, Step::Seal { path } if path != "dev");
    // Sheets have a name for a moment, which must be nobody's.
    let again = plan.root == Root::Disk(Kept::Again);
    let mut builder =
        Builder { places: Places::of(&root), sheets: site.as_ref().unwrap_or(&root), sources: &mut sources, ids, setup, again };
    for step in plan.steps.iter().filter(|step| setup.weakness != Some(Weakness::Sight) || !blind(step)) {
        builder.carry_out(step).map_err(|error| Trouble { stage: Stage::Step, subject: step.subject(), error })?;
    }
    if let Root::Disk(kept @ Kept::Again) = plan.root {
        let storage = site.as_ref().map_or((&root, ""), |site| (site, "s"));
        layer::lay_again(&root, storage, kept, ids).at(Stage::Step, "layers")?;
    }
    if matches!(plan.root, Root::Disk(_)) {
        make_files_as(0).at(Stage::Step, "owner")?;
    }
    Ok(Raised { root, site })
}

/// From now on what this process makes belongs to `id`, a user and a group of the host.
pub(crate) fn make_files_as(id: u32) -> io::Result<()> {
    process::make_files_as(process::Identity { uid: id, gid: id })?;
    // A change of credentials has cleared it.
    kernel::die_with_parent()
}

/// Undoes what mounts deny, on the sandbox's own and on none of the host's: for [`Weakness::Mounts`]. What is lent stays read-only.
fn weaken_mounts() -> io::Result<()> {
    let allow = MountAttributes { allow: true, no_suid: true, no_dev: true, recursive: true, ..MountAttributes::default() };
    let root = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    kernel::mount_setattr(root.as_fd(), allow)?;
    Ok(mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?)
}

/// A detached, read-only copy of a mount of the host. Owners are not mapped: what is lent belongs to nobody inside, so that root inside is
/// not the owner of the host's files, who may read what is root's alone and hold up others by leases (`fcntl(2)`).
fn lend(source: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let (tree, recursive) = match open_tree(CWD, source, flags) {
        // What an ordinary user's namespace got from the host it may not take apart (`mount_namespaces(7)`).
        Err(Errno::INVAL) => (open_tree(CWD, source, flags | OpenTreeFlags::AT_RECURSIVE)?, true),
        result => (result?, false),
    };
    let attributes =
        MountAttributes { read_only: true, no_suid: true, no_dev: true, private: true, recursive, ..MountAttributes::default() };
    kernel::mount_setattr(tree.as_fd(), attributes)?;
    Ok(tree)
}

/// The host's device of the same path: an ordinary user can make none. To write to a device no writable mount is needed.
fn lend_device(path: &str, at: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let device = clone_tree(CWD, &format!("/{path}"))?;
    kernel::mount_setattr(
        device.as_fd(),
        MountAttributes { read_only: true, no_suid: true, no_exec: true, private: true, ..MountAttributes::default() },
    )?;
    drop(openat(at, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?);
    attach(&device, at, name)
}

fn clone_tree(at: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    Ok(open_tree(at, path, flags)?)
}

pub(crate) fn attach(tree: &OwnedFd, at: impl AsFd, path: &str) -> io::Result<()> {
    Ok(move_mount(tree, "", at, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

pub(crate) fn tmpfs(bytes: u64, inodes: u64, mode: u32, ids: Ids, devices: bool) -> io::Result<OwnedFd> {
    let owner = ids.host(0)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("size", bytes.to_string()),
        ("nr_inodes", inodes.to_string()),
        ("mode", format!("{mode:o}")),
        ("uid", owner.to_string()),
        ("gid", owner.to_string()),
        ("source", "tmpfs".to_owned()),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let no_devices = if devices { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_NODEV };
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | no_devices)?)
}

/// Carries out steps. Whatever has a path goes through [`Places`], and nothing of an image is followed on the way or at the end.
struct Builder<'r, S> {
    places: Places<'r>,
    /// Where [`Builder::sheet`] makes its files.
    sheets: &'r OwnedFd,
    sources: &'r mut S,
    ids: Ids,
    setup: &'r Setup,
    /// Whether this was the root before: files and links that are there stay.
    again: bool,
}

impl<S: Iterator<Item = OwnedFd>> Builder<'_, S> {
    fn carry_out(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Directory { path, mode, owner } => {
                let (at, name) = self.places.find(path)?;
                if make_directory(at, name, *mode)? { set_owner(at, name, *owner, self.ids) } else { Ok(()) }
            }
            Step::File { path, mode, owner, content } => {
                if self.again && self.kind(path)? == Some(FileType::RegularFile) {
                    return Ok(());
                }
                let (at, name) = self.places.find(path)?;
                let file = make_file(at, name, *mode)?;
                io::Write::write_all(&mut fs::File::from(file), content.as_bytes())?;
                set_owner(at, name, *owner, self.ids)
            }
            Step::Symlink { path, target } => {
                let (at, name) = self.places.find(path)?;
                match symlinkat(target, at, name) {
                    Err(Errno::EXIST) if self.again => Ok(()),
                    made => Ok(made?),
                }
            }
            Step::Device { path, major, minor } => {
                let (at, name) = self.places.find(path)?;
                if self.setup.subordinate_ids.is_some() {
                    return lend_device(path, at, name);
                }
                mknodat(at, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(*major, *minor))?;
                set_owner(at, name, 0, self.ids)
            }
            Step::Bind { path, file, .. } => {
                let (at, name) = self.places.find(path)?;
                if *file {
                    drop(make_file(at, name, 0o644)?);
                } else {
                    make_directory(at, name, 0o755)?;
                }
                let source = self.sources.next().ok_or(Errno::INVAL)?;
                self.attach(&source, path)
            }
            Step::Tmpfs { path, mode, bytes, inodes, devices } => {
                let mount = tmpfs(*bytes, *inodes, *mode, self.ids, *devices)?;
                self.attach_to_directory(&mount, path)
            }
            Step::Devpts { path } => {
                let context = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
                fsconfig_set_flag(&context, "newinstance")?;
                // The number of terminals is the host's as a whole (kernel.pty.max), so each sandbox gets a few.
                fsconfig_set_string(&context, "max", "64")?;
                fsconfig_set_string(&context, "ptmxmode", "0666")?;
                fsconfig_set_string(&context, "mode", "0620")?;
                // The group `tty` of every distribution.
                fsconfig_set_string(&context, "gid", self.ids.host(5)?.to_string())?;
                fsconfig_create(&context)?;
                let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                self.attach_to_directory(&fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?, path)
            }
            Step::Proc { path, private } => {
                let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
                if *private {
                    // Processes of other users, the agent first of all, are not even seen (Linux 5.8).
                    fsconfig_set_string(&context, "hidepid", "invisible")?;
                }
                fsconfig_create(&context)?;
                let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                self.attach_to_directory(&fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?, path)
            }
            Step::Mask { paths } => self.mask(paths),
            Step::Cover { path, content } => self.cover(path, content),
            Step::Seal { path } => self.seal(path),
        }
    }

    fn attach(&mut self, tree: &OwnedFd, path: &str) -> io::Result<()> {
        let (at, name) = self.places.find(path)?;
        attach(tree, at, name)?;
        self.places.covered(path);
        Ok(())
    }

    fn attach_to_directory(&mut self, tree: &OwnedFd, path: &str) -> io::Result<()> {
        let (at, name) = self.places.find(path)?;
        make_directory(at, name, 0o755)?;
        self.attach(tree, path)
    }

    /// What is at a path; `None` when nothing is.
    fn kind(&mut self, path: &str) -> io::Result<Option<FileType>> {
        use rustix::fs::{AtFlags, statat};
        let (at, name) = match self.places.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => Ok(Some(FileType::from_raw_mode(stat?.st_mode))),
        }
    }

    /// Lays an empty, read-only file or directory over each path that is there. Neither is a device, so nothing can be opened for writing.
    fn mask(&mut self, paths: &[String]) -> io::Result<()> {
        // Mounts can be copied only from where they are attached (before Linux 6.15), so the first of each kind serves the others.
        let (mut file, mut directory): (Option<&str>, Option<&str>) = (None, None);
        for path in paths {
            let Some(kind) = self.kind(path)? else { continue };
            let first = if kind == FileType::Directory { &mut directory } else { &mut file };
            let tree = match first {
                Some(first) => {
                    let (at, name) = self.places.find(first)?;
                    clone_tree(at, name)?
                }
                None if kind == FileType::Directory => {
                    let empty = tmpfs(4096, 1, 0o555, self.ids, false)?;
                    kernel::mount_setattr(empty.as_fd(), MountAttributes { read_only: true, ..MountAttributes::default() })?;
                    empty
                }
                None => self.sheet("")?,
            };
            self.attach(&tree, path)?;
            *first = Some(path);
        }
        if file.is_some() { self.remove_sheet() } else { Ok(()) }
    }

    /// Lays a generated, read-only file over the path.
    fn cover(&mut self, path: &str, content: &str) -> io::Result<()> {
        if self.kind(path)?.is_none() {
            return Ok(());
        }
        let sheet = self.sheet(content)?;
        self.attach(&sheet, path)?;
        self.remove_sheet()
    }

    /// A mount of a read-only file. Attached first, then its name may go.
    fn sheet(&self, content: &str) -> io::Result<OwnedFd> {
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(self.sheets, SHEET, how, Mode::from_raw_mode(0o444))?;
        io::Write::write_all(&mut fs::File::from(file), content.as_bytes())?;
        let tree = clone_tree(self.sheets, SHEET)?;
        let closed =
            MountAttributes { read_only: true, no_suid: true, no_dev: true, no_exec: true, private: true, ..MountAttributes::default() };
        kernel::mount_setattr(tree.as_fd(), closed)?;
        Ok(tree)
    }

    fn remove_sheet(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.sheets, SHEET, rustix::fs::AtFlags::empty())?)
    }

    /// Makes what is there read-only: the mount itself where `path` is one, otherwise a read-only copy laid over it.
    fn seal(&mut self, path: &str) -> io::Result<()> {
        if self.kind(path)?.is_none() {
            return Ok(());
        }
        let attributes = MountAttributes { read_only: true, no_suid: true, private: true, ..MountAttributes::default() };
        let (at, name) = self.places.find(path)?;
        let here = open_tree(at, name, OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)?;
        match kernel::mount_setattr(here.as_fd(), attributes) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result,
        }
        let copy = clone_tree(at, name)?;
        kernel::mount_setattr(copy.as_fd(), attributes)?;
        self.attach(&copy, path)
    }
}

/// The name of a file while it is laid over others. What it covers does not need it afterwards.
const SHEET: &str = ".sheet";

/// Whether it was made; one that is there already stays as it is. `ENOTDIR`: something else is there.
fn make_directory(at: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<bool> {
    use rustix::fs::{AtFlags, statat};
    match mkdirat(at, name, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => match FileType::from_raw_mode(statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) {
            FileType::Directory => Ok(false),
            _ => Err(Errno::NOTDIR.into()),
        },
        result => Ok(result.map(|()| true)?),
    }
}

/// A new file in place of what is there, which may be a link.
fn make_file(at: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<OwnedFd> {
    let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(at, name, how, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(at, name, rustix::fs::AtFlags::empty())?;
            Ok(openat(at, name, how, Mode::from_raw_mode(mode))?)
        }
        file => Ok(file?),
    }
}

fn set_owner(at: impl AsFd, name: &str, owner: u32, ids: Ids) -> io::Result<()> {
    let id = ids.host(owner)?;
    Ok(rustix::fs::chownat(at, name, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_limit(resource: Resource, value: u64) -> rustix::io::Result<()> {
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

/// What every process of a sandbox has beside what its user namespace got.
pub(crate) fn limit_processes() -> rustix::io::Result<()> {
    for resource in [Resource::Core, Resource::Nice, Resource::Rtprio] {
        set_limit(resource, 0)?;
    }
    Ok(())
}

/// From root of the host to a plain id with a few capabilities in a namespace of its own. Each line takes something away.
pub(crate) fn drop_privileges(plan: &Plan, ids: BorrowedFd<'_>) -> Done {
    let at =
        |subject: &'static str| move |error: Errno| Trouble { stage: Stage::Credentials, subject: subject.to_owned(), error: error.into() };
    limit_processes().map_err(at("limits"))?;
    move_into_link_name_space(ids, Some(LinkNameSpaceType::User)).map_err(at("user namespace"))?;
    // All capabilities are now those of the sandbox's own user namespace.
    rustix::thread::set_keep_capabilities(true).map_err(at("keep capabilities"))?;
    rustix::thread::set_thread_groups(&[]).map_err(at("groups"))?;
    let (uid, gid) = (Uid::from_raw(plan.agent_id), Gid::from_raw(plan.agent_id));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("gid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("uid"))?;
    // Where root inside is root of the host, that change has taken their effect.
    let sets = CapabilitySets { effective: AGENT_CAPABILITIES, permitted: AGENT_CAPABILITIES, inheritable: AGENT_CAPABILITIES };
    rustix::thread::set_capabilities(None, sets).map_err(at("capabilities"))?;
    for capability in CapabilitySet::all().difference(AGENT_CAPABILITIES).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Err(Errno::INVAL) | Ok(()) => {}
            Err(error) => return Err(at("bounding set")(error)),
        }
    }
    for capability in AGENT_CAPABILITIES.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true).map_err(at("ambient set"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(at("no_new_privs"))?;
    // Changes of credentials have cleared it.
    kernel::die_with_parent().at(Stage::Credentials, "parent death signal")
}

fn execute(setup: &Setup, socket: BorrowedFd<'_>, agent: BorrowedFd<'_>, stream: &OwnedFd, ways_out: &[OwnedFd]) -> Done {
    reach(setup, Stage::Execute)?;
    let argument = |text: &str| CString::new(text).map_err(|_| io::Error::from(Errno::INVAL));
    let mut argv = vec![argument("caisson-agent").at(Stage::Execute, "argv")?];
    if let Some(weakness) = setup.weakness.and_then(Weakness::agent_argument) {
        argv.push(argument(weakness).at(Stage::Execute, "argv")?);
    }
    // The agent finds its stream where the launcher's socket was; that one stays open under another number until the execution
    // succeeds, and by closing then says so.
    let socket = rustix::io::fcntl_dupfd_cloexec(socket, 64).at(Stage::Execute, "socket")?;
    // Behind it are the ways out, so the program itself makes room.
    let agent = rustix::io::fcntl_dupfd_cloexec(agent, 64).at(Stage::Execute, "agent")?;
    kernel::donate_fd(stream.as_fd(), SOCKET_FD).at(Stage::Execute, "stream")?;
    for (number, way) in (SOCKET_FD + 1..).zip(ways_out) {
        kernel::donate_fd(way.as_fd(), number).at(Stage::Execute, "ways out")?;
    }
    // A launcher that died while no signal told of it has closed its end.
    if message::hung_up(&socket).at(Stage::Execute, "socket")? {
        kernel::exit_now(1);
    }
    let error = kernel::execute(agent.as_fd(), &argv);
    // Reports go where the socket is expected.
    kernel::donate_fd(socket.as_fd(), SOCKET_FD).at(Stage::Execute, "socket")?;
    Err(error).at(Stage::Execute, "execveat")
}
