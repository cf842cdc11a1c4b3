//! Whether the server lives, and whether it can work.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    error::{ApiError, ApiResult},
};

/// That all is well.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// That all is well, and when.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthNow {
    /// `ok`.
    status: &'static str,
    /// RFC 3339, whole seconds.
    time: String,
}

/// Says that the server lives, as clients of other systems ask it.
#[utoipa::path(get, path = "/health", tag = "server", responses((status = 200, description = "The server lives", body = HealthNow)))]
pub(crate) async fn health() -> Json<HealthNow> {
    Json(HealthNow { status: "ok", time: format!("{:.0}", jiff::Timestamp::now()) })
}

/// Says that the server lives.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, description = "The server lives", body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Says whether the server can work.
#[utoipa::path(get, path = "/readyz", tag = "server", responses(
    (status = 200, description = "The server can work", body = Health),
    (status = 503, description = "It cannot; the message says why", body = crate::ErrorBody),
))]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> ApiResult<Json<Health>> {
    match app.operator.ready().await {
        Ok(()) => Ok(Json(Health { status: "ok" })),
        Err(error) => Err(ApiError::new(http::StatusCode::SERVICE_UNAVAILABLE, "not_ready", error.to_string())),
    }
}
