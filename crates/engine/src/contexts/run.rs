//! One run: code goes in, and what comes of it is put together.

use std::time::Duration;

use bytes::Bytes;
use caisson_core::{Result, Stream};
use tokio::{sync::oneshot, time::Instant};

use super::{
    CodeResult, CodeStatus, Context, Control, Failure, Order, RunningCode,
    interpreter::{Interpreter, News, how},
    message::{Done, Message, Shown},
    shown::Showing,
    task::{After, Task},
};
use crate::{
    execution::{CodeEnd, CodeRun},
    figures,
};

/// How long code goes on at most after an interrupt that its interpreter missed.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a run that was interrupted for its time-out may take to end before its interpreter is killed.
const GRACE: Duration = Duration::from_secs(3);
/// How much of what is written between two runs is kept for the next, of each stream.
const KEPT_BETWEEN: usize = 64 << 10;

/// What an interpreter writes and shows while nothing runs. It belongs to the next run.
#[derive(Debug, Default)]
pub(super) struct Between {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dropped: u64,
    shown: Vec<Shown>,
}

impl Between {
    pub(super) fn wrote(&mut self, stream: Stream, data: &Bytes) {
        let kept = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let room = (KEPT_BETWEEN - kept.len()).min(data.len());
        kept.extend_from_slice(&data[..room]);
        self.dropped += (data.len() - room) as u64;
    }

    pub(super) fn showed(&mut self, shown: Shown) {
        // Things may be large, and nobody waits for them.
        if self.shown.is_empty() {
            self.shown.push(shown);
        } else {
            self.dropped += shown.bytes();
        }
    }
}

/// What is known when a run has ended.
struct Outcome {
    status: CodeStatus,
    end: CodeEnd,
    message: Option<String>,
}

/// What has come of a run so far.
struct Collected {
    run: CodeRun,
    showing: Showing,
    error: Option<Failure>,
}

impl Task {
    /// Runs what was ordered, and says how it goes on with the interpreter afterwards.
    pub(super) async fn run(&mut self, interpreter: Interpreter, order: Order) -> After {
        let Order { request, reply, begun: _begun } = order;
        let shown = vec![self.context.language.clone(), self.context.id.to_string()];
        let began = CodeRun::begin(&self.core, &self.living, interpreter.frames(), shown, request.timeout).await;
        let mut run = match began {
            Ok(run) => run,
            Err(error) => {
                // Whoever asked may have gone; nothing has run.
                reply.send(Err(error)).ok();
                return After::GoesOn(interpreter);
            }
        };
        let (showing, between) = (Showing::default(), std::mem::take(&mut self.between));
        for (stream, kept) in [(Stream::Stdout, between.stdout), (Stream::Stderr, between.stderr)] {
            if !kept.is_empty() {
                run.take(stream, &kept.into()).await;
            }
        }
        between.shown.into_iter().for_each(|shown| showing.push(shown));
        let (finished, result) = oneshot::channel();
        let running = RunningCode { context: self.context.id, execution: run.execution().clone(), display: showing.read(), result };
        // Likewise, but the run goes on.
        reply.send(Ok(running)).ok();
        self.context.view.send_modify(|view| view.runs += 1);

        let mut collected = Collected { run, showing, error: None };
        let order = if request.interactive { "try" } else { "run" };
        let (mut outcome, after) = self.follow(interpreter, order, &request.code, request.timeout, &mut collected).await;
        if between.dropped > 0 {
            let dropped = format!("{} bytes that were written before it, while nothing ran, are left out", between.dropped);
            outcome.message = Some(outcome.message.into_iter().chain([dropped]).collect::<Vec<_>>().join("; "));
        }
        // Before anybody hears of the run's end.
        match &after {
            After::GoesOn(_) => self.context.is(super::ContextState::Idle),
            After::Ended(why) => self.context.has_ended(why.clone()),
            After::Restart(_) | After::Over(_) => {}
        }
        finished.send(collected.finish(&self.context, outcome).await).ok();
        after
    }

