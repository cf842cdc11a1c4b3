//! Where a store of objects is, and how to get in.

use std::fmt;

use object_store::{
    ClientOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    client::{HttpClient, HttpConnector},
};

use super::{BACKOFF, RETRIES, RETRIES_WITHIN};

const DEFAULT_REGION: &str = "us-east-1";
/// Bytes of a prefix within a bucket, so that keys keep most of what they may have.
const PREFIX: usize = 100;

/// A store of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    /// All keys are below it; empty for none. Without slashes at its ends.
    pub prefix: String,
    /// Where it is, if it is not Amazon's: `https://…`, or `http://…` where nobody listens in.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: String,
    pub secret_access_key: S3Secret,
    /// Beside temporary keys.
    pub session_token: Option<S3Secret>,
}

/// What nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Secret(pub String);

impl fmt::Debug for S3Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Secret")
    }
}

/// What is wrong with it. Shows no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidS3(pub(super) String);

impl S3Config {
    /// Checks everything that can be checked without asking anybody.
    pub fn check(&self) -> Result<(), InvalidS3> {
        let invalid = |what: String| Err(InvalidS3(what));
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.' | b'_') || c.is_ascii_uppercase();
        if !(1..=255).contains(&self.bucket.len()) || !self.bucket.bytes().all(plain) || self.bucket.starts_with('.') {
            return invalid("the bucket's name is letters, digits, `-`, `_` and `.`".to_owned());
        }
        if !self.prefix.is_empty() && (self.prefix.len() > PREFIX || self.prefix.parse::<caisson_core::BlobKey>().is_err()) {
            return invalid(format!("the prefix behind the bucket is a plain path of at most {PREFIX} bytes"));
        }
        if let Some(endpoint) = &self.endpoint {
            let address = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            let is_plain = |address: &str| {
                !address.is_empty() && !address.contains(['@', '?', '#', ' ']) && address.parse::<http::uri::Authority>().is_ok()
            };
            if !address.is_some_and(|address| is_plain(address.trim_end_matches('/'))) {
                return invalid(
                    "the endpoint is an address such as https://s3.example.com, or http://127.0.0.1:9000, and nothing behind it".to_owned(),
                );
            }
        }
        Ok(())
    }

    pub(super) fn build(&self, client: HttpClient) -> Result<AmazonS3, InvalidS3> {
        self.check()?;
        let retry = RetryConfig { backoff: BACKOFF, max_retries: RETRIES, retry_timeout: RETRIES_WITHIN };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(self.region.as_deref().unwrap_or(DEFAULT_REGION))
            .with_access_key_id(&self.access_key_id)
            .with_secret_access_key(&self.secret_access_key.0)
            .with_retry(retry)
            .with_disable_tagging(true)
            .with_http_connector(Ours(client));
        if let Some(token) = &self.session_token {
            builder = builder.with_token(&token.0);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/')).with_virtual_hosted_style_request(false);
        }
        builder.build().map_err(|error| InvalidS3(format!("the store of objects cannot be used: {error}")))
    }
}

/// The one client that everything of ours asks with.
#[derive(Debug)]
struct Ours(HttpClient);

impl HttpConnector for Ours {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> S3Config {
        S3Config {
            bucket: "b".to_owned(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            access_key_id: "id".to_owned(),
            secret_access_key: S3Secret("hidden".to_owned()),
            session_token: Some(S3Secret("hidden".to_owned())),
        }
    }

    #[test]
    fn what_cannot_be_is_refused_before_anybody_is_asked() {
        config().check().unwrap();
        for endpoint in ["https://s3.example.com", "http://127.0.0.1:9000/", "http://[::1]:9"] {
            S3Config { endpoint: Some(endpoint.to_owned()), ..config() }.check().unwrap();
        }
        for endpoint in ["", "s3.example.com", "ftp://x", "https://", "https://user:x@h", "https://h/path", "https://h?q"] {
            S3Config { endpoint: Some(endpoint.to_owned()), ..config() }.check().unwrap_err();
        }
        for bucket in ["", "a/b", "..", "a b"] {
            S3Config { bucket: bucket.to_owned(), ..config() }.check().unwrap_err();
        }
        for prefix in ["/a", "a/", "..", &"x".repeat(101)] {
            S3Config { prefix: prefix.to_owned(), ..config() }.check().unwrap_err();
        }
        assert!(!format!("{:?}", config()).contains("hidden"));
    }
}
