//! Sandboxes by either of their names: the UUID, or the `task_id`.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequestParts, Request},
};
use caisson_core::{Error, Hosted, Sandbox, SandboxFilter, SandboxId, State, Uuid};
use caisson_engine::Engine;
use futures::future::BoxFuture;
use http::Method;
use serde::Deserialize;

use super::{
    answer::no_sandbox,
    member::Member,
    record::{MARK, is_ours, name_of},
};
use crate::{caller::View, dialects::multipart::percent_decoded, error::ApiResult, json, peers::Whose};

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

/// The sandbox that a request is about, by either of its names, in the path or in the body. Whatever is wrong with it is for its handler to say.
pub(super) fn about<'a>(view: &'a Arc<View>, request: &'a mut Request) -> BoxFuture<'a, ApiResult<Option<Whose>>> {
    Box::pin(async move {
        let Some(name) = named(view, request).await? else { return Ok(None) };
        if let Some(id) = id(&name) {
            return Ok(Some(Whose::Hosted(Hosted::Sandbox(id))));
        }
        let (mut head, body) = std::mem::take(request).into_parts();
        let member = Member::from_request_parts(&mut head, view.app()).await;
        *request = Request::from_parts(head, body);
        let Ok(member) = member else { return Ok(None) };
        match find(&member.engine, &name).await {
            Ok(sandbox) if sandbox.state != State::Ended => Ok(Some(Whose::Hosted(Hosted::Sandbox(sandbox.id)))),
            Ok(_) | Err(_) => Ok(None),
        }
    })
}

async fn named(view: &Arc<View>, request: &mut Request) -> ApiResult<Option<String>> {
    #[derive(Deserialize)]
    struct Named {
        task_id: Option<String>,
    }
    let path = request.uri().path();
    if request.method() == Method::POST && ["/sandboxes/wait", "/sandboxes/destroy"].contains(&path) {
        let whole = json::whole(std::mem::take(request.body_mut()), view).await?;
        let named = serde_json::from_slice::<Named>(&whole).ok().and_then(|named| named.task_id);
        *request.body_mut() = Body::from(whole);
        return Ok(named);
    }
    let rest = |prefix: &str| path.strip_prefix(prefix).filter(|rest| !rest.is_empty());
    // Here a name may have slashes.
    if let Some(name) = ["/sandboxes/detail/", "/sandboxes/status/", "/sandbox/monitoring/"].into_iter().find_map(rest) {
        return Ok(Some(percent_decoded(name)));
    }
    let name = ["/sandboxes/", "/modbox/"].into_iter().find_map(rest).and_then(|rest| rest.split('/').next());
    Ok(name.filter(|name| !["provision", "realm", "wait", "destroy"].contains(name)).map(percent_decoded))
}
