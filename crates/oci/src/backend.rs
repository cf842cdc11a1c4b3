//! [`Oci`]: the port of the engine, answered by an OCI runtime.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    pin::Pin,
    process::{Child, ExitStatus},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use caisson_core::{
    About, AgentStream, Backend, BackendError, Death, Difference, Feature, Files, Image, Limits, Observed, SandboxId, SandboxSpec, Storage,
    Usage,
};
use caisson_launcher::{
    bundle::Order,
    plan::{Plan, Root, Step},
    protocol::{self, Failure, Tag},
};
use caisson_native::parts::{self, Parts};
use caisson_wire::{AGENT_UID, AgentConfig, CHECK, CHECKED, OfRuntime};
use futures::{StreamExt, stream};
use rustix::{
    net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, unix::AsyncFd},
    net::{UnixStream, unix::pipe},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    command,
    config::{self, config},
    container::{self, Container},
    places::{AT_ONCE, Left, Places},
    runtime::{Kind, Runtime},
    spawner::{Job, Spawner},
};

/// A runtime whose agent is told to end has this long to end in order, and then this long to be made to.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
const ENDS_AT_LAST_WITHIN: Duration = Duration::from_secs(5);
/// How long an agent may take to take what it is told, where that is more than its socket holds.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// How long a first container may take on one platform.
const CHECKED_WITHIN: Duration = Duration::from_secs(10);
/// How long after the end of a stream a runtime may take to say how its container ended.
const DEATH_IS_TOLD_WITHIN: Duration = Duration::from_secs(5);
/// What others may hold a runtime's standard error open for.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(200);
/// What gVisor itself takes beside the memory of programs, and threads of the host beside theirs.
const OWN_KERNEL_BYTES: u64 = 128 << 20;
const OWN_KERNEL_THREADS: u32 = 512;
const THREADS_FOR_EACH: u32 = 4;

/// Threads of the host that a kernel of its own has for so many processes.
fn threads(pids: u32) -> u32 {
    pids.saturating_mul(THREADS_FOR_EACH).saturating_add(OWN_KERNEL_THREADS)
}

/// What a backend has to know of its surroundings.
#[derive(Debug, Clone)]
pub struct OciConfig {
    pub kind: Kind,
    /// Where the runtime is, where it is not where programs are.
    pub program: Option<PathBuf>,
    /// Where the unpacked layers of images are, each a directory called after the digits of its diff id.
    pub layers_dir: PathBuf,
}

/// A sandbox that was asked for and not yet destroyed.
#[derive(Debug, Clone)]
struct Entry {
    container: Arc<Container>,
    limits: Limits,
    fate: watch::Receiver<Fate>,
    handle: Arc<Mutex<Handle>>,
}

/// What has become of a container.
#[derive(Debug, Default)]
struct Fate {
    death: Option<Death>,
    /// Whether nothing of it is left.
    is_gone: bool,
}

/// What ends a container.
#[derive(Debug, Default)]
struct Handle {
    /// Our end of the agent's stream once more.
    stream: Option<OwnedFd>,
    /// Its runtime.
    runtime: Option<OwnedFd>,
    /// Nobody wants it any more.
    is_unwanted: bool,
}

impl Handle {
    /// Ends the agent's stream, and with it the agent in order.
    fn hang_up(&mut self) {
        self.is_unwanted = true;
        if let Some(stream) = &self.stream {
            // The other side may have been first.
            shutdown(stream, Shutdown::Both).ok();
        }
    }

    /// Ends the runtime, and with it the container.
    fn kill(&mut self) {
        self.is_unwanted = true;
        if let Some(runtime) = &self.runtime {
            // It may have ended.
            pidfd_send_signal(runtime, Signal::KILL).ok();
        }
    }
}

/// Sandboxes in containers of one runtime.
#[derive(Debug)]
pub struct Oci {
    runtime: Runtime,
    shared: Arc<Shared>,
    entries: Mutex<HashMap<SandboxId, Entry>>,
}

#[derive(Debug)]
struct Shared {
    parts: Parts,
    hierarchies: Vec<String>,
    places: Places,
    spawner: Spawner,
}

