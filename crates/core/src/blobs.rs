//! The port behind which files of workspaces are kept: objects under keys, as stores of objects and directories have them.

use std::{fmt, io, pin::Pin, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;

use crate::Digest;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An object's content as it comes.
pub type BlobStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The name of an object: components with `/` between them. None is empty, `.` or `..`, and none has a control character, so that a key is
/// the same thing in a store of objects, as a path, and in a log. It is taken to the byte: nothing is folded, decoded or normalised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey(String);

impl BlobKey {
    /// The most bytes that stores of objects take.
    pub const MAX_BYTES: usize = 1024;
    /// The most bytes of a component, which is the name of a file as well.
    pub const MAX_COMPONENT_BYTES: usize = 255;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlobKeyError {
    #[error("it is empty")]
    Empty,
    #[error("it has {0} bytes, allowed are {max}", max = BlobKey::MAX_BYTES)]
    TooLong(usize),
    #[error("one of its parts has {0} bytes, allowed are {max}", max = BlobKey::MAX_COMPONENT_BYTES)]
    ComponentTooLong(usize),
    #[error("it begins or ends with `/`, or has two of them side by side")]
    EmptyComponent,
    #[error("one of its parts is `.` or `..`")]
    Relative,
    #[error("it has a control character")]
    Control,
}

impl FromStr for BlobKey {
    type Err = BlobKeyError;

    fn from_str(text: &str) -> Result<Self, BlobKeyError> {
        if text.is_empty() {
            return Err(BlobKeyError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(BlobKeyError::TooLong(text.len()));
        }
        for component in text.split('/') {
            match component {
                "" => return Err(BlobKeyError::EmptyComponent),
                "." | ".." => return Err(BlobKeyError::Relative),
                long if long.len() > Self::MAX_COMPONENT_BYTES => return Err(BlobKeyError::ComponentTooLong(long.len())),
                other if other.chars().any(char::is_control) => return Err(BlobKeyError::Control),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of an object without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub key: BlobKey,
    pub size: u64,
    /// Another one for every content; opaque, without quotes.
    pub etag: String,
    pub modified_at: Timestamp,
    /// What lists do not tell, and what others have put there may not have.
    pub about: AboutBlob,
}

/// What is noted about an object beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AboutBlob {
    /// Permission bits.
    pub mode: Option<u32>,
    pub digest: Option<Digest>,
    pub media_type: Option<String>,
}

/// An object to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewBlob {
    /// Exactly so many bytes come.
    pub size: u64,
    pub about: AboutBlob,
}

/// What has to be true of what is there at the moment of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OnlyIf {
    #[default]
    Always,
    /// Nothing is there.
    Absent,
    /// Something is there.
    Present,
    /// This version is there.
    Matches(String),
}

impl OnlyIf {
    /// Whether it is so when the version with this `ETag` is there, or nothing is.
    #[must_use]
    pub fn holds(&self, there: Option<&str>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => there.is_none(),
            Self::Present => there.is_some(),
            Self::Matches(etag) => there == Some(etag.as_str()),
        }
    }
}

/// Objects in the order of their keys' bytes.
#[derive(Debug, Clone, Default)]
pub struct BlobPage {
    pub blobs: Vec<Blob>,
    /// With a delimiter: what stands before it, each once, with `/` at the end.
    pub folders: Vec<String>,
    /// Where the next page goes on; absent on the last.
    pub next: Option<String>,
}

/// The store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such object.
    #[error("there is no such file")]
    NotFound,
    /// What is there is not what the change was for.
    #[error("it has been changed by somebody else")]
    Changed,
    /// This store cannot have that key; says why.
    #[error("{0}")]
    Refused(String),
    /// The content broke off on our side.
    #[error("the content broke off")]
    Content(#[source] io::Error),
    /// The store lets us in to nothing.
    #[error("the blob storage refuses this server's credentials")]
    Denied(#[source] Cause),
    /// It does not answer, or not in time, or that it cannot.
    #[error("the blob storage does not answer as it should")]
    Unavailable(#[source] Cause),
}

impl BlobError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Unavailable(_))
    }
}

/// Where files of workspaces are. An object appears whole or not at all. Every call ends within bounded time, content that is read or written
/// by the caller's pace apart.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Up to `limit` objects whose keys begin with `prefix` and are behind `after`. With `folders`, those that have a `/` behind the prefix are told as the folder
    /// before it alone.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize, folders: bool) -> Result<BlobPage, BlobError>;
    async fn head(&self, key: &BlobKey) -> Result<Blob, BlobError>;
    /// The object and `length` bytes of it from `offset` on; all of the rest without a length. What is beyond its end is not there.
    async fn get(&self, key: &BlobKey, offset: u64, length: Option<u64>) -> Result<(Blob, BlobStream), BlobError>;
    /// Writes the object and returns its `ETag`.
    async fn put(&self, key: &BlobKey, new: &NewBlob, content: BlobStream, only_if: &OnlyIf) -> Result<String, BlobError>;
    /// Whether there was one.
    async fn delete(&self, key: &BlobKey, only_if: &OnlyIf) -> Result<bool, BlobError>;
    /// An address at which the object can be read without us for some time, where the store has that.
    async fn signed_url(&self, key: &BlobKey, lasts: Duration) -> Result<Option<String>, BlobError>;
    /// Where it is, for logs: no secrets.
    fn place(&self) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_5_keys_are_plain_paths() {
        for good in ["a", "a/b", "ä/ %2e%2e/…", ".hidden/..a", "a\\b", &"x".repeat(255), &["x"; 512].join("/")] {
            assert_eq!(good.parse::<BlobKey>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", BlobKeyError::Empty),
            ("/a", BlobKeyError::EmptyComponent),
            ("a/", BlobKeyError::EmptyComponent),
            ("a//b", BlobKeyError::EmptyComponent),
            ("a/../b", BlobKeyError::Relative),
            ("..", BlobKeyError::Relative),
            (".", BlobKeyError::Relative),
            ("a\0b", BlobKeyError::Control),
            ("a\nb", BlobKeyError::Control),
            ("a/\u{9b}", BlobKeyError::Control),
            (&"x".repeat(256), BlobKeyError::ComponentTooLong(256)),
            (&"x/".repeat(600), BlobKeyError::TooLong(1200)),
        ] {
            assert_eq!(bad.parse::<BlobKey>(), Err(why), "{bad:?}");
        }
    }
}
