//! Ways out of a sandbox.

use axum::Json as Reply;
use caisson_core::SandboxId;

use super::id::Id;
use crate::{caller::Caller, error::ApiResult, native::types::EgressBody, params::Params};

/// What a living sandbox may reach, and what it has reached.
///
/// What it may reach is changed by changing the sandbox.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/egress", operation_id = "get_egress", tag = "sandboxes",
    params(("id" = String, Path)), responses((status = 200, description = "The ways out", body = EgressBody)))]
pub(crate) async fn get(Caller(app): Caller, Id(id): Id<SandboxId>, params: Params) -> ApiResult<Reply<EgressBody>> {
    params.finish()?;
    Ok(Reply(EgressBody::from(&app.engine.egress(id).await?)))
}
