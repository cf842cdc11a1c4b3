//! A name for each request, by which answer and log lines find each other.

use std::fmt::Write;

use caisson_core::Uuid;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};

pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const MAX_LEN: usize = 128;

/// The name of a request, on the request itself: some answers have it in their bodies.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) HeaderValue);

/// The name that a request was given.
pub(crate) fn told(request: &Extensions) -> HeaderValue {
    request.get::<RequestId>().map_or(HeaderValue::from_static(""), |id| id.0.clone())
}

/// The client's own id when it is well formed, else a new one: a UUID where that is what clients expect.
pub(crate) fn of(headers: &HeaderMap, uuid: bool) -> HeaderValue {
    match headers.get(HEADER) {
        Some(value) if is_well_formed(value.as_bytes()) => value.clone(),
        _ if uuid => HeaderValue::from_str(&Uuid::random().to_string()).expect("a UUID is a header value"),
        _ => generate(),
    }
}

/// Ids go into logs and headers: nothing in them may need escaping.
fn is_well_formed(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// A new one.
pub(crate) fn generate() -> HeaderValue {
    HeaderValue::from_str(&random::<12>("req-")).expect("hexadecimal digits are a header value")
}

/// The prefix, and so many random bytes in hexadecimal digits: a name that nobody else comes up with.
pub(crate) fn random<const N: usize>(prefix: &str) -> String {
    let mut random = [0u8; N];
    // The kernel's generator fails only before the machine has finished booting.
    getrandom::fill(&mut random).expect("the kernel's random generator is available");
    random.iter().fold(prefix.to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_5_only_well_formed_ids_are_taken_over() {
        let long = "x".repeat(129);
        for (given, taken) in [("abc-1.2_3", true), ("", false), ("a b", false), ("a\u{1b}[31m", false), ("ä", false), (&long, false)] {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(given.as_bytes()) {
                headers.insert(HEADER, value);
            }
            assert_eq!(of(&headers, false).as_bytes() == given.as_bytes(), taken, "{given:?}");
        }
    }

    #[test]
    fn new_ids_are_well_formed_and_differ() {
        let (a, b) = (of(&HeaderMap::new(), false), of(&HeaderMap::new(), true));
        assert!(is_well_formed(a.as_bytes()) && b.to_str().unwrap().parse::<Uuid>().is_ok(), "{a:?} {b:?}");
        assert_ne!(a, b);
    }
}
