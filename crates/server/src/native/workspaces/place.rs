//! Workspaces and files in paths, to the byte.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use caisson_engine::Tree;

use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
};

/// The workspace that a path is about, of the caller's tenant.
pub(crate) struct Workspace(pub(crate) Tree);

/// A file of it.
pub(crate) struct File {
    pub(crate) tree: Tree,
    pub(crate) name: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Workspace {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Caller(app) = Caller::from_request_parts(parts, state).await?;
        let name = parameter(parts, state, "name", "the name of the workspace").await?;
        Ok(Self(Tree::named(Arc::clone(&app).engine.tenant(), &name)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for File {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Workspace(tree) = Workspace::from_request_parts(parts, state).await?;
        let name = parameter(parts, state, "path", "the name of the file").await?;
        tree.key(&name)?;
        Ok(Self { tree, name })
    }
}

/// A parameter of the path, which the router has decoded once.
pub(super) async fn parameter<S: Send + Sync>(parts: &mut Parts, state: &S, wanted: &str, what: &str) -> ApiResult<String> {
    let invalid = |_| ApiError::bad_request("invalid_parameter", format!("{what} in the path is not UTF-8"));
    let params = RawPathParams::from_request_parts(parts, state).await.map_err(invalid)?;
    Ok(params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned()).unwrap_or_default())
}

/// As it stands in a path, slashes left as they are.
pub(super) fn encode(name: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => text.push(char::from(byte)),
            other => write!(text, "%{other:02X}").expect("a string takes everything"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_addresses_keep_their_slashes() {
        assert_eq!(encode("a/ä b%+?#~"), "a/%C3%A4%20b%25%2B%3F%23~");
    }
}
