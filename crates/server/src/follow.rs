//! The output of an execution as it comes.

use std::time::Duration;

use caisson_core::{ExecutionId, Result, Stream};
use caisson_engine::{Attachment, Engine, OutputChunk, Progress};
use tokio::sync::watch;

/// Bytes read from a log at one time.
const CHUNK: usize = 32 << 10;

/// Beyond so many who follow one execution, each rests before it looks again and finds more at once: woken for every line, very many
/// would take the processors from the program itself.
const FEW: usize = 16;
const REST_FOR_EACH: Duration = Duration::from_micros(200);
const LONGEST_REST: Duration = Duration::from_millis(250);

/// Reads output logs from given offsets to the end of the execution. Reads what is kept: a slow reader slows nobody and misses nothing
/// but what the log itself has left out, which shows in the offsets.
#[derive(Debug)]
pub struct Follow {
    engine: Engine,
    id: ExecutionId,
    progress: watch::Receiver<Progress>,
    attached: Attachment,
    /// The next offset of each stream that is wanted, the one to look at first in front.
    wanted: Vec<(Stream, u64)>,
}

impl Follow {
    /// Begins to follow these streams, each from its offset.
    pub async fn new(engine: &Engine, id: ExecutionId, wanted: Vec<(Stream, u64)>) -> Result<Self> {
        // In this order: one that ends in between is found to have ended.
        let attached = engine.attach(id, &wanted).await?;
        Ok(Self { engine: engine.clone(), id, progress: engine.progress(id).await?, attached, wanted })
    }

    /// How far the output has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Whoever follows, as the engine knows it.
    #[must_use]
    pub fn attached(&self) -> &Attachment {
        &self.attached
    }

    /// Both streams from their beginning.
    pub async fn both(engine: &Engine, id: ExecutionId) -> Result<Self> {
        Self::new(engine, id, vec![(Stream::Stdout, 0), (Stream::Stderr, 0)]).await
    }

    /// The next piece, when it is there; `None` after the end. Cancel-safe: what was not returned is returned the next time.
    pub async fn next(&mut self) -> Result<Option<(Stream, OutputChunk)>> {
        loop {
            let seen = *self.progress.borrow_and_update();
            if let Some(piece) = self.available(seen).await? {
                return Ok(Some(piece));
            }
            // Nobody left to report means that nothing more will come.
            if seen.finished || self.progress.changed().await.is_err() {
                let last = *self.progress.borrow();
                return if last == seen { Ok(None) } else { self.available(last).await };
            }
            let followers = self.attached.followers();
            if followers > FEW {
                let rest = REST_FOR_EACH.saturating_mul(u32::try_from(followers).unwrap_or(u32::MAX));
                tokio::time::sleep(rest.min(LONGEST_REST)).await;
            }
        }
    }

    /// The next piece of what is there already.
    pub async fn next_available(&mut self) -> Result<Option<(Stream, OutputChunk)>> {
        let seen = *self.progress.borrow_and_update();
        self.available(seen).await
    }

    async fn available(&mut self, seen: Progress) -> Result<Option<(Stream, OutputChunk)>> {
        for index in 0..self.wanted.len() {
            let (stream, offset) = self.wanted[index];
            if total(seen, stream) <= offset {
                continue;
            }
            if let Some(chunk) = self.engine.output(self.id, stream, offset, CHUNK).await? {
                self.wanted[index].1 = chunk.offset + chunk.data.len() as u64;
                // The other stream is next, so that a flood on one does not silence the other.
                self.wanted.rotate_left(index + 1);
                return Ok(Some((stream, chunk)));
            }
        }
        Ok(None)
    }
}

/// How much a program has written to one stream.
pub(crate) fn total(progress: Progress, stream: Stream) -> u64 {
    match stream {
        Stream::Stdout => progress.stdout_bytes,
        Stream::Stderr => progress.stderr_bytes,
    }
}
