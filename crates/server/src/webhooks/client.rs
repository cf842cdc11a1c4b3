//! The client that all webhooks share.

use std::{net::ToSocketAddrs, sync::Arc, time::Duration};

use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// From the first byte of the first handshake to the head of the answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A connection is kept for what comes in a burst, and not for what comes some time.
const IDLE: Duration = Duration::from_millis(1500);
/// Names that are looked up at one time. Each takes a thread for as long as the resolver of the machine takes, and logs need threads too.
const LOOKED_UP: usize = 16;

/// Trusts what the machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` may name others). Speaks HTTP/1.1, follows no redirect, and asks no
/// proxy, whatever the environment says.
pub(super) async fn client() -> Client {
    // A machine without certificates can still use addresses without TLS.
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
        .dns_resolver(FewAtOnce(Arc::new(Semaphore::new(LOOKED_UP))))
        .user_agent(concat!("caisson/", env!("CARGO_PKG_VERSION")))
        .timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(IDLE)
        .build()
        .expect("there is nothing in it that could fail")
}

/// The machine's own resolver, asked for a few names at a time.
#[derive(Debug, Clone)]
struct FewAtOnce(Arc<Semaphore>);

impl Resolve for FewAtOnce {
    fn resolve(&self, name: Name) -> Resolving {
        let few = Arc::clone(&self.0);
        Box::pin(async move {
            let permit = few.acquire_owned().await?;
            let look_up = move || {
                let found = (name.as_str(), 0).to_socket_addrs();
                // Whoever asked may have gone: the thread is taken all the same.
                drop(permit);
                found
            };
            Ok(Box::new(spawn_blocking(look_up).await??) as Addrs)
        })
    }
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
