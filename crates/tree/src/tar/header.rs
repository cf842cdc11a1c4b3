//! One header block.

use super::BLOCK;

/// Where the fields are.
pub(super) mod field {
    use std::ops::Range;

    pub(in crate::tar) const NAME: Range<usize> = 0..100;
    pub(in crate::tar) const MODE: Range<usize> = 100..108;
    pub(in crate::tar) const UID: Range<usize> = 108..116;
    pub(in crate::tar) const GID: Range<usize> = 116..124;
    pub(in crate::tar) const SIZE: Range<usize> = 124..136;
    pub(in crate::tar) const MTIME: Range<usize> = 136..148;
    pub(in crate::tar) const CHECKSUM: Range<usize> = 148..156;
    pub(in crate::tar) const TYPE: usize = 156;
    pub(in crate::tar) const LINK: Range<usize> = 157..257;
    pub(in crate::tar) const MAGIC: Range<usize> = 257..265;
    pub(in crate::tar) const PREFIX: Range<usize> = 345..500;
}

/// `ustar`, a NUL, and version `00`. What GNU writes there differs, and it uses the place of the prefix for other things.
pub(super) const MAGIC: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";

/// A block that is a header: its sum is right.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    pub(super) fn of(block: &'a [u8; BLOCK]) -> Result<Self, &'static str> {
        let told = number(&block[field::CHECKSUM]).ok_or("has a header without a checksum")?;
        // Some summed up signed bytes.
        let sum = |value: fn(u8) -> i64| -> i64 {
            let bytes = block.iter().enumerate();
            bytes.map(|(index, byte)| value(if field::CHECKSUM.contains(&index) { b' ' } else { *byte })).sum()
        };
        if told != sum(i64::from) && told != sum(|byte| i64::from(byte.cast_signed())) {
            return Err("has a header whose checksum is wrong; is it a tar archive, and not compressed?");
        }
        Ok(Self(block))
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[field::TYPE]
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[field::NAME]);
        let prefix = if &self.0[field::MAGIC] == MAGIC { text(&self.0[field::PREFIX]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[field::LINK]).to_vec()
    }

    pub(super) fn size(&self) -> Result<u64, &'static str> {
        let size = number(&self.0[field::SIZE]).ok_or("has a size that is no number")?;
        u64::try_from(size).map_err(|_| "has a negative size")
    }

    pub(super) fn mode(&self) -> Result<u32, &'static str> {
        let mode = number(&self.0[field::MODE]).ok_or("has permission bits that are no number")?;
        // Some put the kind of file above the bits.
        Ok((mode & 0o7777) as u32)
    }

    /// User and group. Only layers have owners, so what is no number is an error for them alone: it is beyond every id there is.
    pub(super) fn owner(&self) -> (u64, u64) {
        let id = |field| number(field).and_then(|id| u64::try_from(id).ok()).unwrap_or(u64::MAX);
        (id(&self.0[field::UID]), id(&self.0[field::GID]))
    }

    pub(super) fn mtime(&self) -> Result<i64, &'static str> {
        number(&self.0[field::MTIME]).ok_or("has a time that is no number")
    }

    /// Whether one of the known programs wrote it.
    pub(super) fn is_known(&self) -> bool {
        let magic = &self.0[field::MAGIC];
        magic == MAGIC || magic == GNU || magic.iter().all(|byte| *byte == 0)
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits, or a number of base 256 if the first bit is set (GNU; the second one is the sign). Empty is zero.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The sign goes through all bytes in front.
        let begin = if first & 0x40 != 0 { i128::from(first | 0x80) - 0x100 } else { i128::from(first & 0x3F) };
        let value = rest.iter().try_fold(begin, |value, byte| value.checked_mul(256)?.checked_add(i128::from(*byte)))?;
        return i64::try_from(value).ok();
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_writers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"+000644\0", None),
            (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", Some(1 << 32)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    #[test]
    fn blocks_of_anything_else_are_no_headers() {
        assert!(Header::of(&[b'x'; BLOCK]).is_err());
        assert!(Header::of(&[0; BLOCK]).is_err());
    }
}
