//! The client that all requests to registries share.

use std::time::Duration;

use caisson_outgoing::client_builder;
use reqwest::Client;

use super::reach::Reach;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const QUIET: Duration = Duration::from_secs(30);

/// Speaks HTTP/1.1, so that layers do not share a connection; where redirects lead is for whoever asks to decide.
pub(crate) async fn client(reach: &Reach) -> Client {
    client_builder("registries cannot be asked over `https:`")
        .await
        .dns_resolver(reach.clone())
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(QUIET)
        .build()
        .expect("there is nothing in it that could fail")
}
