//! [`Docker`]: the port of the engine, answered by a Docker daemon.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    models::{ContainerUpdateBody, ImageInspect, SystemInfo},
    query_parameters::{
        AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions, StartContainerOptions, StatsOptionsBuilder,
    },
};
use caisson_core::{
    About, AgentStream, Backend, BackendError, Death, Digest, Error, Feature, Files, Image, ImageConfig, Limits, Observed, SandboxId,
    SandboxSpec, Storage, StoredImage, Usage,
};
use caisson_launcher::inside::{self, Order, Survey};
use caisson_native::parts::{self, Elsewhere};
use caisson_wire::{CHECK, CHECKED, STANDARD};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    container::{self, Cast, Mould, lend},
    daemon::{Daemon, Failed, tamed},
    endpoint::Endpoint,
    events::{self, End, Seen, Watched},
    places::Mark,
    programs,
    stream::{Attached, Heard},
};

/// How long a first container may take.
const CHECKED_WITHIN: Duration = Duration::from_secs(30);
/// A survey is a few kilobytes for each processor.
const MOST_SURVEY: u64 = 8 << 20;
/// How long after the end of a stream the daemon may take to say how its container ended.
const DEATH_IS_TOLD_WITHIN: Duration = Duration::from_secs(5);
/// How long after a program was killed for want of memory the daemon may take to say so.
const KILL_IS_TOLD_WITHIN: Duration = Duration::from_millis(500);
/// How long a container may take to be told what it is.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// How long a container that is removed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Names that it has for the architectures that Rust has others for.
const ARCHITECTURES: [(&str, &str); 2] = [("arm64", "aarch64"), ("amd64", "x86_64")];

/// What a backend has to know of its surroundings.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// `docker`, or `docker:` and the name of a runtime that the daemon knows.
    pub name: &'static str,
    pub endpoint: Endpoint,
    /// The server's own directory, in which it notes what is its own.
    pub data_dir: PathBuf,
}

/// A sandbox that was asked for and not yet destroyed.
#[derive(Debug, Clone)]
struct Entry {
    /// Its container, as soon as there is one; an error where there will be none.
    container: watch::Receiver<Option<Result<Container, BackendError>>>,
}

#[derive(Debug, Clone)]
struct Container {
    id: String,
    /// How often it had met its limit on memory when its use was last asked for.
    failures: Arc<AtomicU64>,
    seen: watch::Receiver<Seen>,
    heard: Arc<Mutex<Heard>>,
}

/// Sandboxes in containers of one daemon.
#[derive(Debug)]
pub struct Docker {
    name: &'static str,
    about: About,
    host: Elsewhere,
    shared: Arc<Shared>,
    mark: Arc<Mark>,
    entries: Mutex<HashMap<SandboxId, Entry>>,
    /// Where images that were looked up want volumes, by their ids.
    volumes: Mutex<HashMap<String, Vec<String>>>,
    listener: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    daemon: Daemon,
    mould: Mould,
    watched: Arc<Watched>,
}

impl Docker {
    /// The runtime that is asked for by this name of a backend; `None` where it is none of Docker's.
    #[must_use]
    pub fn runtime(name: &str) -> Option<Option<&str>> {
        if name == "docker" {
            return Some(None);
        }
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let runtime = name.strip_prefix("docker:")?;
        (!runtime.is_empty() && runtime.len() <= 40 && runtime.chars().all(is_fine)).then_some(Some(runtime))
    }

