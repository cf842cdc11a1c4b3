//! `POST /connect` and `POST /egress`: connections to ports inside and out of the sandbox, carried over the agent's stream.

use std::{io, num::NonZeroU16};

use bytes::Bytes;
use caisson_wire::{
    egress,
    frame::{Decoder, Frame},
    tunnel::{self, Tunnel},
};
use futures::stream;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::mpsc,
};

use super::{AgentClient, AgentError, Body, LOOK_WITHIN, chain};
use crate::sandbox::LAUNCH_WITHIN;

/// Frames on their way to the agent; whoever writes more waits.
const FRAMES_WAITING: usize = 2;
const CHUNK: usize = 32 << 10;

/// The agent's side of a connection. Dropping it makes the agent close it.
#[derive(Debug)]
pub(crate) struct TunnelStream {
    frames: mpsc::Sender<Bytes>,
    answer: Incoming,
}

impl AgentClient {
    /// Connects to a port of the sandbox's loopback interface.
    pub(crate) async fn connect(&self, port: NonZeroU16) -> Result<TunnelStream, AgentError> {
        self.tunnel(tunnel::uri(port)).await
    }

    /// Takes over a connection that was announced.
    pub(crate) async fn take_over(&self, id: u64) -> Result<TunnelStream, AgentError> {
        self.tunnel(egress::uri(id)).await
    }

    async fn tunnel(&self, uri: String) -> Result<TunnelStream, AgentError> {
        let (frames, waiting) = mpsc::channel(FRAMES_WAITING);
        let answer = super::in_time(LOOK_WITHIN, self.send(Method::POST, uri, body(waiting))).await?;
        Ok(TunnelStream { frames, answer: answer.into_body() })
    }

    /// Hears who wants out, and says what is in `waiting`.
    pub(crate) async fn announcements(&self, waiting: mpsc::Receiver<Bytes>) -> Result<Announcements, AgentError> {
        let answer = super::in_time(LAUNCH_WITHIN, self.send(Method::POST, "/egress".to_owned(), body(waiting))).await?;
        Ok(Announcements { answer: answer.into_body(), decoder: Decoder::default() })
    }
}

/// A body of frames as they come.
fn body(waiting: mpsc::Receiver<Bytes>) -> Body {
    let frames = stream::unfold(waiting, |mut waiting| async {
        let frame: Bytes = waiting.recv().await?;
        Some((Ok(http_body::Frame::data(frame)), waiting))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// What the agent announces.
#[derive(Debug)]
pub(crate) struct Announcements {
    answer: Incoming,
    decoder: Decoder,
}

impl Announcements {
    /// The next; `None` behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, AgentError> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|error| AgentError::Nonsense(error.to_string()))? {
                return Ok(Some(frame));
            }
            match self.answer.frame().await {
                Some(Ok(frame)) => self.decoder.push(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(AgentError::Lost(chain(&error))),
                None => return Ok(None),
            }
        }
    }
}

impl TunnelStream {
    /// Carries bytes both ways until both directions have ended or whoever is on the other side of `far` takes nothing more. Calls `whole`
    /// when everything that the program had to say has been passed on, before the end of that is.
    pub(crate) async fn carry(mut self, far: DuplexStream, whole: impl Fn()) -> Result<(), AgentError> {
        let (mut reader, mut writer): (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>) = tokio::io::split(far);
        let mut tunnel = Tunnel::default();
        let mut chunk = vec![0; CHUNK];
        let mut outgoing: Option<Bytes> = None;
        // Whether bytes may still come from our side and from the program's, and whether the agent has more to say.
        let (mut reading, mut writing, mut listening) = (true, true, true);
        loop {
            outgoing = outgoing.or_else(|| tunnel.news());
            if writing && tunnel.is_drained() {
                writing = false;
                if !tunnel.is_broken() {
                    whole();
                }
                // Fails when nobody is there any more, who then needs no end either.
                writer.shutdown().await.ok();
            }
            if !writing && (!reading || !listening) && outgoing.is_none() {
                // What was said last is still on its way, and hanging up would stop it.
                drop(self.frames);
                while listening && self.answer.frame().await.is_some_and(|frame| frame.is_ok()) {}
                return Ok(());
            }
            let room = tunnel.room().min(CHUNK);
            tokio::select! {
                // Losing loses nothing: these read or write all at once or nothing, and what an answer has brought is kept in `tunnel`.
                frame = self.answer.frame(), if listening => match frame {
                    Some(Ok(frame)) => {
                        let data = frame.into_data().unwrap_or_default();
                        tunnel.push(&data).map_err(|error| AgentError::Nonsense(error.to_string()))?;
                    }
                    Some(Err(error)) => return Err(AgentError::Lost(chain(&error))),
                    None if tunnel.has_ended() => listening = false,
                    None => return Err(AgentError::Nonsense("a connection without its end".to_owned())),
                },
                permit = self.frames.reserve(), if listening && outgoing.is_some() => match (permit, outgoing.take()) {
                    (Ok(permit), Some(frame)) => permit.send(frame),
                    // The request is over; its answer says how.
                    (Err(_), _) => reading = false,
                    (Ok(_), None) => {}
                },
                read = reader.read(&mut chunk[..room]), if reading && listening && outgoing.is_none() && room > 0 => {
                    let count = read.map_err(lost)?;
                    if count == 0 {
                        reading = false;
                        outgoing = Some(Tunnel::end());
                    } else {
                        outgoing = Some(tunnel.data(chunk[..count].to_vec()));
                    }
                }
                written = writer.write(tunnel.arrived()), if !tunnel.arrived().is_empty() => tunnel.pass(written.map_err(lost)?),
            }
        }
    }
}

fn lost(error: io::Error) -> AgentError {
    AgentError::Lost(error.to_string())
}
