//! UUIDs (RFC 9562): what other systems call things by.

use std::{fmt, str::FromStr};

/// Sixteen bytes, written in lower case with hyphens. Read in either case, and no other form becomes one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid([u8; 16]);

/// Why a text is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a UUID is written like 8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10")]
pub struct UuidError;

/// Digits before each hyphen.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const LEN: usize = 36;

impl Uuid {
    /// What they look like, as a regular expression.
    pub const PATTERN: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";
    /// What version and variant leave for others to choose.
    pub const FREE_BITS: u32 = 122;

    /// A new one (version 4) from the kernel.
    #[must_use]
    pub fn random() -> Self {
        let mut bits = [0; 16];
        // The kernel's generator fails only before the machine has finished booting.
        getrandom::fill(&mut bits).expect("the kernel's random generator is available");
        Self::marked(bits, 4)
    }

    /// The one (version 8) that these bytes stand for; of which each has one only, as long as nobody finds two with the same begin of
    /// their SHA-256.
    #[must_use]
    pub fn of_hash(hash: &[u8; 32]) -> Self {
        let mut bits = [0; 16];
        bits.copy_from_slice(&hash[..16]);
        Self::marked(bits, 8)
    }

    /// Version 4 around [`Uuid::FREE_BITS`] bits, which are the lower ones.
    #[must_use]
    pub fn from_free_bits(bits: u128) -> Self {
        let (high, middle, low) = (bits >> 74 & ((1 << 48) - 1), bits >> 62 & 0xfff, bits & ((1 << 62) - 1));
        Self((high << 80 | 4 << 76 | middle << 64 | 0b10 << 62 | low).to_be_bytes())
    }

    /// Those bits again; `None` for what [`Uuid::from_free_bits`] does not make.
    #[must_use]
    pub fn free_bits(&self) -> Option<u128> {
        let whole = u128::from_be_bytes(self.0);
        let bits = (whole >> 80) << 74 | (whole >> 64 & 0xfff) << 62 | whole & ((1 << 62) - 1);
        (Self::from_free_bits(bits) == *self).then_some(bits)
    }

    fn marked(mut bits: [u8; 16], version: u8) -> Self {
        bits[6] = bits[6] & 0x0f | version << 4;
        bits[8] = bits[8] & 0x3f | 0x80;
        Self(bits)
    }
}

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        if text.len() != LEN {
            return Err(UuidError);
        }
        let mut whole: u128 = 0;
        for (at, c) in text.bytes().enumerate() {
            match (HYPHENS.contains(&at), c) {
                (true, b'-') => {}
                (false, c) if c.is_ascii_hexdigit() => whole = whole << 4 | u128::from(char::from(c).to_digit(16).ok_or(UuidError)?),
                _ => return Err(UuidError),
            }
        }
        Ok(Self(whole.to_be_bytes()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", u128::from_be_bytes(self.0));
        let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
        f.pad(&format!("{a}-{b}-{c}-{d}-{e}"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip_and_others_are_refused() {
        let text = "8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(uuid));
        for bad in ["", &text[1..], &text.replace('-', ""), &text.replace('8', "g"), &format!("{text}0"), &text.replace("-7", "7-"), "ä"] {
            assert_eq!(bad.parse::<Uuid>(), Err(UuidError), "{bad}");
        }
    }

    #[test]
    fn new_ones_say_what_they_are_and_differ() {
        let (a, b) = (Uuid::random(), Uuid::random());
        assert_ne!(a, b);
        assert_eq!((&a.to_string()[14..15], "89ab".contains(&a.to_string()[19..20])), ("4", true), "{a}");
        let named = Uuid::of_hash(&[0xff; 32]);
        assert_eq!(named.to_string(), "ffffffff-ffff-8fff-bfff-ffffffffffff");
        assert_eq!(named.free_bits(), None);
    }

    #[test]
    fn every_bit_has_its_place() {
        for bit in 0..Uuid::FREE_BITS {
            assert_eq!(Uuid::from_free_bits(1 << bit).free_bits(), Some(1 << bit), "{bit}");
        }
        let all = (1 << Uuid::FREE_BITS) - 1;
        assert_eq!(Uuid::from_free_bits(all).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(Uuid::random().free_bits().map(Uuid::from_free_bits).map(|uuid| uuid.free_bits().is_some()), Some(true));
    }
}
