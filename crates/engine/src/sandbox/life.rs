//! The task that owns one sandbox, from its record to its tombstone.
//!
//! ```text
//! record ∥ launch ─▶ connected ─▶ answered ─▶ … ─▶ end  ─▶ destroy ─▶ executions recorded ─▶ tombstone recorded
//!                                                └▶ stop ─▶ destroy ─▶ executions recorded ─▶ stop recorded: its files are kept
//! ```
//! One that is started again has a life of its own, from its launch on; one whose start fails is stopped as it was.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use caisson_core::{
    BackendError, Event, Files, Recipe, Result, Sandbox, SandboxId, State, Stop, StopReason, StoreError, Tombstone, TombstoneReason, next,
};
use futures::{FutureExt, future::Fuse};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{Command, End, Living, Purpose, Recorded};
use crate::{
    activity::Activity,
    agent_client::{self, AgentClient, AgentError},
    core::{Core, now, store_error, to_microsecond},
    egress::Outlet,
    endings::{self, Ending},
    figures,
    pool::{Foreground, Warm},
    request::SandboxUpdate,
};

/// From the request until the agent has answered.
pub(crate) const LAUNCH_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at whether a sandbox is still in use.
const WHILE_IN_USE: Duration = Duration::from_millis(50);
/// How long the records of its executions are waited for.
const EXECUTIONS_END_WITHIN: Duration = Duration::from_secs(10);
/// Between two attempts to destroy what does not go; grows up to the longest.
const RETRY_DESTROY: Duration = Duration::from_millis(200);
const RETRY_DESTROY_MAX: Duration = Duration::from_secs(30);

/// How often it is recorded of one whose files are kept when somebody last used it: whatever becomes of the server, its idle time is known.
const ACTIVITY_RECORDED_EVERY: Duration = Duration::from_secs(10);

const NOT_RECORDED: &str = "it could not be recorded";

type Connecting = Pin<Box<dyn Future<Output = Result<(AgentClient, oneshot::Receiver<String>), NotConnected>> + Send>>;
type Recording<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

/// Why nothing of it is to run any more.
enum Close {
    End(End),
    Stop(StopReason),
}

/// Why there is no agent to talk to.
enum NotConnected {
    /// The backend refused.
    Launch(BackendError),
    /// The stream it handed over broke at once; the backend knows why.
    Stream(AgentError),
}

pub(super) struct Life {
    pub(super) core: Arc<Core>,
    pub(super) purpose: Purpose,
    pub(super) files: Files,
    /// As it was while it was stopped.
    pub(super) before: Option<Sandbox>,
    /// What was there before it was anybody's.
    pub(super) warm: Option<Warm>,
    /// While somebody waits for its agent.
    pub(super) foreground: Option<Foreground>,
    pub(super) activity: Arc<Activity>,
    pub(super) executions: TaskTracker,
    pub(super) oom_kills: Arc<AtomicU64>,
    pub(super) record: watch::Sender<Sandbox>,
    pub(super) agent: watch::Sender<Option<AgentClient>>,
    pub(super) recorded: watch::Sender<Recorded>,
    pub(super) launch_error: Arc<OnceLock<BackendError>>,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) outlet: Option<Arc<Outlet>>,
}

impl Life {
    pub(super) async fn run(mut self) {
        let sandbox = self.record.borrow().clone();
        let core = Arc::clone(&self.core);
        if self.before.is_some() {
            let recorded: Recording<'_> = Box::pin(std::future::ready(Ok(())));
            let close = self.live(&sandbox, &mut Fuse::terminated(), true).await;
            return self.take_down(sandbox.id, close, recorded.fuse()).await;
        }
        let mut recording: Fuse<Recording<'_>> = core.store.insert_sandbox(&sandbox).fuse();
        // A name must be ours before anything is launched under it; without one, recording and launching overlap.
        if sandbox.name.is_some()
            && let Err(error) = (&mut recording).await
        {
            let may_be_recorded = !matches!(error, StoreError::NameTaken(_));
            self.recorded.send_replace(Recorded::Failed(Arc::new(error)));
            self.activity.close();
            self.core.registry.forget_sandbox(sandbox.id);
            if may_be_recorded {
                // It would keep its name for ever.
                drop(endings::spawn(&self.core, Ending::Sandbox(Box::new(never_made(sandbox.clone())))));
            }
            return;
        }
        if sandbox.name.is_some() {
            self.recorded.send_replace(Recorded::Done);
        }
        let close = self.live(&sandbox, &mut recording, sandbox.name.is_some()).await;
        self.take_down(sandbox.id, close, recording).await;
    }

