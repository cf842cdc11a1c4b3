//! Tokens that open one port of one sandbox for some time.
//!
//! ```text
//! ct_ ‖ base64url( expiry: 8 bytes, BE, seconds ‖ HMAC-SHA256( "caisson port" ‖ id ‖ port ‖ expiry ) )
//! ```
//!
//! The key is made when the server starts and kept nowhere: no sandbox outlives its server. Servers that share a database have one in common.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caisson_core::SandboxId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use std::num::NonZeroU16;

use crate::peers::derived;

/// In front of each, so that they are known where they stand in a path.
pub(super) const MARK: &str = "ct_";
const EXPIRY: usize = 8;
const MAC: usize = 32;

/// Makes tokens and knows its own.
pub(super) struct Signer(Hmac<Sha256>);

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoToken {
    /// It was for this place, until then (seconds since 1970).
    Expired(u64),
    /// It is for another place, or nobody's.
    Invalid,
}

impl Signer {
    /// One with a new key.
    pub(super) fn random() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the kernel's random generator is available");
        Self(Hmac::new_from_slice(&key).expect("keys may have any length"))
    }

    /// One whose tokens are those of all servers with this secret.
    pub(super) fn common(secret: &[u8; 32]) -> Self {
        Self(derived(secret, b"caisson ports"))
    }

    /// A token for this place until then (seconds since 1970).
    pub(super) fn sign(&self, id: SandboxId, port: NonZeroU16, expiry: u64) -> String {
        let mac = self.mac(id, port, expiry).finalize().into_bytes();
        format!("{MARK}{}", URL_SAFE_NO_PAD.encode([&expiry.to_be_bytes()[..], &mac[..]].concat()))
    }

    /// Until when a token opens this place. Takes as long whatever is wrong with it.
    pub(super) fn check(&self, token: &str, id: SandboxId, port: NonZeroU16, now: u64) -> Result<u64, NoToken> {
        let bytes = token.strip_prefix(MARK).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or(NoToken::Invalid)?;
        let (expiry, mac) = bytes.split_at_checked(EXPIRY).filter(|(_, mac)| mac.len() == MAC).ok_or(NoToken::Invalid)?;
        let expiry = u64::from_be_bytes(expiry.try_into().map_err(|_| NoToken::Invalid)?);
        self.mac(id, port, expiry).verify_slice(mac).map_err(|_| NoToken::Invalid)?;
        if now >= expiry { Err(NoToken::Expired(expiry)) } else { Ok(expiry) }
    }

    fn mac(&self, id: SandboxId, port: NonZeroU16, expiry: u64) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        // Each part has one length only, so none can be taken for another.
        mac.update(b"caisson port");
        mac.update(id.as_str().as_bytes());
        mac.update(&port.get().to_be_bytes());
        mac.update(&expiry.to_be_bytes());
        mac
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r3_5_a_token_opens_one_port_of_one_sandbox_for_its_time() {
        let (signer, id, port) = (Signer::random(), SandboxId::random(), NonZeroU16::new(8000).unwrap());
        let token = signer.sign(id, port, 1000);
        assert_eq!(signer.check(&token, id, port, 999), Ok(1000));
        assert_eq!(signer.check(&token, id, port, 1000), Err(NoToken::Expired(1000)));
        assert_eq!(signer.check(&token, SandboxId::random(), port, 999), Err(NoToken::Invalid));
        assert_eq!(signer.check(&token, id, NonZeroU16::new(8001).unwrap(), 999), Err(NoToken::Invalid));
        assert_eq!(Signer::random().check(&token, id, port, 999), Err(NoToken::Invalid), "of another server");
    }

    #[test]
    fn r3_5_no_token_can_be_changed() {
        let (signer, id, port) = (Signer::random(), SandboxId::random(), NonZeroU16::new(1).unwrap());
        let token = signer.sign(id, port, 1 << 40);
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(signer.check(&String::from_utf8(forged).unwrap(), id, port, 0), Err(NoToken::Invalid), "byte {at}");
            assert_eq!(signer.check(&token[..at], id, port, 0), Err(NoToken::Invalid), "{at} bytes");
        }
        for other in ["", "ct_", "ct_AAAA", &format!("{token}A"), &format!("{token}="), "ct_ä"] {
            assert_eq!(signer.check(other, id, port, 0), Err(NoToken::Invalid), "{other}");
        }
    }
}
