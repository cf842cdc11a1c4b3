//! What a program wrote, by byte offset: bounded in memory and on disk, read while it grows and after a restart.

mod files;
mod memory;
mod pace;
mod window;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use caisson_core::{ExecutionId, Stream, StreamTotals};
use tokio::sync::watch;

pub(crate) use self::pace::Lead;
use self::{
    files::{Files, Finished, Paths},
    memory::Memory,
    pace::Pace,
    window::Window,
};
use crate::request::{Captured, OutputChunk, Progress};

/// Bytes of one stream that wait in memory for the disk.
pub(crate) const WRITE_AT: usize = 256 << 10;
/// Up to this many bytes are written where we are: the page cache takes them in less time than a thread takes to wake up.
const WRITE_HERE: usize = 16 << 10;
/// Bytes read from the disk in one go.
const READ_MAX: usize = 1 << 20;

/// How much is kept where.
#[derive(Debug, Clone)]
pub(crate) struct LogConfig {
    /// The directory of all logs.
    pub(crate) logs: PathBuf,
    /// Per stream, in memory.
    pub(crate) inline_bytes: u64,
    /// Per stream, on disk.
    pub(crate) log_bytes: u64,
}

/// The log of a running execution. One task appends; anybody reads.
#[derive(Debug)]
pub(crate) struct OutputLog {
    stdout: Arc<StreamLog>,
    stderr: Arc<StreamLog>,
    progress: watch::Sender<Progress>,
    pace: Pace,
}

/// What one stream came to.
#[derive(Debug)]
pub(crate) struct StreamEnd {
    pub(crate) captured: Captured,
    pub(crate) totals: StreamTotals,
    /// Why the log has less than it should.
    pub(crate) incomplete: Option<String>,
}

#[derive(Debug)]
struct StreamLog {
    window: Window,
    buffers: Mutex<Buffers>,
    /// Waited for only by blocking tasks, never together with `buffers` held.
    files: Mutex<Files>,
}

#[derive(Debug)]
struct Buffers {
    memory: Memory,
    total: u64,
    /// The bytes before this one are on disk as far as the window keeps them.
    written: u64,
    /// From `written` on, being written at this moment.
    in_flight: Bytes,
    /// After those, not yet handed to the disk.
    pending: Vec<u8>,
    /// Why the disk takes nothing more, and how many bytes of the head it has.
    broken: Option<(String, u64)>,
}

/// Where the bytes at some offset are to be had.
enum Source {
    Chunk(OutputChunk),
    Disk { start: u64, end: u64 },
    Nothing,
}

impl OutputLog {
    pub(crate) fn new(config: &LogConfig, id: ExecutionId, lead: Lead) -> Self {
        let stream = |stream| Arc::new(StreamLog::new(config, Paths::new(&config.logs, id, stream)));
        Self { stdout: stream(Stream::Stdout), stderr: stream(Stream::Stderr), progress: watch::Sender::default(), pace: Pace::new(lead) }
    }

    /// Takes what the program wrote. Never waits; when it says `true`, call [`OutputLog::write`] before appending more.
    pub(crate) fn append(&self, stream: Stream, bytes: &[u8]) -> bool {
        let log = self.stream(stream);
        let mut buffers = log.buffers();
        buffers.append(bytes);
        let (total, due) = (buffers.total, buffers.pending.len() >= WRITE_AT);
        drop(buffers);
        self.progress.send_modify(|progress| match stream {
            Stream::Stdout => progress.stdout_bytes = total,
            Stream::Stderr => progress.stderr_bytes = total,
        });
        due
    }

    /// Puts on disk what waits for it.
    pub(crate) async fn write(&self, stream: Stream) {
        write(Arc::clone(self.stream(stream))).await;
    }

    /// Puts everything on disk and says what it came to. Nothing may be appended afterwards.
    pub(crate) async fn finish(&self) -> (StreamEnd, StreamEnd) {
        let ((), ()) = tokio::join!(self.write(Stream::Stdout), self.write(Stream::Stderr));
        (self.stdout.end(), self.stderr.end())
    }

