//! From the first process of a container that somebody else has made, a Docker daemon for one, to the agent. The container has the host's
//! privileges that this takes and no network; limits, and namespaces but for that of users, are the container's. What is made in it is what the
//! native backend makes: the same root, the same mounts, which belong to the initial user namespace, the same ids and capabilities in the end.
//!
//! The agent finds its stream on standard input and output. A failure goes to standard error as a message for the server.

use std::{
    ffi::CString,
    fs,
    io::{self, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use caisson_launcher::{
    host::Lent,
    inside::{AGENT, HOST, Order, PROGRAMS, Survey},
    plan::{Layers, Setup},
    protocol::{self, Stage, Tag},
};
use caisson_sys::kernel;
use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountPropagationFlags, mount_change},
};

use crate::{
    cgroup,
    ids::Ids,
    stages::{self, At, Done},
};

pub(crate) fn run() -> ExitCode {
    // Ends here only when something failed.
    let Err(trouble) = become_agent() else { return ExitCode::FAILURE };
    // Nobody there to read it: then nobody wants to know.
    io::stderr().write_all(&protocol::encode(Tag::Failed, 0, &trouble.report())).ok();
    ExitCode::FAILURE
}

fn become_agent() -> Done {
    // As it is, because what follows is for the agent to read.
    let mut input = fs::File::from(io::stdin().as_fd().try_clone_to_owned().at(Stage::Surroundings, "standard input")?);
    let Order { mut plan, is_of_image, arguments } = Order::read_from(&mut input).at(Stage::Plan, "order")?;
    let setup = Setup {
        unified: false,
        hierarchies: Vec::new(),
        subordinate_ids: None,
        oom_file: String::new(),
        parked: 0,
        host_network: false,
        weakness: None,
        fault: None,
    };
    // Modes are those of the plan.
    rustix::process::umask(Mode::empty());
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).at(Stage::Propagation, "/")?;
    let ids = if is_of_image {
        plan.layers = Some(Layers { directory: "/".to_owned(), names: vec![".".to_owned()] });
        // The daemon's file system cannot show owners mapped.
        Ids::Range(0)
    } else {
        let mut random = [0; 4];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).at(Stage::UserNamespace, "random numbers")?;
        cgroup::some_ids(u32::from_ne_bytes(random))
    };
    let namespace = stages::user_namespace(ids)?;
    let agent = format!("{PROGRAMS}/{AGENT}");
    let agent = open(&agent, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at(Stage::Sources, &agent)?;
    let raised = stages::raise_root(&plan, &setup, None, ids, namespace.as_fd(), stages::PIVOT)?;
    stages::enter_root(raised, &setup)?;
    stages::drop_privileges(&plan, namespace.as_fd())?;

    let argument = |text: &str| CString::new(text).map_err(io::Error::from).at(Stage::Execute, "argv");
    let argv = std::iter::once("caisson-agent").chain(arguments.iter().map(String::as_str)).map(argument).collect::<Done<Vec<_>>>()?;
    kernel::close_on_exec_from(3).at(Stage::Execute, "descriptors")?;
    Err(kernel::execute(agent.as_fd(), &argv)).at(Stage::Execute, "execveat")
}

/// Says what there is on the host.
pub(crate) fn survey() -> ExitCode {
    let found = fs::read_to_string("/proc/cpuinfo").and_then(|processors| {
        // Links of the host lead to what is the host's.
        rustix::process::chroot(HOST)?;
        rustix::process::chdir("/")?;
        io::stdout().write_all(&Survey { lent: Lent::find(), processors }.encode())
    });
    match found {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot look at the host: {error}");
            ExitCode::FAILURE
        }
    }
}
