//! Whether the server can work, and what it speaks.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    VERSION,
    answer::{json, refusal},
};
use crate::{app::App, error::ApiResult};

/// That all is well.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivHealth {
    /// `ok`
    status: &'static str,
}

/// What is spoken here.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivVersion {
    version: &'static str,
}

/// Says whether sessions can be made.
#[utoipa::path(get, path = "/-/health", operation_id = "daiv_health", tag = "daiv",
    responses((status = 200, description = "They can", body = DaivHealth)))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> ApiResult<Response> {
    match app.operator.ready().await {
        Ok(()) => Ok(json(StatusCode::OK, &DaivHealth { status: "ok" })),
        Err(error) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

/// Names the version of the API.
#[utoipa::path(get, path = "/-/version", operation_id = "daiv_version", tag = "daiv",
    responses((status = 200, description = "The version", body = DaivVersion)))]
pub(crate) async fn version() -> Response {
    json(StatusCode::OK, &DaivVersion { version: VERSION })
}
