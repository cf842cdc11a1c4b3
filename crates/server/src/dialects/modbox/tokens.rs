//! Tokens: keys of a user's own. Each is shown once.

use axum::{
    Json,
    extract::Path,
    response::{IntoResponse, Response},
};
use caisson_core::{KeyId, Scope};
use caisson_engine::NewKey;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::{
    answer::refusal,
    body::Body,
    check::Problems,
    member::Identity,
    shelf::{self, Kept},
    user,
};
use crate::{
    auth::{self, Auth},
    error::{ApiError, ApiResult},
    native::{keys::random, types::time},
};

/// In front of every token.
pub(super) const PREFIX: &str = "mbx_";
/// So much of a token is shown later on.
const SHOWN: usize = 12;
/// Scopes that one token names.
const MOST_SCOPES: usize = 50;

/// A token to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxCreateToken {
    /// Up to 1000 characters
    description: Option<String>,
    /// Where all of them are `read` or end with `:read`, the token is good for looking alone
    scopes: Option<Vec<String>>,
    /// RFC 3339; not later than that of the key it is made with
    expires_at: Option<String>,
}

/// What is kept of a token beside its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Token {
    id: String,
    prefix: String,
    description: Option<String>,
    scopes: Option<Vec<String>>,
    created_at: String,
    expires_at: Option<String>,
}

impl Kept for Token {
    const KIND: &str = "modbox.token";

    fn id(&self) -> &str {
        &self.id
    }
}

/// A token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxToken {
    id: String,
    /// The token itself: in the answer to the request that made it, and never again
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    token_prefix: String,
    description: Option<String>,
    created_at: String,
    revoked: bool,
    scopes: Option<Vec<String>>,
    expires_at: Option<String>,
}

impl ModboxToken {
    fn new(kept: Token, token: Option<String>) -> Self {
        let Token { id, prefix, description, scopes, created_at, expires_at } = kept;
        Self { id, token, token_prefix: prefix, description, created_at, revoked: false, scopes, expires_at }
    }
}

/// Makes a token for the caller, which can do what the caller's key can. It is told this once.
#[utoipa::path(post, path = "/api-tokens", operation_id = "modbox_create_token", tag = "modbox", request_body = ModboxCreateToken,
    responses((status = 201, description = "The token", body = ModboxToken)))]
pub(crate) async fn create(identity: Identity, Body(body): Body<ModboxCreateToken>) -> ApiResult<Response> {
    let Identity { view, who } = identity;
    let mut problems = Problems::default();
    problems.text("description", body.description.as_deref(), 0..=1000);
    if body.scopes.as_ref().is_some_and(|scopes| scopes.len() > MOST_SCOPES || scopes.iter().any(|scope| scope.len() > 100)) {
        problems.add("scopes", format!("has more than {MOST_SCOPES} entries, or one of more than 100 characters"));
    }
    let asked = body.expires_at.as_deref().map(str::parse::<Timestamp>).transpose();
    match &asked {
        Err(_) => problems.add("expires_at", "is no time as RFC 3339 has it"),
        Ok(Some(at)) if *at <= Timestamp::now() => problems.add("expires_at", "is over already"),
        Ok(_) => {}
    }
    problems.done()?;
    if matches!(view.config.auth, Auth::None) {
        let message = "this server lets every program on its machine in, so a token would mean nothing; start it without CAISSON_AUTH=none";
        return Err(refusal(StatusCode::CONFLICT, "conflict", message));
    }
    // No token outlasts the key that it was made with.
    let expires_at = [asked.ok().flatten(), view.key_note().and_then(|(_, expires_at)| expires_at)].into_iter().flatten().min();
    let reads = |scope: &String| scope == "read" || scope.ends_with(":read");
    let looks = body.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty() && scopes.iter().all(reads));
    let text = random(PREFIX)?;
    let new = NewKey {
        hash: auth::hash(text.as_bytes()),
        tenant: view.engine.tenant().clone(),
        scope: if looks { Scope::Read } else { view.scope.min(Scope::Run) },
        note: user::note_of_token(&who),
        expires_at,
    };
    let app = std::sync::Arc::clone(view.app());
    let shown: String = text.chars().take(SHOWN).collect();
    let made = app.owned(async move {
        let key = view.operator.add_key(new).await?;
        let kept = Token {
            id: key.id.uuid().to_string(),
            prefix: shown,
            description: body.description,
            scopes: body.scopes,
            created_at: time(key.created_at),
            expires_at: key.expires_at.map(time),
        };
        if let Err(error) = shelf::add(&view.operator, &who, &kept).await {
            // Nobody could find it to revoke it.
            view.operator.remove_key(key.id).await?;
            return Err(error);
        }
        Ok::<_, ApiError>(kept)
    });
    Ok((StatusCode::CREATED, Json(ModboxToken::new(made.await??, Some(text)))).into_response())
}

/// Lists the caller's tokens.
#[utoipa::path(get, path = "/api-tokens", operation_id = "modbox_list_tokens", tag = "modbox",
    responses((status = 200, description = "All of them", body = Vec<ModboxToken>)))]
pub(crate) async fn list(identity: Identity) -> ApiResult<Json<Vec<ModboxToken>>> {
    let operator = &identity.view.operator;
    // Those that have expired go by themselves, and an admin may have revoked others.
    let living: std::collections::HashSet<String> = user::keys(operator)?.iter().map(|key| key.id.uuid().to_string()).collect();
    let kept = shelf::all::<Token>(operator, &identity.who).await?;
    Ok(Json(kept.into_iter().filter(|token| living.contains(&token.id)).map(|token| ModboxToken::new(token, None)).collect()))
}

/// Revokes a token of the caller's: from the answer on it lets nobody in.
#[utoipa::path(delete, path = "/api-tokens/{token}", operation_id = "modbox_delete_token", tag = "modbox",
    params(("token" = String, Path, description = "The token itself, or its id")), responses((status = 204, description = "It is revoked")))]
pub(crate) async fn delete(identity: Identity, Path(named): Path<String>) -> ApiResult<StatusCode> {
    let Identity { view, who } = identity;
    let unknown = || refusal(StatusCode::NOT_FOUND, "api_key_not_found", "you have no such token");
    let id = if named.starts_with(PREFIX) {
        let shown = auth::hash(named.as_bytes());
        let found = view.operator.credential(&shown).filter(|credential| credential.key.hash.0.ct_eq(&shown.0).into());
        found.map(|credential| credential.key.id)
    } else {
        named.parse().ok().and_then(KeyId::from_uuid)
    };
    let id = id.ok_or_else(unknown)?;
    if shelf::find::<Token>(&view.operator, &who, &id.uuid().to_string()).await?.is_none() {
        return Err(unknown());
    }
    let app = std::sync::Arc::clone(view.app());
    app.owned(async move {
        // First the key: what is left of a token that lets nobody in is found by no list.
        view.operator.remove_key(id).await.map_err(|error| if error.code() == "not_found" { unknown() } else { error.into() })?;
        shelf::remove::<Token>(&view.operator, &who, &id.uuid().to_string()).await
    })
    .await??;
    Ok(StatusCode::NO_CONTENT)
}
