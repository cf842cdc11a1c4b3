//! A directory of a sandbox that gets layers, by the launcher.

use std::os::fd::AsFd;

use caisson_core::{BackendError, UpperSeen};
use caisson_launcher::protocol::{LAID, LayerOrder, MAX_REASON, UPPER_IS_SEEN};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::link::Link;

/// Asks for it, and tells when `seen` is so.
pub(crate) async fn lay(link: &Link, seq: u64, order: &LayerOrder, seen: UpperSeen) -> Result<(), BackendError> {
    let exhausted = |error: std::io::Error| BackendError::Exhausted(format!("cannot make a socket: {error}"));
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(|error| exhausted(error.into()))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|error| exhausted(error.into()))?;
    let mut socket = UnixStream::from_std(ours.into()).map_err(exhausted)?;
    let lost = |error: std::io::Error| BackendError::Failed(format!("cannot talk to the launcher: {error}"));
    link.layer(seq, order, theirs.as_fd()).map_err(lost)?;
    drop(theirs);
    let mut said = Vec::new();
    while said != UPPER_IS_SEEN {
        if said.len() > MAX_REASON || socket.read_buf(&mut said).await.map_err(lost)? == 0 {
            return Err(refused(&said));
        }
    }
    if seen.await {
        socket.write_all(b"on").await.map_err(lost)?;
    } else {
        socket.shutdown().await.map_err(lost)?;
    }
    // Whatever comes of it, it is done then.
    let mut said = Vec::new();
    socket.take(MAX_REASON as u64).read_to_end(&mut said).await.map_err(lost)?;
    if said == LAID { Ok(()) } else { Err(refused(&said)) }
}

fn refused(reason: &[u8]) -> BackendError {
    let why = if reason.is_empty() { "the launcher does not do it now".into() } else { String::from_utf8_lossy(reason) };
    BackendError::Failed(format!("no layers: {why}"))
}
