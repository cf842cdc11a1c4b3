//! A living sandbox: one task owns it and is the only writer of its state; everybody else holds a [`Living`].

mod hits;
mod life;

pub(crate) use self::{
    hits::Hits,
    life::{LAUNCH_WITHIN, age, destroy, discard},
};

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use caisson_core::{
    BackendError, Error, Event, Files, Image, ImageLease, Limits, Recipe, Result, Sandbox, SandboxId, State, Stop, StopReason, StoreError,
    Tenant, Tombstone, TombstoneReason, Usage, next,
};
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::{
    activity::{Activity, NoUse, Use},
    agent_client::{AgentClient, AgentError},
    backends::Backends,
    contexts::Contexts,
    core::{Core, launch_error, now, store_error, unavailable, unrecorded},
    egress::{self, Outlet},
    figures, pool,
    pool::Warm,
    quotas::Share,
    ready::Ready,
    registry::unknown_sandbox,
    request::SandboxUpdate,
    room::{self, Room},
    stopped::Stopped,
};

/// Commands that wait; whoever sends more waits too.
const COMMANDS_WAITING: usize = 16;
/// Executions and file requests of one sandbox at one time. An agent takes 512 requests; some are left for asking how it is.
const MAX_INSIDE: u16 = 400;
/// How long its task may take to find out why a sandbox does not answer any more.
const END_IS_KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// How long an agent may take to show that it is still there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How long the backend may take to say what was used.
const USAGE_WITHIN: Duration = Duration::from_secs(1);

/// What its task is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// The agent has answered for the first time.
    Answered,
    Update(SandboxUpdate, oneshot::Sender<Result<Sandbox>>),
    End(End),
    /// Only for one whose files are kept.
    Stop(StopReason),
    /// The same, where nobody has used it for so long.
    StopIfUnused(Duration),
}

/// What became of a sandbox of which nothing runs any more.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    Ended(Tombstone),
    Stopped(Stop),
}

/// Why a sandbox is to end.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) reason: TombstoneReason,
    pub(crate) message: String,
}

impl End {
    pub(crate) fn new(reason: TombstoneReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Whether the sandbox is in the store.
#[derive(Debug, Clone)]
pub(crate) enum Recorded {
    Pending,
    Done,
    Failed(Arc<StoreError>),
}

/// How a sandbox comes into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Lives until somebody or some limit ends it.
    Kept,
    /// Ends with its one execution: nobody looks at its record in between.
    OneShot,
}

/// Everybody's view of a sandbox that has not ended.
#[derive(Debug)]
pub(crate) struct Living {
    pub(crate) id: SandboxId,
    pub(crate) tenant: Tenant,
    /// What it takes of its tenant's quotas.
    pub(crate) share: Share,
    pub(crate) work_dir: String,
    pub(crate) image: Image,
    pub(crate) recipe: Recipe,
    pub(crate) limits: Limits,
    /// What becomes of its files.
    pub(crate) files: Files,
    /// Where it was stopped before.
    before: Option<Arc<Stopped>>,
    /// Whether its agent has answered and its set-up was done before it was anybody's.
    pub(crate) was_warm: bool,
    /// Interpreters that waited in it for that.
    ready: Mutex<Option<Ready>>,
    pub(crate) activity: Arc<Activity>,
    /// Its executions: their records are complete before its own is closed.
    pub(crate) executions: TaskTracker,
    pub(crate) contexts: Contexts,
    /// Where it has ways out.
    pub(crate) outlet: Option<Arc<Outlet>>,
    /// The last count of processes killed for want of memory that anybody asked for.
    oom_kills: Arc<AtomicU64>,
    /// Whether it has done all that it is there for.
    spent: AtomicBool,
    commands: mpsc::Sender<Command>,
    record: watch::Receiver<Sandbox>,
    agent: watch::Receiver<Option<AgentClient>>,
    recorded: watch::Receiver<Recorded>,
    launch_error: Arc<OnceLock<BackendError>>,
    /// Held by whoever makes an image of it.
    pub(crate) committing: Arc<tokio::sync::Mutex<()>>,
    /// Keeps the layers of its image where they are.
    lease: Option<ImageLease>,
}

impl Living {
    /// Waits for room for the sandbox and starts its task, which begins with recording and launching it, where no warm one is there to be had.
    /// Then the id is that one's. Cancel-safe: there is all or nothing of it.
    pub(crate) async fn bring_up(core: &Arc<Core>, mut sandbox: Sandbox, lease: Option<ImageLease>, purpose: Purpose) -> Result<Arc<Self>> {
        let room = room::find(core, &sandbox.tenant, Share::of(&sandbox), purpose).await?;
        let warm = pool::take(core, &sandbox.tenant, &sandbox.spec).await;
        if let Some(warm) = &warm {
            sandbox.id = warm.id;
        } else {
            pool::give_way(core).await;
        }
        // It may have waited.
        sandbox.created_at = now();
        sandbox.last_active_at = sandbox.created_at;
        core.accepting()?;
        Ok(Self::start(core, sandbox, lease, purpose, room, warm, None))
    }

