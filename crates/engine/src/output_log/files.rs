//! The two files of a stream's log: the head as it is, and, only when there is more than the head holds, the tail as a ring.
//!
//! The files describe themselves together with the recorded totals: the head's length is where the tail begins, the tail's length is the
//! size of the ring. If both together are not as long as what the record says is kept, the tail is incomplete and only the head counts.
//! Everything here blocks.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use caisson_core::{ExecutionId, Stream, StreamTotals};

use super::window::{Region, Window};

/// Where the log of one stream lies.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    head: PathBuf,
    tail: PathBuf,
}

impl Paths {
    /// Logs are spread over directories named after two random characters, so that none grows too large.
    pub(super) fn new(logs: &Path, id: ExecutionId, stream: Stream) -> Self {
        let shard = logs.join(&id.as_str()[3..5]);
        let name = stream.as_str();
        Self { head: shard.join(format!("{id}.{name}")), tail: shard.join(format!("{id}.{name}.tail")) }
    }

    /// Removes what is there.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.head).and(remove(&self.tail))
    }
}

/// The files while the program runs.
#[derive(Debug)]
pub(super) struct Files {
    paths: Paths,
    window: Window,
    head: Option<File>,
    tail: Option<File>,
}

impl Files {
    pub(super) fn new(paths: Paths, window: Window) -> Self {
        Self { paths, window, head: None, tail: None }
    }

    /// Writes what the program wrote at `start`.
    pub(super) fn write(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        for piece in self.window.pieces(start..start + bytes.len() as u64) {
            let data = &bytes[index(piece.range.start - start)..index(piece.range.end - start)];
            let (slot, path) = match piece.region {
                Region::Head => (&mut self.head, &self.paths.head),
                Region::Tail => (&mut self.tail, &self.paths.tail),
            };
            let file = match slot {
                Some(file) => file,
                None => slot.insert(create(path)?),
            };
            file.write_all_at(data, piece.position)?;
        }
        Ok(())
    }

    /// Up to `max` bytes at `offset`, all from one region; the caller knows that they have been written.
    pub(super) fn read(&self, offset: u64, end: u64) -> io::Result<Vec<u8>> {
        let Some(piece) = self.window.pieces(offset..end).into_iter().next() else { return Ok(Vec::new()) };
        let file = match piece.region {
            Region::Head => &self.head,
            Region::Tail => &self.tail,
        };
        let Some(file) = file else { return Ok(Vec::new()) };
        let mut data = vec![0; index(piece.range.end - piece.range.start)];
        file.read_exact_at(&mut data, piece.position)?;
        Ok(data)
    }

    /// After a failed write: keeps of the head what was written before, `good` bytes of the stream, and drops the rest.
    pub(super) fn give_up(&mut self, good: u64) -> io::Result<()> {
        self.tail = None;
        let cut = self.head.as_ref().map_or(Ok(()), |file| file.set_len(good.min(self.window.head)));
        cut.and(remove(&self.paths.tail))
    }
}

/// The files of an execution that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    head: Option<File>,
    tail: Option<File>,
    window: Window,
    totals: StreamTotals,
}

impl Finished {
    /// `recorded` is `None` when nobody was there to write down the totals: then the head is all that is known.
    pub(super) fn open(paths: &Paths, recorded: Option<StreamTotals>) -> io::Result<Self> {
        let (head, mut tail) = (open(&paths.head)?, open(&paths.tail)?);
        let length = |file: &Option<File>| file.as_ref().map_or(Ok(0), |f| f.metadata().map(|m| m.len()));
        let mut window = Window { head: length(&head)?, tail: length(&tail)? };
        let totals = recorded.unwrap_or(StreamTotals { total_bytes: window.head, dropped_bytes: 0 });
        if window.head + window.tail != totals.total_bytes.saturating_sub(totals.dropped_bytes) {
            (tail, window.tail) = (None, 0);
        }
        window.head = window.head.min(totals.total_bytes);
        Ok(Self { head, tail, window, totals })
    }

    pub(super) fn totals(&self) -> StreamTotals {
        self.totals
    }

    /// The first run of kept bytes at or after `offset`, at most `max` of them, and where it begins.
    pub(super) fn read(&self, offset: u64, max: usize) -> io::Result<Option<(u64, Vec<u8>)>> {
        let total = self.totals.total_bytes;
        let start = if offset < self.window.head { offset } else { offset.max(self.window.tail_start(total)) };
        if start >= total || max == 0 {
            return Ok(None);
        }
        let end = total.min(start.saturating_add(max as u64));
        let Some(piece) = self.window.pieces(start..end).into_iter().next() else { return Ok(None) };
        let file = match piece.region {
            Region::Head => &self.head,
            Region::Tail => &self.tail,
        };
        let Some(file) = file else { return Ok(None) };
        let mut data = vec![0; index(piece.range.end - piece.range.start)];
        file.read_exact_at(&mut data, piece.position)?;
        Ok(Some((start, data)))
    }
}

fn create(path: &Path) -> io::Result<File> {
    let options = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    match options() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or(error)?;
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            options()
        }
        other => other,
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Pieces are as long as what is read or written at one time.
fn index(value: u64) -> usize {
    usize::try_from(value).expect("a piece is in memory")
}
