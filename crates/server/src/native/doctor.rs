//! The doctor over HTTP.

use std::sync::Arc;

use axum::Json as Reply;
use caisson_core::Error;

use crate::{caller::Caller, error::ApiResult, native::types::DoctorBody, params::Params, templates};

/// Attacks sandboxes from inside and says of each guarantee whether it held. Takes some seconds; one at a time.
#[utoipa::path(get, path = "/v1/doctor", operation_id = "doctor", tag = "server",
    params(("backend" = Option<String>, Query, description = "Of which backend; the one that is taken where nobody says when absent")),
    responses((status = 200, description = "What was found, whether good or bad", body = DoctorBody)))]
pub(crate) async fn doctor(Caller(app): Caller, mut params: Params) -> ApiResult<Reply<DoctorBody>> {
    let backend = params.text("backend")?;
    params.finish()?;
    let Ok(turn) = Arc::clone(&app.doctor).try_acquire_owned() else {
        return Err(Error::conflict("doctor_runs", "the doctor is busy already; ask again in some seconds").into());
    };
    let engine = app.engine.clone();
    let report = app
        .owned(async move {
            let report = caisson_engine::doctor::examine(&engine, backend.as_deref()).await;
            drop(turn);
            report
        })
        .await??;
    let mut body = DoctorBody::from(report);
    body.warnings.extend(templates::broken(app.config.templates.as_ref()).await?);
    Ok(Reply(body))
}
