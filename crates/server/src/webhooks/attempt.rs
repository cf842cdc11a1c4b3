//! One message, sent once.

use std::{error::Error as _, io, time::Duration};

use bytes::Bytes;
use caisson_core::WebhookSecret;
use http::{StatusCode, header};
use jiff::Timestamp;
use reqwest::{Client, Response, Url};
use tokio::time::timeout;

use super::{backoff, client::ANSWER_WITHIN, signature};

/// So much of an answer is read, and for so long, to keep the connection; what is in it is nobody's business.
const READ_OF_ANSWER: usize = 64 << 10;
const READ_WITHIN: Duration = Duration::from_secs(1);

/// What is sent.
pub(super) struct Message<'a> {
    /// The same in every attempt.
    pub(super) id: String,
    pub(super) body: Bytes,
    pub(super) url: &'a Url,
    pub(super) secret: &'a WebhookSecret,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Delivered,
    /// The receiver wants nothing more, ever.
    Gone,
    Failed {
        /// In our words: what came back may be anything, and may come from where the caller of the API cannot look.
        reason: String,
        retry_after: Option<Duration>,
    },
}

pub(super) async fn send(client: &Client, message: &Message<'_>) -> Outcome {
    let now = Timestamp::now();
    let at = now.as_second();
    let request = client
        .post(message.url.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header("webhook-id", &message.id)
        .header("webhook-timestamp", at)
        .header("webhook-signature", signature::sign(&message.secret.0, &message.id, at, &message.body))
        .body(message.body.clone());
    match request.send().await {
        Ok(answer) => {
            let (status, retry_after) = (answer.status(), backoff::retry_after(answer.headers(), now));
            // The status has said everything.
            timeout(READ_WITHIN, read_some(answer)).await.ok();
            judge(status, retry_after)
        }
        Err(error) => Outcome::Failed { reason: reason(&error), retry_after: None },
    }
}

async fn read_some(mut answer: Response) {
    let mut left = READ_OF_ANSWER;
    while let Ok(Some(piece)) = answer.chunk().await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

fn judge(status: StatusCode, retry_after: Option<Duration>) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Delivered,
        StatusCode::GONE => Outcome::Gone,
        status if status.is_redirection() => {
            Outcome::Failed { reason: format!("answered with {}; redirects are not followed", status.as_u16()), retry_after }
        }
        status => Outcome::Failed { reason: format!("answered with {}", status.as_u16()), retry_after },
    }
}

fn reason(error: &reqwest::Error) -> String {
    let within = ANSWER_WITHIN.as_secs();
    if error.is_timeout() {
        return if error.is_connect() { format!("no connection within {within} s") } else { format!("no answer within {within} s") };
    }
    if !error.is_connect() {
        return "the connection broke off, or what came back is no HTTP".to_owned();
    }
    let mut cause = error.source();
    while let Some(now) = cause {
        if let Some(failed) = now.downcast_ref::<io::Error>() {
            match of_tls(failed) {
                Some(rustls::Error::InvalidCertificate(_)) => return "its certificate is not one that this server trusts".to_owned(),
                Some(_) => return "TLS failed".to_owned(),
                None if failed.kind() == io::ErrorKind::ConnectionRefused => return "the connection was refused".to_owned(),
                None => {}
            }
        }
        cause = now.source();
    }
    "no connection: the host is not known, or cannot be reached".to_owned()
}

/// What TLS has against it. It lies in an error of input and output, or in one that lies in another.
fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| of_tls(inner.downcast_ref()?))
}
