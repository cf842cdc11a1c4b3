//! What an image in the store is: layers, and what it says about the programs that run on it.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits ([OCI image spec, descriptor]). No other form becomes one, so
/// a digest is safe in paths.
///
/// [OCI image spec, descriptor]: https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `sha256:` followed by 64 digits of 0-9 and a-f")]
pub struct DigestError;

impl Digest {
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 digits alone: a name for files.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(DigestError),
        };
        let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64).ok_or(DigestError)?.as_bytes();
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An image that is whole in the store: every layer is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// The normalised name under which it was asked for: `docker.io/library/alpine:3.20`, or `…@sha256:…`.
    pub name: String,
    /// The digest of its configuration: the same for the same content, whatever its name.
    pub id: Digest,
    /// The diff ids of its layers ([OCI image spec, config]), the lowest first.
    ///
    /// [OCI image spec, config]: https://github.com/opencontainers/image-spec/blob/main/config.md#layer-diffid
    pub layers: Vec<Digest>,
    pub config: ImageConfig,
}

/// What an image says about the programs that run on it. All of it is whoever made the image's word: it is bounded where it is read, and
/// raises no right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// Variables for every program, in the image's order.
    pub env: Vec<(String, String)>,
    /// Absolute path in which programs start.
    pub work_dir: Option<String>,
    /// `user`, `uid`, `user:group`, `uid:gid` and mixtures, to be looked up in the image's own `/etc/passwd` and `/etc/group`.
    pub user: Option<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `8080/tcp` and the like: for people, nothing is opened because of it.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_round_trips_and_has_one_form() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
        for bad in
            ["", "sha256:", &text[1..], &text[..70], &text.to_uppercase(), &text.replace("sha256", "sha512"), &text.replace('0', "/")]
        {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError), "{bad}");
        }
    }
}
