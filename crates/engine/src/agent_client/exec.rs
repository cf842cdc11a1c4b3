//! `POST /exec`: frames in both directions at once.

use std::io;

use bytes::Bytes;
use caisson_core::FileStat;
use caisson_wire::{
    ExecExit, ExecStart, Refusal, Started,
    frame::{Decoder, Frame, Kind},
};
use futures::stream;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};

use super::{AgentClient, AgentError, Body, chain, convert, json};

/// Frames on their way to the agent; whoever sends more waits.
const FRAMES_WAITING: usize = 4;

/// Takes frames for a running program.
pub(crate) type FrameSender = mpsc::Sender<Bytes>;

/// What the agent tells of an execution.
#[derive(Debug)]
pub(crate) enum ExecFrame {
    Started(Started),
    Stdout(Bytes),
    Stderr(Bytes),
    /// What the program said on its channel; empty when nothing more will come.
    Channel(Bytes),
    /// So many more bytes of standard input have left the agent.
    InputTaken(u32),
    /// The program does not read any more.
    InputClosed,
    Exit {
        exit: Box<ExecExit>,
        changes: Vec<FileStat>,
    },
    Refused(Refusal),
}

/// The agent's side of one execution. Dropping it makes the agent kill the program's process tree.
#[derive(Debug)]
pub(crate) struct ExecStream {
    answer: Incoming,
    decoder: Decoder,
    /// Ends the request in good order; dropped unused it resets the stream, which is the order to kill.
    finish: Option<oneshot::Sender<()>>,
}

impl AgentClient {
    /// Asks for an execution. `first` are frames that travel right behind the start. How long to wait is the caller's affair.
    pub(crate) async fn exec(&self, start: &ExecStart, first: Vec<Bytes>) -> Result<(FrameSender, ExecStream), AgentError> {
        let (frames, waiting) = mpsc::channel(FRAMES_WAITING);
        let (finish, finished) = oneshot::channel();
        let head = [Frame::json(Kind::Start, start).encode()].into_iter().chain(first);
        let body = request_body(head.collect(), waiting, finished);
        let answer = self.send(Method::POST, "/exec".to_owned(), body).await?;
        Ok((frames, ExecStream { answer: answer.into_body(), decoder: Decoder::default(), finish: Some(finish) }))
    }
}

impl ExecStream {
    /// The next frame. Cancel-safe: what has arrived stays in the decoder.
    pub(crate) async fn next(&mut self) -> Result<ExecFrame, AgentError> {
        read(self.frame().await?)
    }

    /// What comes first of a program that is to be held: that it waits, or why it does not.
    pub(crate) async fn held(&mut self) -> Result<Result<(), Refusal>, AgentError> {
        let frame = self.frame().await?;
        match frame.kind {
            Kind::Held => Ok(Ok(())),
            Kind::Refused => Ok(Err(json(&frame.payload)?)),
            other => Err(AgentError::Nonsense(format!("a frame of kind {other:?} of a program that is to be held"))),
        }
    }

    async fn frame(&mut self) -> Result<Frame, AgentError> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|error| AgentError::Nonsense(error.to_string()))? {
                return Ok(frame);
            }
            match self.answer.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.push(&data);
                    }
                }
                Some(Err(error)) => return Err(AgentError::Lost(chain(&error))),
                // An agent that has gone takes its connection along, which is an error; this one ended its answer in good order.
                None => return Err(AgentError::Nonsense("an execution that ended without its exit".to_owned())),
            }
        }
    }

    /// The program has ended by itself: nothing is left to kill.
    pub(crate) fn finish(mut self) {
        self.say_all_is_said();
    }

    /// No more frames will be sent.
    pub(crate) fn say_all_is_said(&mut self) {
        if let Some(finish) = self.finish.take() {
            // The request's body may have been dropped already, with the connection.
            finish.send(()).ok();
        }
    }
}

fn read(frame: Frame) -> Result<ExecFrame, AgentError> {
    Ok(match frame.kind {
        Kind::Started => ExecFrame::Started(json(&frame.payload)?),
        Kind::Stdout => ExecFrame::Stdout(frame.payload),
        Kind::Stderr => ExecFrame::Stderr(frame.payload),
        Kind::Channel => ExecFrame::Channel(frame.payload),
        Kind::InputTaken => match frame.payload.as_ref().try_into().map(u32::from_be_bytes) {
            Ok(count) => ExecFrame::InputTaken(count),
            Err(_) => return Err(AgentError::Nonsense("a count of another length".to_owned())),
        },
        Kind::InputClosed => ExecFrame::InputClosed,
        Kind::Refused => ExecFrame::Refused(json(&frame.payload)?),
        Kind::Exit => {
            let mut exit: ExecExit = json(&frame.payload)?;
            let changes = std::mem::take(&mut exit.changes);
            let changes = changes.into_iter().map(convert::stat).collect::<Result<_, _>>()?;
            ExecFrame::Exit { exit: Box::new(exit), changes }
        }
        other => return Err(AgentError::Nonsense(format!("a frame of kind {other:?} from the agent"))),
    })
}

/// The request's frames: first those that are there, then what comes, until somebody says that it is over. When nobody does, the
/// body fails, and HTTP/2 tells the agent by `RST_STREAM`.
fn request_body(head: Vec<Bytes>, mut waiting: mpsc::Receiver<Bytes>, mut finished: oneshot::Receiver<()>) -> Body {
    let mut head = head.into_iter();
    let mut open = true;
    let frames = stream::poll_fn(move |cx| {
        use std::task::Poll;
        if let Some(frame) = head.next() {
            return Poll::Ready(Some(Ok(http_body::Frame::data(frame))));
        }
        if let Poll::Ready(end) = std::pin::Pin::new(&mut finished).poll(cx) {
            return Poll::Ready(match end {
                Ok(()) => None,
                Err(_) => Some(Err(io::Error::other("the execution was given up"))),
            });
        }
        while open {
            match waiting.poll_recv(cx) {
                Poll::Ready(Some(frame)) => return Poll::Ready(Some(Ok(http_body::Frame::data(frame)))),
                Poll::Ready(None) => open = false,
                Poll::Pending => break,
            }
        }
        Poll::Pending
    });
    StreamBody::new(frames).boxed_unsync()
}
