//! From a fresh copy of the launcher to an OCI runtime that runs one container:
//!
//! 1. A control group of the sandbox's own, whose number is a range of host ids too, as every sandbox of the native backend has them.
//! 2. A mount namespace of its own, and in it the root: the same steps, layers and limits as those of the native backend. Nobody has to take
//!    these mounts away; they go with the last process that has them.
//! 3. `config.json`, now that the ids are known, and the runtime in place of this program.
//!
//! It ends when the thread of the server that started it does, and so does the runtime.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use caisson_launcher::{
    bundle::{CGROUP, CGROUP_FILE, CONFIG_FILE, FIGURES, FIRST_ID, NAMESPACE, Order, ROOT, STREAM_FD},
    protocol::{self, Stage, Tag},
};
use caisson_sys::kernel;
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount},
};

use crate::{
    cgroup::{Cgroup, Entering},
    ids::Ids,
    stages::{self, At, Done},
};

/// Files can be changed by nobody else. What runtimes make on the way is for everybody to read.
const USUAL: Mode = Mode::from_raw_mode(0o022);
/// Where runtimes find programs that they need.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the runtime itself is below a sandbox's control group of cgroup v2, which may have no process itself then.
const OF_RUNTIME: &str = "runtime";
/// Room for the figures, whose size is that of `/proc/cpuinfo` with all processors.
const FIGURES_BYTES: u64 = 4 << 20;
const FIGURES_INODES: u64 = 32;

/// Standard input is the agent's stream. A failure goes to standard error as a message for the server.
pub(crate) fn run(order: &Path) -> ExitCode {
    // Ends here only when something failed.
    let Err(trouble) = become_runtime(order) else { return ExitCode::FAILURE };
    // Nobody there to read it: then nobody wants to know.
    io::Write::write_all(&mut io::stderr(), &protocol::encode(Tag::Failed, 0, &trouble.report())).ok();
    ExitCode::FAILURE
}

