//! That a request comes from a server on the same database.
//!
//! ```text
//! caisson-peer: FROM;TO;SECONDS;CLIENT;CHANGES;HMAC-SHA256( each of them, the method, the target )
//! ```
//!
//! The key is derived from the secret that all servers have in common. What it proves is where a request comes from and for whom, not what it may
//! do: that is up to the client's own key, as for every request.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::extract::Request;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caisson_core::ServerId;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, Method, Uri};
use sha2::Sha256;

pub(crate) const HEADER: HeaderName = HeaderName::from_static("caisson-peer");
/// Clocks of servers may differ by so much, and a request may be under way for so long (seconds).
const VALID_FOR: u64 = 60;

/// What one server tells another with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claims {
    /// Who asks.
    pub(super) client: SocketAddr,
    /// The changes of keys that it knew when it let the request in.
    pub(super) changes: u64,
}

/// Makes proofs and checks them.
pub(super) struct Signer(Hmac<Sha256>);

impl Signer {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self(derived(secret, b"caisson peers"))
    }

    pub(super) fn sign(&self, claims: &Claims, method: &Method, target: &Uri, from: ServerId, to: ServerId) -> HeaderValue {
        let Claims { client, changes } = claims;
        let said = format!("{from};{to};{};{client};{changes}", now());
        let mac = URL_SAFE_NO_PAD.encode(self.mac(&said, method, target).finalize().into_bytes());
        HeaderValue::from_str(&format!("{said};{mac}")).expect("ids, numbers and addresses are header values")
    }

    /// What a peer says, if it is one and speaks to this server. Otherwise why not.
    pub(super) fn check(&self, shown: &HeaderValue, request: &Request, own: ServerId) -> Result<Claims, &'static str> {
        let text = shown.to_str().map_err(|_| "is no text")?;
        let (said, mac) = text.rsplit_once(';').ok_or("has no proof")?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| "has no proof")?;
        self.mac(said, request.method(), request.uri()).verify_slice(&mac).map_err(|_| "its proof is not right")?;
        let mut parts = said.split(';');
        let mut next = || parts.next().unwrap_or_default();
        let (_, to, at, client, changes) = (next(), next(), next(), next(), next());
        if to != own.as_str() {
            return Err("it is for another server: CAISSON_PEER_URL of that one leads here");
        }
        let at: u64 = at.parse().map_err(|_| "its time is none")?;
        if at.abs_diff(now()) > VALID_FOR {
            return Err("it is of another time: the clocks of both servers differ by more than a minute");
        }
        let claims = Claims {
            client: client.parse().map_err(|_| "its client is none")?,
            changes: changes.parse().map_err(|_| "its changes are none")?,
        };
        Ok(claims)
    }

    fn mac(&self, said: &str, method: &Method, target: &Uri) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        let target = target.path_and_query().map_or("/", |target| target.as_str());
        for part in [said, method.as_str(), target] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

/// A key of its own for each use of a secret.
pub(crate) fn derived(secret: &[u8; 32], usage: &[u8]) -> Hmac<Sha256> {
    let keyed = |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("keys may have any length");
    let mut key = keyed(secret);
    key.update(usage);
    keyed(&key.finalize().into_bytes())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(method: &str, target: &str) -> Request {
        Request::builder().method(method).uri(target).body(Body::empty()).unwrap()
    }

    #[test]
    fn a_proof_is_of_one_request_for_one_server() {
        let (signer, from, to) = (Signer::new(&[7; 32]), ServerId::random(), ServerId::random());
        let claims = Claims { client: "[2001:db8::1]:4711".parse().unwrap(), changes: 12 };
        let asked = request("POST", "/v1/sandboxes/a/exec?x=%20");
        let shown = signer.sign(&claims, asked.method(), asked.uri(), from, to);
        assert_eq!(signer.check(&shown, &asked, to), Ok(claims));
        assert!(signer.check(&shown, &asked, from).unwrap_err().contains("another server"));
        for other in [
            request("PUT", "/v1/sandboxes/a/exec?x=%20"),
            request("POST", "/v1/sandboxes/a/exec"),
            request("POST", "/v1/sandboxes/b/exec?x=%20"),
        ] {
            assert!(signer.check(&shown, &other, to).unwrap_err().contains("not right"), "{other:?}");
        }
        assert!(Signer::new(&[8; 32]).check(&shown, &asked, to).is_err(), "of another database");
        let text = shown.to_str().unwrap();
        for at in 0..text.len() {
            let mut forged = text.as_bytes().to_vec();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert!(signer.check(&HeaderValue::from_bytes(&forged).unwrap(), &asked, to).is_err(), "byte {at}");
        }
        for nothing in ["", ";", ";;;;;", "a;b"] {
            assert!(signer.check(&HeaderValue::from_static(nothing), &asked, to).is_err(), "{nothing}");
        }
    }
}
