//! One interpreter, from its start to its end: an execution with a channel, and a driver on the other side of it.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use caisson_core::{Error, ExecutionId, Result, Stream};
use caisson_wire::{
    ExecExit, ExecStart, RefusalCode,
    frame::{Frame, Kind},
};
use tokio::time::Instant;

use super::message::{Lines, Message};
use crate::{
    agent_client::{AgentClient, AgentError, ExecFrame, ExecStream, FrameSender},
    core::unavailable,
    execution::{Gate, Input},
    figures,
    sandbox::Living,
};

/// How long an interpreter may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The channel of a program that has ended closes a moment before its end is known.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// A signal waits this long behind other frames.
const SIGNALLED_WITHIN: Duration = Duration::from_secs(5);
/// What is told of an interpreter that said something and ended instead of being ready.
const LAST_WORDS: usize = 1000;

const SIGINT: u32 = 2;

/// Code on its way.
pub(super) type Feeding = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Interpreter {
    frames: FrameSender,
    stream: ExecStream,
    input: Arc<Input>,
    lines: Lines,
    /// Since when nothing more can be said.
    silent_since: Option<Instant>,
}

/// What an interpreter is.
#[derive(Debug)]
pub(super) struct Ready {
    /// What it calls itself.
    pub(super) version: String,
    /// The Jupyter kernel that it is.
    pub(super) kernel: Option<String>,
}

/// What is heard of it.
#[derive(Debug)]
pub(super) enum News {
    Wrote(Stream, Bytes),
    Said(Message),
    Exited(Box<ExecExit>),
    /// It cannot be talked to any more, and so has to be ended.
    Broken(String),
    /// Its agent broke the protocol, or has gone.
    Lost(AgentError),
}

impl Interpreter {
    /// Starts it and returns when it is ready, with what it is. `wrote` gets what it writes meanwhile.
    pub(super) async fn start(
        living: &Living,
        agent: &AgentClient,
        start: &ExecStart,
        without_kernel: Error,
        wrote: impl FnMut(Stream, &Bytes),
    ) -> Result<(Self, Ready)> {
        match tokio::time::timeout(READY_WITHIN, Self::begin(living, agent, start, without_kernel, wrote)).await {
            Ok(result) => result,
            Err(_) => Err(failed(&format!("it was not ready within {}", figures::seconds(READY_WITHIN)))),
        }
    }

    async fn begin(
        living: &Living,
        agent: &AgentClient,
        start: &ExecStart,
        without_kernel: Error,
        mut wrote: impl FnMut(Stream, &Bytes),
    ) -> Result<(Self, Ready)> {
        let (frames, stream) = match agent.exec(start, Vec::new()).await {
            Ok(begun) => begun,
            Err(error) => return Err(living.failed(error).await),
        };
        let input = Arc::new(Input::new(ExecutionId::random(), frames.clone(), Gate::Request, 0));
        let mut interpreter = Self { frames, stream, input, lines: Lines::default(), silent_since: None };
        match interpreter.stream.next().await {
            Ok(ExecFrame::Started(_)) => {}
            Ok(ExecFrame::Refused(refusal)) => {
                interpreter.stream.finish();
                return Err(match refusal.code {
                    RefusalCode::NotFound | RefusalCode::NotADirectory => {
                        Error::invalid("invalid_path", figures::tamed(&refusal.message, LAST_WORDS))
                    }
                    _ => living.failed(AgentError::Refused(refusal)).await,
                });
            }
            Ok(_) => return Err(living.failed(AgentError::Nonsense("an execution that did not begin with its start".to_owned())).await),
            Err(error) => return Err(living.failed(error).await),
        }
        let mut last_words = String::new();
        loop {
            match interpreter.next().await {
                News::Said(Message::Ready { version, kernel }) => return Ok((interpreter, Ready { version, kernel })),
                News::Said(Message::NoKernel) => return Err(without_kernel),
                News::Wrote(stream, data) => {
                    wrote(stream, &data);
                    let room = LAST_WORDS.saturating_sub(last_words.len());
                    last_words.push_str(&figures::tamed(&String::from_utf8_lossy(&data), room));
                }
                News::Said(_) => return Err(failed("it said something else than that it is ready")),
                News::Exited(exit) => {
                    interpreter.finish();
                    let colon = if last_words.is_empty() { "" } else { ": " };
                    return Err(failed(&format!("it ended with {}{colon}{last_words}", how(&exit))));
                }
                News::Broken(what) => return Err(failed(&what)),
                News::Lost(error) => return Err(living.failed(error).await),
            }
        }
    }

