//! Output as a stream of events: what `run`, `exec` and `output` have in common.

use caisson_core::Stream;
use serde::Serialize;

use crate::{
    error::ApiError,
    follow::Follow,
    native::types::OutputEvent,
    sse::{Events, HungUp, Pieces},
};

/// Puts everything that comes into events until the execution has ended. Event ids are offsets behind the piece, so that a client can
/// come back with the last one it saw.
pub(crate) async fn tell(follow: &mut Follow, events: &Events, to_the_end: bool) -> Result<(), HungUp> {
    let mut pieces = Pieces::default();
    loop {
        let next = if to_the_end { events.during(follow.next()).await? } else { follow.next_available().await };
        match next {
            Ok(Some((stream, chunk))) => {
                for event in pieces.push(stream, &chunk) {
                    send(events, stream, event).await?;
                }
            }
            Ok(None) => break,
            Err(error) => return fail(events, error.into()).await,
        }
    }
    for (stream, event) in pieces.finish() {
        send(events, stream, event).await?;
    }
    Ok(())
}

/// The last event of a stream that went well.
pub(crate) async fn end(events: &Events, result: &impl Serialize) -> Result<(), HungUp> {
    events.send("result", None, result).await
}

/// The last event of a stream that did not.
pub(crate) async fn fail(events: &Events, error: ApiError) -> Result<(), HungUp> {
    events.send("error", None, &error.body()).await
}

pub(super) async fn send(events: &Events, stream: Stream, event: OutputEvent) -> Result<(), HungUp> {
    let behind = event.offset + event.length();
    events.send(stream.as_str(), Some(behind), &event).await
}
