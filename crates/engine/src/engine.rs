//! [`Engine`]: what the API's operations are.

use std::{
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use caisson_core::{
    Error, Execution, ExecutionFilter, ExecutionId, ExecutionStatus, FileStat, Images, Key, KeyHash, KeyId, Listing, Page, Quotas, Result,
    Sandbox, SandboxFilter, SandboxId, State, StopReason, Store, Stream, StreamTotals, Tenant, Tombstone, TombstoneReason, Usage,
};
use futures::{StreamExt, future::join_all};
use tokio::sync::{Notify, OnceCell, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    activity::Use,
    agent_client::AgentClient,
    backends::{BackendInfo, Backends},
    config::EngineConfig,
    core::{Core, now, store_error, unavailable},
    create,
    egress::{self, Resolver},
    execution,
    execution::Running,
    keys::{Credential, Keys, NewKey, TenantUse},
    metrics::{Metrics, Snapshot},
    oneshot::{self, RunningOneShot},
    output_log::{self, LogConfig},
    pool::{self, Pool},
    registry::{Registry, unknown_execution, unknown_sandbox},
    request::{
        ByteStream, CreateRequest, Created, ExecRequest, ExecutionResult, FileAttributes, OneShotStage, OutputChunk, Progress, RunRequest,
        SandboxUpdate,
    },
    retention,
    sandbox::{End, Living},
    servers, stopped, validate,
};

/// Rows on one page of a list.
pub(crate) const MAX_PAGE: u32 = 1000;
/// Depth of one listing.
const MAX_DEPTH: u32 = 64;
/// How long `shutdown` waits for sandboxes to end.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);
/// How long `destroy` waits for a sandbox that the kernel does not let go.
const DESTROY_WITHIN: Duration = Duration::from_secs(30);

/// The engine as one tenant sees it: a cheap handle. What it does it does in tasks of its own, so a caller that goes away half-creates
/// nothing. Sandboxes and executions of other tenants are not there.
#[derive(Clone)]
pub struct Engine {
    pub(crate) core: Arc<Core>,
    pub(crate) tenant: Tenant,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("tenant", &self.tenant)
            .field("backend", &self.core.backend)
            .field("config", &self.core.config)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts on what the last server left: its sandboxes are ended, what it left running is `lost`. The default tenant's view.
    pub async fn open(config: EngineConfig, backends: impl Into<Backends>, store: Arc<dyn Store>) -> Result<Self> {
        Self::open_with_images(config, backends, store, None).await
    }

    /// The same, with images beside `host`.
    pub async fn open_with_images(
        config: EngineConfig,
        backends: impl Into<Backends>,
        store: Arc<dyn Store>,
        images: Option<Arc<dyn Images>>,
    ) -> Result<Self> {
        let backend = backends.into();
        let logs = LogConfig {
            logs: config.data_dir.join("executions"),
            inline_bytes: config.inline_output_bytes as u64,
            log_bytes: config.log_bytes,
        };
        let directory = logs.logs.clone();
        let made = tokio::task::spawn_blocking(move || make_private(&directory)).await.map_err(std::io::Error::other);
        made.and_then(|made| made)
            .map_err(|error| Error::internal(format!("cannot make the directory `{}`", logs.logs.display()), error))?;
        let fleet = servers::fleet(&config.data_dir, &*store).await?;
        let core = Arc::new(Core {
            registry: Arc::new(Registry::new(config.max_sandboxes)),
            pool: config.pool.then(Pool::default),
            resolver: Resolver::new(config.egress.as_ref().map(|egress| egress.dns.clone()).unwrap_or_default()),
            egress: egress::Figures::default(),
            authority: OnceCell::new(),
            config,
            logs,
            backend,
            keys: Keys::load(&*store).await?,
            store,
            images,
            secret: OnceCell::new(),
            fleet,
            workspaces: OnceLock::new(),
            metrics: Metrics::default(),
            stopped: Notify::new(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        bury(&core).await?;
        core.tasks.spawn(servers::keep_in_touch(Arc::clone(&core)));
        core.tasks.spawn(retention::keep_tidy(Arc::clone(&core)));
        core.tasks.spawn(pool::keep(Arc::clone(&core)));
        core.tasks.spawn(stopped::keep_tidy(Arc::clone(&core)));
        Ok(Self { core, tenant: Tenant::default() })
    }

    /// The same engine as this tenant sees it.
    #[must_use]
    pub fn of(&self, tenant: &Tenant) -> Self {
        Self { core: Arc::clone(&self.core), tenant: tenant.clone() }
    }

    /// The same engine as the tenant of this sandbox sees it, for those who were let in to it by other means than their key. `None` for
    /// one that is not alive.
    #[must_use]
    pub fn of_owner(&self, id: SandboxId) -> Option<Self> {
        Some(self.of(&self.core.registry.owner(id)?))
    }

    /// Whose view this is.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Makes a sandbox and returns when its agent answers; with a name, returns the living one of that name if there is one.
    pub async fn create(&self, request: CreateRequest) -> Result<Created> {
        create::create(&self.core, &self.tenant, request).await
    }

    /// Makes a sandbox and returns when it is recorded; it comes up behind the answer. A name that a living one has is refused.
    pub async fn begin(&self, request: CreateRequest) -> Result<Sandbox> {
        create::begin(&self.core, &self.tenant, request).await
    }

    /// A sandbox, living or ended.
    pub async fn sandbox(&self, id: SandboxId) -> Result<Sandbox> {
        if let Some(living) = self.core.registry.sandbox(&self.tenant, id) {
            living.activity.touch();
            return Ok(living.now());
        }
        if let Some(stopped) = self.core.registry.stopped(&self.tenant, id)
            && let Some(sandbox) = stopped::look(&self.core, &stopped).await
        {
            return Ok(sandbox);
        }
        self.core.store.sandbox(&self.tenant, id).await.map_err(store_error)?.ok_or_else(|| unknown_sandbox(id))
    }

    /// Sandboxes, newest first.
    pub async fn sandboxes(&self, filter: &SandboxFilter) -> Result<Page<Sandbox>> {
        let wanted = filter.limit.clamp(1, MAX_PAGE);
        let mut ask = filter.clone();
        // The store knows who has ended; how the others live is known here alone.
        if filter.states.iter().any(|state| *state != State::Ended) {
            ask.states = State::ALL.into_iter().filter(|state| *state != State::Ended || filter.states.contains(state)).collect();
        }
        let mut data = Vec::new();
        loop {
            ask.limit = wanted - u32::try_from(data.len()).unwrap_or(wanted);
            let page = self.core.store.sandboxes(&self.tenant, &ask).await.map_err(store_error)?;
            let now = page
                .data
                .into_iter()
                .map(|recorded| self.core.registry.sandbox(&self.tenant, recorded.id).map_or(recorded, |living| living.now()));
            data.extend(now.filter(|sandbox| filter.states.is_empty() || filter.states.contains(&sandbox.state)));
            if page.next_cursor.is_none() || data.len() >= wanted as usize {
                return Ok(Page { data, next_cursor: page.next_cursor });
            }
            ask.cursor = page.next_cursor;
        }
    }

    /// Changes time limits and metadata of a living sandbox.
    pub async fn update(&self, id: SandboxId, mut update: SandboxUpdate) -> Result<Sandbox> {
        validate::update(&update)?;
        if let Some(network) = &mut update.network {
            self.core.prepare_network(network).await?;
        }
        if let Some(stopped) = self.core.registry.stopped(&self.tenant, id) {
            let core = Arc::clone(&self.core);
            let (task, change) = (Arc::clone(&stopped), update.clone());
            let updating = self.core.tasks.spawn(async move { stopped::update(&core, &task, change).await });
            if let Some(sandbox) = updating.await.unwrap_or_else(|_| Err(execution::task_ended()))? {
                return Ok(sandbox);
            }
        }
        let living = self.living(id).await?;
        if living.outlet.is_none() {
            update.check_without_network(id)?;
        }
        let begun = living.begin().await?;
        let task = Arc::clone(&living);
        // In a task of its own: a caller that goes away leaves the update whole or undone.
        let updating = self.core.tasks.spawn(async move {
            let result = task.update(update).await;
            drop(begun);
            result
        });
        updating.await.unwrap_or_else(|_| Err(execution::task_ended()))
    }

    /// Ends a sandbox and returns when nothing of it is left. Doing so twice at once is one destruction; afterwards it is `Gone`.
    /// A sandbox that the kernel does not let go is returned as `stopping` after 30 s.
    pub async fn destroy(&self, id: SandboxId) -> Result<Sandbox> {
        let end = End::new(TombstoneReason::Deleted, "deleted on request");
        loop {
            if let Some(living) = self.core.registry.sandbox(&self.tenant, id) {
                living.end(end.clone()).await;
                let Ok(over) = tokio::time::timeout(DESTROY_WITHIN, living.over()).await else { return Ok(living.now()) };
                if over.state == State::Ended {
                    return Ok(over);
                }
                // It was being stopped just then.
            } else if let Some(stopped) = self.core.registry.stopped(&self.tenant, id) {
                let (core, end) = (Arc::clone(&self.core), end.clone());
                let ending = self.core.tasks.spawn(async move { stopped::end(&core, &stopped, end).await });
                if let Some(ended) = ending.await.map_err(|_| execution::task_ended())? {
                    return Ok(ended);
                }
            } else if let Some(ended) = self.core.abandon(&self.tenant, id).await? {
                return Ok(ended);
            } else {
                return Err(stopped::absent(&self.core, &self.tenant, id).await);
            }
        }
    }

    /// Stops a sandbox whose files are kept, and returns when nothing of it runs. Whoever uses it next starts it again. One that is stopped
    /// already stays so.
    pub async fn stop(&self, id: SandboxId) -> Result<Sandbox> {
        if let Some(stopped) = self.core.registry.stopped(&self.tenant, id)
            && let Some(sandbox) = stopped::look(&self.core, &stopped).await
        {
            return match sandbox.tombstone {
                Some(tombstone) => Err(Error::Gone { id: id.to_string(), tombstone }),
                None => Ok(sandbox),
            };
        }
        let Some(living) = self.core.registry.sandbox(&self.tenant, id) else {
            return Err(stopped::absent(&self.core, &self.tenant, id).await);
        };
        stopped::check_can_stop(&living)?;
        if !living.is_stopping() {
            living.ready_agent().await?;
            living.stop(StopReason::Requested).await;
        }
        let over = tokio::time::timeout(DESTROY_WITHIN, living.over()).await.unwrap_or_else(|_| living.now());
        match over.tombstone {
            Some(tombstone) => Err(Error::Gone { id: id.to_string(), tombstone }),
            None => Ok(over),
        }
    }

    /// A sandbox that runs: one that is stopped is started.
    pub async fn wake(&self, id: SandboxId) -> Result<Sandbox> {
        let living = self.living(id).await?;
        living.ready_agent().await?;
        living.activity.touch();
        Ok(living.now())
    }

    /// Stops those sandboxes of all tenants that have this label, and that nobody has used for so long.
    pub async fn stop_idle(&self, label: (&str, &str), unused: Duration) {
        for living in self.core.registry.sandboxes() {
            let has_it = living.now().metadata.get(label.0).is_some_and(|value| value == label.1);
            if has_it && living.is_kept() {
                living.stop_if_unused(unused).await;
            }
        }
    }

    /// What a living sandbox has used.
    pub async fn usage(&self, id: SandboxId) -> Result<Usage> {
        if self.core.registry.stopped(&self.tenant, id).is_some() {
            let message = format!("sandbox `{id}` is stopped: it uses nothing but its disk until somebody uses it");
            return Err(Error::conflict("sandbox_stopped", message));
        }
        let living = self.living(id).await?;
        let _begun = living.begin().await?;
        let usage = match living.state() {
            // Nobody waits for what has used nothing yet.
            State::Creating => None,
            _ => living.usage(&self.core.backend).await,
        };
        usage.ok_or_else(|| unavailable(format!("the usage of sandbox `{id}` is not known at the moment")))
    }

    /// Starts a program in a living sandbox; returns when it runs and is recorded, or why it does not.
    pub async fn exec(&self, id: SandboxId, request: ExecRequest) -> Result<Running> {
        validate::exec(&request)?;
        self.core.accepting()?;
        let living = self.living(id).await?;
        execution::exec(&self.core, living, request).await
    }

    /// The same in a fresh sandbox that is destroyed afterwards.
    pub async fn run(&self, request: RunRequest) -> Result<RunningOneShot> {
        self.run_told(request, watch::Sender::default()).await
    }

    /// The same for whoever wants to know how far it is.
    pub async fn run_told(&self, request: RunRequest, stage: watch::Sender<OneShotStage>) -> Result<RunningOneShot> {
        oneshot::run(&self.core, &self.tenant, request, stage).await
    }

    /// How long records are kept at least.
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.core.config.retention
    }

    /// An execution, running or ended.
    pub async fn execution(&self, id: ExecutionId) -> Result<Execution> {
        if let Some(running) = self.core.registry.execution(&self.tenant, id) {
            if let Some(living) = self.core.registry.sandbox(&self.tenant, running.started.sandbox) {
                living.activity.touch();
            }
            return Ok(running.started.clone());
        }
        self.core.store.execution(&self.tenant, id).await.map_err(store_error)?.ok_or_else(|| unknown_execution(id))
    }

    /// The executions of one sandbox, newest first.
    pub async fn executions(&self, filter: &ExecutionFilter) -> Result<Page<Execution>> {
        self.sandbox(filter.sandbox).await?;
        let ask = ExecutionFilter { limit: filter.limit.clamp(1, MAX_PAGE), ..filter.clone() };
        self.core.store.executions(&self.tenant, &ask).await.map_err(store_error)
    }

    /// A finished execution with its output, as far as that fits inline.
    pub async fn result(&self, id: ExecutionId) -> Result<ExecutionResult> {
        let mut execution = self.execution(id).await?;
        if execution.outcome.is_none() {
            return Err(Error::conflict("execution_running", format!("execution `{id}` is still running")));
        }
        let capture = async |stream| {
            let captured = output_log::capture_finished(&self.core.logs, id, stream, recorded(&execution, stream)).await;
            captured.map_err(|error| Error::internal(format!("the log of execution `{id}` cannot be read"), error))
        };
        let ((stdout, stdout_totals), (stderr, stderr_totals)) = (capture(Stream::Stdout).await?, capture(Stream::Stderr).await?);
        if let Some(outcome) = &mut execution.outcome {
            (outcome.stdout, outcome.stderr) = (stdout_totals, stderr_totals);
        }
        Ok(ExecutionResult { execution, stdout, stderr, changes: Vec::new(), changes_truncated: false, workspace: None })
    }

    /// Sends a signal to the process group of a running program.
    pub async fn signal(&self, id: ExecutionId, signal: i32) -> Result<()> {
        match self.core.registry.execution(&self.tenant, id) {
            Some(running) => running.signal(signal).await,
            None => Err(self.not_running(id).await),
        }
    }

    /// Ends the whole process tree of a running program; returns when it is recorded.
    pub async fn kill(&self, id: ExecutionId) -> Result<()> {
        let Some(running) = self.core.registry.execution(&self.tenant, id) else { return Err(self.not_running(id).await) };
        running.kill();
        let mut progress = running.log.progress();
        // An error means that it has ended as well.
        progress.wait_for(|progress| progress.finished).await.ok();
        Ok(())
    }

    /// How far its output has come; for an execution that has ended, a receiver that holds the final value.
    pub async fn progress(&self, id: ExecutionId) -> Result<watch::Receiver<Progress>> {
        if let Some(running) = self.core.registry.execution(&self.tenant, id) {
            return Ok(running.log.progress());
        }
        let execution = self.execution(id).await?;
        let [stdout_bytes, stderr_bytes] = match (recorded(&execution, Stream::Stdout), recorded(&execution, Stream::Stderr)) {
            (Some(stdout), Some(stderr)) => [stdout.total_bytes, stderr.total_bytes],
            _ => {
                let result = self.result(id).await?;
                [result.stdout.total_bytes, result.stderr.total_bytes]
            }
        };
        Ok(watch::Sender::new(Progress { stdout_bytes, stderr_bytes, finished: true }).subscribe())
    }

    /// Up to `max` bytes of a stream from the first kept one at or after `offset`; `None` when there is nothing there (yet).
    pub async fn output(&self, id: ExecutionId, stream: Stream, offset: u64, max: usize) -> Result<Option<OutputChunk>> {
        let unreadable = |error| Error::internal(format!("the log of execution `{id}` cannot be read"), error);
        if let Some(running) = self.core.registry.execution(&self.tenant, id) {
            return running.log.read(stream, offset, max).await.map_err(unreadable);
        }
        let execution = self.execution(id).await?;
        // It may have started to run only now, or be about to be recorded as finished.
        let recorded = recorded(&execution, stream);
        output_log::read_finished(&self.core.logs.logs, id, stream, recorded, offset, max).await.map_err(unreadable)
    }

    /// Writes a file: it appears whole or not at all, its parents are made.
    pub async fn write_file(&self, id: SandboxId, path: &[u8], attributes: FileAttributes, body: ByteStream) -> Result<FileStat> {
        validate::mode(attributes.mode)?;
        let (living, agent, path, _begun) = self.file(id, path).await?;
        match agent.put_stream(&path, attributes, body).await {
            Ok(stat) => Ok(stat),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// A file's stat and bytes. The sandbox is in use until the stream is read or dropped.
    pub async fn read_file(&self, id: SandboxId, path: &[u8], offset: u64, length: Option<u64>) -> Result<(FileStat, ByteStream)> {
        let (living, agent, path, begun) = self.file(id, path).await?;
        match agent.get(&path, offset, length).await {
            Ok((stat, content)) => {
                let content = content.map(move |chunk| {
                    let _in_use = &begun;
                    chunk
                });
                Ok((stat, Box::pin(content)))
            }
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// What is known of one directory entry.
    pub async fn stat_file(&self, id: SandboxId, path: &[u8]) -> Result<FileStat> {
        let (living, agent, path, _begun) = self.file(id, path).await?;
        match agent.stat(&path).await {
            Ok(stat) => Ok(stat),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// A directory's content, `depth` levels deep, at most `limit` entries, behind the one that is called `after` below it.
    pub async fn list_files(&self, id: SandboxId, path: &[u8], depth: u32, limit: u32, after: Option<&[u8]>) -> Result<Listing> {
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(Error::invalid("limit_out_of_range", format!("field `depth` is {depth}, allowed is 1 to {MAX_DEPTH}")));
        }
        validate::entries(limit)?;
        let (living, agent, path, _begun) = self.file(id, path).await?;
        match agent.list(&path, depth, limit, after).await {
            Ok(listing) => Ok(listing),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// Removes a file, an empty directory, or, with `recursive`, a whole tree.
    pub async fn delete_file(&self, id: SandboxId, path: &[u8], recursive: bool) -> Result<()> {
        let (living, agent, path, _begun) = self.file(id, path).await?;
        match agent.delete(&path, recursive).await {
            Ok(()) => Ok(()),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    }

    /// What makes its sandboxes.
    pub(crate) fn backend(&self) -> &Backends {
        &self.core.backend
    }

    /// What sandboxes can be made by here, the one that is taken where nobody says first.
    #[must_use]
    pub fn backends(&self) -> Vec<BackendInfo> {
        self.core.backend.list()
    }

    /// A new key.
    pub async fn add_key(&self, new: NewKey) -> Result<Key> {
        let added = self.core.keys.add(self.core.ledger()?, new).await;
        self.core.keys_changed();
        added
    }

    /// Revokes a key: it lets nobody in from then on, and whoever is in is shut out at once. Done whether the caller stays or not.
    pub async fn remove_key(&self, id: KeyId) -> Result<()> {
        let core = Arc::clone(&self.core);
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.core.tasks.spawn(async move {
            let removed = match core.ledger() {
                Ok(ledger) => core.keys.remove(ledger, id).await.inspect(|_| core.keys_changed()),
                Err(error) => Err(error),
            };
            let (revoked, result) = match removed {
                Ok(Some(revoked)) => (Some(revoked), Ok(())),
                Ok(None) => (None, Err(Error::not_found("key", id.to_string()))),
                Err(error) => (None, Err(error)),
            };
            // First, so that whoever revokes the own key hears of it.
            drop(reply.send(result));
            drop(revoked);
        });
        answer.await.unwrap_or_else(|_| Err(execution::task_ended()))
    }

    /// The keys of all tenants or of one, newest first.
    pub fn keys(&self, tenant: Option<&Tenant>, limit: u32, cursor: Option<&str>) -> Result<Page<Key>> {
        self.core.keys.page(tenant, limit.clamp(1, MAX_PAGE), cursor)
    }

    /// The key that may have this hash. It is found by the begin of it; the whole has still to be compared.
    #[must_use]
    pub fn credential(&self, hash: &KeyHash) -> Option<Arc<Credential>> {
        self.core.keys.find(hash)
    }

    /// Every tenant, in the order of their names.
    pub fn tenants(&self, limit: u32, cursor: Option<&str>) -> Result<Page<TenantUse>> {
        let Page { data, next_cursor } = self.core.keys.tenants(limit.clamp(1, MAX_PAGE), cursor)?;
        let with_use = |(tenant, quotas)| TenantUse { holdings: self.core.holdings(&tenant), tenant, quotas };
        Ok(Page { data: data.into_iter().map(with_use).collect(), next_cursor })
    }

    /// This tenant with what it may have and what it has.
    #[must_use]
    pub fn tenant_use(&self) -> TenantUse {
        TenantUse { tenant: self.tenant.clone(), quotas: self.core.keys.quotas(&self.tenant), holdings: self.core.holdings(&self.tenant) }
    }

    /// Whether there is this tenant: one with a key, or with quotas.
    #[must_use]
    pub fn knows_tenant(&self, tenant: &Tenant) -> bool {
        self.core.keys.knows(tenant)
    }

    /// Changes what this tenant may have; it comes into being when it was not there. What is in use beyond that stays in use.
    pub async fn set_quotas(&self, quotas: Quotas) -> Result<()> {
        let set = self.core.keys.set_quotas(self.core.ledger()?, &self.tenant, quotas).await;
        self.core.keys_changed();
        set
    }

    /// The engine in numbers.
    #[must_use]
    pub fn metrics(&self) -> Snapshot {
        let Core { metrics, registry, pool, .. } = &*self.core;
        let mut seen = metrics.snapshot(registry.count(), registry.running_executions());
        let (pooled, waiting) = registry.pooled_and_waiting();
        (seen.pooled, seen.waiting) = (pooled as u64, waiting as u64);
        seen.pool = pool.as_ref().map(Pool::snapshot).unwrap_or_default();
        seen.egress = self.core.egress.snapshot();
        seen
    }

    /// Whether new work can be taken.
    pub async fn ready(&self) -> Result<()> {
        self.core.accepting()?;
        self.in_touch()?;
        self.core.store.ping().await.map_err(store_error)
    }

    /// Takes nothing new, ends all sandboxes, waits for their records, shuts the backend down. Whatever takes longer than 10 s is left
    /// to the backend, which ends it all the same, and to the next start, which records it.
    pub async fn shutdown(&self) {
        let core = &self.core;
        core.closing.cancel();
        core.tasks.close();
        if let Some(pool) = &core.pool {
            pool.clear();
        }
        let end = End::new(TombstoneReason::ServerStopped, "the server was shut down");
        let drained = async {
            // Again and again: a create that was let in before may only now register its sandbox.
            loop {
                let living = core.registry.sandboxes();
                if living.is_empty() {
                    break;
                }
                let ending = living.iter().map(|sandbox| async {
                    if sandbox.is_kept() {
                        sandbox.stop(StopReason::ServerStopped).await;
                    } else {
                        sandbox.end(end.clone()).await;
                    }
                    sandbox.over().await;
                });
                join_all(ending).await;
            }
            core.tasks.wait().await;
        };
        let is_drained = tokio::time::timeout(SHUTDOWN_WITHIN, drained).await.is_ok();
        if !is_drained {
            let left = core.registry.sandboxes().len();
            tracing::error!(sandboxes = left, "{left} sandboxes did not end in time; the backend ends them now");
        }
        core.backend.shutdown().await;
        // What is not recorded as ended by now is ended by the others, once the lease is over.
        if is_drained
            && let Some(servers) = core.servers()
            && let Err(error) = servers.leave().await
        {
            tracing::warn!(error = %error, "The other servers wait until the lease of this one is over");
        }
    }

    /// A sandbox that has not ended, which is started where it is stopped; an error says what became of it.
    pub(crate) async fn living(&self, id: SandboxId) -> Result<Arc<Living>> {
        stopped::awake(&self.core, &self.tenant, id).await
    }

    pub(crate) async fn file(&self, id: SandboxId, path: &[u8]) -> Result<(Arc<Living>, AgentClient, Vec<u8>, Use)> {
        // What cannot be a path is wrong whatever becomes of the sandbox.
        validate::path("path", path)?;
        let living = self.living(id).await?;
        let path = validate::absolute_path(&living.work_dir, path)?;
        let begun = living.begin_inside().await?;
        let agent = living.ready_agent().await?;
        Ok((living, agent, path, begun))
    }

    pub(crate) async fn not_running(&self, id: ExecutionId) -> Error {
        match self.execution(id).await {
            Ok(_) => Error::conflict("execution_finished", format!("execution `{id}` has ended")),
            Err(error) => error,
        }
    }
}

/// The totals as recorded; unknown when the server died before it could.
fn recorded(execution: &Execution, stream: Stream) -> Option<StreamTotals> {
    let outcome = execution.outcome.as_ref()?;
    let totals = match stream {
        Stream::Stdout => outcome.stdout,
        Stream::Stderr => outcome.stderr,
    };
    let unknown = outcome.status == ExecutionStatus::Lost && totals == StreamTotals::default();
    (!unknown).then_some(totals)
}

async fn bury(core: &Arc<Core>) -> Result<()> {
    let message = "the server that ran it died".to_owned();
    let tombstone = Tombstone { reason: TombstoneReason::ServerLost, message, at: now() };
    let kept = if core.config.keeps_disks {
        core.backend.kept().await.map_err(|error| Error::internal("cannot list the files of stopped sandboxes", error))?
    } else {
        Vec::new()
    };
    let (sandboxes, executions) = core.store.bury_the_living(&tombstone, &kept).await.map_err(store_error)?;
    if sandboxes + executions > 0 {
        tracing::warn!(sandboxes, executions, "The last server died with {sandboxes} sandboxes and {executions} executions");
    }
    let left = core.backend.list_left().await.map_err(|error| Error::internal("cannot list what the last server left", error))?;
    for observed in left {
        let id = observed.id;
        tracing::warn!(sandbox.id = %id, "Destroying sandbox {id}, which the last server left");
        core.backend.destroy(id).await.map_err(|error| Error::internal(format!("cannot destroy sandbox `{id}`"), error))?;
    }
    stopped::take_over(core, &kept).await
}

fn make_private(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
