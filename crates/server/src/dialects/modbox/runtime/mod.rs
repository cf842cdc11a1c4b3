//! The API of one sandbox, at its own address: run a command, put files in and take them out.
//!
//! It is let in by any of the sandbox's keys (its variable `SANDBOX_API_KEY`, the token that was told when it was provisioned), by the
//! operator's key for all sandboxes, and by the tokens of those who may use the sandbox anyway.

pub(super) mod exec;
pub(super) mod files;

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use caisson_core::{Error, KeyHash, Sandbox, Scope};
use caisson_engine::Engine;
use futures::future::BoxFuture;
use http::{StatusCode, header};
use subtle::ConstantTimeEq;

use super::{
    answer::{no_sandbox, refusal},
    lookup,
    member::{Role, lacks},
    record::{KEY_VARIABLE, Status, is_ours, status},
    sealed::Secret,
    user, workspaces,
};
use crate::{
    app::App,
    auth::{self, Auth, bearer},
    caller::View,
    error::{ApiError, ApiResult},
    routes::Access,
};

/// Who is let in.
pub(super) fn admit<'a>(app: &'a Arc<App>, head: &'a Parts) -> BoxFuture<'a, ApiResult<View>> {
    Box::pin(async move {
        let shown = head.headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let shown = shown.filter(|shown| !shown.is_empty()).ok_or_else(auth::no_key)?;
        let name = head.uri.path().split('/').nth(2).unwrap_or_default();
        let sandbox = sandbox(app, name).await?;
        // Whoever has a key of one that is gone hears that it is.
        let engine = sandbox.as_ref().map_or_else(|| app.operator.clone(), |sandbox| app.operator.of(&sandbox.tenant));
        if is_key(app, sandbox.as_ref(), name, shown).await? {
            return Ok(View::new(app, engine, Scope::Run, None));
        }
        by_token(app, head, sandbox.as_ref(), &auth::hash(shown)).await
    })
}

/// The sandbox of any tenant that a path names. Strangers learn nothing of it: whoever is not let in is answered as if there were none.
async fn sandbox(app: &App, name: &str) -> ApiResult<Option<Sandbox>> {
    let Some(id) = lookup::id(name) else { return Ok(None) };
    let Some(owner) = app.operator.owner(id).await? else { return Ok(None) };
    match app.operator.of(&owner).sandbox(id).await {
        Ok(sandbox) => Ok(Some(sandbox).filter(is_ours)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether it is a key of this sandbox or of all.
async fn is_key(app: &App, sandbox: Option<&Sandbox>, name: &str, shown: &[u8]) -> ApiResult<bool> {
    let hash = auth::hash(shown);
    let equals = |key: &KeyHash| bool::from(hash.0.ct_eq(&key.0));
    if app.config.sandbox_key.as_ref().is_some_and(equals) {
        return Ok(true);
    }
    let variable = sandbox.and_then(|sandbox| sandbox.spec.env.get(KEY_VARIABLE)).filter(|key| !key.is_empty());
    if variable.is_some_and(|key| equals(&auth::hash(key.as_bytes()))) {
        return Ok(true);
    }
    match lookup::id(name) {
        Some(id) => Ok(Secret::of(&app.operator).await?.is_sandbox_key(shown, id)),
        None => Ok(false),
    }
}

/// By a key of the server's, of somebody who may have sandboxes in the workspace that this one is of.
async fn by_token(app: &Arc<App>, head: &Parts, sandbox: Option<&Sandbox>, shown: &KeyHash) -> ApiResult<View> {
    let configured = match &app.config.auth {
        Auth::Keys(keys) => keys.as_slice(),
        Auth::None => return Err(auth::not_valid()),
    };
    let view = auth::view_of(app, configured, shown).ok_or_else(auth::not_valid)?;
    auth::check_scope(view.scope, auth::needed(Access::Own, &head.method, &head.headers)).map_err(auth::lacks_scope)?;
    let Some(sandbox) = sandbox.filter(|sandbox| sandbox.tenant != *view.engine.tenant()) else { return Ok(view) };
    let workspace = workspaces::of_tenant(app, &sandbox.tenant).await?;
    match workspace.and_then(|workspace| workspace.role_of(&user::of(&view))) {
        Some(role) if role >= Role::Member => Ok(view.with_engine(app.operator.of(&sandbox.tenant))),
        Some(role) => Err(lacks(role, Role::Member)),
        // To them it is one that never was.
        None => Ok(view),
    }
}

/// The sandbox that a path names, for whoever was let in.
pub(crate) struct Named(String);

impl Named {
    /// If it takes traffic.
    async fn running(&self, engine: &Engine) -> ApiResult<Sandbox> {
        let sandbox = lookup::by_uuid(engine, &self.0).await?.ok_or_else(|| no_sandbox(&self.0))?;
        match status(&sandbox) {
            Status::Running => Ok(sandbox),
            Status::Destroyed => Err(no_sandbox(&self.0)),
            Status::Provisioning => {
                let message = "the sandbox does not take traffic yet; wait for it with `POST /sandboxes/wait`";
                Err(refusal(StatusCode::CONFLICT, "sandbox_not_ready", message))
            }
        }
    }
}

/// A failure of the engine about a running sandbox.
async fn failed(engine: &Engine, sandbox: &Sandbox, error: Error) -> ApiError {
    let name = sandbox.id.uuid().to_string();
    match &error {
        Error::Gone { .. } | Error::NotFound { kind: "sandbox", .. } => no_sandbox(&name),
        Error::Unavailable { .. } | Error::Conflict { .. } => match engine.sandbox(sandbox.id).await {
            Ok(now) if status(&now) != Status::Destroyed => error.into(),
            _ => no_sandbox(&name),
        },
        _ => error.into(),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let named = params.iter().flatten().find_map(|(name, value)| (name == "id").then(|| value.to_owned()));
        Ok(Self(named.unwrap_or_default()))
    }
}
