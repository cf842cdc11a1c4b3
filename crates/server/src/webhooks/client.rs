//! The client that all webhooks share.

use std::time::Duration;

use caisson_outgoing::{Names, client_builder};
use reqwest::Client;

/// From the first byte of the first handshake to the head of the answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A connection is kept for what comes in a burst, and not for what comes some time.
const IDLE: Duration = Duration::from_millis(1500);

/// Follows no redirect and repeats nothing by itself.
pub(super) async fn client() -> Client {
    client_builder("webhooks with `https:` will fail")
        .await
        .dns_resolver(Names::default())
        .timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(IDLE)
        .build()
        .expect("there is nothing in it that could fail")
}
