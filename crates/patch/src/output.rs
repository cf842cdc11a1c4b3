//! Where a patch goes: gathered into larger pieces, and never longer than it may be.

use std::io::Write;

use crate::Error;

const PIECE: usize = 64 << 10;

/// See the module.
pub(crate) struct Output<'a> {
    to: &'a mut dyn Write,
    piece: Vec<u8>,
    limit: u64,
    length: u64,
}

impl<'a> Output<'a> {
    pub(crate) fn new(to: &'a mut dyn Write, limit: u64) -> Self {
        Self { to, piece: Vec::with_capacity(PIECE), limit, length: 0 }
    }

    pub(crate) fn put(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        let bytes = bytes.as_ref();
        self.length += bytes.len() as u64;
        if self.length > self.limit {
            return Err(Error::PatchTooLarge { limit: self.limit });
        }
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    /// Gives on all of it; says how much it was.
    pub(crate) fn end(mut self) -> Result<u64, Error> {
        self.flush()?;
        self.to.flush().map_err(Error::Write)?;
        Ok(self.length)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.to.write_all(&self.piece).map_err(Error::Write)?;
        self.piece.clear();
        Ok(())
    }
}
