//! Query parameters from requests.

use axum::{extract::FromRequestParts, http::request::Parts};

use crate::{
    error::{ApiError, ApiResult},
    params::{InvalidParameter, Params},
};

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default())?)
    }
}

impl From<InvalidParameter> for ApiError {
    fn from(InvalidParameter(message): InvalidParameter) -> Self {
        Self::bad_request("invalid_parameter", message)
    }
}