    /// Until there is a reason to end or to stop.
    async fn live(&mut self, sandbox: &Sandbox, recording: &mut Fuse<Recording<'_>>, mut is_recorded: bool) -> Close {
        let mut record_activity_at = (self.files != Files::Passing).then(|| Instant::now() + ACTIVITY_RECORDED_EVERY);
        let mut connecting = self.connect(sandbox).fuse();
        let mut lost = Fuse::terminated();
        loop {
            let wake = record_activity_at.into_iter().chain([self.next_deadline()]).min().unwrap_or_else(Instant::now);
            tokio::select! {
                // Polled to the end here or in `take_down`: it is not lost.
                result = &mut *recording, if !is_recorded => match result {
                    Ok(()) => {
                        is_recorded = true;
                        self.recorded.send_replace(Recorded::Done);
                    }
                    Err(error) => {
                        self.recorded.send_replace(Recorded::Failed(Arc::new(error)));
                        return Close::End(End::new(TombstoneReason::LaunchFailed, NOT_RECORDED));
                    }
                },
                // Kept between rounds; dropped only when we leave, and then `take_down` destroys whatever came of it.
                result = &mut connecting => match result {
                    Ok((agent, ended)) => {
                        self.agent.send_replace(Some(agent));
                        lost = ended.fuse();
                    }
                    Err(NotConnected::Launch(error)) => return Close::End(self.launch_failed(error)),
                    Err(NotConnected::Stream(error)) => return self.explain_loss(sandbox, Some(error.to_string())).await,
                },
                // Kept between rounds.
                how = &mut lost => return self.explain_loss(sandbox, how.ok()).await,
                // `recv` loses nothing when another arm wins.
                command = self.inbox.recv() => match command {
                    Some(Command::End(end)) => return Close::End(end),
                    Some(Command::Stop(reason)) => return self.stop(reason),
                    Some(Command::StopIfUnused(time)) => {
                        let is_unused = self.activity.last_used().elapsed() >= time && self.activity.close_if_unused();
                        if is_unused {
                            return self.stop(StopReason::Idle);
                        }
                    }
                    Some(Command::Update(update, reply)) => {
                        let result = self.update(update).await;
                        // Whoever asked may have gone; the change stands.
                        reply.send(result).ok();
                    }
                    Some(Command::Answered) => self.answered(self.purpose == Purpose::Kept && is_recorded).await,
                    None => return Close::End(End::new(TombstoneReason::Crashed, "nobody holds it any more")),
                },
                // Computed anew in every round.
                () = tokio::time::sleep_until(wake) => {
                    if let Some(end) = self.due() {
                        return Close::End(end);
                    }
                    if record_activity_at.is_some_and(|at| at <= Instant::now()) {
                        record_activity_at = Some(Instant::now() + ACTIVITY_RECORDED_EVERY);
                        self.record_activity().await;
                    }
                }
            }
        }
    }

    fn connect(&mut self, sandbox: &Sandbox) -> Connecting {
        if let Some(warm) = self.warm.take() {
            return Box::pin(std::future::ready(Ok(warm.hand_out())));
        }
        self.foreground = Foreground::begin(&self.core);
        let (core, id, spec, files) = (Arc::clone(&self.core), sandbox.id, sandbox.spec.clone(), self.files);
        Box::pin(async move {
            let stream = core.backend.launch(id, &spec, files).await.map_err(NotConnected::Launch)?;
            agent_client::connect(stream, &core.tasks).await.map_err(NotConnected::Stream)
        })
    }

    async fn answered(&mut self, is_to_be_saved: bool) {
        self.foreground = None;
        let mut running = self.record.borrow().clone();
        // The second to say so has nothing to add.
        let Ok(state) = next(running.state, Event::AgentReady) else { return };
        running.state = state;
        // What somebody is told of it holds whatever becomes of the server: first the record, where its files are kept.
        let is_kept = self.files != Files::Passing;
        if is_to_be_saved && is_kept {
            self.save(&running).await;
        }
        let id = running.id;
        self.record.send_replace(running.clone());
        let after = self.activity.born().elapsed();
        self.core.metrics.launched(after);
        tracing::debug!(sandbox.id = %id, duration_ms = millis(after), "Launched sandbox {id}");
        if is_to_be_saved && !is_kept {
            self.save(&running).await;
        }
    }