    /// The same for one that was stopped: it is launched over its files.
    pub(crate) async fn bring_back(
        core: &Arc<Core>,
        mut sandbox: Sandbox,
        lease: Option<ImageLease>,
        stopped: &Arc<Stopped>,
    ) -> Result<Arc<Self>> {
        let room = room::find(core, &sandbox.tenant, stopped.share.without_disk(), Purpose::Kept).await?;
        pool::give_way(core).await;
        core.accepting()?;
        match next(sandbox.state, Event::Start) {
            Ok(state) => sandbox.state = state,
            Err(denied) => return Err(Error::internal("a sandbox that is not stopped was to be started", denied)),
        }
        sandbox.stop = None;
        sandbox.starts = sandbox.starts.saturating_add(1);
        Ok(Self::start(core, sandbox, lease, Purpose::Kept, room, None, Some(stopped)))
    }

    fn start(
        core: &Arc<Core>,
        mut sandbox: Sandbox,
        lease: Option<ImageLease>,
        purpose: Purpose,
        room: Room,
        mut warm: Option<Warm>,
        before: Option<&Arc<Stopped>>,
    ) -> Arc<Self> {
        // Where it has a network, there is one by now.
        sandbox.spec.certificate = core.authority.get().filter(|_| !sandbox.spec.network.is_none()).map(egress::Authority::pem);
        let files = match (before, purpose) {
            (Some(_), _) => Files::Again,
            (None, Purpose::Kept) => core.files(&sandbox.spec),
            (None, Purpose::OneShot) => Files::Passing,
        };
        let (commands, inbox) = mpsc::channel(COMMANDS_WAITING);
        let record = watch::Sender::new(sandbox.clone());
        let agent = watch::Sender::new(None);
        let recorded = watch::Sender::new(if before.is_some() { Recorded::Done } else { Recorded::Pending });
        let activity = Arc::new(Activity::new(now()));
        let (launch_error, oom_kills) = (Arc::default(), Arc::default());
        let network = &sandbox.spec.network;
        let outlet = (!network.is_none()).then(|| Arc::new(Outlet::new(network.clone())));
        let living = Arc::new(Self {
            id: sandbox.id,
            tenant: sandbox.tenant.clone(),
            share: Share::of(&sandbox),
            work_dir: sandbox.spec.work_dir.clone(),
            image: sandbox.spec.image.clone(),
            recipe: sandbox.spec.recipe.clone(),
            limits: sandbox.spec.limits,
            files,
            before: before.cloned(),
            was_warm: warm.is_some(),
            ready: Mutex::new(warm.as_mut().and_then(|warm| warm.ready.take())),
            activity: Arc::clone(&activity),
            executions: TaskTracker::new(),
            contexts: Contexts::default(),
            outlet: outlet.clone(),
            oom_kills: Arc::clone(&oom_kills),
            spent: AtomicBool::new(false),
            commands,
            record: record.subscribe(),
            agent: agent.subscribe(),
            recorded: recorded.subscribe(),
            launch_error: Arc::clone(&launch_error),
            committing: Arc::default(),
            lease,
        });
        core.registry.admit(Arc::clone(&living), room, warm.is_some());
        if let Some(warm) = &mut warm {
            warm.admitted();
        }
        let executions = living.executions.clone();
        let (keeper, guarded) = (Arc::clone(core), Arc::clone(&living));
        let life = life::Life {
            core: Arc::clone(core),
            purpose,
            files,
            before: before.map(|stopped| stopped.now()),
            warm,
            foreground: None,
            activity,
            executions,
            oom_kills,
            record,
            agent,
            recorded,
            launch_error,
            inbox,
            outlet: outlet.clone(),
        };
        if let Some(outlet) = outlet {
            core.tasks.spawn(egress::serve(Arc::clone(core), Arc::clone(&living), outlet));
        }
        core.tasks.spawn(async move {
            if AssertUnwindSafe(life.run()).catch_unwind().await.is_err() {
                life::Life::after_panic(&keeper, &guarded).await;
            }
        });
        living
    }