    /// What happens next. Cancel-safe: what was not returned is returned the next time.
    pub(super) async fn next(&mut self) -> News {
        loop {
            match self.lines.next_message() {
                Ok(Some(Message::Lost { why })) => return News::Broken(why),
                Ok(Some(message)) => return News::Said(message),
                Ok(None) => {}
                Err(what) => return News::Broken(what),
            }
            let silent_since = self.silent_since;
            let frame = tokio::select! {
                // Cancel-safe, see there.
                frame = self.stream.next() => frame,
                // Computed anew in every round.
                () = ends(silent_since) => return News::Broken("its control channel was closed".to_owned()),
            };
            match frame {
                Ok(ExecFrame::Stdout(data)) => return News::Wrote(Stream::Stdout, data),
                Ok(ExecFrame::Stderr(data)) => return News::Wrote(Stream::Stderr, data),
                Ok(ExecFrame::Channel(said)) if said.is_empty() => self.silent_since = Some(Instant::now()),
                Ok(ExecFrame::Channel(said)) => self.lines.push(&said),
                Ok(ExecFrame::InputTaken(count)) => {
                    if !self.input.taken(count) {
                        return News::Lost(AgentError::Nonsense("more input taken than was sent".to_owned()));
                    }
                }
                Ok(ExecFrame::InputClosed) => self.input.unread(),
                Ok(ExecFrame::Exit { exit, .. }) => return News::Exited(exit),
                Ok(ExecFrame::Refused(refusal)) => return News::Lost(AgentError::Nonsense(refusal.message)),
                Ok(ExecFrame::Started(_)) => return News::Lost(AgentError::Nonsense("an execution that started twice".to_owned())),
                Err(error) => return News::Lost(error),
            }
        }
    }

    /// Sends it an order and code; done as it reads, while its news are heard.
    pub(super) fn tell(&self, order: &str, code: &str) -> Feeding {
        let input = Arc::clone(&self.input);
        // Some drivers can read up to a NUL, others so many bytes.
        let head = format!("{order} {}\n", code.len());
        let bytes = Bytes::from([head.as_bytes(), code.as_bytes(), b"\0"].concat());
        Box::pin(async move {
            // It has ended or does not listen, which its news tell.
            input.feed(bytes).await.ok();
        })
    }

    /// Interrupts what it does.
    pub(super) async fn interrupt(&self) -> Result<()> {
        let frame = Frame::new(Kind::Signal, Bytes::copy_from_slice(&SIGINT.to_be_bytes()));
        match tokio::time::timeout(SIGNALLED_WITHIN, self.frames.send(frame.encode())).await {
            // One that has ended needs no interrupt.
            Ok(_) => Ok(()),
            Err(_) => Err(unavailable("the sandbox's agent is too busy to be told; try again, or restart the context")),
        }
    }

    /// Where frames for its process group go.
    pub(super) fn frames(&self) -> FrameSender {
        self.frames.clone()
    }

    /// It has ended by itself. Dropped instead, it is killed with everything that it has started.
    pub(super) fn finish(self) {
        self.stream.finish();
    }
}

/// `exit code 3`, `signal 9`.
pub(super) fn how(exit: &ExecExit) -> String {
    match (exit.exit_code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

fn failed(why: &str) -> Error {
    Error::conflict("context_failed", format!("the interpreter did not start: {why}"))
}

async fn ends(silent_since: Option<Instant>) {
    match silent_since {
        Some(since) => tokio::time::sleep_until(since + ENDS_WITHIN).await,
        None => std::future::pending().await,
    }
}
