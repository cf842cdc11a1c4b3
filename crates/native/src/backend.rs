//! [`Native`]: the port of the engine, answered by plans and the launcher.

use std::{
    collections::HashMap,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use caisson_core::{
    About, AgentStream, Backend, BackendError, Changes, Death, Files, Given, Image, Limits, LowerDirectory, Observed, SandboxId,
    SandboxSpec, Storage, UpperSeen, Usage,
};
use caisson_launcher::{
    plan::{Fault, Kept, Root, Setup, WaysOut, Weakness},
    protocol::LayerOrder,
};
use caisson_wire::{self as wire, AgentConfig, InsteadOfCgroup};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::{io::AsyncWriteExt, net::UnixStream, sync::watch};

use crate::{
    cgroup::Cgroups,
    changes,
    disk::Disks,
    explain::explain,
    host_image::HostImage,
    layers,
    link::{Link, Progress},
    machine::Machine,
    names::Names,
    parts, plan,
    rootless::Rootless,
};

/// What the backend has to know of its surroundings.
#[derive(Debug, Clone)]
pub struct NativeConfig {
    /// On whose file system sandboxes on disk are kept: those that outlive the server in its directory `disks`, the others without a name.
    pub data_dir: PathBuf,
    /// Where the unpacked layers of images are, each a directory called after the digits of its diff id.
    pub layers_dir: PathBuf,
    /// How many empty processes wait in their control groups, so that a launch need not wait for the kernel to move one there.
    pub parked: u32,
    /// Whether sandboxes are made even where limits on memory and processor time cannot be enforced in full.
    pub accept_weaker_limits: bool,
    /// Whether sandboxes have the host's network, with all that listens there. For builds that an operator asks for: no request leads here.
    pub host_network: bool,
    /// A wall to leave out, for tests that prove that they would notice.
    #[doc(hidden)]
    pub weakness: Option<Weakness>,
    /// What goes wrong in every launch, for tests that look at what is left of it.
    #[doc(hidden)]
    pub fault: Option<Fault>,
}

impl NativeConfig {
    /// The defaults of a server.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        let layers_dir = data_dir.join("images/layers");
        Self { data_dir, layers_dir, parked: 8, accept_weaker_limits: false, host_network: false, weakness: None, fault: None }
    }
}

/// How long after the end of a stream the launcher may take to say how the sandbox ended.
const DEATH_IS_TOLD_WITHIN: Duration = Duration::from_secs(2);

/// A sandbox that was asked for and not yet destroyed.
#[derive(Debug, Clone)]
struct Entry {
    seq: u64,
    link: Arc<Link>,
    progress: watch::Receiver<Progress>,
    disk: Option<Kept>,
}

/// Sandboxes from Linux primitives.
#[derive(Debug)]
pub struct Native {
    cgroups: Cgroups,
    left_behind: usize,
    host: HostImage,
    machine: Machine,
    names: Names,
    disks: Disks,
    layers_dir: PathBuf,
    rootless: Option<Rootless>,
    setup: Setup,
    link: Mutex<Arc<Link>>,
    entries: Mutex<HashMap<SandboxId, Entry>>,
}

impl Native {
    /// Starts the launcher. Call it before the program has threads or secrets. An error names what is missing and the remedy.
    pub fn start(config: NativeConfig) -> Result<Self, BackendError> {
        let rootless = if rustix::process::geteuid().is_root() { None } else { Some(Rootless::find()?) };
        let cgroups = match &rootless {
            None => Cgroups::prepare(),
            Some(_) => Cgroups::delegated(),
        };
        let cgroups = match cgroups {
            Err(BackendError::Unsupported(_)) if rootless.is_some() && config.accept_weaker_limits => Cgroups::Absent,
            Err(BackendError::Unsupported(what)) if rootless.is_some() => {
                return Err(BackendError::Unsupported(format!(
                    "{what}; or, if limits on memory and processor time need not hold in full, give --accept-weaker-limits"
                )));
            }
            found => found?,
        };
        let setup = Setup {
            unified: cgroups.is_unified(),
            hierarchies: cgroups.hierarchies(),
            oom_file: cgroups.oom_file().to_owned(),
            subordinate_ids: rootless.as_ref().map(Rootless::count),
            parked: config.parked,
            host_network: config.host_network,
            weakness: config.weakness,
            fault: config.fault,
        };
        let names = if config.host_network { Names::of_host()? } else { Names::Own };
        // Before this launcher makes its own.
        let left_behind = cgroups.left_behind();
        let link = Arc::new(Link::start(&setup, rootless.as_ref())?);
        Ok(Self {
            cgroups,
            left_behind,
            host: HostImage::find(),
            machine: Machine::find()?,
            names,
            disks: Disks::in_directory(config.data_dir),
            layers_dir: config.layers_dir,
            rootless,
            setup,
            link: Mutex::new(link),
            entries: Mutex::default(),
        })
    }

