//! Secrets of policies: sealed as soon as they come, and opened for the moment in which one is put into a request.

use std::sync::Arc;

use caisson_core::{Error, Network, Result, Secret, SecretValue};

use crate::{core::Core, sealed};

/// From what the key is derived beside the secret of the server, or of all servers on its database.
const PURPOSE: &[u8] = b"caisson egress\0secrets";

impl Core {
    /// Seals whatever has come with a request.
    pub(super) async fn seal_secrets(&self, network: &mut Network) -> Result<()> {
        let Network::Rules(rules) = network else { return Ok(()) };
        if rules.secrets.values().all(|secret| matches!(secret.value, SecretValue::Sealed(_))) {
            return Ok(());
        }
        let key = self.key().await?;
        for (name, secret) in &mut Arc::make_mut(rules).secrets {
            if let SecretValue::Given(value) = &secret.value {
                let sealed = sealed::seal(&key, &place(name, secret), value);
                let sealed =
                    sealed.ok_or_else(|| Error::internal("a secret cannot be sealed", std::io::Error::other("no random numbers")))?;
                secret.value = SecretValue::Sealed(sealed);
            }
        }
        Ok(())
    }

    /// The value of a secret.
    pub(super) async fn open_secret(&self, name: &str, secret: &Secret) -> Option<String> {
        match &secret.value {
            SecretValue::Sealed(sealed) => sealed::open(&self.key().await.ok()?, &place(name, secret), sealed),
            // Nothing that runs has one.
            SecretValue::Given(_) => None,
        }
    }

    async fn key(&self) -> Result<[u8; 32]> {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.secret().await?);
        let tag = ring::hmac::sign(&key, PURPOSE);
        let mut derived = [0; 32];
        derived.copy_from_slice(tag.as_ref());
        Ok(derived)
    }
}

/// A value is of use under its name and in its field alone.
fn place(name: &str, secret: &Secret) -> String {
    format!("{name}\0{}", secret.header.to_ascii_lowercase())
}
