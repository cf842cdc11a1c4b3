//! What goes wrong in the server, told to a Sentry server whose DSN was given. Without one nothing is told to anybody.
//!
//! An event is what the log has as an error. With it goes what was logged before it, and which machine and program it was.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use sentry::{
    ClientOptions, Transport, TransportFactory, TransportOptions,
    integrations::tracing::{BreadcrumbLayer, ErrorLayer, LogLayer, SpanLayer},
    transports::ReqwestHttpTransportOptions,
    types::Dsn,
};
use tracing_subscriber::{Layer, Registry, filter::LevelFilter};

/// The field of the log that says from where a request came.
const PEER: &str = "peer";

/// How long one message may take; whoever stops the server waits for the one that is on its way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to, and what of.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) dsn: Dsn,
    /// `production` and the like.
    pub(crate) environment: Option<String>,
    /// Whether the log goes there as well, from `info` up.
    pub(crate) logs: bool,
    /// Whether addresses of clients go along.
    pub(crate) addresses: bool,
    /// Which part of the requests goes there as traces, from 0 to 1.
    pub(crate) traces: f32,
}

/// Ends with what is still to be told, a few seconds later at the latest.
pub(crate) type Telling = sentry::ClientInitGuard;

/// Begins to tell. Call it once, in a runtime, before there is a thread that logs.
pub(crate) async fn begin(settings: Settings) -> Result<Telling> {
    let http = caisson_outgoing::client_builder("Sentry is told nothing over TLS")
        .await
        .timeout(PATIENCE)
        .build()
        .context("cannot make a client for Sentry")?;
    let addresses = settings.addresses;
    let mut options = ClientOptions::new()
        .release(concat!("caisson@", env!("CARGO_PKG_VERSION")))
        .traces_sample_rate(settings.traces)
        .send_default_pii(addresses)
        .server_name(rustix::system::uname().nodename().to_string_lossy().into_owned())
        .before_breadcrumb(move |mut said| {
            if !addresses {
                said.data.remove(PEER);
            }
            Some(said)
        })
        .before_send_log(move |mut said| {
            if !addresses {
                said.attributes.remove(PEER);
            }
            Some(said)
        })
        .transport(Over(http));
    options.dsn = Some(settings.dsn);
    options.environment = settings.environment.map(Into::into);
    Ok(sentry::init(options))
}

/// Speaks with Sentry as with all others.
#[derive(Debug)]
struct Over(reqwest::Client);

impl TransportFactory for Over {
    fn create_transport_with_options(&self, options: TransportOptions) -> Arc<dyn Transport> {
        Arc::new(ReqwestHttpTransportOptions::from(options).with_client(self.0.clone()).build())
    }
}

/// What hands on what is logged, where somebody is told: to be put beneath what writes the log.
pub(crate) fn layers(settings: Option<&Settings>) -> Option<impl Layer<Registry> + Send + Sync> {
    settings.map(|settings| {
        let log = settings.logs.then(LogLayer::new).with_filter(LevelFilter::INFO);
        let told = BreadcrumbLayer::new().and_then(SpanLayer::new()).with_filter(LevelFilter::INFO);
        ErrorLayer::new().with_filter(LevelFilter::ERROR).and_then(told).and_then(log)
    })
}
