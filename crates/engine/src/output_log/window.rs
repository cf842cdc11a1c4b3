//! Which bytes of a long stream are kept, and where.
//!
//! ```text
//! written   0 ────────── head ┬───── dropped ─────┬── total
//! kept      [     head      ] │                   │
//!                             └ lost as it grows  [   tail   ]  a ring of `tail` bytes
//! ```

use std::ops::Range;

/// The first `head` and the last `tail` bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) head: u64,
    pub(super) tail: u64,
}

/// One of the two kept parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Region {
    Head,
    Tail,
}

/// A run of bytes that lie together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) region: Region,
    /// Where it lies in its region.
    pub(super) position: u64,
    /// Which bytes of the stream it is.
    pub(super) range: Range<u64>,
}

impl Window {
    /// A window that keeps `bytes` in all, half at each end.
    pub(super) fn of(bytes: u64) -> Self {
        Self { head: bytes / 2, tail: bytes - bytes / 2 }
    }

    /// Where the tail begins once `total` bytes have been written.
    pub(super) fn tail_start(self, total: u64) -> u64 {
        self.head.max(total.saturating_sub(self.tail))
    }

    /// How many bytes are left out between head and tail.
    pub(super) fn dropped(self, total: u64) -> u64 {
        self.tail_start(total) - self.head
    }

    /// Where the bytes of `range` lie, in order. A range longer than the ring loses its beginning.
    pub(super) fn pieces(self, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(3);
        let in_head = range.start..range.end.min(self.head);
        if !in_head.is_empty() {
            pieces.push(Piece { region: Region::Head, position: in_head.start, range: in_head });
        }
        let mut at = range.start.max(self.head).max(range.end.saturating_sub(self.tail));
        while self.tail > 0 && at < range.end {
            let position = (at - self.head) % self.tail;
            let end = range.end.min(at + self.tail - position);
            pieces.push(Piece { region: Region::Tail, position, range: at..end });
            at = end;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_kept_until_it_does_not_fit() {
        let window = Window::of(11);
        assert_eq!(window, Window { head: 5, tail: 6 });
        for total in 0..=11 {
            assert_eq!(window.dropped(total), 0);
        }
        assert_eq!((window.dropped(12), window.tail_start(12)), (1, 6));
        assert_eq!(Window::of(0).dropped(7), 7);
    }

    #[test]
    fn a_range_is_cut_where_the_ring_wraps() {
        let window = Window { head: 4, tail: 6 };
        let pieces = window.pieces(2..12);
        let flat: Vec<(Region, u64, Range<u64>)> = pieces.into_iter().map(|p| (p.region, p.position, p.range)).collect();
        assert_eq!(flat, [(Region::Head, 2, 2..4), (Region::Tail, 2, 6..10), (Region::Tail, 0, 10..12)]);
    }
}
