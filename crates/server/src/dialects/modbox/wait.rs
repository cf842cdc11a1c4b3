//! Whether a sandbox takes traffic, now or as soon as it does.

use std::time::Duration;

use axum::{Json, extract::Path};
use caisson_core::Sandbox;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    body::Body,
    check::Problems,
    lookup,
    member::Member,
    record::{Status, status as status_of},
};
use crate::error::ApiResult;

const DEFAULT_TIMEOUT: u64 = 120;

/// For which sandbox to wait, and for how long.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxWait {
    /// Or the UUID; where the path names a sandbox, this is passed over
    task_id: Option<String>,
    /// Seconds: 1 to 600, 120 when absent
    timeout: Option<i64>,
    /// Seconds: 1 to 60. The answer comes when there is one, whatever this says
    poll_interval: Option<i64>,
}

/// What the wait came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxWaited {
    ready: bool,
    elapsed_seconds: f64,
    status: Status,
    /// `timeout` or `destroyed`
    reason: Option<&'static str>,
}

/// Whether it takes traffic.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxStatus {
    ready: bool,
    /// What the server calls it elsewhere
    name: Option<String>,
    /// Why it ended, if it did not on request
    error: Option<String>,
}

/// Waits until a sandbox takes traffic, ends, or the time is up, which is no error.
#[utoipa::path(post, path = "/sandboxes/wait", operation_id = "modbox_wait", tag = "modbox", request_body = ModboxWait,
    responses((status = 200, description = "What the wait came to", body = ModboxWaited)))]
pub(crate) async fn wait(member: Member, Body(body): Body<ModboxWait>) -> ApiResult<Json<ModboxWaited>> {
    let mut problems = Problems::default();
    let task_id = problems.required("task_id", body.task_id.clone(), 1..=255);
    let timeout = timeout(&body, problems)?;
    wait_for(&member, &task_id, timeout).await
}

/// The same.
#[utoipa::path(post, path = "/sandboxes/{id}/wait", operation_id = "modbox_wait_canonical", tag = "modbox", params(("id" = String, Path)),
    request_body = ModboxWait, responses((status = 200, description = "What the wait came to", body = ModboxWaited)))]
pub(crate) async fn wait_canonical(member: Member, Path(id): Path<String>, Body(body): Body<ModboxWait>) -> ApiResult<Json<ModboxWaited>> {
    let timeout = timeout(&body, Problems::default())?;
    wait_for(&member, &id, timeout).await
}

fn timeout(body: &ModboxWait, mut problems: Problems) -> ApiResult<Duration> {
    let timeout = problems.within("timeout", body.timeout, 1..=600);
    problems.within("poll_interval", body.poll_interval, 1..=60);
    problems.done()?;
    Ok(Duration::from_secs(timeout.unwrap_or(DEFAULT_TIMEOUT)))
}

async fn wait_for(member: &Member, name: &str, timeout: Duration) -> ApiResult<Json<ModboxWaited>> {
    let begin = Instant::now();
    let known = lookup::find(&member.engine, name).await?;
    let settled = |sandbox: &Sandbox| status_of(sandbox) != Status::Provisioning;
    let sandbox = match tokio::time::timeout(timeout, member.engine.sandbox_when(known.id, settled)).await {
        Ok(sandbox) => sandbox?,
        Err(_) => member.engine.sandbox(known.id).await?,
    };
    let status = status_of(&sandbox);
    let reason = match status {
        Status::Running => None,
        Status::Provisioning => Some("timeout"),
        Status::Destroyed => Some("destroyed"),
    };
    let elapsed_seconds = (begin.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    Ok(Json(ModboxWaited { ready: reason.is_none(), elapsed_seconds, status, reason }))
}

/// Whether a sandbox takes traffic.
#[utoipa::path(get, path = "/sandboxes/status/{*id}", operation_id = "modbox_status", tag = "modbox",
    params(("id" = String, Path, description = "May have slashes")), responses((status = 200, description = "Whether it does", body = ModboxStatus)))]
pub(crate) async fn status(member: Member, Path(id): Path<String>) -> ApiResult<Json<ModboxStatus>> {
    let sandbox = lookup::find(&member.engine, &id).await?;
    let failed = |sandbox: &Sandbox| {
        let tombstone = sandbox.tombstone.as_ref()?;
        (tombstone.reason != caisson_core::TombstoneReason::Deleted).then(|| tombstone.to_string())
    };
    let error = failed(&sandbox);
    Ok(Json(ModboxStatus { ready: status_of(&sandbox) == Status::Running, name: Some(sandbox.id.to_string()), error }))
}

/// The same.
#[utoipa::path(get, path = "/sandboxes/{id}/status", operation_id = "modbox_status_canonical", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "Whether it does", body = ModboxStatus)))]
pub(crate) async fn status_canonical(member: Member, id: Path<String>) -> ApiResult<Json<ModboxStatus>> {
    status(member, id).await
}