    /// Finds the daemon, takes away what earlier servers have left, and tries a first container. An error says what is missing and the remedy.
    pub async fn start(config: DockerConfig) -> Result<Self, BackendError> {
        let name = config.name;
        let runtime = Self::runtime(name).ok_or_else(|| BackendError::Unsupported(format!("`{name}` is no backend of Docker")))?;
        let (daemon, info) = Daemon::connect(&config.endpoint).await?;
        suffices(&info, runtime)?;
        let taken = Mark::take(&config.data_dir);
        let (mark, left) =
            taken.map_err(|error| BackendError::Failed(format!("cannot note what is its own in the data directory: {error}")))?;
        for left in left {
            let count = left.clear(&daemon).await;
            if count > 0 {
                tracing::warn!("Removed {count} containers that an earlier run has left");
            }
        }
        let mark = Arc::new(mark);
        let empty = programs::empty_image(&daemon).await?;
        let programs = programs::volume(&daemon, &mark, &empty).await?;
        let says = |what: &str| info.security_options.iter().flatten().any(|option| option.starts_with(&format!("name={what}")));
        let mould = Mould {
            runtime: runtime.map(str::to_owned),
            labels: mark.labels(),
            programs,
            empty,
            processors: info.ncpu.and_then(|count| u32::try_from(count).ok()).unwrap_or(1).max(1),
            has_apparmor: says("apparmor"),
            maps_users: says("userns"),
        };
        let watched = Arc::<Watched>::default();
        let shared = Arc::new(Shared { daemon: daemon.clone(), mould, watched: Arc::clone(&watched) });
        let listener = tokio::spawn(events::listen(daemon, Arc::clone(&mark), watched));
        let processors = info.ncpu.and_then(|count| usize::try_from(count).ok()).unwrap_or(1);
        let host = match try_out(&shared, processors).await {
            Ok(host) => host,
            Err(error) => {
                listener.abort();
                mark.clear(&shared.daemon).await;
                let with = runtime.map(|runtime| format!(" with runtime `{runtime}`")).unwrap_or_default();
                return Err(BackendError::Unsupported(format!("the Docker daemon{with} cannot run a sandbox: {error}")));
            }
        };
        let mut platform = runtime.map(str::to_owned).or(info.default_runtime).unwrap_or_default();
        if shared.mould.maps_users {
            platform += ", its own users mapped by Caisson instead of userns-remap";
        }
        let about = About {
            version: info.server_version.map(|version| tamed(&version)),
            platform: Some(tamed(&platform)),
            wall: "the host's kernel, behind the container's namespaces and a user namespace of the sandbox's own, dropped privileges, two seccomp \
                   filters and Landlock",
        };
        Ok(Self { name, about, host, shared, mark, entries: Mutex::default(), volumes: Mutex::default(), listener })
    }

    /// Notes where an image wants volumes.
    fn with_volumes(&self, image: StoredImage, volumes: Vec<String>) -> Result<StoredImage, Error> {
        let is_in = |path: &str, of: &str| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(path) = volumes.iter().find(|path| ["/dev", "/proc", "/sys"].iter().any(|of| is_in(path, of)) || path.contains("..")) {
            let message = format!("image `{}` wants a volume at `{}`, where there is none to be had", image.name, tamed(path));
            return Err(Error::invalid("invalid_image", message));
        }
        let mut known = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(image.id.to_string(), volumes);
        Ok(image)
    }

    fn entry(&self, id: SandboxId) -> Option<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The container of a sandbox that has one by now.
    fn container(&self, id: SandboxId) -> Option<Container> {
        self.entry(id)?.container.borrow().clone()?.ok()
    }

    fn refuse(&self, spec: &SandboxSpec, files: Files) -> Result<(), BackendError> {
        let name = self.name;
        if spec.storage != Storage::Memory || files != Files::Passing {
            return Err(BackendError::Unsupported(format!("backend `{name}` has no storage `disk`; use backend `native`")));
        }
        Ok(())
    }
}

/// Whether the daemon can keep what sandboxes are promised.
fn suffices(info: &SystemInfo, runtime: Option<&str>) -> Result<(), BackendError> {
    let unsupported = |what: String| Err(BackendError::Unsupported(what));
    if info.os_type.as_deref() != Some("linux") {
        return unsupported("the Docker daemon runs no containers of Linux".to_owned());
    }
    let says = info.architecture.as_deref().unwrap_or_default();
    let architecture = ARCHITECTURES.iter().find(|(other, _)| *other == says).map_or(says, |(_, name)| name);
    if architecture != std::env::consts::ARCH {
        return unsupported(format!(
            "the Docker daemon's host is `{}`, and this server is built for `{}`: use a server of the same architecture",
            tamed(says),
            std::env::consts::ARCH
        ));
    }
    for (has, what) in [(info.memory_limit, "memory"), (info.pids_limit, "processes"), (info.cpu_cfs_quota, "processor time")] {
        if has != Some(true) {
            return unsupported(format!("the Docker daemon cannot limit {what}: its host lacks the control group"));
        }
    }
    if let Some(runtime) = runtime
        && !info.runtimes.iter().flatten().any(|(name, _)| name == runtime)
    {
        let mut known: Vec<String> = info.runtimes.iter().flatten().map(|(name, _)| tamed(name)).collect();
        known.sort();
        return unsupported(format!(
            "the Docker daemon has no runtime `{runtime}`; it has {}: add it to `runtimes` in the daemon's /etc/docker/daemon.json",
            known.join(", ")
        ));
    }
    Ok(())
}