    /// What becomes of a sandbox that is to be stopped: one that has never run has nothing to be kept.
    fn stop(&self, reason: StopReason) -> Close {
        if self.files == Files::Kept && self.record.borrow().state == State::Creating {
            let (reason, message) = match reason {
                StopReason::ServerStopped => (TombstoneReason::ServerStopped, "the server was shut down"),
                _ => (TombstoneReason::LaunchFailed, "it was stopped before it was ready"),
            };
            return Close::End(End::new(reason, message));
        }
        Close::Stop(reason)
    }

    async fn record_activity(&self) {
        let at = to_microsecond(self.activity.last_active_at());
        let is_new = self.record.send_if_modified(|sandbox| {
            let is_new = sandbox.last_active_at < at && sandbox.state == State::Running;
            if is_new {
                sandbox.last_active_at = at;
            }
            is_new
        });
        if is_new {
            let sandbox = self.record.borrow().clone();
            self.save(&sandbox).await;
        }
    }

    /// How old it was when it was started this time.
    fn lived(&self) -> Duration {
        self.before.as_ref().map_or(Duration::ZERO, |before| age(before.created_at, self.activity.born_at()))
    }

    fn launch_failed(&self, error: BackendError) -> End {
        let end = End::new(TombstoneReason::LaunchFailed, error.to_string());
        // Set once: a launch fails once.
        self.launch_error.set(error).ok();
        end
    }

    /// The agent's stream has ended: asks the backend why. One whose files are kept is stopped when it has done nothing to its end.
    async fn explain_loss(&self, sandbox: &Sandbox, how: Option<String>) -> Close {
        Close::End(match self.core.backend.death(sandbox.id).await {
            Some(caisson_core::Death { launch_error: Some(error), .. }) => self.launch_failed(error),
            Some(death) if death.of_all && self.files != Files::Passing && self.record.borrow().state != State::Creating => {
                return Close::Stop(StopReason::ServerLost);
            }
            // Those that were known before were of its programs, and it has gone on without them.
            Some(death) if death.oom_kills > self.oom_kills.load(Ordering::Acquire) => {
                let limit = figures::bytes(sandbox.spec.limits.memory_bytes);
                End::new(TombstoneReason::OutOfMemory, format!("memory limit {limit}"))
            }
            Some(death) => End::new(TombstoneReason::Crashed, death.how),
            None => {
                let how = how.unwrap_or_else(|| "unknown".to_owned());
                End::new(TombstoneReason::Crashed, format!("the stream to its agent ended: {how}"))
            }
        })
    }

    async fn update(&self, update: SandboxUpdate) -> Result<Sandbox> {
        self.activity.touch();
        let before = self.record.borrow().clone();
        let mut after = before.clone();
        update.apply(&mut after);
        after.last_active_at = to_microsecond(self.activity.last_active_at());
        if after != before {
            self.core.store.update_sandbox(&after).await.map_err(store_error)?;
            self.record.send_replace(after.clone());
        }
        if after.spec.network != before.spec.network
            && let Some(outlet) = &self.outlet
        {
            outlet.set(after.spec.network.clone());
        }
        Ok(after)
    }

