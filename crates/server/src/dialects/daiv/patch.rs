//! What has changed in a session's repository, from one request to the next.

use bytes::Bytes;
use caisson_core::{Error, Result};
use caisson_engine::CheckpointRequest;
use http::StatusCode;

use super::{
    answer::{has_ended, no_session, refusal},
    record::Session,
};
use crate::error::ApiError;

/// Lets the next patch begin here.
pub(super) async fn advance(session: &Session) -> Result<()> {
    checkpoint(session, false).await.map(drop)
}

/// The same, and what has changed since the last time, if anything has.
pub(super) async fn take(session: &Session) -> Result<Option<Bytes>> {
    checkpoint(session, true).await
}

async fn checkpoint(session: &Session, patch: bool) -> Result<Option<Bytes>> {
    let path = Some(session.layout().repo().to_owned());
    let request = CheckpointRequest { path, gitignore: true, utf8: true, patch };
    let checkpoint = session.engine.checkpoint(session.id, &request).await?;
    if checkpoint.unreadable > 0 {
        tracing::warn!("{} files and directories of session {} cannot be read and are in no patch", checkpoint.unreadable, session.id);
    }
    Ok(checkpoint.patch.filter(|patch| !patch.is_empty()))
}

/// What a client is told when there is none.
pub(super) async fn failed(session: &Session, error: Error, told: &str) -> ApiError {
    if has_ended(&session.engine, session.id).await {
        return no_session();
    }
    tracing::error!("A patch of session {} cannot be made: {error}", session.id);
    refusal(StatusCode::INTERNAL_SERVER_ERROR, told)
}
