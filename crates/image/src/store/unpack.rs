//! From a layer as it came to a directory.

use std::{
    fs::File,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use bytes::Bytes;
use caisson_core::Digest;
use caisson_tree::{Allowance, Error as TreeError, Layer, LayerError, LeftOuts};
use rustix::fs::{Mode, OFlags, open};
use sha2::{Digest as _, Sha256};

use super::disk::{Disk, Facts, Temporary};
use crate::{Error, compression::plain, error::is_full, manifest::Text};

const PIECE: usize = 256 << 10;
/// Pieces between the thread that takes them out of the compression and the one that makes files.
const AHEAD: usize = 8;
/// Of a plain stream that is no content, for each entry that it may have.
const HEADERS: u64 = 1024;

/// What an image may hold, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub bytes: u64,
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, entries: 2_000_000 }
    }
}

/// What an image has left of its limits; shared by those who unpack its layers.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    allowance: Allowance,
    given_up: AtomicBool,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, allowance: Allowance::new(limits.bytes, limits.entries), given_up: AtomicBool::new(false) })
    }

    /// For a layer that is there already.
    pub(crate) fn take(&self, facts: &Facts) -> Result<(), Error> {
        self.allowance.take(facts.bytes, facts.entries).map_err(|over| Error::TooBig { what: over.what, most: over.most })
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Ends what is being unpacked.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Gives the work up when whoever waits for it has gone.
#[derive(Debug)]
pub(crate) struct GiveUp(pub(crate) Arc<Budget>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// A layer that is unpacked and has no place yet.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) directory: Temporary,
    pub(crate) diff_id: Digest,
    pub(crate) facts: Facts,
}

impl Disk {
    /// Unpacks `raw`, whatever it is compressed by, and says what it is. `what` stands in errors. `seen` hears how many plain
    /// bytes there were so far.
    pub(crate) fn unpack(
        &self,
        what: &str,
        raw: impl Read + Send,
        budget: &Budget,
        seen: &(dyn Fn(u64) + Sync),
    ) -> Result<Unpacked, Error> {
        let directory = self.temporary_directory()?;
        let root = open(directory.path(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = root.map_err(|cause| self.failure("open", directory.path(), cause.into()))?;
        let mut layer = Layer::new(root, &budget.allowance);
        let (sender, pieces) = mpsc::sync_channel(AHEAD);
        // Decompression and making files are about as much work as each other.
        let (made, read) = thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let read = read(raw, budget, seen, &mut |piece| sender.send(Ok(piece)).is_ok());
                if let Err(error) = &read {
                    // As the stream's end; if nobody listens any more, the other side has said why.
                    _ = sender.send(Err(io::Error::new(error.kind(), error.to_string())));
                }
                read
            });
            let made = layer.all(pieces.into_iter());
            (made, reader.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads it failed"))))
        });
        if budget.is_given_up() {
            return Err(Error::GivenUp);
        }
        made.map_err(|cause| self.layer_failure(what, cause))?;
        let diff_id = read.map_err(|cause| self.layer_failure(what, LayerError::Tree(TreeError::Stream(cause))))?;
        let left_out = &layer.done.left_out;
        let facts = Facts {
            bytes: layer.done.bytes,
            entries: layer.done.files + layer.done.directories + layer.done.links + layer.whiteouts,
            left_out: left_out.total(),
            left_out_named: named(left_out),
            blobs: Vec::new(),
        };
        Ok(Unpacked { directory, diff_id, facts })
    }

    fn layer_failure(&self, what: &str, cause: LayerError) -> Error {
        match cause {
            LayerError::TooMuch(over) => Error::TooBig { what: over.what, most: over.most },
            LayerError::Tree(TreeError::Entry { cause, .. } | TreeError::Stream(cause)) if is_full(&cause) => {
                self.failure("unpack", self.layers(), cause)
            }
            cause => Error::Layer { what: what.to_owned(), cause },
        }
    }

    /// Unpacks a blob that is here, and keeps it if it is the layer that it is said to be.
    pub(crate) fn unpack_blob(&self, blob: Digest, diff_id: Digest, budget: &Budget, seen: &(dyn Fn(u64) + Sync)) -> Result<Facts, Error> {
        let file: File = self.open_blob(blob)?;
        if let Some(mut facts) = self.layer(diff_id) {
            budget.take(&facts)?;
            if !facts.blobs.contains(&Text(blob)) {
                // That there is such a layer does not say that this blob is one of it: whoever names both may be after what others have.
                self.is_layer(blob, diff_id, self.read_through(blob, file, budget, seen)?)?;
                facts.blobs.push(Text(blob));
                self.write_facts(diff_id, &facts)?;
            }
            return Ok(facts);
        }
        let mut unpacked = self.unpack(&format!("layer {blob}"), file, budget, seen)?;
        self.is_layer(blob, diff_id, unpacked.diff_id)?;
        unpacked.facts.blobs.push(Text(blob));
        self.keep_layer(unpacked.directory, diff_id, &unpacked.facts)?;
        Ok(unpacked.facts)
    }

    fn is_layer(&self, blob: Digest, expected: Digest, found: Digest) -> Result<(), Error> {
        if found == expected { Ok(()) } else { Err(Error::Digest { what: format!("unpacked, layer {blob}"), expected, found }) }
    }

    /// The digest of a blob's plain bytes.
    fn read_through(&self, blob: Digest, file: File, budget: &Budget, seen: &(dyn Fn(u64) + Sync)) -> Result<Digest, Error> {
        let read = read(file, budget, seen, &mut |_| true);
        if budget.is_given_up() {
            return Err(Error::GivenUp);
        }
        read.map_err(|cause| self.layer_failure(&format!("layer {blob}"), LayerError::Tree(TreeError::Stream(cause))))
    }
}

/// Hands the plain stream on in pieces, for as long as they are wanted, and says its digest.
fn read(raw: impl Read + Send, budget: &Budget, seen: &(dyn Fn(u64) + Sync), hand_on: &mut dyn FnMut(Bytes) -> bool) -> io::Result<Digest> {
    let most = budget.limits.entries.saturating_mul(HEADERS).saturating_add(budget.limits.bytes);
    let (mut hash, mut total, mut plain) = (Sha256::new(), 0u64, plain(raw)?);
    loop {
        if budget.is_given_up() {
            return Err(io::Error::other("it was given up"));
        }
        let mut piece = vec![0; PIECE];
        let length = fill(&mut plain, &mut piece)?;
        if length == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        piece.truncate(length);
        hash.update(&piece);
        total += length as u64;
        seen(total);
        if total > most {
            return Err(io::Error::other("unpacked, it is longer than anything that an image may hold"));
        }
        if !hand_on(Bytes::from(piece)) {
            return Err(io::Error::other("nobody wants the rest"));
        }
    }
}

/// As much as there is room for, less only at the end.
fn fill(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < piece.len() {
        match from.read(&mut piece[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn named(left_out: &LeftOuts) -> Vec<String> {
    left_out.named().iter().map(|left| format!("{}: {}", String::from_utf8_lossy(&left.path).escape_debug(), left.why)).collect()
}
