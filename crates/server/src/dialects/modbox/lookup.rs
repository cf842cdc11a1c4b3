//! Sandboxes by either of their names: the UUID, or the `task_id`.

use caisson_core::{Error, Sandbox, SandboxFilter, SandboxId, Uuid};
use caisson_engine::Engine;

use super::{
    answer::no_sandbox,
    record::{MARK, is_ours, name_of},
};
use crate::error::ApiResult;

/// The sandbox of this name. Of those that have had one `task_id`, the one that lives, or else the newest; which is the newest of all,
/// because no other can have the name while one lives.
pub(super) async fn find(engine: &Engine, name: &str) -> ApiResult<Sandbox> {
    if let Some(sandbox) = by_uuid(engine, name).await? {
        return Ok(sandbox);
    }
    let filter = SandboxFilter {
        states: Vec::new(),
        metadata: vec![(MARK.0.to_owned(), MARK.1.to_owned())],
        name: Some(name_of(name)),
        limit: 1,
        cursor: None,
    };
    engine.sandboxes(&filter).await?.data.into_iter().next().ok_or_else(|| no_sandbox(name))
}

/// The one of this UUID, if it is one.
pub(super) async fn by_uuid(engine: &Engine, name: &str) -> ApiResult<Option<Sandbox>> {
    let Some(id) = id(name) else { return Ok(None) };
    match engine.sandbox(id).await {
        Ok(sandbox) => Ok(Some(sandbox).filter(is_ours)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a UUID stands for.
pub(super) fn id(name: &str) -> Option<SandboxId> {
    SandboxId::from_uuid(name.parse::<Uuid>().ok()?)
}
