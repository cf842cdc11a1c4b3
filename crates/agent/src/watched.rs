//! Descriptors that the event loop watches.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Lets the event loop watch `fd`, which must be non-blocking.
#[expect(deprecated, reason = "what the newer function wants promised, an `OwnedFd` keeps by its type: one owner, open until dropped")]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
