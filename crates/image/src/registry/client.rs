//! The client that all requests to registries share.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::task::spawn_blocking;

use super::reach::Reach;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const QUIET: Duration = Duration::from_secs(30);

/// Trusts what the machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` may name others). Speaks HTTP/1.1, so that layers do not share a
/// connection; redirects and repetitions are for whoever asks to decide; no proxy, whatever the environment says.
pub(crate) async fn client(reach: &Reach) -> Client {
    let roots = spawn_blocking(roots).await.unwrap_or_else(|_| RootCertStore::empty());
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
        .dns_resolver(reach.clone())
        .user_agent(concat!("caisson/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(QUIET)
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
        tracing::warn!("This machine trusts no certificates: registries cannot be asked over `https:`; install `ca-certificates`");
    }
    roots
}
