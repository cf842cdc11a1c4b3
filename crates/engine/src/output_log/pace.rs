//! How far a program may be ahead of whoever reads its output.

use caisson_core::Stream;
use tokio::sync::watch;

use crate::request::Progress;

/// Compares what was written with what was read. With no limit nobody ever waits for a reader.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Option<u64>,
    /// Everything before these offsets has been read.
    read: watch::Sender<Progress>,
}

impl Pace {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit, read: watch::Sender::default() }
    }

    /// Somebody asks for what is at `offset`, and so has what is before it.
    pub(super) fn read_up_to(&self, stream: Stream, offset: u64) {
        if self.limit.is_none() {
            return;
        }
        self.read.send_if_modified(|read| {
            let before = match stream {
                Stream::Stdout => &mut read.stdout_bytes,
                Stream::Stderr => &mut read.stderr_bytes,
            };
            let more = offset > *before;
            *before = offset.max(*before);
            more
        });
    }

    /// Whether a program that has written this much is to wait.
    pub(super) fn is_ahead(&self, written: Progress) -> bool {
        self.limit.is_some_and(|limit| lead(written, *self.read.borrow()) > limit)
    }

    /// Returns when it need not wait any more. Cancel-safe.
    pub(super) async fn caught_up(&self, written: Progress) {
        let Some(limit) = self.limit else { return };
        // The sender is our own, so this ends only one way.
        self.read.subscribe().wait_for(|read| lead(written, *read) <= limit).await.ok();
    }
}

fn lead(written: Progress, read: Progress) -> u64 {
    let stdout = written.stdout_bytes.saturating_sub(read.stdout_bytes);
    stdout.max(written.stderr_bytes.saturating_sub(read.stderr_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(stdout_bytes: u64, stderr_bytes: u64) -> Progress {
        Progress { stdout_bytes, stderr_bytes, finished: false }
    }

    #[tokio::test]
    async fn a_program_waits_for_the_slower_of_its_streams() {
        let pace = Pace::new(Some(10));
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
        let pace = Pace::new(None);
        assert!(!pace.is_ahead(written(u64::MAX, 0)));
        pace.caught_up(written(u64::MAX, 0)).await;
    }
}
