//! What is kept of a session, and the right to work with one.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use caisson_core::{Document, Error, SandboxId, Tenant};
use caisson_engine::Engine;
use caisson_locks::{Held, LockError};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    answer::{busy, failed, has_ended, is_over, no_session, refusal},
    archive::Most,
    layout::Layout,
};
use crate::{
    caller::View,
    error::{ApiError, ApiResult},
};

const KIND: &str = "daiv.session";

/// What its sandbox does not know of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// As it was asked for, if it was: who says either way is a client that knows patches.
    pub(super) extract_patch: Option<bool>,
    pub(super) seeded: bool,
    /// In which of its sandbox's lives there is something that a patch can begin from, counted from 1: it ends with that life.
    #[serde(default)]
    pub(super) base_of: u32,
}

impl Record {
    pub(super) fn layout(&self) -> Layout {
        Layout { at_root: self.extract_patch.is_some() }
    }

    pub(super) fn wants_patches(&self) -> bool {
        self.extract_patch == Some(true)
    }

    /// Keeps it for as long as there is a record of the sandbox.
    pub(super) async fn insert(&self, engine: &Engine, id: SandboxId) -> caisson_core::Result<()> {
        engine.insert_document(&self.document(engine, id)).await.map(drop)
    }

    async fn replace(&self, engine: &Engine, id: SandboxId) -> caisson_core::Result<()> {
        engine.replace_document(&self.document(engine, id)).await.map(drop)
    }

    fn document(&self, engine: &Engine, id: SandboxId) -> Document {
        Document {
            kind: KIND.to_owned(),
            owner: engine.tenant().to_string(),
            id: id.to_string(),
            body: serde_json::to_string(self).expect("what is kept has text keys"),
            until: None,
            sandbox: Some(id),
        }
    }

    async fn find(engine: &Engine, id: SandboxId) -> ApiResult<Option<Self>> {
        let Some(document) = engine.document(KIND, engine.tenant().as_str(), &id.to_string()).await? else { return Ok(None) };
        serde_json::from_str(&document.body).map(Some).map_err(|error| {
            tracing::error!("What was kept of session {id} cannot be read: {error}");
            ApiError::internal()
        })
    }
}

/// The session that a path names. What is wrong with the rest of a request is told first.
pub(crate) struct Named(Option<SandboxId>);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        Ok(Self(params.iter().flatten().find_map(|(name, value)| (name == "id").then(|| value.parse().ok()).flatten())))
    }
}

/// A session that nobody else works with meanwhile.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) engine: Engine,
    pub(super) id: SandboxId,
    pub(super) record: Record,
    /// How often its sandbox was started.
    starts: u32,
    /// Is cancelled when it is not ours any more.
    pub(super) lost: CancellationToken,
    held: Held,
}

impl Named {
    /// What there is room for in such a session, if there is one just now, whoever works with it.
    pub(super) async fn room(&self, engine: &Engine) -> Option<Most> {
        let sandbox = engine.sandbox(self.0?).await.ok()?;
        (!is_over(&sandbox)).then(|| Most::from(&sandbox.spec.limits))
    }

    /// The session, as soon as nobody else works with it. One that is stopped is started.
    pub(super) async fn open(&self, view: &View) -> ApiResult<Session> {
        let mut session = self.open_if_there(view).await?.ok_or_else(no_session)?;
        match session.engine.wake(session.id).await {
            Ok(sandbox) => {
                session.starts = sandbox.starts;
                Ok(session)
            }
            Err(Error::Gone { .. } | Error::NotFound { .. }) => Err(no_session()),
            Err(error) => {
                tracing::error!("Session {} cannot be started again: {error}", session.id);
                Err(refusal(StatusCode::SERVICE_UNAVAILABLE, format!("Session '{}' could not be restarted", session.id)))
            }
        }
    }

    /// The same as it is, or nothing where there is none.
    pub(super) async fn open_if_there(&self, view: &View) -> ApiResult<Option<Session>> {
        // What cannot be an id is nobody's, and nobody holds it.
        let Some(id) = self.0 else { return Ok(None) };
        let engine = view.engine.clone();
        let held = match view.config.locks.acquire(&key(engine.tenant(), id), view.config.daiv.lock_wait).await {
            Ok(held) => held,
            Err(LockError::Busy) => return Err(busy()),
            Err(LockError::Unavailable(why)) => {
                tracing::error!("Session {id} cannot be locked: {why}");
                return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, format!("Session '{id}' could not be locked: {why}")));
            }
        };
        let Some(record) = Record::find(&engine, id).await? else { return Ok(None) };
        if has_ended(&engine, id).await {
            return Ok(None);
        }
        Ok(Some(Session { engine, id, record, starts: 0, lost: CancellationToken::new(), held }))
    }
}

/// The name of a session's lock. That of the operator's clients is the id alone, which is how upstream names it; nobody else can take it.
fn key(tenant: &Tenant, id: SandboxId) -> String {
    if *tenant == Tenant::default() { id.to_string() } else { format!("{tenant}/{id}") }
}

impl Session {
    /// Does something with it, in a task of its own, for as long as it is ours. It is released behind it.
    pub(super) async fn work<T, F>(self, view: &Arc<View>, work: impl FnOnce(Arc<Self>) -> F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: Future<Output = ApiResult<T>> + Send + 'static,
    {
        let session = Arc::new(self);
        let working = work(Arc::clone(&session));
        let guarded = async move {
            let mut working = std::pin::pin!(working);
            let result = tokio::select! {
                biased;
                result = &mut working => result,
                () = session.held.lost() => {
                    tracing::error!("The lock of session {} was lost in the middle of a request", session.id);
                    session.lost.cancel();
                    // Commands are killed, the rest is short; until then nobody of this process gets the session.
                    drop(working.await);
                    Err(refusal(StatusCode::SERVICE_UNAVAILABLE, format!("the lock of session '{}' was lost; look at it, and ask again", session.id)))
                }
            };
            drop(session);
            result
        };
        view.owned(guarded).await?
    }

    /// Whether a patch can begin from what was there before.
    pub(super) fn has_base(&self) -> bool {
        self.starts > 0 && self.record.base_of == self.starts
    }

    /// The record from when a patch can.
    pub(super) fn with_base(&self) -> Record {
        Record { base_of: self.starts, ..self.record.clone() }
    }

    /// Keeps what has become of it.
    pub(super) async fn keep(&self, record: &Record) -> ApiResult<()> {
        Ok(record.replace(&self.engine, self.id).await?)
    }

    /// A failure of the engine about it.
    pub(super) async fn failed(&self, error: Error) -> ApiError {
        failed(&self.engine, self.id, error).await
    }

    pub(super) fn layout(&self) -> Layout {
        self.record.layout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_2_nobody_takes_the_lock_of_another_tenants_session() {
        let id: SandboxId = "sbx0000000000000000000000000".parse().unwrap();
        assert_eq!(key(&Tenant::default(), id), id.to_string());
        assert_eq!(key(&"other".parse().unwrap(), id), format!("other/{id}"));
    }
}