/// Looks at the daemon's host, and tries whether the agent could serve there.
async fn try_out(shared: &Shared, processors: usize) -> Result<Elsewhere, String> {
    let limits = Limits::default();
    let looking = Cast {
        command: inside::SURVEY,
        image: None,
        limits,
        name: None,
        hostname: "sandbox".to_owned(),
        lent: vec!["/".to_owned()],
        volumes: Vec::new(),
        is_survey: true,
    };
    let said = shared.ask(looking, &[], MOST_SURVEY).await?;
    let survey = Survey::decode(&said).ok_or("it says nothing sensible of its host")?;
    let host = Elsewhere::new(survey, processors);
    let spec = SandboxSpec::default();
    let (cast, mut input) = order(&host, &spec, &[STANDARD, CHECK]).map_err(|error| error.to_string())?;
    input.extend(parts::agent_config(&spec).encode().map_err(|error| error.to_string())?);
    let said = shared.ask(cast, &input, CHECKED.len() as u64).await?;
    if said == CHECKED { Ok(host) } else { Err("its containers say something else than they should".to_owned()) }
}

/// The container of a sandbox, and what its launcher is to read.
fn order<'a>(host: &Elsewhere, spec: &SandboxSpec, arguments: &[&str]) -> Result<(Cast<'a>, Vec<u8>), BackendError> {
    let mut plan = host.plan(spec)?;
    let lent = lend(&mut plan.steps);
    let image = match &spec.image {
        Image::Stored(image) => Some(image.id.to_string()),
        Image::Host | Image::Named { .. } => None,
    };
    let order = Order { plan, is_of_image: image.is_some(), arguments: arguments.iter().map(|word| (*word).to_owned()).collect() };
    Ok((
        Cast {
            command: inside::COMMAND,
            image,
            limits: spec.limits,
            name: None,
            hostname: spec.hostname.clone(),
            lent,
            volumes: Vec::new(),
            is_survey: false,
        },
        order.encode(),
    ))
}

impl Shared {
    /// Makes a container and starts it. Of one that could not be started nothing is left.
    async fn begin(&self, cast: Cast<'_>) -> Result<(Container, Attached), BackendError> {
        let daemon = &self.daemon;
        let options = cast.name.as_deref().map(|name| CreateContainerOptionsBuilder::new().name(name).build());
        let body = self.mould.cast(cast);
        let made = daemon.call("make a container", daemon.docker.create_container(options, body)).await;
        if let Err(Failed::Silent(_)) = made {
            self.watched.is_unsure();
        }
        let made = made?;
        let container = Container { seen: self.watched.add(&made.id), id: made.id, failures: Arc::default(), heard: Arc::default() };
        let started = async {
            let options = AttachContainerOptionsBuilder::new().stream(true).stdin(true).stdout(true).stderr(true).build();
            let streams = daemon.call("attach to a container", daemon.docker.attach_container(&container.id, Some(options))).await?;
            let started = daemon.docker.start_container(&container.id, None::<StartContainerOptions>);
            daemon.call("start a container", started).await?;
            Ok::<_, Failed>(streams)
        };
        match started.await {
            Ok(streams) => {
                let attached = Attached::new(streams, Arc::clone(&container.heard));
                Ok((container, attached))
            }
            Err(failed) => {
                self.watched.forget(&container.id);
                if let Err(failed) = container::remove(daemon, &container.id).await {
                    self.watched.is_unsure();
                    tracing::error!("A container that did not start is left until the Docker daemon answers: {}", failed.text());
                }
                Err(failed.into())
            }
        }
    }

