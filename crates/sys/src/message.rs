//! Sending and receiving whole messages with descriptors (`unix(7)`, `SOCK_SEQPACKET` and `SCM_RIGHTS`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg,
    sendmsg,
};

const MAX_FDS: usize = 3;

/// Sends one message with at most three descriptors. Messages are never split; a full socket blocks or fails with `WouldBlock`, as the socket
/// is set.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message of at most `max` bytes into `buffer`, with exactly `expected` descriptors, close-on-exec; `None` at end of file. A
/// message that is cut, or comes with another number of descriptors, is an error, and what came is closed.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    max: usize,
    expected: impl Fn(&[u8]) -> usize,
) -> io::Result<Option<Vec<OwnedFd>>> {
    buffer.resize(max, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    buffer.truncate(received.bytes);
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() != expected(buffer) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut or came with the wrong descriptors"));
    }
    Ok(Some(fds))
}
