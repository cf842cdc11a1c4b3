//! Ids in paths.

use std::str::FromStr;

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use caisson_core::{ContextId, Error, ExecutionId, KeyId, SandboxId, Tenant, WebhookId};

use crate::error::ApiError;

/// An id in a path. What cannot be an id is answered like an id that nobody has.
pub(crate) struct Id<T>(pub(crate) T);

/// What an id names.
pub(crate) trait Kind: FromStr {
    const NAME: &str;
    /// What it is called in paths.
    const PARAMETER: &str = "id";
}

impl Kind for SandboxId {
    const NAME: &str = "sandbox";
}

impl Kind for ExecutionId {
    const NAME: &str = "execution";
}

impl Kind for KeyId {
    const NAME: &str = "key";
}

impl Kind for WebhookId {
    const NAME: &str = "webhook";
}

impl Kind for Tenant {
    const NAME: &str = "tenant";
}

impl Kind for ContextId {
    const NAME: &str = "context";
    const PARAMETER: &str = "context_id";
}

impl<T: Kind, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let text = params.iter().flatten().find_map(|(name, value)| (name == T::PARAMETER).then(|| value.to_owned())).unwrap_or_default();
        text.parse().map(Self).map_err(|_| Error::not_found(T::NAME, text.escape_debug().to_string()).into())
    }
}
