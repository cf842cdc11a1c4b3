//! The life of one execution: started by the agent, pumped into the log, judged, recorded.

mod run;

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use caisson_core::{Error, Execution, ExecutionId, FileStat, Outcome, Result, State, Stream, TombstoneReason};
use caisson_wire::ExecExit;
use futures::{
    FutureExt,
    future::{self, Either},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::run::{CodeEnd, CodeRun};
use super::{
    RunningExecution,
    input::{Gate, Input},
    outcome::{self, Facts, Verdict},
    prepare::Prepared,
};
use crate::{
    agent_client::{AgentClient, AgentError, ExecFrame, ExecStream, FrameSender},
    core::{Core, now, store_error},
    endings::{self, Ending},
    figures,
    output_log::{Lead, OutputLog},
    ready::Ready,
    request::{ExecutionResult, Stdin},
    sandbox::{End, Fate, Hits, LAUNCH_WITHIN, Living, not_recorded},
};

/// How long the agent of a living sandbox may take to start a program: as long as the program itself has, within this.
const START_WITHIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// After its time-out, a program that the agent has not ended takes its sandbox with it. With what destroying takes this is less than
/// the second within which everybody is told.
const GRACE: Duration = Duration::from_millis(700);
/// How long output may wait in memory before it is put on disk.
const WRITE_AFTER: Duration = Duration::from_millis(500);
/// How far a program that waits for its readers is ahead of them at most: what a terminal shows within a moment.
const READERS_MAY_BE_BEHIND: u64 = 128 << 10;
type Recording = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// An execution that the agent has started and nobody has recorded yet.
pub(crate) struct Started {
    core: Arc<Core>,
    living: Arc<Living>,
    handle: Arc<RunningExecution>,
    stream: Option<ExecStream>,
    stdin: Stdin,
    facts: Facts,
    /// How often its sandbox had met its limits before.
    before: Hits,
    /// What the agent's figures cannot exceed counts from here.
    requested: Instant,
    /// The time-out counts from here.
    began: Instant,
}

/// An execution that has ended and is not recorded so yet.
pub(crate) struct Ended {
    verdict: Verdict,
    duration: Duration,
    cpu: Duration,
    peak_memory_bytes: u64,
    /// Changed files, when they were asked for.
    pub(crate) changes: Vec<FileStat>,
    pub(crate) changes_truncated: bool,
    /// Whether the agent said which files changed.
    pub(crate) changes_known: bool,
}

/// Hands the program to the agent and returns once it runs, or why it does not.
pub(crate) async fn start(core: &Arc<Core>, living: &Arc<Living>, agent: &AgentClient, mut prepared: Prepared) -> Result<Started> {
    let requested = Instant::now();
    let first = std::mem::take(&mut prepared.first);
    let starting = async {
        let (frames, mut stream) = agent.exec(&prepared.start, first).await?;
        let frame = stream.next().await?;
        Ok((frames, stream, frame))
    };
    let (answer, before) = answer(core, living, prepared.timeout, starting).await;
    let (frames, stream, found) = match answer {
        Ok((frames, stream, ExecFrame::Started(started))) => (frames, stream, started.program),
        Ok((_, stream, ExecFrame::Refused(refusal))) => {
            stream.finish();
            return Err(match prepared.refused(agent, refusal.clone()).await {
                Some(error) => error,
                None => living.failed(AgentError::Refused(refusal)).await,
            });
        }
        Ok(_) => return Err(living.failed(AgentError::Nonsense("an execution that did not begin with its start".to_owned())).await),
        Err(AgentError::Refused(refusal)) => {
            return Err(match prepared.refused(agent, refusal.clone()).await {
                Some(error) => error,
                None => living.failed(AgentError::Refused(refusal)).await,
            });
        }
        Err(error) => return Err(living.failed(error).await),
    };
    Ok(Started::new(core, living, prepared, Going { frames, stream, found, before, requested }))
}

/// The same with interpreters that were started before: the one that can take the program gets it, and the others have ended before it
/// runs. Where none can, the program is started like every other.
pub(crate) async fn start_ready(
    core: &Arc<Core>,
    living: &Arc<Living>,
    agent: &AgentClient,
    prepared: Prepared,
    ready: Option<Ready>,
) -> Result<Started> {
    let held = match ready {
        Some(ready) => ready.take(&prepared.start, &living.work_dir).await,
        None => None,
    };
    let Some(held) = held else { return start(core, living, agent, prepared).await };
    let requested = Instant::now();
    let (answer, before) = answer(core, living, prepared.timeout, held.go(&prepared.start)).await;
    match answer {
        Ok((frames, stream, ExecFrame::Started(started))) => {
            if let Some(pool) = &core.pool {
                pool.counts.ready.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Started::new(core, living, prepared, Going { frames, stream, found: started.program, before, requested }))
        }
        Ok((_, stream, ExecFrame::Refused(refusal))) => {
            stream.finish();
            let why = figures::tamed(&refusal.message, 300);
            tracing::debug!(sandbox.id = %living.id, why, "A ready interpreter cannot run this code; another is started");
            start(core, living, agent, prepared).await
        }
        // Its end is known to the agent, which starts others if it is there itself.
        Err(AgentError::Lost(_)) => start(core, living, agent, prepared).await,
        Ok(_) => Err(living.failed(AgentError::Nonsense("an execution that did not begin with its start".to_owned())).await),
        Err(error) => Err(living.failed(error).await),
    }
}

/// What the agent answers to a start, within its time, and how often the sandbox had met its limits before, as far as that was
/// known before the program ran.
async fn answer<T>(
    core: &Core,
    living: &Living,
    timeout: Option<Duration>,
    starting: impl Future<Output = Result<T, AgentError>>,
) -> (Result<T, AgentError>, Hits) {
    let within = match living.state() {
        // The agent itself is still being launched.
        State::Creating => LAUNCH_WITHIN,
        _ => timeout.map_or(START_WITHIN.1, |timeout| timeout.clamp(START_WITHIN.0, START_WITHIN.1)),
    };
    let answering = pin!(tokio::time::timeout(within, starting));
    let (answer, before) = if living.has_been_out_of_memory() {
        // It may be so still, and then a program is killed sooner than it is counted what was before.
        let before = hits_before(core, living).await;
        (answering.await, before)
    } else {
        match future::select(pin!(hits_before(core, living)), answering).await {
            Either::Left((before, answering)) => (answering.await, before),
            // A backend that does not say holds nobody up.
            Either::Right((answer, _)) => (answer, Hits::NONE_KNOWN),
        }
    };
    (answer.unwrap_or(Err(AgentError::Silent(within))), before)
}

/// A program that the agent has just started.
struct Going {
    frames: FrameSender,
    stream: ExecStream,
    /// The program that was found.
    found: String,
    before: Hits,
    requested: Instant,
}

/// How often the sandbox has met its limits before a program that is just being started.
async fn hits_before(core: &Core, living: &Living) -> Hits {
    // Nothing has run in it.
    if living.state() == State::Creating {
        return Hits::default();
    }
    // The order to start goes out first: the agent has more to do than we.
    tokio::task::yield_now().await;
    living.hits(&core.backend).await
}

impl Drop for Started {
    fn drop(&mut self) {
        self.core.registry.forget_execution(self.handle.started.id);
        self.handle.input.over();
        self.handle.log.announce_end();
    }
}

impl Started {
    pub(crate) fn id(&self) -> ExecutionId {
        self.handle.started.id
    }

    fn new(core: &Arc<Core>, living: &Arc<Living>, prepared: Prepared, going: Going) -> Self {
        let id = ExecutionId::random();
        let execution = Execution {
            id,
            sandbox: living.id,
            tenant: living.tenant.clone(),
            argv: prepared.shown(&going.found),
            started_at: now(),
            outcome: None,
        };
        let lead = match (prepared.wait_for_readers, core.config.output_lead_bytes) {
            (true, _) => Lead::Attended(READERS_MAY_BE_BEHIND),
            (false, Some(bytes)) => Lead::Bounded(bytes),
            (false, None) => Lead::Free,
        };
        let gate = match (prepared.start.terminal, &prepared.stdin) {
            (Some(_), _) => Gate::Terminal,
            (None, Stdin::Clients) => Gate::Clients,
            (None, _) => Gate::Request,
        };
        let handle = Arc::new(RunningExecution {
            log: OutputLog::new(&core.logs, id, lead),
            started: execution,
            input: Input::new(id, going.frames.clone(), gate, prepared.inline_stdin),
            frames: going.frames,
            is_terminal: gate == Gate::Terminal,
            activity: Arc::clone(&living.activity),
            signals_sent: AtomicU64::new(0),
            killed: CancellationToken::new(),
        });
        core.registry.add_execution(Arc::clone(&handle));
        let facts =
            Facts { timeout: prepared.timeout, max_output_bytes: prepared.start.max_output_bytes, limits: living.limits, signals_sent: 0 };
        Self {
            core: Arc::clone(core),
            living: Arc::clone(living),
            handle,
            stream: Some(going.stream),
            stdin: prepared.stdin,
            facts,
            before: going.before,
            requested: going.requested,
            began: Instant::now(),
        }
    }

    /// Whether it runs on a terminal, which somebody has to be attached to for its sandbox to be in use.
    pub(crate) fn is_terminal(&self) -> bool {
        self.handle.is_terminal
    }

    /// Follows the program until it has ended. `recorded` hears of the record as soon as it is committed; when it cannot be, the
    /// program is killed and there is nothing to finish.
    pub(crate) async fn pump(&mut self, recorded: impl FnOnce(Result<Execution>)) -> Option<Ended> {
        let mut stream = self.stream.take()?;
        let mut recorded = Some(recorded);
        let mut tell = |result: Result<Execution>| {
            if let Some(recorded) = recorded.take() {
                recorded(result);
            }
        };
        let handle = Arc::clone(&self.handle);
        let mut recording = self.record().fuse();
        let stdin = std::mem::take(&mut self.stdin);
        let mut feeding = pin!(feed(&handle.input, stdin).fuse());
        let overdue_at = self.facts.timeout.map(|timeout| self.began + timeout + GRACE);
        let mut write_at = None;
        let mut is_recorded = false;
        let ended = loop {
            let write_due = write_at.unwrap_or_else(|| Instant::now() + WRITE_AFTER);
            // At the end nobody waits for a reader that may have gone.
            let ahead = handle.log.is_ahead() && !self.core.closing.is_cancelled();
            tokio::select! {
                // Both cancel-safe, and computed anew in every round. The program waits by the windows of HTTP/2.
                () = handle.log.caught_up(), if ahead => {}
                () = self.core.closing.cancelled(), if ahead => {}
                // Cancel-safe: see there.
                frame = stream.next(), if !ahead => match frame {
                    Ok(ExecFrame::Stdout(data)) => self.take(Stream::Stdout, &data, &mut write_at).await,
                    Ok(ExecFrame::Stderr(data)) => self.take(Stream::Stderr, &data, &mut write_at).await,
                    Ok(ExecFrame::InputTaken(count)) => if !handle.input.taken(count) {
                        break self.lost(AgentError::Nonsense("more input taken than was sent".to_owned())).await;
                    },
                    Ok(ExecFrame::InputClosed) => handle.input.unread(),
                    Ok(ExecFrame::Exit { exit, changes }) => match self.judge(&exit).await {
                        Ok(verdict) => {
                            stream.finish();
                            break self.exited(verdict, &exit, changes);
                        }
                        Err(what) => break self.lost(AgentError::Nonsense(what)).await,
                    },
                    Ok(ExecFrame::Refused(refusal)) => {
                        stream.finish();
                        break self.without_exit(outcome::unreported(&refusal.message));
                    }
                    Ok(ExecFrame::Channel(_)) => break self.lost(AgentError::Nonsense("a channel that nobody asked for".to_owned())).await,
                    Ok(ExecFrame::Started(_)) => {
                        break self.lost(AgentError::Nonsense("an execution that started twice".to_owned())).await;
                    }
                    Err(error) => break self.lost(error).await,
                },
                // Kept between rounds and awaited below.
                result = &mut recording => match result {
                    Ok(()) => {
                        is_recorded = true;
                        tell(Ok(handle.started.clone()));
                    }
                    Err(error) => {
                        // Dropping the stream kills the program: nothing runs that is not recorded.
                        tell(Err(error));
                        return None;
                    }
                },
                // Kept between rounds; what is not fed when the program ends, it did not read.
                () = &mut feeding => {}
                // A token stays cancelled.
                () = handle.killed.cancelled() => {
                    drop(stream);
                    break self.killed().await;
                }
                // The deadline stays the same.
                () = until(overdue_at) => break self.overdue().await,
                // Computed anew in every round.
                () = tokio::time::sleep_until(write_due), if write_at.is_some() => {
                    write_at = None;
                    tokio::join!(handle.log.write(Stream::Stdout), handle.log.write(Stream::Stderr));
                }
            }
        };
        if !is_recorded {
            if let Err(error) = (&mut recording).await {
                tell(Err(error));
                return None;
            }
            tell(Ok(handle.started.clone()));
        }
        Some(ended)
    }

    /// Completes log and record; only then anybody hears of the end.
    pub(crate) async fn finish(self, ended: Ended) -> Result<ExecutionResult> {
        let (stdout, stderr) = self.handle.log.finish().await;
        let Verdict { status, exit_code, signal, message } = ended.verdict;
        let incomplete = [("stdout", &stdout.incomplete), ("stderr", &stderr.incomplete)]
            .into_iter()
            .filter_map(|(name, why)| why.as_ref().map(|why| format!("the log of {name} is incomplete: {why}")));
        let message = message.into_iter().chain(incomplete).reduce(|all, next| format!("{all}; {next}"));
        let outcome = Outcome {
            status,
            exit_code,
            signal,
            message,
            duration: ended.duration,
            cpu: ended.cpu,
            peak_memory_bytes: ended.peak_memory_bytes,
            stdout: stdout.totals,
            stderr: stderr.totals,
        };
        let mut execution = self.handle.started.clone();
        self.save(execution.id, &outcome).await?;
        self.core.metrics.execution_ended(status, outcome.duration);
        let (id, sandbox, duration_ms) = (execution.id, execution.sandbox, u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX));
        tracing::debug!(execution.id = %id, sandbox.id = %sandbox, duration_ms, status = status.as_str(), "Execution {id} ended");
        execution.outcome = Some(outcome);
        Ok(ExecutionResult {
            execution,
            stdout: stdout.captured,
            stderr: stderr.captured,
            changes: ended.changes,
            changes_truncated: ended.changes_truncated,
            workspace: None,
        })
    }

    /// Writes the outcome. Where that takes longer than whoever asked should wait, it is written all the same.
    async fn save(&self, id: ExecutionId, outcome: &Outcome) -> Result<()> {
        if endings::record(&self.core, Ending::Execution(id, outcome.clone())).await {
            return Ok(());
        }
        Err(Error::Unrecorded { execution: id.to_string() })
    }

    /// Writes the record once the sandbox's own is there.
    fn record(&self) -> Recording {
        let (core, living, execution) = (Arc::clone(&self.core), Arc::clone(&self.living), self.handle.started.clone());
        Box::pin(async move {
            living.recorded().await.map_err(not_recorded)?;
            core.store.insert_execution(&execution).await.map_err(|error| {
                // It may be there, and will not run.
                drop(endings::spawn(&core, Ending::unrecorded(execution.id)));
                store_error(error)
            })
        })
    }

    async fn take(&self, stream: Stream, data: &Bytes, write_at: &mut Option<Instant>) {
        self.core.metrics.output(data.len());
        if self.handle.is_terminal {
            self.handle.activity.touch();
        }
        if self.handle.log.append(stream, data) {
            // The program waits for the disk here, by the windows of HTTP/2, and never for a reader.
            self.handle.log.write(stream).await;
        } else if write_at.is_none() && self.handle.log.has_pending() {
            *write_at = Some(Instant::now() + WRITE_AFTER);
        }
    }

    async fn judge(&self, exit: &ExecExit) -> Result<Verdict, String> {
        let facts = self.facts_now();
        let hits = if outcome::may_have_met_a_limit(exit) {
            self.living.hits(&self.core.backend).await.since(self.before)
        } else {
            Hits::default()
        };
        outcome::of_exit(exit, &facts, hits)
    }

    fn facts_now(&self) -> Facts {
        Facts { signals_sent: self.handle.signals_sent.load(Ordering::Acquire), ..self.facts }
    }

    /// The agent's figures, as far as they can be true.
    fn exited(&self, verdict: Verdict, exit: &ExecExit, changes: Vec<FileStat>) -> Ended {
        let elapsed = u64::try_from(self.requested.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ended {
            verdict,
            duration: Duration::from_micros(exit.duration_us.min(elapsed)),
            cpu: Duration::from_micros(exit.cpu_us.min(elapsed.saturating_mul(1024))),
            peak_memory_bytes: exit.peak_memory_bytes.min(i64::MAX.unsigned_abs()),
            changes,
            changes_truncated: exit.changes_truncated,
            changes_known: true,
        }
    }

    fn without_exit(&self, verdict: Verdict) -> Ended {
        Ended {
            verdict,
            // As exactly as records keep it.
            duration: Duration::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)),
            cpu: Duration::ZERO,
            peak_memory_bytes: 0,
            changes: Vec::new(),
            changes_truncated: false,
            changes_known: false,
        }
    }

    /// The agent has gone or talks nonsense: how the sandbox ended says how the program did.
    async fn lost(&self, error: AgentError) -> Ended {
        let fate = match error {
            // One exchange alone: its sandbox goes on.
            AgentError::Lost(_) if self.living.answers().await => None,
            AgentError::Lost(_) => self.living.fate().await,
            other => {
                self.living.end(End::new(TombstoneReason::Crashed, other.to_string())).await;
                self.living.fate().await
            }
        };
        let past_its_time = self.facts.timeout.filter(|timeout| self.began.elapsed() >= *timeout);
        match (past_its_time, &fate) {
            (Some(timeout), Some(Fate::Ended(t))) if t.reason == TombstoneReason::Crashed => self.without_exit(outcome::overdue(timeout)),
            _ => self.without_exit(outcome::of_fate(fate.as_ref(), self.living.limits.memory_bytes)),
        }
    }

    /// The order to kill has gone out with the reset of its stream. An agent that answers something newer has had it; the program of
    /// one that does not ends with its sandbox.
    async fn killed(&self) -> Ended {
        let ended = self.without_exit(outcome::killed());
        if !self.living.answers().await {
            self.living.end(End::new(TombstoneReason::Crashed, "its agent did not answer after it was told to kill a program")).await;
        }
        ended
    }

    async fn overdue(&self) -> Ended {
        let timeout = self.facts.timeout.unwrap_or_default();
        let message = format!("its agent did not end an execution at its time-out of {}", figures::seconds(timeout));
        self.living.end(End::new(TombstoneReason::Crashed, message)).await;
        self.without_exit(outcome::overdue(timeout))
    }
}

/// Feeds what the request brings to the program, as fast as it reads.
async fn feed(input: &Input, stdin: Stdin) {
    let sent = async {
        match stdin {
            Stdin::Empty | Stdin::Clients => return Ok(()),
            Stdin::Bytes(bytes) => drop(input.feed(bytes).await?),
            Stdin::Stream(mut chunks) => {
                while let Some(chunk) = chunks.recv().await {
                    input.feed(chunk).await?;
                }
            }
        }
        input.end_of_request().await
    };
    // The program ended before it had read everything, which is its own affair.
    sent.await.ok();
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