    /// The interpreters that wait in it, to whoever runs code there first or ends them.
    pub(crate) fn take_ready(&self) -> Option<Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whoever waits for what it is there for is about to be answered.
    pub(crate) fn is_spent(&self) {
        self.spent.store(true, Ordering::Release);
    }

    /// Whether it is ending, or will at once.
    pub(crate) fn is_ending(&self) -> bool {
        self.spent.load(Ordering::Acquire) || self.state() == State::Stopping
    }

    pub(crate) fn state(&self) -> State {
        self.record.borrow().state
    }

    /// The record as it is now.
    pub(crate) fn now(&self) -> Sandbox {
        let mut sandbox = self.record.borrow().clone();
        sandbox.last_active_at = self.activity.last_active_at();
        sandbox
    }

    /// Begins a use: as long as it lasts, the sandbox is not idle.
    pub(crate) async fn begin(&self) -> Result<Use> {
        match self.activity.begin() {
            Some(begun) => Ok(begun),
            None => Err(self.why_ended().await),
        }
    }

    /// The same for what goes to the agent, of which there can only be so much at one time.
    pub(crate) async fn begin_inside(&self) -> Result<Use> {
        match self.activity.begin_within(MAX_INSIDE) {
            Ok(begun) => Ok(begun),
            Err(NoUse::Closed) => Err(self.why_ended().await),
            Err(NoUse::Full) => {
                let message =
                    format!("sandbox `{}` has {MAX_INSIDE} executions and file requests under way; wait for some to end", self.id);
                Err(Error::QuotaExceeded { message })
            }
        }
    }

    /// The agent of a sandbox whose agent has answered; waits for one that is still coming up.
    pub(crate) async fn ready_agent(&self) -> Result<AgentClient> {
        let mut record = self.record.clone();
        let state = record.wait_for(|sandbox| sandbox.state != State::Creating).await.map(|sandbox| sandbox.state);
        match state {
            Ok(State::Running) => self.agent().await,
            _ => Err(self.why_ended().await),
        }
    }

    /// The agent as soon as there is a stream to it, whether it has answered yet or not.
    pub(crate) async fn agent(&self) -> Result<AgentClient> {
        let (mut agent, mut record) = (self.agent.clone(), self.record.clone());
        let found = tokio::select! {
            // Losing means that there will be none.
            found = agent.wait_for(Option::is_some) => found.ok().and_then(|agent| agent.clone()),
            // Its end waits for those who wait here, so they must not wait for it to be complete. Losing means that there is an agent.
            _ = record.wait_for(Sandbox::is_over) => None,
        };
        match found {
            Some(agent) => Ok(agent),
            None => Err(self.why_ended().await),
        }
    }

    /// Returns when the record is in the store.
    pub(crate) async fn recorded(&self) -> Result<(), Arc<StoreError>> {
        let mut recorded = self.recorded.clone();
        match recorded.wait_for(|recorded| !matches!(recorded, Recorded::Pending)).await.as_deref() {
            Ok(Recorded::Done) => Ok(()),
            Ok(Recorded::Failed(error)) => Err(Arc::clone(error)),
            Ok(Recorded::Pending) | Err(_) => Err(Arc::new(StoreError::Unavailable("the sandbox ended before it was recorded".into()))),
        }
    }

    /// Tells its task that the agent has answered.
    pub(crate) async fn answered(&self) {
        // A task that takes no commands any more has news of its own.
        self.commands.send(Command::Answered).await.ok();
    }

    /// What it is while it is stopped.
    pub(crate) fn at_rest(&self, record: Sandbox) -> Arc<Stopped> {
        match &self.before {
            Some(stopped) => {
                stopped.again(record, self.lease.clone());
                Arc::clone(stopped)
            }
            None => Arc::new(Stopped::new(record, self.lease.clone())),
        }
    }

    /// Whether it can be stopped and started again.
    pub(crate) fn is_kept(&self) -> bool {
        self.files != Files::Passing
    }

    /// Whether it has been stopped, or is being.
    pub(crate) fn is_stopping(&self) -> bool {
        self.record.borrow().stop.is_some()
    }

    /// Asks for it to be stopped. Only for one whose files are kept.
    pub(crate) async fn stop(&self, reason: StopReason) {
        // A task that takes no commands any more is ending or stopping the sandbox already.
        self.commands.send(Command::Stop(reason)).await.ok();
    }

