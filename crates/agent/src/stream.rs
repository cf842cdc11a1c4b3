//! The one stream to the server: a socket, or a pipe for each direction where a container has no other.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use rustix::fs::{Mode, OFlags, open};

#[derive(Debug)]
pub(crate) enum Stream {
    Socket(UnixStream),
    Pipes { reads: File, writes: File },
}

impl Stream {
    /// Takes standard input and output out of the way of everybody else, who finds nothing there.
    pub(crate) fn standard() -> io::Result<Self> {
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let reads = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let writes = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(Self::Pipes { reads: reads.into(), writes: writes.into() })
    }

    /// Until it is served, nothing else is to be done.
    pub(crate) fn block(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.set_nonblocking(false),
            Self::Pipes { reads, writes } => [reads, writes].into_iter().try_for_each(|pipe| Ok(rustix::io::ioctl_fionbio(pipe, false)?)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.read(buffer),
            Self::Pipes { reads, .. } => reads.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.write(bytes),
            Self::Pipes { writes, .. } => writes.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
