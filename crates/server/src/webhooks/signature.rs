//! Signatures, as [Standard Webhooks](https://www.standardwebhooks.com) has them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_core::WebhookSecret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{ApiError, ApiResult};

/// In front of every secret, so that people and programs that look for secrets know it for one.
const PREFIX: &str = "whsec_";

/// How secrets are made and shown.
pub(crate) struct Secret;

impl Secret {
    pub(crate) fn random() -> ApiResult<WebhookSecret> {
        let mut random = [0u8; WebhookSecret::BYTES];
        getrandom::fill(&mut random).map_err(|error| {
            tracing::error!("The kernel's random generator failed: {error}");
            ApiError::internal()
        })?;
        Ok(WebhookSecret(random))
    }

    pub(crate) fn to_text(secret: &WebhookSecret) -> String {
        format!("{PREFIX}{}", STANDARD.encode(secret.0))
    }
}

/// The value of `webhook-signature` for a message: what it is called, when it is sent in seconds since 1970, what is in it.
pub(super) fn sign(secret: &[u8], id: &str, at: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key may have any length");
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    #[test]
    fn signatures_are_those_of_the_specification() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_random_and_shown_as_the_specification_has_it() {
        let secret = Secret::random().unwrap();
        assert_ne!(secret, Secret::random().unwrap());
        let text = Secret::to_text(&secret);
        assert_eq!(STANDARD.decode(text.strip_prefix("whsec_").unwrap()).unwrap(), secret.0);
        assert!(!format!("{secret:?}").contains(&text[6..20]));
    }
}
