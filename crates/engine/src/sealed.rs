//! Texts that only whoever has a key can read, and nobody can put somewhere else: AES-256-GCM, a random nonce in front.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Seals a text for a place. `None` where the system has no random numbers.
#[must_use]
pub fn seal(key: &[u8; 32], place: &str, text: &str) -> Option<String> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).ok()?;
    let mut sealed = text.as_bytes().to_vec();
    let aad = Aad::from(place.as_bytes());
    key_of(key).seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
    Some(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
}

/// A sealed text again; none where it was sealed with another key, or for another place.
#[must_use]
pub fn open(key: &[u8; 32], place: &str, sealed: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed = sealed.to_vec();
    let aad = Aad::from(place.as_bytes());
    let plain = key_of(key).open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut sealed).ok()?;
    String::from_utf8(plain.to_vec()).ok()
}

fn key_of(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has the length that is needed"))
}