    /// What a container says that is given this to read. The error is what it said else.
    async fn ask(&self, cast: Cast<'_>, input: &[u8], most: u64) -> Result<Vec<u8>, String> {
        let (container, mut attached) = self.begin(cast).await.map_err(|error| error.to_string())?;
        let talk = async {
            // Whoever cannot take it has ended, which is told next.
            attached.write_all(input).await.ok();
            let mut said = Vec::new();
            (&mut attached).take(most).read_to_end(&mut said).await.ok();
            said
        };
        let said = timeout(CHECKED_WITHIN, talk).await;
        // It comes behind the rest.
        if let Ok(said) = &said
            && said.is_empty()
        {
            timeout(DEATH_IS_TOLD_WITHIN, attached.read(&mut [0])).await.ok();
        }
        drop(attached);
        self.end(&container).await.map_err(|error| error.to_string())?;
        let heard = container.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match (said, heard.last_words()) {
            (Ok(said), _) if !said.is_empty() => Ok(said),
            (Ok(_), Err(failure)) => Err(caisson_native::explain(&failure).to_string()),
            (Ok(_), Ok(words)) if words.is_empty() => Err("its container ended and said nothing".to_owned()),
            (Ok(_), Ok(words)) => Err(words),
            (Err(_), _) => Err(format!("nothing came of a container within {} s, and it was ended", CHECKED_WITHIN.as_secs())),
        }
    }

    /// Ends a container. Returns when nothing is left of it.
    async fn end(&self, container: &Container) -> Result<(), BackendError> {
        let mut seen = container.seen.clone();
        let is_lost = matches!(seen.borrow().end, Some(End::Lost));
        // What a daemon that is gone still has is looked for when it is back.
        if !is_lost {
            match container::remove(&self.daemon, &container.id).await {
                Err(Failed::Silent(text)) if !self.daemon.answers().await => {
                    self.watched.is_unsure();
                    tracing::error!("A container is left until the Docker daemon is back: {text}");
                }
                removed => {
                    removed?;
                    if timeout(GONE_WITHIN, seen.wait_for(|seen| seen.is_removed)).await.is_err() && self.is_there(container).await {
                        return Err(BackendError::Failed(format!("the container {} does not end", container.id)));
                    }
                }
            }
        }
        self.watched.forget(&container.id);
        Ok(())
    }

    /// Whether the daemon has it, whatever it told.
    async fn is_there(&self, container: &Container) -> bool {
        let looked = self.daemon.docker.inspect_container(&container.id, None::<InspectContainerOptions>);
        !matches!(self.daemon.call("look at a container", looked).await, Err(Failed::NotFound(_)))
    }

    /// From an order to a container that has it.
    async fn launch(&self, cast: Cast<'_>, input: Vec<u8>) -> Result<(Container, Attached), BackendError> {
        let (container, mut attached) = self.begin(cast).await?;
        // Waits for the launcher only where it is longer than pipes hold. Whoever cannot take it has ended, which the stream tells next.
        let given = async {
            attached.write_all(&input).await.ok();
            attached.flush().await.ok();
        };
        if timeout(TAKEN_WITHIN, given).await.is_err() {
            self.end(&container).await?;
            return Err(BackendError::Failed(format!("a container did not take its order within {} s", TAKEN_WITHIN.as_secs())));
        }
        Ok((container, attached))
    }
}

impl Container {
    /// How it ended, once it has.
    async fn death(&self) -> Option<Death> {
        let mut seen = self.seen.clone();
        let Seen { oom_kills, end, .. } = timeout(DEATH_IS_TOLD_WITHIN, seen.wait_for(|seen| seen.end.is_some())).await.ok()?.ok()?.clone();
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let died = |error: BackendError| Death { oom_kills, how: error.to_string(), of_all: false, launch_error: Some(error) };
        let words = match heard.last_words() {
            Ok(words) => words,
            Err(failure) if !heard.agent => return Some(died(caisson_native::explain(&failure))),
            Err(_) => String::new(),
        };
        let said = if words.is_empty() { String::new() } else { format!(": {words}") };
        let how = match end? {
            End::Exited(code @ 129..=192) => format!("its agent was ended by signal {}{said}", code - 128),
            End::Exited(code) => format!("its agent exited with status {code}{said}"),
            End::Vanished => format!("its container is gone, and nobody saw how it ended{said}"),
            End::Lost => "the Docker daemon does not answer any more".to_owned(),
        };
        if heard.agent {
            return Some(Death { oom_kills, how, of_all: false, launch_error: None });
        }
        Some(died(BackendError::Failed(format!("the container did not come as far as its agent: {how}"))))
    }
}

