//! The three streams of a program: pipes, or one terminal.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use caisson_sys::process::{Identity, waiting_bytes};
use caisson_wire::{
    WindowSize,
    frame::{Kind, STDIN_WINDOW},
};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};
use tokio::io::unix::AsyncFd;

use crate::{
    terminal::{self, Terminal},
    watched::watch,
};

const READ_CHUNK: usize = 64 << 10;
/// More than waits in a terminal whose program has ended: the kernel holds 12 KiB.
const TERMINAL_HOLDS: usize = 64 << 10;

/// Both sides of a program's streams.
pub(super) struct Streams {
    pub(super) input: Input,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    /// What the program says beside its outputs, where it is talked to.
    pub(super) channel: Option<Output>,
    /// What the program gets for its descriptors 0, 1 and 2.
    pub(super) theirs: [OwnedFd; 3],
}

impl Streams {
    /// Three streams, of which the first is empty when no `stdin` will come.
    pub(super) fn pipes(stdin: bool) -> io::Result<Self> {
        let ((stdout, out), (stderr, err)) = (pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?);
        let (input, ours) = if stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (theirs, Some(ours))
        } else {
            (open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, None)
        };
        Ok(Self {
            input: Input::new(ours, false)?,
            stdout: Output::new(Kind::Stdout, Some(stdout), false)?,
            stderr: Output::new(Kind::Stderr, Some(stderr), false)?,
            channel: None,
            theirs: [input, out, err],
        })
    }

    /// The same with a channel for standard input.
    pub(super) fn with_channel() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let ours = OwnedFd::from(ours);
        let mut streams = Self::pipes(false)?;
        streams.input = Input::new(Some(ours.try_clone()?), false)?;
        streams.channel = Some(Output::new(Kind::Channel, Some(ours), false)?);
        streams.theirs[0] = theirs.into();
        Ok(streams)
    }

    /// One terminal for all three.
    pub(super) fn terminal(size: WindowSize, user: Identity) -> io::Result<Self> {
        let Terminal { ours, theirs } = Terminal::open(size, user)?;
        Ok(Self {
            input: Input::new(Some(ours.try_clone()?), true)?,
            stdout: Output::new(Kind::Stdout, Some(ours), true)?,
            stderr: Output::new(Kind::Stderr, None, true)?,
            channel: None,
            theirs: [theirs.try_clone()?, theirs.try_clone()?, theirs],
        })
    }
}

/// Standard input on its way to the program.
pub(super) struct Input {
    /// Absent where there is none, or none any more.
    end: Option<AsyncFd<OwnedFd>>,
    is_terminal: bool,
    waiting: BytesMut,
    /// Nothing more will come.
    ends: bool,
    /// Bytes that have left and that the server does not know to have left.
    untold: usize,
    /// The program has closed it, which the server does not know.
    closed: bool,
}

/// What the server is to be told about standard input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Taken(u32),
    Closed,
}

impl Input {
    fn new(end: Option<OwnedFd>, is_terminal: bool) -> io::Result<Self> {
        let end = end
            .map(|end| {
                rustix::io::ioctl_fionbio(&end, true)?;
                watch(end)
            })
            .transpose()?;
        Ok(Self { end, is_terminal, waiting: BytesMut::new(), ends: false, untold: 0, closed: false })
    }