impl Oci {
    /// Finds the runtime, takes away what earlier servers have left, and tries a first container. An error says what is missing and the remedy;
    /// a runtime that hangs is killed and told of like any other.
    pub async fn start(config: OciConfig) -> Result<Self, BackendError> {
        let kind = config.kind;
        if !rustix::process::geteuid().is_root() {
            return Err(BackendError::Unsupported(format!(
                "backend `{}` needs a server that runs as root; use backend `native`",
                kind.backend()
            )));
        }
        let mut runtime = Runtime::find(kind, config.program).await?;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| BackendError::Failed(format!("cannot {what}: {error}"))
        };
        let parts = Parts::find(config.layers_dir)?;
        let hierarchies = parts.setup().hierarchies;
        let (places, left) = Places::take(parts::AGENT).map_err(failed("make a directory below /run/caisson"))?;
        let launcher = parts::launcher().map_err(failed("copy the launcher into memory"))?;
        let spawner = Spawner::start(launcher).map_err(failed("start a thread"))?;
        remove_left(left, &hierarchies).await;
        let shared = Arc::new(Shared { parts, hierarchies, places, spawner });
        let platforms: Vec<Option<&str>> = match kind.platforms() {
            [] => vec![None],
            platforms => platforms.iter().copied().map(Some).collect(),
        };
        let mut errors = Vec::new();
        for platform in platforms {
            runtime.platform = platform;
            match shared.check(&runtime).await {
                Ok(()) => return Ok(Self { runtime, shared, entries: Mutex::default() }),
                Err(error) => errors.push(platform.map_or_else(|| error.clone(), |platform| format!("with platform {platform}, {error}"))),
            }
        }
        let (name, version) = (kind.program(), &runtime.version);
        Err(BackendError::Unsupported(format!("{name} {version} cannot run a sandbox here: {}; a newer one may", errors.join("; "))))
    }

    fn entry(&self, id: SandboxId) -> Option<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn refuse(&self, spec: &SandboxSpec, files: Files) -> Result<(), BackendError> {
        let name = self.name();
        if spec.storage != Storage::Memory || files != Files::Passing {
            return Err(BackendError::Unsupported(format!("backend `{name}` has no storage `disk`; use backend `native`")));
        }
        Ok(())
    }
}

/// Takes away what earlier servers have left of containers, for a server that has none itself.
pub async fn sweep() -> Result<(), BackendError> {
    let left = Places::left().map_err(|error| BackendError::Failed(format!("cannot look for containers that are left: {error}")))?;
    if !left.is_empty() {
        remove_left(left, &Parts::find(PathBuf::new())?.setup().hierarchies).await;
    }
    Ok(())
}

async fn remove_left(left: Vec<Left>, hierarchies: &[String]) {
    for left in left {
        let count = left.remove(hierarchies).await;
        if count > 0 {
            tracing::warn!("Removed {count} containers that an earlier run has left");
        }
    }
}

/// A launcher on its way to a container, and what is heard of it.
struct Started {
    ours: UnixStream,
    child: Child,
    pidfd: OwnedFd,
    words: JoinHandle<Vec<u8>>,
}

