//! What sandboxes can be made by.

use axum::Json as Reply;
use caisson_core::Scope;

use crate::{
    caller::Caller,
    error::ApiResult,
    native::types::{BackendBody, BackendList},
    params::Params,
};

/// What sandboxes can be made by here, the one that is taken where nobody says first.
#[utoipa::path(get, path = "/v1/backends", operation_id = "listBackends", tag = "server",
    responses((status = 200, description = "All that requests may name", body = BackendList)))]
pub(crate) async fn list(Caller(app): Caller, params: Params) -> ApiResult<Reply<BackendList>> {
    params.finish()?;
    let body = |backend| {
        let body = BackendBody::from(backend);
        // It has paths of the host in it.
        if app.scope == Scope::Admin { body } else { BackendBody { reason: None, ..body } }
    };
    Ok(Reply(BackendList { backends: app.engine.backends().into_iter().map(body).collect() }))
}
