//! The client that all webhooks share.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// From the first byte of the first handshake to the head of the answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A connection is kept for what comes in a burst, and not for what comes some time.
const IDLE: Duration = Duration::from_millis(1500);

/// Trusts what the machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` may name others). Speaks HTTP/1.1, follows no redirect, and asks no
/// proxy, whatever the environment says.
pub(super) async fn client() -> Client {
    // A machine without certificates can still use addresses without TLS.
    let roots = tokio::task::spawn_blocking(roots).await.unwrap_or_else(|_| RootCertStore::empty());
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .http1_only()
        .referer(false)
        .user_agent(concat!("caisson/", env!("CARGO_PKG_VERSION")))
        .timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(IDLE)
        .build()
        .expect("there is nothing in it that could fail")
}

fn roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(error = %error, "Certificates that this machine trusts cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!("This machine trusts no certificates: webhooks with `https:` will fail; install `ca-certificates`");
    }
    roots
}
