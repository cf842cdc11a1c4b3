//! What other backends on this host are made of as well: the same roots, limits and programs.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use caisson_core::{BackendError, Files, Limits, Place, SandboxSpec, Usage};
use caisson_launcher::{
    inside::Survey,
    plan::{Layers, Plan, Setup, Step, WaysOut},
};
use caisson_sys::kernel::sealed_program;
use caisson_wire::{self as wire, AgentConfig};

use crate::{
    cgroup::Cgroups,
    host_image::HostImage,
    machine::Machine,
    names::Names,
    plan::{self, COUNTS, MASKED, SEALED, SHM_BYTES},
};

/// Static, so that each runs in every image.
pub const LAUNCHER: &[u8] = include_bytes!(env!("CAISSON_LAUNCHER_BINARY"));
pub const AGENT: &[u8] = include_bytes!(env!("CAISSON_AGENT_BINARY"));
pub const PROBE: &[u8] = include_bytes!(env!("CAISSON_PROBE_BINARY"));

/// A copy of the launcher that nobody can change.
pub fn launcher() -> io::Result<OwnedFd> {
    sealed_program(c"caisson-launcher", LAUNCHER)
}

/// What the agent is told of a sandbox, but for what depends on where it runs.
#[must_use]
pub fn agent_config(spec: &SandboxSpec) -> AgentConfig {
    AgentConfig {
        uid: spec.user.uid,
        gid: spec.user.gid,
        name: spec.user.name.clone(),
        home: spec.user.home.clone(),
        work_dir: spec.work_dir.clone(),
        env: plan::environment(spec),
        open_files: spec.limits.open_files.into(),
        instead_of_cgroup: None,
        of_runtime: None,
        of_image: plan::left_to_agent(spec),
        places: spec.recipe.places.iter().map(told).collect(),
        ways_out: (!spec.network.is_none()).then_some(wire::egress::WaysOut { redirected: false, own: true }),
        trusts: spec.certificate.as_deref().filter(|_| !spec.network.is_none()).map(str::to_owned),
    }
}

/// As the agent is told of it.
fn told(place: &Place) -> wire::Place {
    match place {
        Place::Directory(path) => wire::Place { path: path.clone(), target: None },
        Place::Link { path, target } => wire::Place { path: path.clone(), target: Some(target.clone()) },
    }
}

/// How large `/dev/shm` is.
#[must_use]
pub fn shared_memory(limits: &Limits) -> u64 {
    SHM_BYTES.min(limits.memory_bytes / 2)
}

/// Paths of `/proc` that nobody inside needs, where it is the host's.
pub fn masked() -> impl Iterator<Item = String> {
    MASKED.into_iter().map(|name| format!("/proc/{name}")).chain(COUNTS.into_iter().map(|name| format!("/proc/sys/{name}")))
}

/// Paths of `/proc` that can be read but not written there.
pub fn sealed() -> impl Iterator<Item = String> {
    SEALED.into_iter().map(|path| format!("/{path}"))
}

/// A host on which nobody of ours runs but in containers that somebody else makes.
#[derive(Debug)]
pub struct Elsewhere {
    host: HostImage,
    machine: Machine,
}

impl Elsewhere {
    /// From what was found there, and how many processors containers may use.
    #[must_use]
    pub fn new(Survey { lent, processors }: Survey, allowed: usize) -> Self {
        Self { host: HostImage(lent), machine: Machine::of(&processors, allowed.max(1)) }
    }

    /// The plan for a sandbox whose limits are its container's, and whose ways out the agent makes. What lies below the root of an image is not said.
    pub fn plan(&self, spec: &SandboxSpec) -> Result<Plan, BackendError> {
        let found = (&self.machine, &Names::Own, WaysOut::Proxy);
        let plan = plan::plan(spec, &Cgroups::Absent, &self.host, Path::new("/"), found, None, Files::Passing)?;
        Ok(Plan { ways_out: None, ..plan })
    }
}

/// What this host has, found once.
#[derive(Debug)]
pub struct Parts {
    cgroups: Cgroups,
    host: HostImage,
    machine: Machine,
    layers_dir: PathBuf,
}

impl Parts {
    /// For root alone. `layers_dir` is where the unpacked layers of images are.
    pub fn find(layers_dir: PathBuf) -> Result<Self, BackendError> {
        Ok(Self { cgroups: Cgroups::prepare()?, host: HostImage::find(), machine: Machine::find()?, layers_dir })
    }

    /// What lies below the root of a sandbox whose network is not the host's, and what is made in it.
    pub fn root(&self, spec: &SandboxSpec) -> Result<(Option<Layers>, Vec<Step>), BackendError> {
        let names = if spec.network.is_none() { Names::Own } else { Names::Asked };
        plan::root(spec, &self.host, &self.layers_dir, &names)
    }

    /// What is said of processors and memory: files by their names in `/proc`, and steps for `/sys`.
    #[must_use]
    pub fn figures(&self, limits: &Limits) -> (Vec<(String, String)>, Vec<Step>) {
        let (mut of_proc, mut of_sys) = (Vec::new(), Vec::new());
        for step in self.machine.steps(limits) {
            match step {
                Step::Cover { path, content } => of_proc.push((path.trim_start_matches("proc/").to_owned(), content)),
                step => of_sys.push(step),
            }
        }
        (of_proc, of_sys)
    }

    /// What the launcher has to know of this host.
    #[must_use]
    pub fn setup(&self) -> Setup {
        Setup {
            unified: self.cgroups.is_unified(),
            hierarchies: self.cgroups.hierarchies(),
            oom_file: self.cgroups.oom_file().to_owned(),
            subordinate_ids: None,
            parked: 0,
            host_network: false,
            weakness: None,
            fault: None,
        }
    }

    /// Limits as values for files of a control group.
    #[must_use]
    pub fn limit(&self, limits: &Limits) -> Vec<caisson_launcher::plan::CgroupWrite> {
        self.cgroups.writes(limits)
    }

    /// Changes the limits on processes and processor time in the control group of this name.
    pub fn adjust(&self, cgroup: &str, limits: &Limits) -> Result<(), BackendError> {
        self.cgroups.adjust(cgroup, limits)
    }

    /// What the control group of this name has used; `None` when it is gone.
    #[must_use]
    pub fn usage(&self, cgroup: &str) -> Option<Usage> {
        self.cgroups.usage(cgroup)
    }
}