    /// The same, where nobody has used it for so long.
    pub(crate) async fn stop_if_unused(&self, time: Duration) {
        self.commands.send(Command::StopIfUnused(time)).await.ok();
    }

    /// Asks for its end. It does not matter how many ask: the first reason counts.
    pub(crate) async fn end(&self, end: End) {
        // A task that takes no commands any more is ending the sandbox already.
        self.commands.send(Command::End(end)).await.ok();
    }

    /// Returns when it is known that what runs in it ends. Cancel-safe.
    pub(crate) async fn ending(&self) {
        let mut record = self.record.clone();
        // An error means that its task has gone, which it does last of all.
        record.wait_for(Sandbox::is_over).await.ok();
    }

    /// The record as soon as it is as wanted. Cancel-safe.
    pub(crate) async fn when(&self, wanted: impl Fn(&Sandbox) -> bool) -> Sandbox {
        let mut record = self.record.clone();
        // An error means that its task has gone, which it does last of all.
        record.wait_for(|sandbox| wanted(sandbox)).await.ok();
        self.now()
    }

    /// Returns when nothing of it runs: it has ended, or is stopped.
    pub(crate) async fn over(&self) -> Sandbox {
        let mut record = self.record.clone();
        // An error means that its task has gone, which it does last of all.
        record.wait_for(|sandbox| matches!(sandbox.state, State::Stopped | State::Ended)).await.ok();
        self.record.borrow().clone()
    }

    pub(crate) async fn update(&self, update: SandboxUpdate) -> Result<Sandbox> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Update(update, reply)).await.is_ok()
            && let Ok(result) = answer.await
        {
            return result;
        }
        Err(self.why_ended().await)
    }

    /// What becomes of it, as soon as its task has found out; `None` when it goes on.
    pub(crate) async fn fate(&self) -> Option<Fate> {
        let mut record = self.record.clone();
        let known = record.wait_for(Sandbox::is_over);
        // An error means that its task has gone.
        tokio::time::timeout(END_IS_KNOWN_WITHIN, known).await.ok()?.ok();
        let sandbox = self.record.borrow();
        sandbox.tombstone.clone().map(Fate::Ended).or(sandbox.stop.map(Fate::Stopped))
    }

    /// The error for somebody who wanted something of a sandbox that takes nothing any more.
    pub(crate) async fn why_ended(&self) -> Error {
        let fate = self.fate().await;
        // Comes first: what was not recorded is ended, and that is no failure of the launch.
        if let Recorded::Failed(cause) = &*self.recorded.borrow() {
            return unrecorded(Arc::clone(cause));
        }
        if let Some(error) = self.launch_error.get() {
            return launch_error(error);
        }
        match fate {
            Some(Fate::Ended(tombstone)) => Error::Gone { id: self.id.to_string(), tombstone },
            Some(Fate::Stopped(_)) => unavailable(format!("sandbox `{}` was just stopped; ask again, and it is started", self.id)),
            None if self.record.has_changed().is_err() => unknown_sandbox(self.id),
            None => unavailable(format!("sandbox `{}` did not answer", self.id)),
        }
    }

    /// Whether its agent is still there: one that is only busy answers this.
    pub(crate) async fn answers(&self) -> bool {
        let agent = self.agent.borrow().clone();
        match agent {
            Some(agent) => agent.health(ANSWERS_WITHIN).await.is_ok(),
            None => false,
        }
    }

    /// What an agent's failure means for the caller. Nonsense and an agent that has fallen silent for good end the sandbox.
    pub(crate) async fn failed(&self, error: AgentError) -> Error {
        match error {
            AgentError::Refused(refusal) => refused(refusal, &self.limits),
            // One exchange alone: nobody has to wait for the end of a sandbox that goes on.
            AgentError::Lost(_) if self.answers().await => unavailable(error.to_string()),
            AgentError::Lost(_) => self.why_ended().await,
            AgentError::Nonsense(what) => {
                self.end(End::new(TombstoneReason::Crashed, format!("its agent broke the protocol: {what}"))).await;
                self.why_ended().await
            }
            AgentError::Silent(_) if self.answers().await => unavailable(error.to_string()),
            AgentError::Silent(_) => {
                self.end(End::new(TombstoneReason::Crashed, "its agent does not answer any more")).await;
                self.why_ended().await
            }
            // Whoever makes the stream found that it is none of the kind that was announced.
            AgentError::Upload(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
                Error::invalid("invalid_archive", format!("the upload cannot be read: {cause}"))
            }
            AgentError::Upload(cause) => Error::invalid("upload_failed", format!("the upload broke off: {cause}")),
            AgentError::TooLarge(max) => {
                let message = format!("the answer is larger than {}; ask for less", figures::bytes(max as u64));
                Error::TooLarge { message }
            }
        }
    }

    /// The same where it is about a path inside.
    pub(crate) async fn failed_at(&self, path: &[u8], error: AgentError) -> Error {
        match error {
            AgentError::Refused(refusal) if refusal.code == caisson_wire::RefusalCode::NotFound => {
                Error::not_found("file", String::from_utf8_lossy(path).escape_debug().to_string())
            }
            other => self.failed(other).await,
        }
    }

    /// Whether it is the one that has this name.
    pub(crate) fn holds(&self, name: &str) -> bool {
        matches!(*self.recorded.borrow(), Recorded::Done) && self.record.borrow().name.as_deref() == Some(name)
    }

    /// What it has used, when the backend says so in time.
    pub(crate) async fn usage(&self, backend: &Backends) -> Option<Usage> {
        tokio::time::timeout(USAGE_WITHIN, backend.usage(self.id)).await.ok().flatten()
    }

    /// Whether anything in it was killed for want of memory, as far as that is known.
    pub(crate) fn has_been_out_of_memory(&self) -> bool {
        self.oom_kills.load(Ordering::Acquire) > 0
    }

    /// How often it has met its limits by now. A backend that does not say has counted nothing.
    pub(crate) async fn hits(&self, backend: &Backends) -> Hits {
        let hits = self.usage(backend).await.map(Hits::from).unwrap_or_default();
        self.oom_kills.fetch_max(hits.oom_kills, Ordering::AcqRel);
        hits
    }
}

