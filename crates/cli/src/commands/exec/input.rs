//! Standard input for a program that runs already.

use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use caisson_server::native::types::StdinBody;
use http::StatusCode;
use tokio::sync::{mpsc, oneshot};

use crate::client::{Client, Refusal};

/// Attempts at one piece, and the pause before each but the first.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Sends what comes to the program whose id comes first, in order and once: each piece says where it begins, so that one whose answer was
/// lost can be sent again.
pub(super) async fn feed(client: &Client, id: oneshot::Receiver<String>, pieces: mpsc::Receiver<Bytes>) -> Result<()> {
    // Without an id there is no program.
    let Ok(id) = id.await else { return Ok(()) };
    let target = format!("/v1/executions/{id}/stdin");
    match pass(client, &target, 0, pieces).await? {
        Some(end) => close(client, &target, end).await,
        None => Ok(()),
    }
}

/// The same for a program whose path this is and that has got `offset` bytes so far. Returns how many they are then; `None` when it takes
/// nothing more.
pub(in super::super) async fn pass(
    client: &Client,
    target: &str,
    mut offset: u64,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<Option<u64>> {
    while let Some(piece) = pieces.recv().await {
        if !send(client, &format!("{target}?offset={offset}"), &piece).await? {
            return Ok(None);
        }
        offset += piece.len() as u64;
    }
    Ok(Some(offset))
}

/// The end of what it gets, behind `offset` bytes.
pub(in super::super) async fn close(client: &Client, target: &str, offset: u64) -> Result<()> {
    send(client, &format!("{target}?offset={offset}&close=true"), &Bytes::new()).await.map(drop)
}

/// `false` when the program takes nothing more.
async fn send(client: &Client, target: &str, piece: &Bytes) -> Result<bool> {
    let mut attempt = 1;
    loop {
        let error = match client.post_bytes::<StdinBody>(target, piece.clone()).await {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        match error.downcast_ref::<Refusal>() {
            // It has ended or closed its input, which is its own affair.
            Some(refusal) if refusal.status == StatusCode::CONFLICT => return Ok(false),
            Some(_) => return Err(error),
            None if attempt == ATTEMPTS => return Err(anyhow!("{error:#}; standard input could not be passed on")),
            None => tokio::time::sleep(PAUSE).await,
        }
        attempt += 1;
    }
}
