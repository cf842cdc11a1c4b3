//! What the agent finds when it starts, and what it does to itself before anybody talks to it.

use std::{env, io, os::fd::OwnedFd, sync::Arc};

use caisson_sys::{
    kernel,
    process::{self, Identity},
};
use caisson_wire::{AgentConfig, STREAM_FD};
use rustix::fs::Mode;

use crate::{guardian::Guardian, reaper::Reaper, worker::Workers};

/// The filter of the agent itself, see `seccomp/agent.toml`.
const AGENT_CALLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bpf"));

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) config: AgentConfig,
    pub(crate) reaper: Reaper,
    pub(crate) guardian: Guardian,
    pub(crate) workers: Workers,
    /// Whether this is the first process of a sandbox. Elsewhere, which is for development, walls that need one are missing.
    pub(crate) first: bool,
    /// Whether programs run without a filter, or as the agent; see above.
    pub(crate) unfiltered: bool,
    pub(crate) unchanged: bool,
}

impl Agent {
    /// As whom programs run and files are touched.
    pub(crate) fn user(&self) -> Identity {
        Identity { uid: self.config.uid, gid: self.config.gid }
    }
}

/// The agent and its stream.
pub(crate) fn agent() -> io::Result<(Arc<Agent>, OwnedFd)> {
    let stream = kernel::adopt_fd(STREAM_FD)?;
    kernel::close_on_exec_from(STREAM_FD)?;
    rustix::thread::set_name(c"caisson-agent")?;
    process::hide_from_tracers()?;
    kernel::die_with_parent()?;
    let first = rustix::process::getpid() == rustix::process::Pid::INIT;
    if !first {
        process::adopt_orphans()?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let argument = env::args().nth(1).ok_or_else(|| io::Error::other("the configuration is missing"))?;
    let config: AgentConfig = serde_json::from_str(&argument)?;
    // Said by the launcher alone, in tests that prove that they would notice a missing wall.
    let weakness = env::args().nth(2);
    let unfiltered = weakness.as_deref() == Some("unfiltered");
    if !unfiltered {
        process::install_filter(AGENT_CALLS)?;
    }
    let unchanged = weakness.as_deref() == Some("unchanged");
    let workers = Workers::new(Identity { uid: config.uid, gid: config.gid });
    Ok((Arc::new(Agent { config, reaper: Reaper::new()?, guardian: Guardian::default(), workers, first, unfiltered, unchanged }), stream))
}
