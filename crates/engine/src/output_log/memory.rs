//! Head and tail of a stream in memory: what the immediate result carries.

use bytes::Bytes;

use super::window::{Region, Window};
use crate::request::Captured;

/// Grows with the stream up to its window and never beyond.
#[derive(Debug)]
pub(super) struct Memory {
    window: Window,
    head: Vec<u8>,
    /// A ring once it has its full size.
    tail: Vec<u8>,
    total: u64,
}

impl Memory {
    pub(super) fn new(window: Window) -> Self {
        Self { window, head: Vec::new(), tail: Vec::new(), total: 0 }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        let start = self.total;
        self.total += bytes.len() as u64;
        for piece in self.window.pieces(start..self.total) {
            let data = &bytes[index(piece.range.start - start)..index(piece.range.end - start)];
            let region = match piece.region {
                Region::Head => &mut self.head,
                Region::Tail => &mut self.tail,
            };
            let position = index(piece.position);
            let end = position + data.len();
            if region.len() < end {
                region.resize(end, 0);
            }
            region[position..end].copy_from_slice(data);
        }
    }

    /// Up to `max` bytes from `offset` on, when the byte at `offset` is here.
    pub(super) fn read(&self, offset: u64, max: usize) -> Option<Bytes> {
        if offset >= self.total {
            return None;
        }
        let head_end = self.head.len() as u64;
        if offset < head_end {
            let end = self.head.len().min(index(offset).saturating_add(max));
            return Some(Bytes::copy_from_slice(&self.head[index(offset)..end]));
        }
        if offset < self.tail_start() {
            return None;
        }
        Some(self.tail_bytes(offset, self.total.min(offset.saturating_add(max as u64))))
    }

    /// Where the kept tail begins; the total when none is kept.
    pub(super) fn tail_start(&self) -> u64 {
        self.window.tail_start(self.total).min(self.total)
    }

    pub(super) fn captured(&self) -> Captured {
        let tail = self.tail_bytes(self.tail_start(), self.total);
        if self.window.dropped(self.total) == 0 && !tail.is_empty() {
            return Captured { head: [&self.head[..], &tail].concat().into(), tail: Bytes::new(), total_bytes: self.total };
        }
        Captured { head: Bytes::copy_from_slice(&self.head), tail, total_bytes: self.total }
    }

    fn tail_bytes(&self, start: u64, end: u64) -> Bytes {
        let mut out = Vec::with_capacity(index(end.saturating_sub(start)));
        for piece in self.window.pieces(start..end).into_iter().filter(|p| p.region == Region::Tail) {
            let position = index(piece.position);
            out.extend_from_slice(&self.tail[position..position + index(piece.range.end - piece.range.start)]);
        }
        out.into()
    }
}

/// Positions inside a window fit into memory because the window does.
fn index(value: u64) -> usize {
    usize::try_from(value).expect("the window is in memory")
}
