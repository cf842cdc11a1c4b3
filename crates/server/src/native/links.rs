//! Links that open a port without a key.

use axum::Json as Reply;
use caisson_core::{Error, SandboxId};
use http::StatusCode;

use super::id::Id;
use crate::{
    caller::Caller,
    error::ApiResult,
    json::Json,
    native::types::{LinkBody, LinkRequestBody},
};

/// Makes a link that opens one port of the sandbox, without a key, for some time.
///
/// Whoever has the address has the port until it expires. It ends with the sandbox, and with the server; it cannot be taken back before.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/links", operation_id = "create_link", tag = "ports",
    params(("id" = String, Path, description = "The sandbox")), request_body = LinkRequestBody,
    responses((status = 201, description = "The link", body = LinkBody)))]
pub(crate) async fn create(
    Caller(app): Caller,
    Id(id): Id<SandboxId>,
    Json(body): Json<LinkRequestBody>,
) -> ApiResult<(StatusCode, Reply<LinkBody>)> {
    let (port, lasts) = (body.port()?, body.lasts()?);
    if let Some(tombstone) = app.engine.sandbox(id).await?.tombstone {
        return Err(Error::Gone { id: id.to_string(), tombstone }.into());
    }
    let (url, token, expiry) = app.links.link(id, port, lasts);
    Ok((StatusCode::CREATED, Reply(LinkBody::new(port, url, token, expiry))))
}