impl Shared {
    fn container(&self, runtime: &Runtime, id: SandboxId, spec: &SandboxSpec) -> Container {
        let setup = self.parts.setup();
        let id = id.to_string();
        let swap = if setup.unified { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" };
        let memory = setup.hierarchies.first().map(|hierarchy| format!("{hierarchy}/{swap}")).unwrap_or_default();
        // Of processors its own kernel knows.
        let is_told = |name: &str| if runtime.kind.has_own_kernel() { name == "meminfo" } else { !name.contains('/') };
        let figures = self.parts.figures(&spec.limits).0;
        Container {
            kind: runtime.kind,
            directory: self.places.container(&id),
            agent: self.places.agent(),
            id,
            is_of_image: matches!(spec.image, Image::Stored(_)),
            is_unified: setup.unified,
            limits_swap: std::path::Path::new(&memory).exists(),
            // Runtimes let nothing be mounted in the directories of `/proc`.
            figures: figures.into_iter().filter(|(name, _)| is_told(name)).collect(),
        }
    }

    fn order(&self, runtime: &Runtime, container: &Container, spec: &SandboxSpec, arguments: &[&str]) -> Result<Order, BackendError> {
        let (layers, mut steps) = self.parts.root(spec)?;
        let mut mount_points = vec!["proc", "dev", "sys", "tmp"];
        mount_points.retain(|name| {
            !steps.iter().any(|step| matches!(step, Step::Directory { path, .. } | Step::Tmpfs { path, .. } if path == name))
        });
        steps.extend(mount_points.into_iter().map(|name| Step::Directory { path: name.to_owned(), mode: 0o755, owner: 0 }));
        let has_own_kernel = runtime.kind.has_own_kernel();
        if !has_own_kernel {
            steps.extend(self.parts.figures(&spec.limits).1);
        }
        let limits = has_own_kernel.then(|| {
            let memory_bytes = spec.limits.memory_bytes.saturating_add(OWN_KERNEL_BYTES);
            self.parts.limit(&Limits { memory_bytes, pids: threads(spec.limits.pids), ..spec.limits })
        });
        let text = |path: &std::path::Path| path.display().to_string();
        Ok(Order {
            server: std::process::id(),
            setup: self.parts.setup(),
            plan: Plan {
                processors: 0,
                limits: limits.unwrap_or_default(),
                hostname: spec.hostname.clone(),
                root: Root::Memory { bytes: spec.limits.disk_bytes, inodes: spec.limits.disk_inodes },
                layers,
                steps,
                agent_id: AGENT_UID,
                ways_out: None,
            },
            figures: container.figures.clone(),
            has_own_cgroup: !has_own_kernel,
            joins: !has_own_kernel,
            agent: text(&container.agent),
            directory: text(&container.directory),
            config: config(container, spec, arguments),
            argv: runtime.run(&container.id, &container.directory, &container.state())?,
        })
    }

    /// Starts a launcher that becomes the runtime of this container.
    async fn spawn(&self, runtime: &Runtime, container: &Container, order: &Order) -> Result<Started, BackendError> {
        let exhausted = |what: &'static str| move |error: io::Error| BackendError::Exhausted(format!("cannot make {what}: {error}"));
        container.make(&order.encode(), &runtime.program).map_err(exhausted("the directory of a container"))?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| exhausted("a socket")(error.into()))?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| exhausted("a pipe")(error.into()))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|error| exhausted("a socket")(error.into()))?;
        let ours = UnixStream::from_std(ours.into()).map_err(exhausted("a socket"))?;
        let words = pipe::Receiver::from_owned_fd(read).map_err(exhausted("a pipe"))?;
        let (reply, started) = oneshot::channel();
        self.spawner.ask(Job { order: container.order(), stream: theirs, stderr: write, reply }).map_err(exhausted("a process"))?;
        let mut child = started
            .await
            .map_err(|_| BackendError::Failed("the thread that starts runtimes has ended".to_owned()))?
            .map_err(exhausted("a process"))?;
        let handle =
            Pid::from_raw(child.id().cast_signed()).ok_or(rustix::io::Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = match handle {
            Ok(pidfd) => pidfd,
            Err(error) => {
                drop(child.kill().and_then(|()| child.wait()));
                return Err(exhausted("a handle on a process")(error.into()));
            }
        };
        Ok(Started { ours, child, pidfd, words: tokio::spawn(command::read_bytes(Some(words))) })
    }

    /// Whether the agent could serve in a container of this runtime.
    async fn check(&self, runtime: &Runtime) -> Result<(), String> {
        let spec = SandboxSpec::default();
        let container = self.container(runtime, SandboxId::random(), &spec);
        let order = self.order(runtime, &container, &spec, &[CHECK]).map_err(|error| error.to_string())?;
        let result = match self.spawn(runtime, &container, &order).await {
            Ok(started) => try_out(started, &agent_config(runtime.kind, &spec)).await,
            Err(error) => Err(error.to_string()),
        };
        let removed = container::remove(&container.directory, &self.hierarchies).await;
        result.and(removed)
    }
}

