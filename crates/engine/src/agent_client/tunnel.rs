//! `POST /connect`: a connection to a port inside, carried over the agent's stream.

use std::{io, num::NonZeroU16};

use bytes::Bytes;
use caisson_wire::tunnel::{self, Tunnel};
use futures::stream;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::mpsc,
};

use super::{AgentClient, AgentError, Body, LOOK_WITHIN, chain};

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
        let (frames, waiting) = mpsc::channel(FRAMES_WAITING);
        let waiting = stream::unfold(waiting, |mut waiting| async {
            let frame: Bytes = waiting.recv().await?;
            Some((Ok(http_body::Frame::data(frame)), waiting))
        });
        let body: Body = StreamBody::new(waiting).boxed_unsync();
        let answer = super::in_time(LOOK_WITHIN, self.send(Method::POST, tunnel::uri(port), body)).await?;
        Ok(TunnelStream { frames, answer: answer.into_body() })
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
