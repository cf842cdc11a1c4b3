//! Answers that are kept for requests that come again.

/// The answer to a request with an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// SHA-256 of the request: another one with the same key does not get this answer.
    pub fingerprint: [u8; 32],
    /// The HTTP status.
    pub status: u16,
    /// JSON.
    pub body: Vec<u8>,
}
