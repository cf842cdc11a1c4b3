//! The launcher's side of its sockets: whole messages with descriptors.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use caisson_launcher::protocol::MAX_MESSAGE;
pub(crate) use caisson_sys::message::send;

/// Receives one message of the protocol, see [`caisson_sys::message::receive`].
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>, expected: impl Fn(&[u8]) -> usize) -> io::Result<Option<Vec<OwnedFd>>> {
    caisson_sys::message::receive(socket, buffer, MAX_MESSAGE, expected)
}

/// Whether receiving would not wait.
pub(crate) fn has_something(socket: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))? > 0)
}

/// Whether the other end of a socket is closed.
pub(crate) fn hung_up(socket: &OwnedFd) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
}
