//! Standard output and standard error, written whole and given up when nobody reads them.

use std::{io, os::fd::BorrowedFd};

use bytes::Bytes;
use caisson_core::Stream;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::printable;

/// Whoever read our output has gone. The end of the matter, and no failure to tell anybody about.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
pub(crate) struct Closed;

/// Writes what a program wrote to the same stream of ours, and waits until it is written. A reader that is slow makes this slow and
/// nothing else.
pub(crate) async fn write(stream: Stream, data: impl Into<Bytes>) -> anyhow::Result<()> {
    let data = data.into();
    // A pipe that is full blocks for as long as its reader likes.
    tokio::task::spawn_blocking(move || write_blocking(stream, &data)).await?
}

/// The same for little at a time, before anything else is done.
pub(crate) fn write_here(stream: Stream, data: &[u8]) -> anyhow::Result<()> {
    write_blocking(stream, data)
}

/// Watches that nothing is missing in output that is passed on as it comes.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    stdout: u64,
    stderr: u64,
}

impl Gaps {
    /// The next piece of a stream begins at `offset`. An error when that is not where the last one ended: whoever reads us must not
    /// take the rest for the whole.
    pub(crate) fn passed(&mut self, stream: Stream, offset: u64, length: usize) -> anyhow::Result<()> {
        let (expected, name) = match stream {
            Stream::Stdout => (&mut self.stdout, "standard output"),
            Stream::Stderr => (&mut self.stderr, "standard error"),
        };
        if offset != *expected {
            let missing = offset.saturating_sub(*expected);
            anyhow::bail!(
                "{missing} bytes of the program's {name} are lost, because they were read more slowly than it wrote; let it write to a \
                 file, or read faster"
            );
        }
        *expected += length as u64;
        Ok(())
    }
}

/// Our own answer, on standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    write_blocking(Stream::Stdout, text.as_bytes())
}

/// A JSON object as our own answer: for eyes on a terminal, in one line otherwise.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    let text = if io::stdout().is_terminal() { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
    print(&format!("{}\n", printable::json(&text)))
}

fn write_blocking(stream: Stream, data: &[u8]) -> anyhow::Result<()> {
    let (result, name) = match stream {
        Stream::Stdout => (write_all(rustix::stdio::stdout(), data), "standard output"),
        Stream::Stderr => (write_all(rustix::stdio::stderr(), data), "standard error"),
    };
    match result {
        Ok(()) => Ok(()),
        Err(Errno::PIPE) => Err(Closed.into()),
        Err(error) => Err(anyhow::Error::new(io::Error::from(error)).context(format!("cannot write to {name}"))),
    }
}

/// Descriptors of terminals and pipes are shared with other programs, some of which make them non-blocking.
fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(written) => data = &data[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                rustix::io::retry_on_intr(|| poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_noticed_per_stream() {
        let mut gaps = Gaps::default();
        gaps.passed(Stream::Stdout, 0, 10).unwrap();
        gaps.passed(Stream::Stderr, 0, 3).unwrap();
        gaps.passed(Stream::Stdout, 10, 1).unwrap();
        let message = gaps.passed(Stream::Stdout, 20, 1).unwrap_err().to_string();
        assert!(message.starts_with("9 bytes of the program's standard output are lost"), "{message}");
    }
}
