//! Identifiers: unguessable, distinct types, safe in URLs, file names and DNS labels.

use std::{fmt, str::FromStr};

use crate::Uuid;

/// Lower-case Crockford base 32: no `i`, `l`, `o`, `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Random characters after the prefix. The last has two random bits and the others five: 122 in all, which a [`Uuid`] holds as well.
const RANDOM_CHARS: usize = 25;
const LAST_BITS: u8 = 0b11000;
const PREFIX_CHARS: usize = 3;
const LEN: usize = PREFIX_CHARS + RANDOM_CHARS;

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id of this kind is `{prefix}` followed by {RANDOM_CHARS} characters of 0-9 and a-z without i, l, o, u")]
pub struct IdError {
    prefix: &'static str,
}

fn generate(prefix: &str) -> [u8; LEN] {
    let mut random = [0u8; RANDOM_CHARS];
    // The kernel's generator fails only before the machine has finished booting.
    getrandom::fill(&mut random).expect("the kernel's random generator is available");
    let mut text = [0u8; LEN];
    text[..PREFIX_CHARS].copy_from_slice(prefix.as_bytes());
    for (to, byte) in text[PREFIX_CHARS..].iter_mut().zip(random) {
        *to = ALPHABET[usize::from(byte & 31)];
    }
    text[LEN - 1] = ALPHABET[usize::from(random[RANDOM_CHARS - 1] & LAST_BITS)];
    text
}

fn parse(prefix: &'static str, text: &str) -> Result<[u8; LEN], IdError> {
    let bytes: [u8; LEN] = text.as_bytes().try_into().map_err(|_| IdError { prefix })?;
    let (head, tail) = bytes.split_at(PREFIX_CHARS);
    if head != prefix.as_bytes() || !tail.iter().all(|c| ALPHABET.contains(c)) {
        return Err(IdError { prefix });
    }
    Ok(bytes)
}

/// The bits behind the prefix, without those that a new id has not.
fn bits(text: &[u8; LEN]) -> u128 {
    let digit = |c: &u8| ALPHABET.iter().position(|letter| letter == c).unwrap_or_default() as u128;
    text[PREFIX_CHARS..].iter().fold(0, |bits, c| bits << 5 | digit(c)) >> LAST_BITS.trailing_zeros()
}

fn of_bits(prefix: &str, bits: u128) -> [u8; LEN] {
    let mut text = [0u8; LEN];
    text[..PREFIX_CHARS].copy_from_slice(prefix.as_bytes());
    let mut left = bits << LAST_BITS.trailing_zeros();
    for to in text[PREFIX_CHARS..].iter_mut().rev() {
        *to = ALPHABET[(left & 31) as usize];
        left >>= 5;
    }
    text
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; LEN]);

        impl $name {
            /// What ids of this kind look like, as a regular expression.
            pub const PATTERN: &str = concat!("^", $prefix, "[0-9a-hjkmnp-tv-z]{25}$");

            /// A new id with 122 random bits from the kernel.
            #[must_use]
            pub fn random() -> Self {
                Self(generate($prefix))
            }

            /// The same as other systems write it.
            #[must_use]
            pub fn uuid(&self) -> Uuid {
                Uuid::from_free_bits(bits(&self.0))
            }

            /// The id that is written so there, if it is one of ours.
            #[must_use]
            pub fn from_uuid(uuid: Uuid) -> Option<Self> {
                uuid.free_bits().map(|bits| Self(of_bits($prefix, bits)))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).expect("ids are ASCII")
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse($prefix, text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

id!(
    /// Names one sandbox for ever; never given to another.
    SandboxId,
    "sbx"
);
id!(
    /// Names one execution for ever.
    ExecutionId,
    "exe"
);
id!(
    /// Names one key for ever; says nothing about the key itself.
    KeyId,
    "key"
);
id!(
    /// Names one context for ever.
    ContextId,
    "ctx"
);

id!(
    /// Names one webhook for ever.
    WebhookId,
    "whk"
);
id!(
    /// Names one server, by its data directory, for as long as that is kept.
    ServerId,
    "srv"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_differ() {
        let a = SandboxId::random();
        assert_eq!(a.to_string().parse::<SandboxId>(), Ok(a));
        assert_ne!(a, SandboxId::random());
    }

    #[test]
    fn every_id_is_a_uuid_as_well() {
        for _ in 0..1000 {
            let id = SandboxId::random();
            assert_eq!(SandboxId::from_uuid(id.uuid()), Some(id));
            assert!(id.to_string().parse::<SandboxId>().is_ok());
        }
        assert_eq!(SandboxId::from_uuid(Uuid::of_hash(&[7; 32])), None);
        let uuid = Uuid::random();
        assert_eq!(KeyId::from_uuid(uuid).map(|id| id.uuid()), Some(uuid));
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        let good = SandboxId::random().to_string();
        for bad in ["", "sbx", "../../etc/passwd", &good.to_uppercase(), &good.replace("sbx", "exe"), &format!("{good}0"), &good[1..]] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
        assert!(good.parse::<ExecutionId>().is_err());
    }
}
