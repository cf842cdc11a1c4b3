//! Connections to what listens inside a sandbox.

use std::{
    io,
    num::NonZeroU16,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use caisson_core::{Error, Result, SandboxId};
use caisson_wire::{Refusal, RefusalCode};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Engine,
    activity::Use,
    agent_client::{AgentError, TunnelStream},
    core::{Core, unavailable},
    figures::tamed,
    sandbox::Living,
};

/// What waits between whoever holds the connection and the task that carries it, in each direction.
const WAITING: usize = 64 << 10;

/// A connection to a port inside. The sandbox is in use for as long as there is one. Dropping it closes the connection; a connection that
/// the sandbox or the program broke off reads as an error, and only one that the program closed as an end.
#[derive(Debug)]
pub struct PortStream {
    near: DuplexStream,
    whole: Arc<AtomicBool>,
    _in_use: Option<Use>,
    gone: DropGuard,
}

impl PortStream {
    /// Ends it as soon as everything that was written has gone in: after the end of both directions. Dropping it loses what has not.
    pub(crate) fn end(self) {
        drop(self.gone.disarm());
    }
}

impl Engine {
    /// Connects to what listens on a port of the sandbox's loopback interface; where nothing does, that is a conflict with the code
    /// `port_not_listening`.
    pub async fn connect_port(&self, id: SandboxId, port: NonZeroU16) -> Result<PortStream> {
        let living = self.living(id).await?;
        let in_use = living.begin_inside().await?;
        let agent = living.ready_agent().await?;
        let stream = match agent.connect(port).await {
            Ok(stream) => stream,
            Err(AgentError::Refused(refusal)) => return Err(refused(refusal, id, port)),
            Err(error) => return Err(living.failed(error).await),
        };
        Ok(carried(&self.core, &living, stream, Some(in_use)))
    }
}

/// A connection into a sandbox as a stream, carried by a task of its own.
pub(crate) fn carried(core: &Core, living: &Arc<Living>, stream: TunnelStream, in_use: Option<Use>) -> PortStream {
    let (near, far) = tokio::io::duplex(WAITING);
    let (whole, gone) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let (all_said, hung_up) = (Arc::clone(&whole), gone.clone());
    let living = Arc::clone(living);
    core.tasks.spawn(async move {
        let carried = tokio::select! {
            // Both end the connection by dropping it.
            () = hung_up.cancelled() => return,
            carried = stream.carry(far, || all_said.store(true, Ordering::Release)) => carried,
        };
        if let Err(error @ AgentError::Nonsense(_)) = carried {
            // Ends the sandbox; whoever holds the connection hears of it there.
            drop(living.failed(error).await);
        }
    });
    PortStream { near, whole, _in_use: in_use, gone: gone.drop_guard() }
}

fn refused(refusal: Refusal, id: SandboxId, port: NonZeroU16) -> Error {
    let message = tamed(&refusal.message, 1000);
    match refusal.code {
        RefusalCode::NotListening => Error::conflict(
            "port_not_listening",
            format!("nothing listens on port {port} of sandbox `{id}`; start a server there and try again"),
        ),
        RefusalCode::Exhausted => Error::QuotaExceeded { message: format!("sandbox `{id}`: {message}") },
        _ => unavailable(format!("sandbox `{id}`: {message}")),
    }
}

impl AsyncRead for PortStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.near).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        if is_end && !self.whole.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, "the connection into the sandbox broke off")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}
