//! How far a program may be ahead of whoever reads its output.

use caisson_core::Stream;
use tokio::sync::watch;

use crate::request::Progress;

/// Whether a program waits for its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    /// It never waits.
    Free,
    /// Where it is so many bytes ahead: somebody is sure to read.
    Bounded(u64),
    /// The same, but only while somebody is attached.
    Attended(u64),
}

/// Compares what was written with what was read.
#[derive(Debug)]
pub(super) struct Pace {
    lead: Lead,
    readers: watch::Sender<Readers>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Readers {
    stdout: Reading,
    stderr: Reading,
}

/// How one stream is read.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    /// Everything before this offset has been read by somebody.
    read: u64,
    attached: usize,
}

impl Readers {
    fn of(&mut self, stream: Stream) -> &mut Reading {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Pace {
    pub(super) fn new(lead: Lead) -> Self {
        Self { lead, readers: watch::Sender::default() }
    }

    /// Somebody asks for what is at `offset`, and so has what is before it.
    pub(super) fn read_up_to(&self, stream: Stream, offset: u64) {
        if self.lead == Lead::Free {
            return;
        }
        self.readers.send_if_modified(|readers| {
            let reading = readers.of(stream);
            let more = offset > reading.read;
            reading.read = offset.max(reading.read);
            more
        });
    }

    /// Somebody begins to read these streams, and will say when that is over.
    pub(super) fn attend(&self, streams: &[Stream]) {
        self.readers.send_modify(|readers| streams.iter().for_each(|stream| readers.of(*stream).attached += 1));
    }

    /// It is over.
    pub(super) fn leave(&self, streams: &[Stream]) {
        self.readers.send_modify(|readers| streams.iter().for_each(|stream| readers.of(*stream).attached -= 1));
    }

    /// Whether a program that has written this much is to wait.
    pub(super) fn is_ahead(&self, written: Progress) -> bool {
        self.waits(written, &self.readers.borrow())
    }

    /// Returns when it need not wait any more. Cancel-safe.
    pub(super) async fn caught_up(&self, written: Progress) {
        // The sender is our own, so this ends only one way.
        self.readers.subscribe().wait_for(|readers| !self.waits(written, readers)).await.ok();
    }

    fn waits(&self, written: Progress, readers: &Readers) -> bool {
        [(written.stdout_bytes, readers.stdout), (written.stderr_bytes, readers.stderr)].into_iter().any(|(written, reading)| {
            let ahead = written.saturating_sub(reading.read);
            match self.lead {
                Lead::Free => false,
                Lead::Bounded(limit) => ahead > limit,
                Lead::Attended(limit) => reading.attached > 0 && ahead > limit,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(stdout_bytes: u64, stderr_bytes: u64) -> Progress {
        Progress { stdout_bytes, stderr_bytes, finished: false }
    }

    #[tokio::test]
    async fn a_program_waits_for_the_slower_of_its_streams() {
        let pace = Pace::new(Lead::Bounded(10));
        assert!(!pace.is_ahead(written(10, 10)));
        assert!(pace.is_ahead(written(11, 0)) && pace.is_ahead(written(0, 11)));
        pace.read_up_to(Stream::Stdout, 5);
        pace.read_up_to(Stream::Stdout, 1);
        assert!(!pace.is_ahead(written(15, 0)));
        let waits = pace.caught_up(written(15, 11));
        let reads = async {
            tokio::task::yield_now().await;
            pace.read_up_to(Stream::Stderr, 1);
        };
        tokio::join!(waits, reads);
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let pace = Pace::new(Lead::Free);
        pace.attend(&[Stream::Stdout]);
        assert!(!pace.is_ahead(written(u64::MAX, 0)));
        pace.caught_up(written(u64::MAX, 0)).await;
    }

    #[tokio::test]
    async fn readers_that_have_left_are_not_waited_for() {
        let pace = Pace::new(Lead::Attended(10));
        assert!(!pace.is_ahead(written(100, 100)), "there is nobody");
        pace.attend(&[Stream::Stdout]);
        pace.attend(&[Stream::Stdout, Stream::Stderr]);
        assert!(pace.is_ahead(written(11, 0)) && pace.is_ahead(written(0, 11)));
        pace.leave(&[Stream::Stdout, Stream::Stderr]);
        assert!(!pace.is_ahead(written(0, 11)), "nobody reads that stream");
        // The fastest counts.
        pace.read_up_to(Stream::Stdout, 50);
        assert!(!pace.is_ahead(written(60, 0)) && pace.is_ahead(written(61, 0)));
        let waits = pace.caught_up(written(100, 0));
        let leaves = async {
            tokio::task::yield_now().await;
            pace.leave(&[Stream::Stdout]);
        };
        tokio::join!(waits, leaves);
    }
}