#[async_trait]
impl Backend for Docker {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self) -> &'static [u8] {
        parts::PROBE
    }

    fn about(&self) -> About {
        self.about.clone()
    }

    fn features(&self) -> &'static [Feature] {
        &[Feature::Network]
    }

    async fn image(&self, name: &str) -> Option<Result<StoredImage, Error>> {
        let daemon = &self.shared.daemon;
        let shown = tamed(name).escape_default().to_string();
        if !is_reference(name) {
            let message = format!("`{shown}` is no name of an image: name:tag or name@sha256:…");
            return Some(Err(Error::invalid("invalid_image", message)));
        }
        Some(match daemon.call("look up an image", daemon.docker.inspect_image(name)).await {
            Ok(image) => {
                let volumes = image.config.as_ref().and_then(|config| config.volumes.clone()).unwrap_or_default();
                let stored = stored(name, image).ok_or_else(|| {
                    Error::invalid("invalid_image", format!("the Docker daemon says of image `{shown}` what cannot be of an image"))
                });
                stored.and_then(|stored| self.with_volumes(stored, volumes))
            }
            Err(Failed::NotFound(_)) => Err(Error::invalid(
                "unknown_image",
                format!("the Docker daemon has no image `{shown}`; `docker pull {shown}` gets it, and `host` is always there"),
            )),
            Err(failed) => Err(match BackendError::from(failed) {
                BackendError::Exhausted(message) => Error::Unavailable { message, retry_after: Duration::from_secs(5), cause: None },
                other => Error::invalid("invalid_image", other.to_string()),
            }),
        })
    }

    async fn launch(&self, id: SandboxId, spec: &SandboxSpec, files: Files) -> Result<AgentStream, BackendError> {
        self.refuse(spec, files)?;
        let (mut cast, mut input) = order(&self.host, spec, &[STANDARD])?;
        cast.name = Some(format!("caisson-{id}"));
        if let Some(image) = &cast.image {
            cast.volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner).get(image).cloned().unwrap_or_default();
        }
        let configuration = parts::agent_config(spec)
            .encode()
            .map_err(|error| BackendError::Unsupported(format!("cannot tell the agent what to be: {error}")))?;
        input.extend(configuration);
        let (made, container) = watch::channel(None);
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Entry { container });
        let (told, hears) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        // It goes on when the caller goes away; `destroy` knows of it.
        tokio::spawn(async move {
            let stream = match shared.launch(cast, input).await {
                Ok((container, attached)) => {
                    made.send_replace(Some(Ok(container)));
                    Ok(Box::new(attached) as AgentStream)
                }
                Err(error) => {
                    made.send_replace(Some(Err(error.clone())));
                    Err(error)
                }
            };
            // Whoever has gone leaves it to `destroy`.
            told.send(stream).ok();
        });
        let launched = hears.await.unwrap_or_else(|_| Err(BackendError::Failed("the task of a container has ended".to_owned())));
        if launched.is_err() {
            self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
        launched
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), BackendError> {
        let Some(mut entry) = self.entry(id) else { return Ok(()) };
        // One that is on its way is waited for: every call of the API has an end.
        let container = entry.container.wait_for(Option::is_some).await.ok().and_then(|container| container.clone());
        if let Some(Ok(container)) = container {
            self.shared.end(&container).await?;
        }
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(())
    }

    async fn death(&self, id: SandboxId) -> Option<Death> {
        let container = self.container(id)?;
        container.death().await
    }

    async fn usage(&self, id: SandboxId) -> Option<Usage> {
        let Container { id, failures, mut seen, .. } = self.container(id)?;
        let oom_kills = seen.borrow().oom_kills;
        let daemon = &self.shared.daemon;
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let stats = async { daemon.docker.stats(&id, Some(options)).next().await.transpose() };
        let stats = daemon.call("tell what a container uses", stats).await.ok()??;
        let memory = stats.memory_stats.unwrap_or_default();
        let memory_bytes = memory.usage?;
        // Of version 1 of control groups, too. Kills are told a moment after they happen.
        let count = memory.failcnt.unwrap_or(0);
        if failures.swap(count, Ordering::AcqRel) < count {
            timeout(KILL_IS_TOLD_WITHIN, seen.wait_for(|seen| seen.oom_kills > oom_kills)).await.ok();
        }
        Some(Usage {
            cpu: Duration::from_nanos(stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage).unwrap_or(0)),
            memory_bytes,
            // Of version 1 of control groups alone.
            peak_memory_bytes: memory.max_usage.unwrap_or(memory_bytes),
            oom_kills: seen.borrow().oom_kills,
            pids: stats.pids_stats.and_then(|pids| pids.current).unwrap_or(0),
            // It does not say.
            refused_starts: 0,
        })
    }

    async fn adjust(&self, id: SandboxId, limits: &Limits) -> Result<(), BackendError> {
        let container = self.container(id).ok_or_else(|| BackendError::Failed(format!("nothing is known of sandbox `{id}` any more")))?;
        let daemon = &self.shared.daemon;
        let body = ContainerUpdateBody {
            pids_limit: Some(limits.pids.into()),
            nano_cpus: Some(self.shared.mould.nano_cpus(limits)),
            ..ContainerUpdateBody::default()
        };
        Ok(daemon.call("change the limits of a container", daemon.docker.update_container(&container.id, body)).await?)
    }

    async fn list(&self) -> Result<Vec<Observed>, BackendError> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(entries.keys().map(|id| Observed { id: *id }).collect())
    }

    async fn shutdown(&self) {
        let ids: Vec<SandboxId> = self.entries.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        let ended = futures::future::join_all(ids.into_iter().map(async |id| (id, self.destroy(id).await))).await;
        for (id, result) in ended {
            if let Err(error) = result {
                tracing::error!(sandbox.id = %id, %error, "Sandbox {id} is left to the next start");
            }
        }
        self.listener.abort();
        self.mark.clear(&self.shared.daemon).await;
    }
}

