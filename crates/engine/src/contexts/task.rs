//! The life of one context: its interpreters, one after the other, and what is asked of them.

use std::sync::Arc;

use caisson_core::{Error, Result, State};
use caisson_wire::ExecStart;
use tokio::sync::{mpsc, oneshot};

use super::{
    Context, ContextState, Control, Order,
    interpreter::{Interpreter, News, how},
    language::{self, Language},
    message::Message,
    run::Between,
};
use crate::{
    activity::Use,
    agent_client::AgentError,
    core::Core,
    figures,
    sandbox::{End, Living},
};

pub(super) struct Task {
    pub(super) core: Arc<Core>,
    pub(super) living: Arc<Living>,
    pub(super) context: Arc<Context>,
    pub(super) language: Language,
    pub(super) env: Vec<(String, String)>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) controls: mpsc::Receiver<Control>,
    pub(super) between: Between,
}

/// How it goes on.
pub(super) enum After {
    /// With the same interpreter.
    GoesOn(Interpreter),
    /// Without one, for this reason.
    Ended(String),
    /// With another.
    Restart(oneshot::Sender<Result<()>>),
    /// Not at all.
    Over(Option<oneshot::Sender<Result<()>>>),
}

impl Drop for Task {
    fn drop(&mut self) {
        self.context.has_ended("it was deleted".to_owned());
        self.living.contexts.forget(self.context.id);
    }
}

impl Task {
    /// From the first interpreter to the end of the context. `ready` hears whether it has begun.
    pub(super) async fn live(mut self, mut begun: Use, ready: oneshot::Sender<Result<()>>) {
        let first = self.start().await;
        // An interpreter alone does not keep its sandbox from being idle.
        begun.rest();
        let mut after = match first {
            Ok(interpreter) => {
                // Whoever asked may have gone: the context is there all the same, until its sandbox goes.
                ready.send(Ok(())).ok();
                After::GoesOn(interpreter)
            }
            Err(error) => {
                self.context.has_ended(format!("it could not be started: {}", figures::tamed(&error.to_string(), 1000)));
                drop(self);
                return drop(ready.send(Err(error)));
            }
        };
        loop {
            after = match after {
                After::GoesOn(interpreter) => self.serve(interpreter).await,
                After::Ended(why) => {
                    self.context.has_ended(why);
                    self.wait().await
                }
                After::Restart(reply) => match self.start().await {
                    Ok(interpreter) => {
                        reply.send(Ok(())).ok();
                        After::GoesOn(interpreter)
                    }
                    Err(error) => {
                        let why = figures::tamed(&error.to_string(), 1000);
                        reply.send(Err(error)).ok();
                        After::Ended(why)
                    }
                },
                After::Over(reply) => {
                    let (living, context) = (Arc::clone(&self.living), Arc::clone(&self.context));
                    drop(self);
                    drop(begun);
                    // An agent that answers something newer has had the order to kill.
                    if reply.is_some() && living.state() == State::Running && !living.answers().await {
                        let end = End::new(
                            caisson_core::TombstoneReason::Crashed,
                            "its agent did not answer after it was told to kill a program",
                        );
                        living.end(end).await;
                    }
                    tracing::debug!(sandbox.id = %living.id, "Context {} ended", context.id);
                    return drop(reply.map(|reply| reply.send(Ok(()))));
                }
            };
        }
    }

    async fn start(&mut self) -> Result<Interpreter> {
        self.context.is(ContextState::Starting);
        let agent = self.living.ready_agent().await?;
        let there = match agent.which(language::programs()).await {
            Ok(there) => there,
            Err(error) => return Err(self.living.failed(error).await),
        };
        let plan = self.language.plan(&there, &self.living.recipe.interpreters)?;
        let start = ExecStart {
            argv: plan.argv,
            alternatives: Vec::new(),
            env: self.env.clone(),
            cwd: self.context.cwd.clone(),
            stdin: false,
            channel: true,
            terminal: None,
            timeout_ms: None,
            max_output_bytes: None,
            code: None,
            report_changes: None,
            also_report: Vec::new(),
            hold: None,
        };
        let between = &mut self.between;
        let wrote = |stream, data: &_| between.wrote(stream, data);
        let (interpreter, ready) = Interpreter::start(&self.living, &agent, &start, plan.without_kernel, wrote).await?;
        self.context.view.send_modify(|view| (view.version, view.kernel) = (Some(ready.version), ready.kernel));
        self.context.is(ContextState::Idle);
        Ok(interpreter)
    }

    /// While nothing runs.
    async fn serve(&mut self, mut interpreter: Interpreter) -> After {
        loop {
            tokio::select! {
                biased;
                // It stays ending.
                () = self.living.ending() => return After::Over(None),
                // `recv` loses nothing when another arm wins.
                control = self.controls.recv() => match control {
                    Some(Control::Interrupt(reply)) => drop(reply.send(Err(self.nothing_runs()))),
                    Some(Control::Restart(reply)) => return After::Restart(reply),
                    Some(Control::Delete(reply)) => return After::Over(Some(reply)),
                    None => return After::Over(None),
                },
                // Cancel-safe, see there. In front of what is to be run, so that what was written before it comes before it.
                news = interpreter.next() => match news {
                    News::Wrote(stream, data) => self.between.wrote(stream, &data),
                    News::Said(Message::Shown(shown)) => self.between.showed(shown),
                    News::Said(_) => return After::Ended("it said something that nobody had asked for".to_owned()),
                    News::Exited(exit) => {
                        interpreter.finish();
                        return After::Ended(format!("its interpreter ended with {} while nothing ran", how(&exit)));
                    }
                    News::Broken(why) => return After::Ended(why),
                    News::Lost(error) => return After::Ended(self.lost(error).await),
                },
                // `recv` again.
                order = self.orders.recv() => match order {
                    Some(order) => {
                        self.context.is(ContextState::Busy);
                        match self.run(interpreter, order).await {
                            After::GoesOn(same) => interpreter = same,
                            other => return other,
                        }
                    }
                    None => return After::Over(None),
                },
            }
        }
    }

    /// While there is no interpreter.
    async fn wait(&mut self) -> After {
        loop {
            tokio::select! {
                biased;
                // It stays ending.
                () = self.living.ending() => return After::Over(None),
                // `recv` loses nothing when another arm wins.
                control = self.controls.recv() => match control {
                    Some(Control::Interrupt(reply)) => drop(reply.send(Err(self.context.ended()))),
                    Some(Control::Restart(reply)) => return After::Restart(reply),
                    Some(Control::Delete(reply)) => return After::Over(Some(reply)),
                    None => return After::Over(None),
                },
                // `recv` again.
                order = self.orders.recv() => match order {
                    Some(order) => drop(order.reply.send(Err(self.context.ended()))),
                    None => return After::Over(None),
                },
            }
        }
    }

    /// The agent has gone or talks nonsense: what that means for the interpreter.
    pub(super) async fn lost(&self, error: AgentError) -> String {
        let why = error.to_string();
        // Ends the sandbox where it has to.
        drop(self.living.failed(error).await);
        why
    }

    fn nothing_runs(&self) -> Error {
        Error::conflict("context_idle", format!("nothing runs in context `{}`", self.context.id))
    }
}
