//! The end of a gate that the agent writes into.

use std::os::fd::OwnedFd;

use bytes::{Buf, Bytes};
use caisson_wire::Refusal;
use rustix::io::Errno;

use super::cannot;
use crate::watched::watch;

/// A program waits at the other end. Non-blocking.
#[derive(Debug)]
pub(super) struct Open(OwnedFd);

impl Open {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Lets the program have all of it, as fast as it reads, and then the end. Refused when the program has gone.
    pub(super) fn feed(self, mut text: Bytes) -> Result<(), Refusal> {
        write(&self.0, &mut text).map_err(|error| cannot(format!("it does not wait any more: {error}")))?;
        if !text.is_empty() {
            let end = watch(self.0).map_err(cannot)?;
            tokio::spawn(async move {
                while !text.is_empty() {
                    let Ok(mut ready) = end.writable().await else { return };
                    // One that has ended reads no more, which its exit tells.
                    if write(end.get_ref(), &mut text).is_err() {
                        return;
                    }
                    ready.clear_ready();
                }
            });
        }
        Ok(())
    }
}

/// As much as there is room for.
fn write(fd: &OwnedFd, text: &mut Bytes) -> Result<(), Errno> {
    while !text.is_empty() {
        match rustix::io::write(fd, text) {
            Ok(count) => text.advance(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
