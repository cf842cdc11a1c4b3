//! What the agent finds when it starts, and what it does to itself before anybody talks to it.

use std::{
    env,
    io::{self, Write},
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

use caisson_sys::{
    kernel,
    process::{self, Identity},
};
use caisson_wire::{AGENT_UID, AgentConfig, Bind, CHECKED, GivenList, Refusal, STANDARD, STREAM_FD};
use rustix::fs::Mode;
use tokio::sync::RwLock;

use crate::{
    confine::confine, egress::Outlet, files::Checkpoints, guardian::Guardian, image, reaper::Reaper, runtime, stream::Stream,
    tunnel::Tunnels, worker::Workers,
};

/// The filter of the agent itself, see `seccomp/agent.toml`.
const AGENT_CALLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bpf"));

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) config: AgentConfig,
    /// What was said later than that.
    late: OnceLock<Late>,
    pub(crate) reaper: Reaper,
    pub(crate) guardian: Guardian,
    pub(crate) workers: Workers,
    pub(crate) tunnels: Tunnels,
    pub(crate) outlet: Outlet,
    pub(crate) checkpoints: Checkpoints,
    /// Held by every request that may touch files or start programs, for as long as it does.
    pub(crate) going_on: Arc<RwLock<()>>,
    /// Where root inside is root: a user namespace of its own, in which the agent's id does not exist. Absent for other users.
    pub(crate) namespace: Option<OwnedFd>,
    /// What is wrong with the image of this sandbox, so that every request is answered with it.
    pub(crate) unfit: Option<Refusal>,
    /// What there was before any program ran.
    pub(crate) given: GivenList,
    /// Whether this is the first process of a sandbox. Elsewhere, which is for development, walls that need one are missing.
    pub(crate) first: bool,
    /// Whether programs run without a filter, or as the agent; see above.
    pub(crate) unfiltered: bool,
    pub(crate) unchanged: bool,
}

/// In place of what is said of it in the configuration.
#[derive(Debug)]
struct Late {
    environment: Vec<(String, String)>,
    open_files: u64,
}

impl Agent {
    /// Takes what was not known at the start; `false` when that was done before.
    pub(crate) fn bind(&self, Bind { env, open_files }: Bind) -> bool {
        let mut environment = self.config.env.clone();
        environment.retain(|(name, _)| env.iter().all(|(other, _)| other != name));
        environment.extend(env);
        self.late.set(Late { environment, open_files }).is_ok()
    }

    /// The environment of user code before a request adds to it.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        self.late.get().map_or(&self.config.env, |late| &late.environment)
    }

    /// `RLIMIT_NOFILE` of user code.
    pub(crate) fn open_files(&self) -> u64 {
        self.late.get().map_or(self.config.open_files, |late| late.open_files)
    }

    /// As whom programs run and files are touched.
    pub(crate) fn user(&self) -> Identity {
        Identity { uid: self.config.uid, gid: self.config.gid }
    }
}

/// Whether this word is on the command line.
pub(crate) fn is_told(word: &str) -> bool {
    env::args().skip(1).any(|told| told == word)
}

/// The agent and its stream.
pub(crate) fn agent() -> io::Result<(Arc<Agent>, Stream)> {
    let mut stream = if is_told(STANDARD) { Stream::standard()? } else { Stream::Socket(kernel::adopt_fd(STREAM_FD)?.into()) };
    kernel::close_on_exec_from(STREAM_FD)?;
    rustix::thread::set_name(c"caisson-agent")?;
    kernel::die_with_parent()?;
    let first = rustix::process::getpid() == rustix::process::Pid::INIT;
    if !first {
        process::adopt_orphans()?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Waits for it: a server that has not said it yet is about to.
    stream.block()?;
    let mut config = AgentConfig::read_from(&mut stream)?;
    if let Some(of_runtime) = &config.of_runtime {
        runtime::finish(of_runtime)?;
    }
    let outlet = Outlet::adopt(config.ways_out)?;
    let unfit = image::settle(&mut config).and_then(|()| image::furnish(&config)).err();
    let given = GivenList { entries: image::given(&config) };
    let namespace = if config.uid == 0 { Some(namespace_of_root()?) } else { None };
    process::hide_from_tracers()?;
    // Said by the launcher alone, in tests that prove that they would notice a missing wall.
    if !is_told("unconfined") {
        confine(config.uid)?;
    }
    let unfiltered = is_told("unfiltered");
    if !unfiltered {
        process::install_filter(AGENT_CALLS)?;
    }
    let unchanged = is_told("unchanged");
    let workers = Workers::new(Identity { uid: config.uid, gid: config.gid });
    Ok((
        Arc::new(Agent {
            config,
            late: OnceLock::new(),
            reaper: Reaper::new()?,
            guardian: Guardian::default(),
            workers,
            tunnels: Tunnels::default(),
            outlet,
            checkpoints: Checkpoints::default(),
            going_on: Arc::default(),
            namespace,
            unfit,
            given,
            first,
            unfiltered,
            unchanged,
        }),
        stream,
    ))
}

/// Tries what starting, watching and ending programs needs of a kernel, for a runtime whose kernel is not the host's.
pub(crate) fn check() -> io::Result<()> {
    let named = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    let (agent, mut stream) = agent()?;
    let mark = process::Mark::begin().map_err(named("a cgroup namespace"))?;
    let told = std::fs::read_link("/proc/thread-self/ns/cgroup").map_err(named("the name of a cgroup namespace"))?;
    if told.as_os_str() != mark.name() {
        return Err(io::Error::other("a cgroup namespace has another name in /proc"));
    }
    process::pidfd(std::process::id().cast_signed()).map_err(named("a handle on a process"))?;
    process::as_file_owner(agent.user(), || std::fs::metadata("/").map(drop)).and_then(|seen| seen).map_err(named("files of the user"))?;
    stream.write_all(CHECKED)
}

/// Maps every id of the sandbox to itself, the agent's excepted.
fn namespace_of_root() -> io::Result<OwnedFd> {
    let map = without_agent(&std::fs::read_to_string("/proc/self/uid_map")?);
    kernel::user_namespace(kernel::SingleThreaded::verify()?, &map, None)
}

/// From `uid_map` of the sandbox (`user_namespaces(7)`) to that of its root.
fn without_agent(map: &str) -> String {
    let mut lines = String::new();
    for line in map.lines() {
        let mut fields = line.split_ascii_whitespace().map(|field| field.parse::<u32>().unwrap_or(0));
        let (Some(first), Some(count)) = (fields.next(), fields.nth(1)) else { continue };
        let end = first.saturating_add(count);
        for (from, to) in [(first, end.min(AGENT_UID)), (first.max(AGENT_UID + 1), end)] {
            if from < to {
                lines += &format!("{from} {from} {}\n", to - from);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_id_does_not_exist_for_root_inside() {
        assert_eq!(without_agent("         0 1073741824      65537\n"), "0 0 65536\n");
        assert_eq!(without_agent("0 5 1\n1000 6 1\n65536 7 1\n"), "0 0 1\n1000 1000 1\n");
        assert_eq!(without_agent("0 0 4294967295\n"), format!("0 0 65536\n65537 65537 {}\n", 4_294_967_295_u32 - 65_537));
    }
}
