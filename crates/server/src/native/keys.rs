//! Keys: make, list, revoke.

use std::str::FromStr;

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::{KeyId, Tenant};
use http::StatusCode;

use super::{id::Id, sandboxes::limit};
use crate::{
    auth::{self, Auth},
    caller::Caller,
    error::{ApiError, ApiResult},
    json::Json,
    native::types::{CreateKeyBody, KeyBody, PageBody},
    params::Params,
};

/// In front of every key, so that people and programs that look for secrets know it for one.
const PREFIX: &str = "caisson_";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 5 random bits each: 200 in all.
const RANDOM_CHARS: usize = 40;

/// Makes a key. The answer tells it this once; only its hash is kept.
#[utoipa::path(post, path = "/v1/keys", operation_id = "create_key", tag = "keys", request_body = CreateKeyBody,
    responses((status = 201, description = "The key", body = KeyBody)))]
pub(crate) async fn create(Caller(app): Caller, Json(body): Json<CreateKeyBody>) -> ApiResult<Response> {
    if matches!(app.config.auth, Auth::None) {
        let message = "this server lets every program on its machine in without a key, so a key would mean nothing; start it without \
                       CAISSON_AUTH=none";
        return Err(ApiError::new(StatusCode::CONFLICT, "keys_not_used", message));
    }
    let text = random(PREFIX)?;
    let new = body.into_new(auth::hash(text.as_bytes()))?;
    let engine = app.engine.clone();
    let key = app.owned(async move { engine.add_key(new).await }).await??;
    let body = KeyBody { key: Some(text), ..KeyBody::from(&key) };
    Ok((StatusCode::CREATED, Reply(body)).into_response())
}

/// A new key that begins like this.
pub(crate) fn random(prefix: &str) -> ApiResult<String> {
    let mut random = [0u8; RANDOM_CHARS];
    getrandom::fill(&mut random).map_err(|error| {
        tracing::error!("The kernel's random generator failed: {error}");
        ApiError::internal()
    })?;
    let letters = random.into_iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
    Ok(prefix.chars().chain(letters).collect())
}

/// Lists the keys of all tenants, newest first. The configured key is not among them.
#[utoipa::path(get, path = "/v1/keys", operation_id = "list_keys", tag = "keys",
    params(
        ("tenant" = Option<String>, Query, description = "Only those of this tenant"),
        ("limit" = Option<u32>, Query, description = "Entries on the page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of keys", body = PageBody<KeyBody>)))]
pub(crate) async fn list(Caller(app): Caller, mut params: Params) -> ApiResult<Reply<PageBody<KeyBody>>> {
    let tenant = params.text("tenant")?.map(|name| Tenant::from_str(&name)).transpose()?;
    let (limit, cursor) = (limit(&mut params)?, params.text("cursor")?);
    params.finish()?;
    let page = app.engine.keys(tenant.as_ref(), limit, cursor.as_deref())?;
    Ok(Reply(PageBody::new(&page)))
}

/// Revokes a key: from the answer on it lets nobody in, and what was being streamed to it has broken off.
#[utoipa::path(delete, path = "/v1/keys/{id}", operation_id = "delete_key", tag = "keys",
    params(("id" = String, Path)), responses((status = 204, description = "It is revoked")))]
pub(crate) async fn delete(Caller(app): Caller, Id(id): Id<KeyId>, params: Params) -> ApiResult<StatusCode> {
    params.finish()?;
    app.engine.remove_key(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