/// What the agent is told.
fn agent_config(kind: Kind, spec: &SandboxSpec) -> AgentConfig {
    let own_cgroup = kind.has_own_kernel().then_some(spec.limits.pids.into());
    AgentConfig { of_runtime: Some(OfRuntime { program: config::AGENT.to_owned(), own_cgroup }), ..parts::agent_config(spec) }
}

async fn try_out(Started { mut ours, mut child, pidfd, words }: Started, agent: &AgentConfig) -> Result<(), String> {
    let talk = async {
        let configuration = agent.encode().map_err(|error| error.to_string())?;
        // Whoever cannot take it has ended, which is told next.
        ours.write_all(&configuration).await.ok();
        let mut said = Vec::new();
        (&mut ours).take(CHECKED.len() as u64).read_to_end(&mut said).await.ok();
        Ok::<_, String>(said == CHECKED)
    };
    let is_fine = timeout(CHECKED_WITHIN, talk).await;
    drop(ours);
    let in_order = match &is_fine {
        Ok(_) => timeout(ENDS_AT_LAST_WITHIN, ended(&pidfd, &mut child)).await.is_ok(),
        Err(_) => false,
    };
    if !in_order {
        pidfd_send_signal(&pidfd, Signal::KILL).ok();
        if timeout(ENDS_AT_LAST_WITHIN, ended(&pidfd, &mut child)).await.is_err() {
            // The kernel holds it: it is reaped whenever it ends.
            tokio::spawn(async move { ended(&pidfd, &mut child).await });
        }
    }
    match is_fine {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(last_words(words).await.map_or_else(
            |failure| caisson_native::explain(&failure).to_string(),
            |text| {
                if text.is_empty() { "the runtime ended and said nothing".to_owned() } else { text }
            },
        )),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("it hung: nothing came of it within {} s, and it was killed", CHECKED_WITHIN.as_secs())),
    }
}

/// Waits for a process and reaps it.
#[expect(deprecated, reason = "what the newer function wants promised, an `OwnedFd` keeps by its type: one owner, open until dropped")]
async fn ended(pidfd: &OwnedFd, child: &mut Child) -> Option<ExitStatus> {
    let handle = pidfd.as_fd().try_clone_to_owned().and_then(AsyncFd::new);
    match &handle {
        // A process that has ended is readable for good.
        Ok(handle) => drop(handle.readable().await),
        Err(error) => tracing::error!(%error, "Cannot wait for a runtime"),
    }
    child.try_wait().ok().flatten()
}

/// What a runtime has said: a launcher's own report, or text.
async fn last_words(words: JoinHandle<Vec<u8>>) -> Result<String, Failure> {
    let said = timeout(LAST_WORDS_WITHIN, words).await.ok().and_then(Result::ok).unwrap_or_default();
    if let Ok((Tag::Failed, _, body)) = protocol::split(&said)
        && let Ok(failure) = protocol::decode(body)
    {
        return Err(failure);
    }
    Ok(String::from_utf8_lossy(&said).trim().chars().filter(|c| !c.is_control()).take(1000).collect())
}

/// How a container ended whose agent was heard, or was not.
async fn death(container: &Container, status: Option<ExitStatus>, words: JoinHandle<Vec<u8>>, was_heard: bool, oom_kills: u64) -> Death {
    let died = |error: BackendError| Death { oom_kills, how: error.to_string(), of_all: false, launch_error: Some(error) };
    let name = container.kind.program();
    let text = match last_words(words).await {
        // Where things are on the host is nobody's business who has a sandbox.
        Ok(text) => text.replace(&*container.directory.to_string_lossy(), "…"),
        Err(failure) if !was_heard => return died(caisson_native::explain(&failure)),
        // The launcher has nothing to say after its runtime has begun: it is the agent that says so.
        Err(_) => String::new(),
    };
    let code = status.and_then(|status| status.code());
    let signal = status.and_then(|status| status.signal());
    let said = if text.is_empty() { String::new() } else { format!(": {text}") };
    let how = match (code, signal) {
        (_, Some(signal)) => format!("{name} was ended by signal {signal}{said}"),
        (Some(code @ 129..), _) => format!("its agent was ended by signal {}{said}", code - 128),
        (Some(code), _) => format!("its agent exited with status {code}{said}"),
        (None, None) => format!("{name} ended, and nobody knows how{said}"),
    };
    if was_heard || code == Some(0) {
        Death { oom_kills, how, of_all: false, launch_error: None }
    } else {
        died(BackendError::Failed(format!("{name} did not start the container: {}", if text.is_empty() { how } else { text })))
    }
}

