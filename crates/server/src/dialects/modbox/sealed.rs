//! What is made of the secret of the data directory: sealed passwords, keys of sandboxes, and ids that say nothing of what they stand for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caisson_core::{SandboxId, Uuid};
use caisson_engine::{Engine, sealed};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::error::{ApiError, ApiResult};

/// In front of each key of a sandbox.
const MARK: &str = "mbxs_";

/// The secret, for this dialect.
pub(super) struct Secret<'a>(&'a [u8; 32]);

impl<'a> Secret<'a> {
    pub(super) async fn of(engine: &'a Engine) -> ApiResult<Self> {
        Ok(Self(engine.secret().await?))
    }

    /// The id of something that is known by a text.
    pub(super) fn uuid(&self, what: &str, text: &str) -> Uuid {
        Uuid::of_hash(&self.derived(what, text))
    }

    /// The key of a sandbox's own API. It is kept nowhere.
    pub(super) fn sandbox_key(&self, id: SandboxId) -> String {
        format!("{MARK}{}", URL_SAFE_NO_PAD.encode(self.derived("sandbox", id.as_str())))
    }

    pub(super) fn is_sandbox_key(&self, shown: &[u8], id: SandboxId) -> bool {
        shown.ct_eq(self.sandbox_key(id).as_bytes()).into()
    }

    /// A text that only whoever has the secret can read.
    pub(super) fn seal(&self, place: &str, text: &str) -> ApiResult<String> {
        sealed::seal(&self.sealing_key(), place, text).ok_or_else(|| {
            tracing::error!("A password cannot be sealed");
            ApiError::internal()
        })
    }

    /// A sealed text again; none where it was sealed with another secret, or for another place.
    pub(super) fn open(&self, place: &str, sealed: &str) -> Option<String> {
        sealed::open(&self.sealing_key(), place, sealed)
    }

    fn sealing_key(&self) -> [u8; 32] {
        self.derived("registry passwords", "")
    }

    fn derived(&self, what: &str, text: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0).expect("keys may have any length");
        // No name of ours has a NUL, so none can be taken for another.
        for part in ["caisson modbox", "\0", what, "\0", text] {
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_by_its_secret_at_its_place_alone() {
        let (secret, other) = (Secret(&[1; 32]), Secret(&[2; 32]));
        let sealed = secret.seal("a", "pässword").unwrap();
        assert_eq!(secret.open("a", &sealed).as_deref(), Some("pässword"));
        assert!(!sealed.contains("word") && sealed != secret.seal("a", "pässword").unwrap());
        assert_eq!(other.open("a", &sealed), None);
        assert_eq!(secret.open("b", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(secret.open("a", &String::from_utf8(changed).unwrap()), None, "{at}");
        }
    }

    #[test]
    fn r3_5_a_sandbox_has_one_key() {
        let (secret, id) = (Secret(&[1; 32]), SandboxId::random());
        let key = secret.sandbox_key(id);
        assert!(secret.is_sandbox_key(key.as_bytes(), id) && key.starts_with(MARK) && key.len() > 40);
        for other in
            [&key[1..], &key[..key.len() - 1], "", MARK, &secret.sandbox_key(SandboxId::random()), &Secret(&[2; 32]).sandbox_key(id)]
        {
            assert!(!secret.is_sandbox_key(other.as_bytes(), id), "{other}");
        }
        assert_ne!(secret.uuid("user", "a"), secret.uuid("workspace", "a"));
    }
}