    /// Control groups that earlier runs had left when this one started. The launcher removes them.
    #[must_use]
    pub fn left_behind(&self) -> usize {
        self.left_behind
    }

    /// The launcher, started again if it has died.
    fn link(&self) -> Result<Arc<Link>, BackendError> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if !link.alive() {
            tracing::warn!("Starting a new launcher");
            *link = Arc::new(Link::start(&self.setup, self.rootless.as_ref())?);
        }
        Ok(Arc::clone(&link))
    }

    fn entry(&self, id: SandboxId) -> Option<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn forget(&self, id: SandboxId) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

#[async_trait]
impl Backend for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn probe(&self) -> &'static [u8] {
        parts::PROBE
    }

    fn about(&self) -> About {
        About {
            wall: "the host's kernel, behind namespaces, dropped privileges, seccomp and Landlock; mounts that nothing inside can change",
            ..About::default()
        }
    }

    fn weaker_limits(&self) -> &'static [&'static str] {
        if self.cgroups == Cgroups::Absent { &["memory_bytes", "cpus"] } else { &[] }
    }

    fn redirects(&self) -> bool {
        self.rootless.is_none()
    }

    async fn launch(&self, id: SandboxId, spec: &SandboxSpec, files: Files) -> Result<AgentStream, BackendError> {
        if self.rootless.is_some() && spec.image != Image::Host {
            return Err(BackendError::Unsupported(
                "images of the store need a server that runs as root: its layers belong to the ids of an image, and only root may have a mount \
                 show them as a sandbox's own; use image `host`"
                    .to_owned(),
            ));
        }
        if !spec.network.is_none() && self.setup.shares_network() {
            return Err(BackendError::Unsupported(
                "sandboxes are in the host's network here, which has no policy; use network `none`".to_owned(),
            ));
        }
        // Only the host's root may have the kernel hand connections over to another socket.
        let ways = if self.rootless.is_some() { WaysOut::Proxy } else { WaysOut::Redirected };
        let agent = AgentConfig {
            instead_of_cgroup: (self.cgroups == Cgroups::Absent)
                .then(|| InsteadOfCgroup { processes: spec.limits.pids.into(), data_bytes: spec.limits.memory_bytes }),
            ways_out: (!spec.network.is_none()).then_some(wire::egress::WaysOut { redirected: ways == WaysOut::Redirected, own: false }),
            ..parts::agent_config(spec)
        };
        let configuration =
            agent.encode().map_err(|error| BackendError::Failed(format!("cannot write the agent's configuration: {error}")))?;
        let found = (&self.machine, &self.names, ways);
        let plan = plan::plan(spec, &self.cgroups, &self.host, &self.layers_dir, found, self.setup.weakness, files)?;
        let disk = match spec.storage {
            Storage::Memory => None,
            Storage::Disk if self.rootless.is_some() => {
                return Err(BackendError::Unsupported(
                    "storage `disk` needs a server that runs as root, because only root may mount a disk; use storage `memory`".to_owned(),
                ));
            }
            Storage::Disk => Some(match files {
                Files::Passing => self.disks.make(&spec.limits).await?,
                Files::Kept => self.disks.make_kept(id, &spec.limits).await?,
                Files::Again => self.disks.take_up(id).await?,
            }),
        };
        let kept = match plan.root {
            Root::Memory { .. } => None,
            Root::Disk(kept) => Some(kept),
        };
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
            .map_err(|error| BackendError::Exhausted(format!("cannot make a socket: {error}")))?;
        let link = self.link()?;
        let unusable = |error| BackendError::Failed(format!("cannot use the agent's socket: {error}"));
        let again = ours.try_clone().map_err(unusable)?;
        let mut stream = UnixStream::from_std(ours.into()).map_err(unusable)?;
        let (seq, progress) = link
            .launch(&plan, again, theirs.as_fd(), disk.as_ref().map(AsFd::as_fd))
            .map_err(|error| BackendError::Failed(format!("cannot talk to the launcher: {error}")))?;
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Entry { seq, link, progress, disk: kept });
        // Waits for the agent only where it is longer than the socket holds. Whoever cannot take it has ended, which the stream tells next.
        if let Err(error) = stream.write_all(&configuration).await {
            tracing::debug!(sandbox.id = %id, %error, "The agent of sandbox {id} ended before it knew how it is set up");
        }
        Ok(Box::new(stream))
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), BackendError> {
        let Some(mut entry) = self.entry(id) else { return Ok(()) };
        if !matches!(*entry.progress.borrow(), Progress::Ended(_) | Progress::Failed(_)) && entry.link.alive() {
            entry.link.destroy(entry.seq).map_err(|error| BackendError::Failed(format!("cannot talk to the launcher: {error}")))?;
            // An error means that the launcher has gone, and with it the sandbox.
            if entry.progress.wait_for(|progress| matches!(progress, Progress::Ended(_) | Progress::Failed(_))).await.is_err() {
                tracing::debug!(sandbox.id = %id, "The launcher ended before it had ended sandbox {id}");
            }
        }
        self.forget(id);
        Ok(())
    }

    async fn discard(&self, id: SandboxId) -> Result<(), BackendError> {
        self.disks.discard(id).await
    }

    async fn set_aside(&self, id: SandboxId) -> Result<(), BackendError> {
        self.disks.set_aside(id).await
    }

    async fn kept(&self) -> Result<Vec<SandboxId>, BackendError> {
        self.disks.kept().await
    }

    async fn death(&self, id: SandboxId) -> Option<Death> {
        let mut progress = self.entry(id)?.progress;
        // The stream ends a moment before the launcher has reaped the process.
        let over = progress.wait_for(|progress| matches!(progress, Progress::Ended(_) | Progress::Failed(_)));
        match tokio::time::timeout(DEATH_IS_TOLD_WITHIN, over).await.ok()?.as_deref() {
            Ok(Progress::Ended(death)) => Some(death.clone()),
            Ok(Progress::Failed(failure)) => {
                let error = explain(failure);
                Some(Death { oom_kills: 0, how: error.to_string(), of_all: false, launch_error: Some(error) })
            }
            _ => None,
        }
    }

    async fn usage(&self, id: SandboxId) -> Option<Usage> {
        let mut progress = self.entry(id)?.progress;
        // The agent may have answered a moment before the launcher has told of it.
        let told = progress.wait_for(|progress| !matches!(progress, Progress::Waiting)).await.ok()?.clone();
        match told {
            Progress::Launched(cgroup) => self.cgroups.usage(&cgroup),
            _ => None,
        }
    }

    async fn adjust(&self, id: SandboxId, limits: &Limits) -> Result<(), BackendError> {
        let entry = self.entry(id).ok_or_else(|| BackendError::Failed(format!("nothing is known of sandbox `{id}` any more")))?;
        let progress = entry.progress.borrow().clone();
        match progress {
            Progress::Launched(cgroup) => self.cgroups.adjust(&cgroup, limits),
            _ => Err(BackendError::Unsupported(format!("sandbox `{id}` is not launched yet"))),
        }
    }

    async fn changes(&self, id: SandboxId, given: &[Given]) -> Result<Changes, BackendError> {
        let entry = self.entry(id).ok_or_else(|| BackendError::Failed(format!("nothing is known of sandbox `{id}` any more")))?;
        changes::ask(&entry.link, entry.seq, given)
    }

    async fn layer(&self, id: SandboxId, directory: &LowerDirectory, seen: UpperSeen) -> Result<(), BackendError> {
        let entry = self.entry(id).ok_or_else(|| BackendError::Failed(format!("nothing is known of sandbox `{id}` any more")))?;
        let LowerDirectory { path, device, inode } = directory.clone();
        layers::lay(&entry.link, entry.seq, &LayerOrder { path, device, inode, disk: entry.disk }, seen).await
    }

    async fn list(&self) -> Result<Vec<Observed>, BackendError> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(entries.keys().map(|id| Observed { id: *id }).collect())
    }

    async fn shutdown(&self) {
        let link = Arc::clone(&self.link.lock().unwrap_or_else(PoisonError::into_inner));
        link.shutdown();
        while link.alive() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
