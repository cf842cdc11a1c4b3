//! What can go wrong with images. Every message says what to do.

use std::{io, sync::Arc, time::Duration};

use caisson_core::Digest;
use caisson_tree::LayerError;

/// See the variants. What lies below stands in `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("`{text}` is no name of an image: {why}")]
    Reference { text: String, why: String },
    #[error("there is no image `{name}` here; {}", those(.there))]
    Unknown { name: String, there: Vec<String> },
    #[error("image `{name}` is in use; end its sandboxes first, or force it: then it loses its name now, and goes when nobody uses it")]
    InUse { name: String },
    #[error("{registry} has no image `{name}`; look at its name and tag")]
    NotFound { registry: String, name: String },
    #[error("{registry} does not give `{name}` to {}; log in there, or look at its name: many registries say the same of what is not there", whom(*.logged_in))]
    Denied { registry: String, name: String, logged_in: bool },
    #[error("{registry} has had too many requests{}; log in there, or name a mirror", rest(.again))]
    RateLimited { registry: String, again: Option<Duration> },
    #[error("{registry} cannot be reached")]
    Unreachable {
        registry: String,
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("{registry} answers {what}; try again later")]
    Registry { registry: String, what: String },
    /// Where requests may not go.
    #[error("no request is sent to {host}: {why}")]
    Forbidden { host: String, why: String },
    #[error("what is known of logins cannot be used for {registry}: {why}")]
    Login { registry: String, why: String },
    #[error("{what} is not what its digest says: expected {expected}, found {found}; whoever sent it is broken or lies")]
    Digest { what: String, expected: Digest, found: Digest },
    #[error("{what} has {found} bytes, and was announced with {expected}")]
    Size { what: String, expected: u64, found: String },
    #[error("{what} cannot be used: {why}")]
    Manifest { what: String, why: String },
    #[error("the image is for {}, and this machine is {wanted}", .there.join(", "))]
    Platform { wanted: String, there: Vec<String> },
    #[error("{what} cannot be unpacked")]
    Layer {
        what: String,
        #[source]
        cause: LayerError,
    },
    #[error("the image is too big: more than {most} {what}; the limit can be raised in the configuration")]
    TooBig { what: &'static str, most: u64 },
    #[error("the disk under `{place}` is full; make room there (`caisson image gc`), nothing was kept of what did not fit")]
    DiskFull { place: String },
    #[error("images cannot be unpacked under `{place}`: {why}")]
    Impossible { place: String, why: String },
    #[error("what is to be imported {why}")]
    Import { why: String },
    /// Of a sandbox that was to become an image.
    #[error("what was changed cannot be kept: {why}")]
    Changes { why: String },
    #[error("it was given up before it was done")]
    GivenUp,
    #[error("cannot {doing} `{path}`")]
    Store {
        doing: &'static str,
        path: String,
        #[source]
        cause: io::Error,
    },
}

/// So many names are listed.
const MAX_LISTED: usize = 10;

fn those(there: &[String]) -> String {
    match there {
        [] => "there is none at all: pull or import it first".to_owned(),
        _ if there.len() > MAX_LISTED => {
            format!("pull or import it; there are {} and {} more", there[..MAX_LISTED].join(", "), there.len() - MAX_LISTED)
        }
        _ => format!("pull or import it; there are {}", there.join(", ")),
    }
}

fn whom(logged_in: bool) -> &'static str {
    if logged_in { "the user that is logged in" } else { "everybody" }
}

fn rest(again: &Option<Duration>) -> String {
    again.map_or_else(String::new, |again| format!(" and asks for {} seconds of rest", again.as_secs()))
}

/// What somebody else wrote, as far as it can stand in a message: it may be megabytes, and mean something to a terminal.
pub(crate) fn shown(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// What a reader of JSON says, which repeats what it has read.
pub(crate) fn in_short(error: &serde_json::Error) -> String {
    shown(&error.to_string(), 200)
}

/// Whether this is of a disk, or a share of it, that is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_do() {
        let unknown = |there: usize| Error::Unknown { name: "x".into(), there: (0..there).map(|n| format!("n{n}")).collect() }.to_string();
        assert_eq!(unknown(0), "there is no image `x` here; there is none at all: pull or import it first");
        assert_eq!(unknown(2), "there is no image `x` here; pull or import it; there are n0, n1");
        assert!(unknown(12).ends_with("n9 and 2 more"));
        let limited = Error::RateLimited { registry: "r".into(), again: Some(Duration::from_secs(90)) };
        assert!(limited.to_string().contains("90 seconds of rest; log in"));
    }
}