/// Notes whether anything ever came.
struct Heard {
    stream: UnixStream,
    was_heard: Arc<AtomicBool>,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.was_heard.store(true, Ordering::Release);
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// From the start of a container to when nothing of it is left.
struct Minder {
    shared: Arc<Shared>,
    runtime: Runtime,
    container: Arc<Container>,
    handle: Arc<Mutex<Handle>>,
    fate: watch::Sender<Fate>,
}

impl Minder {
    async fn mind(self, order: Order, configuration: Vec<u8>, told: oneshot::Sender<Result<AgentStream, BackendError>>) {
        let death = match self.begin(&order).await {
            Ok(Started { ours, mut child, pidfd, words }) => {
                let was_heard = Arc::new(AtomicBool::new(false));
                let mut stream = Heard { stream: ours, was_heard: Arc::clone(&was_heard) };
                let handle = &self.handle;
                let tell = async move {
                    // Waits for the agent only where it is longer than the socket holds. Whoever cannot take it has ended, which the stream
                    // tells next.
                    if timeout(TAKEN_WITHIN, stream.write_all(&configuration)).await.is_err() {
                        handle.lock().unwrap_or_else(PoisonError::into_inner).kill();
                    }
                    // Whoever has gone leaves it to `destroy`.
                    told.send(Ok(Box::new(stream))).ok();
                };
                let (status, ()) = tokio::join!(ended(&pidfd, &mut child), tell);
                let oom_kills = self
                    .container
                    .cgroup()
                    .and_then(|cgroup| self.shared.parts.usage(cgroup.split('/').next()?))
                    .map_or(0, |usage| usage.oom_kills);
                death(&self.container, status, words, was_heard.load(Ordering::Acquire), oom_kills).await
            }
            Err(error) => {
                // Whoever has gone need not know.
                told.send(Err(error.clone())).ok();
                Death { oom_kills: 0, how: error.to_string(), of_all: false, launch_error: Some(error) }
            }
        };
        self.fate.send_modify(|fate| fate.death = Some(death));
        let mut rest = Duration::from_millis(20);
        while let Err(error) = container::remove(&self.container.directory, &self.shared.hierarchies).await {
            tracing::error!("Something of a container is left: {error}");
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(Duration::from_secs(30));
        }
        self.fate.send_modify(|fate| fate.is_gone = true);
    }

    async fn begin(&self, order: &Order) -> Result<Started, BackendError> {
        let started = self.shared.spawn(&self.runtime, &self.container, order).await?;
        let copies = started.ours.as_fd().try_clone_to_owned().and_then(|stream| Ok((stream, started.pidfd.try_clone()?)));
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        match copies {
            Ok((stream, runtime)) => (handle.stream, handle.runtime) = (Some(stream), Some(runtime)),
            Err(error) => {
                pidfd_send_signal(&started.pidfd, Signal::KILL).ok();
                return Err(BackendError::Exhausted(format!("cannot copy a descriptor: {error}")));
            }
        }
        if handle.is_unwanted {
            handle.kill();
        }
        drop(handle);
        Ok(started)
    }
}

#[async_trait]
impl Backend for Oci {
    fn name(&self) -> &'static str {
        self.runtime.kind.backend()
    }

