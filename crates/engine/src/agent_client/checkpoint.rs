//! Checkpoints of directories, and patches since.

use std::time::Duration;

use bytes::Bytes;
use caisson_core::LowerDirectory;
use caisson_wire::{
    self as wire, CHECKPOINT_HEADER, LayeringStep,
    path::{decode, encode},
};
use http::Method;

use super::{AgentClient, AgentError, SMALL_ANSWER, collect, full, in_time, json};
use crate::patch::{MAX_PATCH, MAX_TIME};

/// What an agent may take beyond the time that it is told: to begin, and to send the patch.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// What is asked of an agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) gitignore: bool,
    pub(crate) utf8: bool,
    pub(crate) patch: bool,
    /// Whether what is found is the new checkpoint.
    pub(crate) keep: bool,
}

/// What it found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) files: u64,
    pub(crate) changed: u64,
    pub(crate) unreadable: u64,
    pub(crate) patch: Option<Bytes>,
}

impl AgentClient {
    /// A step in making a directory a lower layer. `None`: it is not ready for the next one, or, at the end, has none.
    pub(crate) async fn layer(&self, path: &[u8], step: LayeringStep, again: bool) -> Result<Option<LowerDirectory>, AgentError> {
        let body = serde_json::to_vec(&wire::Layering { path: encode(path), step, again }).expect("wire types are plain data");
        let layered: wire::Layered =
            self.ask_json(MAX_TIME + GRACE, Method::POST, "/layers".to_owned(), full(body.into()), SMALL_ANSWER).await?;
        let path = decode(&layered.path).ok_or_else(|| AgentError::Nonsense("a path that is not encoded".to_owned()))?;
        Ok(layered.ready.then_some(LowerDirectory { path, device: layered.device, inode: layered.inode }))
    }

    pub(crate) async fn checkpoint(&self, path: &[u8], ask: Ask) -> Result<Found, AgentError> {
        let Ask { gitignore, utf8, patch, keep } = ask;
        let max_ms = u64::try_from(MAX_TIME.as_millis()).unwrap_or(u64::MAX);
        let body = wire::Checkpoint { path: encode(path), gitignore, utf8, patch, keep, max_ms, max_patch: MAX_PATCH };
        let body = serde_json::to_vec(&body).expect("wire types are plain data");
        in_time(MAX_TIME + GRACE, async {
            let answer = self.send(Method::POST, "/checkpoint".to_owned(), full(body.into())).await?;
            let nonsense = |what: &str| AgentError::Nonsense(what.to_owned());
            let header = answer.headers().get(CHECKPOINT_HEADER).ok_or_else(|| nonsense("a checkpoint without its figures"))?;
            let found: wire::Checkpointed = json(header.as_bytes())?;
            let length = found.patch.unwrap_or(0);
            if length > MAX_PATCH || found.patch.is_some() && !patch {
                return Err(nonsense("a patch that was not asked for"));
            }
            let bytes = match collect(answer.into_body(), usize::try_from(length).unwrap_or(usize::MAX)).await {
                Ok(bytes) if bytes.len() as u64 == length => bytes,
                Ok(_) | Err(AgentError::TooLarge(_)) => return Err(nonsense("a patch of another length than it says")),
                Err(error) => return Err(error),
            };
            let wire::Checkpointed { files, changed, unreadable, patch } = found;
            Ok(Found { files, changed, unreadable, patch: patch.map(|_| bytes) })
        })
        .await
    }
}