/// A refusal of the agent as a caller sees it.
fn refused(refusal: caisson_wire::Refusal, limits: &Limits) -> Error {
    use caisson_wire::RefusalCode as Code;
    let message = figures::tamed(&refusal.message, 1000);
    match refusal.code {
        Code::Invalid => Error::invalid("invalid_path", message),
        Code::Image => Error::invalid("invalid_image", message),
        Code::NotFound => Error::invalid("not_found_inside", message),
        Code::AlreadyExists => Error::conflict("already_exists", message),
        Code::InvalidArchive => Error::invalid("invalid_archive", message),
        Code::InvalidPattern => Error::invalid("invalid_pattern", message),
        Code::ProgramNotFound => Error::invalid("program_not_found", message),
        Code::PermissionDenied => Error::invalid("permission_denied", message),
        Code::NotExecutable => Error::invalid("not_executable", message),
        Code::NotADirectory => Error::conflict("not_a_directory", message),
        Code::IsADirectory => Error::conflict("is_a_directory", message),
        Code::DirectoryNotEmpty => Error::conflict("directory_not_empty", message),
        Code::NotAFile => Error::conflict("not_a_file", message),
        Code::NotListening => Error::conflict("port_not_listening", message),
        Code::NoCheckpoint => Error::conflict("no_checkpoint", message),
        Code::TooManyCheckpoints => Error::conflict("too_many_checkpoints", message),
        Code::TreeTooLarge => Error::conflict("tree_too_large", message),
        Code::PatchTooLarge => Error::conflict("patch_too_large", message),
        Code::Changing => Error::conflict("files_changing", message),
        Code::TooSlow => Error::conflict("checkpoint_too_slow", message),
        Code::NoSpace => {
            let (bytes, inodes) = (figures::bytes(limits.disk_bytes), limits.disk_inodes);
            Error::QuotaExceeded { message: format!("disk: limit {bytes} and {inodes} files; {message}") }
        }
        Code::Exhausted => {
            let Limits { pids, open_files, memory_bytes, .. } = limits;
            let memory = figures::bytes(*memory_bytes);
            let message = format!("limits: {pids} processes and threads, {open_files} open files, {memory} of memory; {message}");
            Error::QuotaExceeded { message }
        }
        Code::Failed => Error::conflict("failed_inside", message),
    }
}

/// For a sandbox whose record could not be written.
pub(crate) fn not_recorded(error: Arc<StoreError>) -> Error {
    match Arc::try_unwrap(error) {
        Ok(error) => store_error(error),
        Err(shared) => Error::Unavailable {
            message: "the database did not answer".to_owned(),
            retry_after: crate::core::RETRY_AFTER,
            cause: Some(Box::new(shared)),
        },
    }
}
