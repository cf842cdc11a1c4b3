//! Output that is collected for a result: all of it, or its head and tail.

use std::collections::VecDeque;

use caisson_core::Stream;
use caisson_engine::Captured;

/// Of each stream this much is kept at either end, as servers do by default.
const HALF: usize = 512 << 10;

/// Both streams.
#[derive(Debug, Default)]
pub(super) struct Capture {
    stdout: Kept,
    stderr: Kept,
}

#[derive(Debug, Default)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Capture {
    /// A piece that begins at `offset` in what the program wrote.
    pub(super) fn append(&mut self, stream: Stream, offset: u64, data: &[u8]) {
        match stream {
            Stream::Stdout => self.stdout.append(offset, data),
            Stream::Stderr => self.stderr.append(offset, data),
        }
    }

    /// Standard output and standard error.
    pub(super) fn finish(self) -> (Captured, Captured) {
        (self.stdout.finish(), self.stderr.finish())
    }
}

impl Kept {
    fn append(&mut self, offset: u64, mut data: &[u8]) {
        let end = offset.saturating_add(data.len() as u64);
        if offset != self.total {
            // What was in front of a gap is not the tail any more.
            self.tail.clear();
        } else if self.total == self.head.len() as u64 {
            let (head, rest) = data.split_at(data.len().min(HALF - self.head.len()));
            self.head.extend_from_slice(head);
            data = rest;
        }
        self.tail.extend(data);
        let excess = self.tail.len().saturating_sub(HALF);
        self.tail.drain(..excess);
        self.total = end;
    }

    fn finish(self) -> Captured {
        Captured { head: self.head.into(), tail: Vec::from(self.tail).into(), total_bytes: self.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pieces: &[(u64, Vec<u8>)]) -> Captured {
        let mut kept = Kept::default();
        for (offset, data) in pieces {
            kept.append(*offset, data);
        }
        kept.finish()
    }

    #[test]
    fn what_fits_is_whole() {
        let whole = kept(&[(0, b"ab".to_vec()), (2, vec![b'c'; HALF]), (2 + HALF as u64, b"d".to_vec())]);
        assert!(!whole.truncated());
        assert_eq!([&whole.head[..], &whole.tail].concat().len(), HALF + 3);
        assert_eq!((&whole.head[..3], whole.tail.last()), (&b"abc"[..], Some(&b'd')));
    }

    #[test]
    fn of_what_does_not_fit_both_ends_stay() {
        let ends = kept(&[(0, vec![b'a'; 3 * HALF]), (3 * HALF as u64, b"end".to_vec())]);
        assert!(ends.truncated());
        assert_eq!((ends.head.len(), ends.tail.len(), ends.total_bytes), (HALF, HALF, 3 * HALF as u64 + 3));
        assert!(ends.tail.ends_with(b"aend"));
    }

    #[test]
    fn a_gap_parts_head_and_tail() {
        let parted = kept(&[(0, b"head".to_vec()), (100, b"tail".to_vec()), (104, b"!".to_vec())]);
        assert_eq!((&parted.head[..], &parted.tail[..], parted.total_bytes), (&b"head"[..], &b"tail!"[..], 105));
        assert!(parted.truncated());
    }
}
