//! The tar format: what POSIX calls `ustar` and `pax`, and the long names of GNU.
//!
//! ```text
//! header (512) | content, filled up with zeros to 512 | header … | two blocks of zeros, and nothing but zeros behind them
//! ```
//!
//! Read strictly, because whoever wrote it may mean harm: one view of every size and name, everything bounded before it is kept, and what is
//! not understood is refused instead of guessed. Written in the oldest form that can say it.

mod header;
mod pax;
mod read;
mod write;

pub use read::{Member, Members};
pub use write::{About, END, header_of};
pub(crate) use write::{header, left_out};

/// The unit of everything.
pub(crate) const BLOCK: usize = 512;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// The same file as an earlier member.
    HardLink,
    /// Fifo or device.
    Special,
}

/// Appends the header of an ordinary file of root's.
pub fn file(out: &mut Vec<u8>, path: &[u8], size: u64) {
    header(out, Kind::File, path, b"", 0o644, size, 0);
}

/// How many zeros follow a content of this length.
#[must_use]
pub fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}