    /// Tells followers that nothing comes any more.
    pub(crate) fn announce_end(&self) {
        self.progress.send_modify(|progress| progress.finished = true);
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// How many have asked for its progress and still want to know.
    pub(crate) fn followers(&self) -> usize {
        self.progress.receiver_count()
    }

    /// Somebody begins to read these streams, each from an offset, and will say of those that are returned when that is over. Whoever wants
    /// only what has not been written yet is not among those that the program waits for.
    pub(crate) fn attend(&self, wanted: &[(Stream, u64)]) -> Vec<Stream> {
        let written = *self.progress.borrow();
        let within = |(stream, offset): &(Stream, u64)| {
            let total = match stream {
                Stream::Stdout => written.stdout_bytes,
                Stream::Stderr => written.stderr_bytes,
            };
            (*offset <= total).then_some(*stream)
        };
        let streams: Vec<Stream> = wanted.iter().filter_map(within).collect();
        self.pace.attend(&streams);
        streams
    }

    /// It is over.
    pub(crate) fn leave(&self, streams: &[Stream]) {
        self.pace.leave(streams);
    }

    /// Whether the program is to wait for whoever reads.
    pub(crate) fn is_ahead(&self) -> bool {
        self.pace.is_ahead(*self.progress.borrow())
    }

    /// Returns when it need not wait any more. Cancel-safe.
    pub(crate) async fn caught_up(&self) {
        let written = *self.progress.borrow();
        self.pace.caught_up(written).await;
    }

    /// Whether something waits for the disk.
    pub(crate) fn has_pending(&self) -> bool {
        [&self.stdout, &self.stderr].into_iter().any(|log| !log.buffers().pending.is_empty())
    }

    /// The first kept bytes at or after `offset`; `None` when there are none yet.
    pub(crate) async fn read(&self, stream: Stream, offset: u64, max: usize) -> io::Result<Option<OutputChunk>> {
        self.pace.read_up_to(stream, offset);
        let max = max.min(READ_MAX);
        let log = self.stream(stream);
        loop {
            let (start, end) = match log.buffers().locate(log.window, offset, max) {
                Source::Nothing => return Ok(None),
                Source::Chunk(chunk) => return Ok(Some(chunk)),
                Source::Disk { start, end } => (start, end),
            };
            let reader = Arc::clone(log);
            let data = tokio::task::spawn_blocking(move || reader.files().read(start, end)).await.map_err(io::Error::other)??;
            // The ring may have come round while we read; then these are not the bytes that were asked for.
            if !data.is_empty() && log.buffers().still_on_disk(log.window, start) {
                return Ok(Some(OutputChunk { offset: start, data: data.into() }));
            }
        }
    }

    fn stream(&self, stream: Stream) -> &Arc<StreamLog> {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }
}

impl StreamLog {
    fn new(config: &LogConfig, paths: Paths) -> Self {
        let window = Window::of(config.log_bytes);
        let buffers = Buffers {
            memory: Memory::new(Window::of(config.inline_bytes)),
            total: 0,
            written: 0,
            in_flight: Bytes::new(),
            pending: Vec::new(),
            broken: None,
        };
        Self { window, buffers: Mutex::new(buffers), files: Mutex::new(Files::new(paths, window)) }
    }

    fn buffers(&self) -> MutexGuard<'_, Buffers> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> StreamEnd {
        let buffers = self.buffers();
        let total_bytes = buffers.total;
        let (dropped_bytes, incomplete) = match &buffers.broken {
            None => (self.window.dropped(total_bytes), None),
            Some((why, head)) => (total_bytes - head, Some(why.clone())),
        };
        StreamEnd { captured: buffers.memory.captured(), totals: StreamTotals { total_bytes, dropped_bytes }, incomplete }
    }
}

async fn write(log: Arc<StreamLog>) {
    let (start, data) = {
        let mut buffers = log.buffers();
        if buffers.pending.is_empty() {
            return;
        }
        buffers.in_flight = Bytes::from(std::mem::take(&mut buffers.pending));
        (buffers.written, buffers.in_flight.clone())
    };
    let end = start + data.len() as u64;
    let here = if data.len() <= WRITE_HERE { log.files.try_lock().ok().map(|mut files| put(&mut files, start, &data)) } else { None };
    let result = match here {
        Some(result) => result,
        None => {
            let writer = Arc::clone(&log);
            blocking(move || put(&mut writer.files(), start, &data)).await
        }
    };
    let mut buffers = log.buffers();
    if let Err(error) = result {
        buffers.broken = Some((error.to_string(), start.min(log.window.head)));
        buffers.pending = Vec::new();
    }
    buffers.written = end;
    buffers.in_flight = Bytes::new();
}

fn put(files: &mut Files, start: u64, data: &[u8]) -> io::Result<()> {
    files.write(start, data).inspect_err(|_| {
        // What cannot be undone either is found out by the lengths when the log is read.
        if let Err(error) = files.give_up(start) {
            tracing::warn!(error = %error, "Cannot cut an output log after a failed write");
        }
    })
}

impl Buffers {
    fn append(&mut self, bytes: &[u8]) {
        self.memory.append(bytes);
        self.total += bytes.len() as u64;
        if self.broken.is_none() {
            self.pending.extend_from_slice(bytes);
        }
    }