    fn probe(&self) -> &'static [u8] {
        parts::PROBE
    }

    fn about(&self) -> About {
        About {
            version: Some(self.runtime.version.clone()),
            platform: self.runtime.platform.map(str::to_owned),
            wall: self.runtime.kind.wall(),
        }
    }

    fn differences(&self) -> &'static [Difference] {
        self.runtime.kind.differences()
    }

    fn features(&self) -> &'static [Feature] {
        &[Feature::Network]
    }

    async fn launch(&self, id: SandboxId, spec: &SandboxSpec, files: Files) -> Result<AgentStream, BackendError> {
        self.refuse(spec, files)?;
        let container = Arc::new(self.shared.container(&self.runtime, id, spec));
        let order = self.shared.order(&self.runtime, &container, spec, &[])?;
        let configuration = agent_config(container.kind, spec)
            .encode()
            .map_err(|error| BackendError::Failed(format!("cannot write the agent's configuration: {error}")))?;
        let (fate, receiver) = watch::channel(Fate::default());
        let handle = Arc::new(Mutex::new(Handle::default()));
        let entry = Entry { container: Arc::clone(&container), limits: spec.limits, fate: receiver, handle: Arc::clone(&handle) };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        let minder = Minder { shared: Arc::clone(&self.shared), runtime: self.runtime.clone(), container, handle, fate };
        let (told, hears) = oneshot::channel();
        // It goes on when the caller goes away; `destroy` knows of it.
        tokio::spawn(minder.mind(order, configuration, told));
        hears.await.unwrap_or_else(|_| Err(BackendError::Failed("the task of a container has ended".to_owned())))
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), BackendError> {
        let Some(mut entry) = self.entry(id) else { return Ok(()) };
        let handle = || entry.handle.lock().unwrap_or_else(PoisonError::into_inner);
        handle().hang_up();
        let mut is_over = timeout(ENDS_WITHIN, entry.fate.wait_for(|fate| fate.is_gone)).await.is_ok();
        if !is_over {
            tracing::warn!(sandbox.id = %id, "The runtime of sandbox {id} does not end by itself, and is killed");
            entry.handle.lock().unwrap_or_else(PoisonError::into_inner).kill();
            is_over = timeout(ENDS_AT_LAST_WITHIN, entry.fate.wait_for(|fate| fate.is_gone)).await.is_ok();
        }
        if !is_over {
            return Err(BackendError::Failed(format!("the container of sandbox `{id}` does not end")));
        }
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(())
    }

    async fn death(&self, id: SandboxId) -> Option<Death> {
        let mut fate = self.entry(id)?.fate;
        let told = timeout(DEATH_IS_TOLD_WITHIN, fate.wait_for(|fate| fate.death.is_some())).await;
        told.ok()?.ok()?.death.clone()
    }

    async fn usage(&self, id: SandboxId) -> Option<Usage> {
        let container = self.entry(id)?.container;
        self.shared.parts.usage(&container.cgroup()?)
    }

    async fn adjust(&self, id: SandboxId, limits: &Limits) -> Result<(), BackendError> {
        let entry = self.entry(id).ok_or_else(|| BackendError::Failed(format!("nothing is known of sandbox `{id}` any more")))?;
        let unsupported = |what: &str| Err(BackendError::Unsupported(format!("backend `{}` cannot change {what}", self.name())));
        let Some(cgroup) = entry.container.cgroup() else { return unsupported("limits before there is a control group") };
        if !entry.container.kind.has_own_kernel() {
            return self.shared.parts.adjust(&cgroup, limits);
        }
        if limits.pids != entry.limits.pids {
            return unsupported("the limit on processes, which its own kernel keeps");
        }
        self.shared.parts.adjust(&cgroup, &Limits { pids: threads(limits.pids), ..*limits })
    }

    async fn list(&self) -> Result<Vec<Observed>, BackendError> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(entries.keys().map(|id| Observed { id: *id }).collect())
    }

    async fn shutdown(&self) {
        let ids: Vec<SandboxId> = self.entries.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        let end = async |id| {
            if let Err(error) = self.destroy(id).await {
                tracing::error!(sandbox.id = %id, %error, "Sandbox {id} is left to the next start");
            }
        };
        stream::iter(ids).for_each_concurrent(AT_ONCE, end).await;
    }
}