    async fn follow(
        &mut self,
        mut interpreter: Interpreter,
        order: &str,
        code: &str,
        timeout: Option<Duration>,
        collected: &mut Collected,
    ) -> (Outcome, After) {
        let ended = |end, message: String| Outcome { status: CodeStatus::ContextEnded, end, message: Some(message) };
        let of_sandbox = || Outcome { status: CodeStatus::ContextEnded, end: CodeEnd::SandboxEnded, message: None };
        let killed = collected.run.killed();
        let mut feeding = interpreter.tell(order, code);
        let mut is_fed = false;
        let mut deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut is_overdue = false;
        // An interrupt that comes before the code has begun is for the code all the same.
        let (mut has_begun, mut to_interrupt) = (false, false);
        let (mut may_miss, mut again_at) = (false, None);
        loop {
            tokio::select! {
                biased;
                // It stays ending.
                () = self.living.ending() => return (of_sandbox(), After::Over(None)),
                // A token stays cancelled.
                () = killed.cancelled() => {
                    let why = "it was killed on request".to_owned();
                    return (ended(CodeEnd::Killed, why.clone()), After::Ended(why));
                }
                // `recv` loses nothing when another arm wins.
                control = self.controls.recv() => match control {
                    Some(Control::Interrupt(reply)) => {
                        to_interrupt = !has_begun;
                        let sent = if has_begun { interpreter.interrupt().await } else { Ok(()) };
                        again_at = may_miss.then(|| Instant::now() + AGAIN);
                        // Whoever asked may have gone; it is interrupted all the same.
                        reply.send(sent).ok();
                    }
                    Some(Control::Restart(reply)) => {
                        return (ended(CodeEnd::Killed, "it was restarted on request".to_owned()), After::Restart(reply));
                    }
                    Some(Control::Delete(reply)) => {
                        return (ended(CodeEnd::Killed, "it was deleted".to_owned()), After::Over(Some(reply)));
                    }
                    None => return (ended(CodeEnd::Killed, "nobody holds it any more".to_owned()), After::Over(None)),
                },
                // The deadline stays the same until it has passed.
                () = until(deadline) => {
                    let limit = figures::seconds(timeout.unwrap_or_default());
                    if is_overdue {
                        let why = format!("it did not heed the interrupt at the time-out of {limit}");
                        let message = Some(format!("timed_out: limit {limit}; the interpreter did not heed its interrupt and was ended"));
                        return (Outcome { status: CodeStatus::TimedOut, end: CodeEnd::TimedOut, message }, After::Ended(why));
                    }
                    is_overdue = true;
                    deadline = Some(Instant::now() + GRACE);
                    to_interrupt = !has_begun;
                    if has_begun {
                        // One that cannot be sent is followed by the end as well.
                        interpreter.interrupt().await.ok();
                    }
                    again_at = may_miss.then(|| Instant::now() + AGAIN);
                }
                // The moment stays the same until it has come.
                () = until(again_at) => {
                    interpreter.interrupt().await.ok();
                    again_at = Some(Instant::now() + AGAIN);
                }
                // Kept between rounds.
                () = &mut feeding, if !is_fed => is_fed = true,
                // Cancel-safe, see there.
                news = interpreter.next() => match news {
                    News::Wrote(stream, data) => collected.run.take(stream, &data).await,
                    News::Said(Message::Begun { may_miss: misses }) => {
                        (has_begun, may_miss) = (true, misses);
                        if to_interrupt {
                            interpreter.interrupt().await.ok();
                            again_at = may_miss.then(|| Instant::now() + AGAIN);
                        }
                    }
                    News::Said(Message::Shown(shown)) => collected.showing.push(shown),
                    News::Said(Message::Error(failure)) => collected.error = Some(failure),
                    News::Said(Message::Done { how, exit_code }) => {
                        return (done(how, exit_code, is_overdue.then_some(timeout).flatten()), After::GoesOn(interpreter));
                    }
                    News::Said(Message::Ready { .. } | Message::NoKernel | Message::Lost { .. }) => {
                        let why = "it said twice whether it is ready".to_owned();
                        return (ended(CodeEnd::Lost(why.clone()), why.clone()), After::Ended(why));
                    }
                    News::Exited(exit) => {
                        interpreter.finish();
                        let why = format!("its interpreter ended with {}", how(&exit));
                        return (ended(CodeEnd::Exited(exit), why.clone()), After::Ended(why));
                    }
                    News::Broken(why) => return (ended(CodeEnd::Lost(why.clone()), why.clone()), After::Ended(why)),
                    News::Lost(error) => {
                        let why = self.lost(error).await;
                        let outcome =
                            if self.living.now().is_over() { of_sandbox() } else { ended(CodeEnd::Lost(why.clone()), why.clone()) };
                        return (outcome, After::Ended(why));
                    }
                },
                // The moment stays the same until it has come.
                () = until(collected.run.write_at()) => collected.run.write().await,
            }
        }
    }
}

