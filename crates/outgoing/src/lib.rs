//! Requests to others over HTTP: what every client has, whomever it asks.

mod names;

use std::sync::Arc;

use reqwest::{ClientBuilder, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::task::spawn_blocking;

pub use names::Names;

/// A client that trusts what the machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` may name others). Speaks HTTP/1.1; redirects and repetitions
/// are for whoever asks to decide; no proxy, whatever the environment says. `without` is what is logged that cannot be done where the machine
/// trusts nobody: addresses without TLS can be used all the same.
pub async fn client_builder(without: &'static str) -> ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls(without).await)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .http1_only()
        .referer(false)
        .user_agent(concat!("caisson/", env!("CARGO_PKG_VERSION")))
}

/// How TLS is spoken with those who are asked otherwise than over HTTP; trusted is what the clients of [`client_builder`] trust.
pub async fn tls(without: &'static str) -> ClientConfig {
    let roots = spawn_blocking(move || roots(without)).await.unwrap_or_else(|_| RootCertStore::empty());
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn roots(without: &str) -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(error = %error, "Certificates that this machine trusts cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!("This machine trusts no certificates: {without}; install `ca-certificates`");
    }
    roots
}