/// Whether it may stand in a path of the API. Which image it is, if any, is for the daemon to say.
fn is_reference(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-:@".contains(c))
    };
    // What has nothing but digits may be an id, or its beginning: who can name that need not know a name.
    let is_id = name.starts_with("sha256:") || name.chars().all(|c| c.is_ascii_hexdigit());
    !is_id && name.split('/').all(is_part)
}

/// An image of the daemon as the store has them; its layers are the daemon's affair.
fn stored(name: &str, image: ImageInspect) -> Option<StoredImage> {
    let id: Digest = image.id?.parse().ok()?;
    let config = image.config.unwrap_or_default();
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let config = ImageConfig {
        env: config
            .env
            .unwrap_or_default()
            .into_iter()
            .filter_map(|pair| pair.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())))
            .collect(),
        work_dir: said(config.working_dir),
        user: said(config.user),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        exposed_ports: config.exposed_ports.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
    };
    Some(StoredImage { name: name.to_owned(), id, layers: Vec::new(), config })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_part_of_the_name() {
        assert_eq!(Docker::runtime("docker"), Some(None));
        assert_eq!(Docker::runtime("docker:runsc"), Some(Some("runsc")));
        assert_eq!(Docker::runtime("docker:io.containerd.kata.v2"), Some(Some("io.containerd.kata.v2")));
        for bad in ["docker:", "dockers", "oci:runc", "docker:a b", "docker:a/b", "native"] {
            assert_eq!(Docker::runtime(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_of_images_lead_nowhere_else() {
        for name in ["x", "a:1", "A/b_c/d.e-f:1.2-x", "localhost:5000/a@sha256:00", "cafe:latest"] {
            assert!(is_reference(name), "{name}");
        }
        for bad in [
            "sha256:00",
            "0123abcdef",
            "a",
            "",
            "..",
            "../containers/x",
            "a/../b",
            "/a",
            "a//b",
            "a/",
            "a?b",
            "a#b",
            "a%2fb",
            "a b",
            "a\n",
            "é",
            ".a",
            "-a",
        ] {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn a_daemon_that_cannot_keep_limits_is_refused() {
        let info = || SystemInfo {
            os_type: Some("linux".to_owned()),
            architecture: Some(std::env::consts::ARCH.to_owned()),
            memory_limit: Some(true),
            pids_limit: Some(true),
            cpu_cfs_quota: Some(true),
            ..SystemInfo::default()
        };
        assert_eq!(suffices(&info(), None), Ok(()));
        for (bad, what) in [
            (SystemInfo { os_type: Some("windows".to_owned()), ..info() }, "Linux"),
            (SystemInfo { architecture: Some("riscv64".to_owned()), ..info() }, "riscv64"),
            (SystemInfo { pids_limit: Some(false), ..info() }, "processes"),
            (SystemInfo { memory_limit: None, ..info() }, "memory"),
        ] {
            let Err(BackendError::Unsupported(text)) = suffices(&bad, None) else { panic!("{what} is missing") };
            assert!(text.contains(what), "{text}");
        }
        let Err(BackendError::Unsupported(text)) = suffices(&info(), Some("runsc")) else { panic!("there is none") };
        assert!(text.contains("no runtime `runsc`"), "{text}");
    }
}