    /// Where the tail ring on disk begins, counting what is being written over it at this moment.
    fn disk_tail_start(&self, window: Window) -> u64 {
        window.tail_start(self.written + self.in_flight.len() as u64)
    }

    fn still_on_disk(&self, window: Window, offset: u64) -> bool {
        match &self.broken {
            Some((_, head)) => offset < *head,
            None => offset < window.head || offset >= self.disk_tail_start(window),
        }
    }

    fn locate(&self, window: Window, offset: u64, max: usize) -> Source {
        if offset >= self.total || max == 0 {
            return Source::Nothing;
        }
        if let Some(data) = self.memory.read(offset, max) {
            return Source::Chunk(OutputChunk { offset, data });
        }
        let flight_end = self.written + self.in_flight.len() as u64;
        if self.broken.is_none() && offset >= self.written {
            let (start, bytes) = if offset < flight_end { (self.written, &self.in_flight[..]) } else { (flight_end, &self.pending[..]) };
            let from = usize::try_from(offset - start).expect("these bytes are in memory");
            let data = Bytes::copy_from_slice(&bytes[from..bytes.len().min(from.saturating_add(max))]);
            return Source::Chunk(OutputChunk { offset, data });
        }
        let far = offset.saturating_add(max as u64);
        if self.still_on_disk(window, offset) {
            let limit = match &self.broken {
                Some((_, head)) => *head,
                None if offset < window.head => window.head.min(self.written),
                None => self.written,
            };
            return Source::Disk { start: offset, end: far.min(limit) };
        }
        // It is not kept: the next byte that is. The tail in memory is the last resort when the disk has none.
        let on_disk = if self.broken.is_some() { u64::MAX } else { self.disk_tail_start(window).max(offset + 1) };
        let next = on_disk.min(self.memory.tail_start().max(offset + 1));
        if next >= self.total { Source::Nothing } else { self.locate(window, next, max) }
    }
}

/// The log of an execution that has ended. `recorded` is absent when its server died before it could write the totals down.
pub(crate) async fn read_finished(
    logs: &Path,
    id: ExecutionId,
    stream: Stream,
    recorded: Option<StreamTotals>,
    offset: u64,
    max: usize,
) -> io::Result<Option<OutputChunk>> {
    let paths = Paths::new(logs, id, stream);
    blocking(move || {
        let found = Finished::open(&paths, recorded)?.read(offset, max.min(READ_MAX))?;
        Ok(found.map(|(offset, data)| OutputChunk { offset, data: data.into() }))
    })
    .await
}

/// What an execution that has ended said on one stream, as its immediate result had it.
pub(crate) async fn capture_finished(
    config: &LogConfig,
    id: ExecutionId,
    stream: Stream,
    recorded: Option<StreamTotals>,
) -> io::Result<(Captured, StreamTotals)> {
    let paths = Paths::new(&config.logs, id, stream);
    let inline = Window::of(config.inline_bytes);
    blocking(move || {
        let log = Finished::open(&paths, recorded)?;
        let totals = log.totals();
        let read = |from: u64, to: u64| {
            let mut data = Vec::new();
            let mut at = from;
            while at < to {
                let Some((start, more)) = log.read(at, usize::try_from(to - at).unwrap_or(READ_MAX))? else { break };
                if start != at {
                    break;
                }
                at += more.len() as u64;
                data.extend(more);
            }
            Ok::<_, io::Error>(Bytes::from(data))
        };
        let total_bytes = totals.total_bytes;
        if inline.dropped(total_bytes) == 0 && totals.dropped_bytes == 0 {
            return Ok((Captured { head: read(0, total_bytes)?, tail: Bytes::new(), total_bytes }, totals));
        }
        let head = read(0, inline.head.min(total_bytes))?;
        let tail_start = inline.tail_start(total_bytes).max(head.len() as u64);
        // The log's own tail may be shorter than the inline one.
        let kept = log.read(tail_start, 1)?.map_or(total_bytes, |(start, _)| start);
        Ok((Captured { head, tail: read(kept, total_bytes)?, total_bytes }, totals))
    })
    .await
}

/// Removes the logs of these executions; returns how many could not be removed.
pub(crate) async fn remove(logs: &Path, ids: Vec<ExecutionId>) -> usize {
    let logs = logs.to_owned();
    let removing = blocking(move || {
        let streams = [Stream::Stdout, Stream::Stderr];
        let all = ids.iter().flat_map(|id| streams.map(|stream| Paths::new(&logs, *id, stream)));
        Ok(all.filter(|paths| paths.remove().is_err()).count())
    });
    removing.await.unwrap_or(usize::MAX)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
