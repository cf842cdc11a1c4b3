//! The only privileged program: takes launch plans from the server and executes them. One thread, no configuration of its own,
//! nothing read from the environment. Standard input is the socket to the server; when it closes, everything ends.
//!
//! Or, told so on its command line, prepares one container and becomes its OCI runtime ([`container`]), or is the first process of one and becomes
//! its agent ([`contained`]).

mod cgroup;
mod commit;
mod contained;
mod container;
mod control;
mod disk;
mod fault;
mod ids;
mod layer;
mod locks;
mod message;
mod network;
mod overlay;
mod places;
mod processors;
mod slot;
mod stages;
mod standstill;
mod walker;

use std::{io, os::fd::AsFd, path::Path, process::ExitCode};

use caisson_launcher::{bundle, inside};
use caisson_sys::kernel::{SingleThreaded, close_from};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(command), Some(order)) if command == bundle::COMMAND => return container::run(Path::new(&order)),
        (Some(command), None) if command == inside::COMMAND => return contained::run(),
        (Some(command), None) if command == inside::SURVEY => return contained::survey(),
        _ => {}
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caisson-launcher: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let alone = SingleThreaded::verify()?;
    // Whatever else the server was started with: descriptors of its caller are nothing for sandboxes.
    close_from(3)?;
    rustix::thread::set_name(c"caisson-launch")?;
    let stdin = io::stdin();
    let control = stdin.as_fd().try_clone_to_owned()?;
    let (setup, agent) = control::receive_setup(control.as_fd())?;
    if setup.subordinate_ids.is_some() {
        control::enter_user_namespace(control.as_fd())?;
    }
    control::Launcher::new(alone, control, setup, agent)?.serve()
}