    /// When to look at the time limits next.
    fn next_deadline(&self) -> Instant {
        let sandbox = self.record.borrow();
        let born = self.activity.born();
        let lifetime = sandbox.time_limits.lifetime.map(|lifetime| born + lifetime.saturating_sub(self.lived()));
        let idle = sandbox.time_limits.idle_timeout.map(|idle| match self.activity.in_use() {
            // The clock starts when the use is over: there is nothing to look at every millisecond until then.
            true => Instant::now() + idle.max(WHILE_IN_USE),
            false => self.activity.last_used() + idle,
        });
        let launch = (sandbox.state == State::Creating).then(|| born + launch_within(&sandbox));
        [lifetime, idle, launch].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    /// Whether a time limit is over.
    fn due(&self) -> Option<End> {
        let sandbox = self.record.borrow();
        let age = self.activity.born().elapsed();
        if let Some(lifetime) = sandbox.time_limits.lifetime
            && age + self.lived() >= lifetime
        {
            return Some(End::new(TombstoneReason::Lifetime, format!("its lifetime of {} is over", figures::seconds(lifetime))));
        }
        if sandbox.state == State::Creating && age >= launch_within(&sandbox) {
            let message = format!("it was not ready within {}", figures::seconds(launch_within(&sandbox)));
            return Some(End::new(TombstoneReason::LaunchFailed, message));
        }
        let idle = sandbox.time_limits.idle_timeout?;
        if self.activity.last_used().elapsed() >= idle && self.activity.close_if_unused() {
            return Some(End::new(TombstoneReason::IdleTimeout, format!("nothing happened in it for {}", figures::seconds(idle))));
        }
        None
    }

    async fn take_down(mut self, id: SandboxId, close: Close, recording: Fuse<Recording<'_>>) {
        self.activity.close();
        self.inbox.close();
        let started = Instant::now();
        let never_ran = self.record.borrow().state == State::Creating;
        if never_ran
            && let Close::End(end) = &close
            && let Some(error) = told_to_the_waiting(end)
        {
            // Whoever set it before knows better.
            self.launch_error.set(error).ok();
        }
        let close = self.unless_it_only_did_not_start(close, never_ran);
        self.record.send_modify(|sandbox| {
            let event = match &close {
                Close::End(end) => {
                    sandbox.tombstone = Some(Tombstone { reason: end.reason, message: end.message.clone(), at: now() });
                    Event::Destroy
                }
                Close::Stop(reason) => {
                    let before = self.before.as_ref().and_then(|before| before.stop).filter(|_| never_ran);
                    sandbox.stop = Some(before.unwrap_or(Stop { reason: *reason, at: now() }));
                    Event::Stop
                }
            };
            sandbox.last_active_at = to_microsecond(self.activity.last_active_at());
            step(sandbox, if never_ran { Event::LaunchFailed } else { event });
        });
        if matches!(&close, Close::End(end) if end.reason == TombstoneReason::LaunchFailed) {
            self.core.metrics.launch_failed();
        }
        let free = async {
            match &close {
                Close::End(_) => destroy(&self.core, id).await,
                Close::Stop(_) => end_processes(&self.core, id).await,
            }
        };
        // Its executions wait for its record, and below they are waited for.
        let ((), may_be_recorded) = tokio::join!(free, self.settle(recording));
        self.agent.send_replace(None);
        self.executions.close();
        if tokio::time::timeout(EXECUTIONS_END_WITHIN, self.executions.wait()).await.is_err() {
            tracing::error!(sandbox.id = %id, "Executions of sandbox {id} did not end with it");
        }
        match close {
            Close::End(end) => self.finish(id, &end, may_be_recorded, millis(started.elapsed())).await,
            Close::Stop(_) => self.rest(id, never_ran, millis(started.elapsed())).await,
        }
    }

    /// One that was stopped and cannot be started stays stopped: its files are all there.
    fn unless_it_only_did_not_start(&self, close: Close, never_ran: bool) -> Close {
        use TombstoneReason as Reason;
        match close {
            Close::End(End { reason: Reason::LaunchFailed | Reason::Crashed | Reason::OutOfMemory | Reason::SetupFailed, message })
                if never_ran && self.before.is_some() =>
            {
                let id = self.record.borrow().id;
                tracing::warn!(sandbox.id = %id, "Cannot start sandbox {id} again: {message}");
                // As before.
                Close::Stop(StopReason::Requested)
            }
            close => close,
        }
    }

    /// It has ended, and nothing of it is left.
    async fn finish(self, id: SandboxId, end: &End, may_be_recorded: bool, duration_ms: u64) {
        let ended = {
            let mut ended = self.record.borrow().clone();
            step(&mut ended, Event::TornDown);
            if let Some(tombstone) = &mut ended.tombstone {
                tombstone.at = now();
            }
            ended
        };
        // A record that was never written needs no tombstone.
        if may_be_recorded {
            endings::record(&self.core, Ending::Sandbox(Box::new(ended.clone()))).await;
        }
        self.core.metrics.sandbox_ended(end.reason);
        self.core.registry.forget_sandbox(id);
        self.record.send_replace(ended);
        let (reason, message) = (end.reason.as_str(), &end.message);
        if matches!(end.reason, TombstoneReason::Crashed | TombstoneReason::LaunchFailed) {
            tracing::warn!(sandbox.id = %id, reason, duration_ms, "Sandbox {id} ended: {reason}: {message}");
        } else {
            tracing::debug!(sandbox.id = %id, reason, duration_ms, "Sandbox {id} ended: {reason}: {message}");
        }
    }

    /// Nothing of it runs, and its files stay.
    async fn rest(self, id: SandboxId, never_ran: bool, duration_ms: u64) {
        let stopped = match &self.before {
            Some(before) if never_ran => before.clone(),
            _ => {
                let mut stopped = self.record.borrow().clone();
                step(&mut stopped, Event::Kept);
                // What its template had done is in its files.
                stopped.spec.recipe = Recipe { template: stopped.spec.recipe.template.take(), ..Recipe::default() };
                endings::record(&self.core, Ending::Sandbox(Box::new(stopped.clone()))).await;
                stopped
            }
        };
        self.core.registry.rest(id, &stopped);
        let reason = stopped.stop.map_or("unknown", |stop| stop.reason.as_str());
        self.record.send_replace(stopped);
        self.core.stopped.notify_one();
        tracing::debug!(sandbox.id = %id, reason, duration_ms, "Stopped sandbox {id}: {reason}");
    }

    /// Whether it may have come to be recorded: a database that breaks off does not say.
    async fn settle(&self, recording: Fuse<Recording<'_>>) -> bool {
        if matches!(*self.recorded.borrow(), Recorded::Pending) {
            self.recorded.send_replace(match recording.await {
                Ok(()) => Recorded::Done,
                Err(error) => Recorded::Failed(Arc::new(error)),
            });
        }
        match &*self.recorded.borrow() {
            Recorded::Failed(error) => !matches!(**error, StoreError::NameTaken(_)),
            Recorded::Pending | Recorded::Done => true,
        }
    }

    /// After a bug of ours that ended its task: what the task would have done in the end.
    pub(super) async fn after_panic(core: &Arc<Core>, living: &Living) {
        let mut sandbox = living.now();
        let id = sandbox.id;
        tracing::error!(sandbox.id = %id, "The task of sandbox {id} panicked; destroying the sandbox");
        living.activity.close();
        destroy(core, id).await;
        sandbox.state = State::Ended;
        let tombstone = || Tombstone { reason: TombstoneReason::Crashed, message: "the server failed; see its log".to_owned(), at: now() };
        sandbox.tombstone.get_or_insert_with(tombstone);
        endings::record(core, Ending::Sandbox(Box::new(sandbox))).await;
        core.registry.forget_sandbox(id);
    }

    /// Writes the record as it is to be; what fails here is written with the tombstone.
    async fn save(&self, sandbox: &Sandbox) {
        if let Err(error) = self.core.store.update_sandbox(sandbox).await {
            let id = sandbox.id;
            tracing::warn!(sandbox.id = %id, error = %error, "Cannot update the record of sandbox {id}");
        }
    }
}

/// Does not return before the backend has nothing of it any more. Until then it counts as one of the sandboxes there may be.
pub(crate) async fn destroy(core: &Core, id: SandboxId) {
    end_processes(core, id).await;
    discard(core, id).await;
}

/// The same, but for its files.
async fn end_processes(core: &Core, id: SandboxId) {
    let mut rest = RETRY_DESTROY;
    while let Err(error) = core.backend.destroy(id).await {
        tracing::error!(sandbox.id = %id, error = %error, "Cannot destroy sandbox {id} yet");
        rest = before_next(rest).await;
    }
}

/// Removes the files that are kept of it.
pub(crate) async fn discard(core: &Core, id: SandboxId) {
    let mut rest = RETRY_DESTROY;
    while let Err(error) = core.backend.discard(id).await {
        tracing::error!(sandbox.id = %id, error = %error, "Cannot remove the files of sandbox {id} yet");
        rest = before_next(rest).await;
    }
}

/// Waits, and says how long to wait the next time.
async fn before_next(rest: Duration) -> Duration {
    tokio::time::sleep(rest).await;
    (rest * 2).min(RETRY_DESTROY_MAX)
}

/// How long it is from one to the other.
pub(crate) fn age(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

/// What those hear who wait for a sandbox that ends before it ran; `None` when its tombstone says it all.
fn told_to_the_waiting(end: &End) -> Option<BackendError> {
    match end.reason {
        TombstoneReason::Crashed | TombstoneReason::LaunchFailed => Some(BackendError::Failed(end.message.clone())),
        TombstoneReason::ServerStopped => Some(BackendError::Exhausted(end.message.clone())),
        _ => None,
    }
}

/// The record of a sandbox that ended before anything was launched.
fn never_made(mut sandbox: Sandbox) -> Sandbox {
    sandbox.tombstone = Some(Tombstone { reason: TombstoneReason::LaunchFailed, message: NOT_RECORDED.to_owned(), at: now() });
    step(&mut sandbox, Event::LaunchFailed);
    step(&mut sandbox, Event::TornDown);
    sandbox
}

fn step(sandbox: &mut Sandbox, event: Event) {
    match next(sandbox.state, event) {
        Ok(state) => sandbox.state = state,
        Err(denied) => tracing::error!(sandbox.id = %sandbox.id, "Broken life of a sandbox: {denied}"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// From the request until it is ready: set-up comes on top.
fn launch_within(sandbox: &Sandbox) -> Duration {
    LAUNCH_WITHIN + sandbox.spec.recipe.longest_setup()
}