    /// Takes what the server sends; `false` when that is more than there is room for, which breaks the protocol.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        if self.end.is_none() {
            // It was under way when the program closed its end.
            return true;
        }
        if self.waiting.len() + bytes.len() > STDIN_WINDOW {
            return false;
        }
        self.waiting.extend_from_slice(bytes);
        true
    }

    /// What waits is the last of it. A terminal has no end.
    pub(super) fn finish(&mut self) {
        self.ends = !self.is_terminal;
        self.close_when_done();
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes once. Cancel-safe: what was written has left `waiting`.
    pub(super) async fn feed(&mut self) {
        let Some(end) = &self.end else { return };
        let Ok(mut ready) = end.writable().await else { return };
        match rustix::io::write(end.get_ref(), &self.waiting) {
            Ok(count) => {
                drop(ready);
                drop(self.waiting.split_to(count));
                self.untold += count;
                self.close_when_done();
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => {
                drop(ready);
                self.end = None;
                self.waiting = BytesMut::new();
                self.closed = true;
            }
        }
    }

    /// What there is to tell; nothing the next time.
    pub(super) fn news(&mut self) -> Option<News> {
        if std::mem::take(&mut self.closed) {
            return Some(News::Closed);
        }
        if self.untold < STDIN_WINDOW / 4 {
            return None;
        }
        Some(News::Taken(u32::try_from(std::mem::take(&mut self.untold)).unwrap_or(u32::MAX)))
    }

    /// Gives the terminal another size, where it is one.
    pub(super) fn resize(&self, size: WindowSize) {
        if let (true, Some(end)) = (self.is_terminal, &self.end) {
            // It fails when the terminal has gone, which the exit will tell.
            drop(terminal::resize(end.get_ref(), size));
        }
    }

    fn close_when_done(&mut self) {
        if self.ends && self.waiting.is_empty() {
            self.end = None;
        }
    }
}

/// One of the two outputs.
pub(super) struct Output {
    pub(super) kind: Kind,
    is_terminal: bool,
    /// Absent once it has ended.
    pipe: Option<AsyncFd<OwnedFd>>,
}

impl Output {
    fn new(kind: Kind, pipe: Option<OwnedFd>, is_terminal: bool) -> io::Result<Self> {
        let pipe = pipe
            .map(|pipe| {
                rustix::io::ioctl_fionbio(&pipe, true)?;
                watch(pipe)
            })
            .transpose()?;
        Ok(Self { kind, is_terminal, pipe })
    }

    /// The next bytes. Never ready again after the end, which of a channel is told by no bytes. Cancel-safe: bytes are taken only when they
    /// are returned.
    pub(super) async fn read(&mut self) -> Bytes {
        loop {
            let Some(pipe) = &self.pipe else { return std::future::pending().await };
            let Ok(mut ready) = pipe.readable().await else { return std::future::pending().await };
            // No larger than what waits, so that many small outputs do not cost much memory.
            let waiting = waiting_bytes(pipe.get_ref().as_fd());
            let mut chunk = vec![0; waiting.clamp(1, READ_CHUNK)];
            match rustix::io::read(pipe.get_ref(), &mut *chunk) {
                Ok(count) if count > 0 => {
                    chunk.truncate(count);
                    return chunk.into();
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                // The end; an error is that of a terminal that nobody has open on the other side (EIO).
                Ok(_) | Err(_) => {
                    drop(ready);
                    self.pipe = None;
                    if self.kind == Kind::Channel {
                        return Bytes::new();
                    }
                }
            }
        }
    }

    /// How much of what the program has written may still be here once it has ended.
    pub(super) fn left(&self) -> usize {
        match &self.pipe {
            Some(_) if self.is_terminal => TERMINAL_HOLDS,
            Some(pipe) => waiting_bytes(pipe.get_ref().as_fd()),
            None => 0,
        }
    }

    /// What waits here now, at most `limit` bytes of it.
    pub(super) fn read_now(&mut self, limit: usize) -> Option<Bytes> {
        let pipe = self.pipe.as_ref()?;
        let mut chunk = vec![0; limit.min(READ_CHUNK)];
        match rustix::io::read(pipe.get_ref(), &mut *chunk) {
            Ok(count) if count > 0 => {
                chunk.truncate(count);
                Some(chunk.into())
            }
            _ => None,
        }
    }

    /// Reads and forgets until the last holder of the pipe has closed it, so that a daemon does not die of its output. A terminal ends with
    /// its program, as terminals do.
    pub(super) async fn discard(mut self) {
        while !self.is_terminal && self.pipe.is_some() {
            tokio::select! {
                // Never ready after the end, which the other arm finds.
                _ = self.read() => {}
                () = tokio::time::sleep(Duration::from_secs(5)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(input: &mut Input) {
        while input.is_waiting() {
            input.feed().await;
        }
    }

    #[tokio::test]
    async fn input_is_told_by_quarters_and_ends_when_it_has_left() {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::pipe::fcntl_setpipe_size(&ours, STDIN_WINDOW).unwrap();
        let mut input = Input::new(Some(ours), false).unwrap();
        assert!(input.push(&[1; STDIN_WINDOW / 4 - 1]));
        written(&mut input).await;
        assert_eq!(input.news(), None);
        assert!(input.push(&[2]));
        input.finish();
        assert!(input.end.is_some(), "a byte still waits");
        written(&mut input).await;
        assert_eq!((input.news(), input.news()), (Some(News::Taken(STDIN_WINDOW as u32 / 4)), None));
        assert!(input.end.is_none());
        let mut all = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(theirs), &mut all).unwrap();
        assert_eq!(all.len(), STDIN_WINDOW / 4);
    }

    #[tokio::test]
    async fn a_program_that_closes_its_input_is_told_of_once() {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut input = Input::new(Some(ours), false).unwrap();
        drop(theirs);
        assert!(input.push(b"x"));
        written(&mut input).await;
        assert_eq!((input.news(), input.news()), (Some(News::Closed), None));
        assert!(input.push(&[0; STDIN_WINDOW]) && input.push(&[0; STDIN_WINDOW]) && !input.is_waiting());
    }

    #[tokio::test]
    async fn more_than_there_is_room_for_breaks_the_protocol() {
        let (_theirs, ours) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut input = Input::new(Some(ours), false).unwrap();
        assert!(input.push(&[0; STDIN_WINDOW]));
        assert!(!input.push(&[0]));
    }
}