fn become_runtime(order: &Path) -> Done {
    kernel::die_with_parent().at(Stage::Surroundings, "parent death signal")?;
    let nonsense = || io::Error::from(Errno::PROTO);
    let bytes = fs::read(order).at(Stage::Plan, "order")?;
    let order = Order::decode(&bytes).ok_or_else(nonsense).at(Stage::Plan, "order")?;
    // Whoever has died before the signal was asked for sends none.
    if rustix::process::getppid().is_none_or(|parent| parent.as_raw_nonzero().get().cast_unsigned() != order.server) {
        return Err(io::Error::from(Errno::SRCH)).at(Stage::Surroundings, "server");
    }
    let stream = io::stdin().as_fd().try_clone_to_owned().at(Stage::Surroundings, "stream")?;
    // What is written beside the root is nobody else's to change: the runtime does what it says.
    rustix::process::umask(USUAL);
    let cgroup = enter_cgroup(&order)?;
    stages::limit(&order.plan, &order.setup, &cgroup)?;
    let ids = cgroup.ids(&order.setup);
    kernel::unshare_mounts().at(Stage::Propagation, "namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).at(Stage::Propagation, "/")?;
    let namespace = stages::user_namespace(ids)?;
    // In the root, modes are those of the plan.
    rustix::process::umask(Mode::empty());
    let place = format!("{}/{ROOT}", order.directory);
    let _raised = stages::raise_root(&order.plan, &order.setup, None, ids, namespace.as_fd(), &place)?;

    lay_out(&order, ids).at(Stage::Step, FIGURES)?;
    lend_agent(&order.agent).at(Stage::Step, "agent")?;
    if order.joins {
        let place = format!("{}/{NAMESPACE}", order.directory);
        mount_bind(format!("/proc/self/fd/{}", namespace.as_raw_fd()), place).at(Stage::UserNamespace, NAMESPACE)?;
        // For a process of a namespace of somebody else's, not every root may set them.
        stages::limit_processes().at(Stage::UserNamespace, "limits")?;
    }
    rustix::process::umask(USUAL);

    let first = ids.host(0).at(Stage::UserNamespace, "ids")?.to_string();
    let config = order.config.replace(FIRST_ID, &first).replace(CGROUP, &cgroup.name());
    fs::write(format!("{}/{CONFIG_FILE}", order.directory), config).at(Stage::Plan, CONFIG_FILE)?;
    execute(&order, stream)
}

/// Makes the sandbox's control group and enters it.
fn enter_cgroup(order: &Order) -> Done<Cgroup> {
    let setup = &order.setup;
    let mut entering = Entering::new(setup).at(Stage::Cgroup, "parent")?;
    entering.begin().at(Stage::Cgroup, "lock")?;
    let mut seed = [0; 4];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).at(Stage::Cgroup, "random numbers")?;
    let cgroup = Cgroup::create(setup, &mut u32::from_ne_bytes(seed)).at(Stage::Cgroup, "")?;
    // Whoever looks for what is left of this sandbox finds it by its name, which is another's when it is gone, and its inode, which never is.
    let first = setup.hierarchies.first().ok_or(Errno::INVAL).at(Stage::Cgroup, "hierarchies")?;
    let inode = fs::metadata(cgroup.directory(first)).at(Stage::Cgroup, first)?.ino();
    fs::write(format!("{}/{CGROUP_FILE}", order.directory), format!("{} {inode}", cgroup.name())).at(Stage::Cgroup, CGROUP_FILE)?;
    for hierarchy in &setup.hierarchies {
        let mut directory = cgroup.directory(hierarchy);
        if setup.unified && order.has_own_cgroup {
            fs::write(directory.join("cgroup.subtree_control"), "+cpu +memory +pids").at(Stage::Cgroup, "controllers")?;
            directory = directory.join(OF_RUNTIME);
            fs::create_dir(&directory).at(Stage::Cgroup, OF_RUNTIME)?;
        }
        fs::write(directory.join("cgroup.procs"), "0").at(Stage::EnterCgroup, hierarchy)?;
    }
    entering.end().at(Stage::Cgroup, "lock")?;
    Ok(cgroup)
}

/// The figures, in a mount whose name tells nothing of the host to whoever looks where they come from.
fn lay_out(order: &Order, ids: Ids) -> io::Result<()> {
    let sheets = stages::tmpfs(FIGURES_BYTES, FIGURES_INODES, 0o755, ids, false)?;
    stages::attach(&sheets, CWD, &format!("{}/{FIGURES}", order.directory))?;
    for (name, content) in &order.figures {
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&sheets, name, how, Mode::from_raw_mode(0o444))?;
        io::Write::write_all(&mut fs::File::from(file), content.as_bytes())?;
    }
    Ok(())
}

/// Over itself, as a mount of which nothing but reading is allowed and running: where it is on the host, nothing may be run perhaps, and what is
/// forbidden in a mount of the host, a container cannot allow.
fn lend_agent(agent: &str) -> io::Result<()> {
    mount_bind(agent, agent)?;
    Ok(mount_remount(agent, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")?)
}

/// Returns only failures.
fn execute(order: &Order, stream: OwnedFd) -> Done {
    let stream = rustix::io::fcntl_dupfd_cloexec(&stream, 64).at(Stage::Execute, "stream")?;
    // Nothing below it is used any more but by number.
    kernel::close_on_exec_from(STREAM_FD).at(Stage::Execute, "descriptors")?;
    let (program, arguments) = order.argv.split_first().ok_or(Errno::INVAL).at(Stage::Execute, "argv")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir(&order.directory).stdin(Stdio::null()).stdout(Stdio::null());
    kernel::donate_fd(stream.as_fd(), STREAM_FD).at(Stage::Execute, "stream")?;
    Err(command.exec()).at(Stage::Execute, program)
}