fn done(how: Done, exit_code: Option<i32>, over: Option<Duration>) -> Outcome {
    if let Some(limit) = over {
        let message = Some(format!("timed_out: limit {}", figures::seconds(limit)));
        return Outcome { status: CodeStatus::TimedOut, end: CodeEnd::TimedOut, message };
    }
    let (status, end) = match how {
        Done::Ok => (CodeStatus::Ok, CodeEnd::Returned { exit_code: exit_code.unwrap_or(0) }),
        Done::Error => (CodeStatus::Error, CodeEnd::Returned { exit_code: exit_code.unwrap_or(1) }),
        Done::Incomplete => (CodeStatus::Incomplete, CodeEnd::Returned { exit_code: 0 }),
        Done::Interrupted => (CodeStatus::Interrupted, CodeEnd::Interrupted),
    };
    Outcome { status, end, message: None }
}

impl Collected {
    async fn finish(self, context: &Context, outcome: Outcome) -> Result<CodeResult> {
        let result = self.run.finish(outcome.end).await?;
        let (shown, shown_dropped) = self.showing.all();
        let recorded = result.execution.outcome.as_ref().and_then(|recorded| recorded.message.clone());
        // The record may know more about the end of the interpreter, such as that it was out of memory.
        let message = match (outcome.status, outcome.message, recorded) {
            (CodeStatus::ContextEnded, Some(why), Some(recorded)) if why != recorded => Some(format!("{why}; {recorded}")),
            (_, Some(why), _) => Some(why),
            (_, None, recorded) => recorded,
        };
        Ok(CodeResult { context: context.id, status: outcome.status, shown, shown_dropped, error: self.error, message, result })
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_between_runs_is_kept_up_to_a_bound_and_counted_above() {
        let mut between = Between::default();
        between.wrote(Stream::Stdout, &Bytes::from(vec![b'x'; KEPT_BETWEEN - 1]));
        between.wrote(Stream::Stdout, &Bytes::from_static(b"ab"));
        between.wrote(Stream::Stderr, &Bytes::from_static(b"c"));
        assert_eq!(
            (between.stdout.len(), between.stdout.last(), &between.stderr[..], between.dropped),
            (KEPT_BETWEEN, Some(&b'a'), &b"c"[..], 1)
        );
    }

    #[test]
    fn a_run_that_heeds_its_time_out_has_timed_out_whatever_it_says() {
        for how in [Done::Ok, Done::Error, Done::Interrupted] {
            assert_eq!(done(how, None, Some(Duration::from_secs(2))).status, CodeStatus::TimedOut);
        }
        assert_eq!(done(Done::Interrupted, Some(130), None).status, CodeStatus::Interrupted);
    }
}
