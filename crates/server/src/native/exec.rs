//! Programs in living sandboxes.

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::SandboxId;
use caisson_engine::{ExecRequest, Running};
use http::{HeaderMap, StatusCode};

use super::id::Id;
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
    follow::Follow,
    json::Json,
    native::{
        output,
        types::{ExecBody, ExecutionBody, ResultBody, StartEvent},
    },
    sse::{self, Events, HungUp},
};

/// Runs a program in a living sandbox.
///
/// A program that fails is a success here: look at `status` and `exit_code`. With `background` the answer comes as soon as it has
/// started. With `Accept: text/event-stream` the answer is a stream of the events `start`, `stdout`, `stderr`, and in the end `result`
/// (without output) or `error`. With `workspace`, nothing runs and nothing changes when one of its files is not there. The program goes on when the client hangs up; its record and output stay.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/exec", operation_id = "exec", tag = "executions",
    params(("id" = String, Path, description = "The sandbox")), request_body = ExecBody, responses(
    (status = 200, description = "How it ended", content((ResultBody = "application/json"), (String = "text/event-stream"))),
    (status = 202, description = "It has started in the background", body = ExecutionBody),
))]
pub(crate) async fn exec(
    Caller(app): Caller,
    Id(id): Id<SandboxId>,
    headers: HeaderMap,
    Json(mut body): Json<ExecBody>,
) -> ApiResult<Response> {
    let (background, streamed) = (body.background, sse::wanted(&headers));
    if background && streamed {
        let message = "`background` answers at once and `text/event-stream` at the end; ask for one of them";
        return Err(ApiError::bad_request("invalid_request", message));
    }
    if (body.stdin_stream || body.terminal.is_some()) && !background && !streamed {
        let message = "what is fed while it runs has to be known by its id first; ask for `background` or `text/event-stream`";
        return Err(ApiError::bad_request("invalid_request", message));
    }
    let workspace = body.workspace.take().map(|workspace| workspace.into_use(app.engine.tenant())).transpose()?;
    let request = ExecRequest { workspace, ..body.into_request()? };
    let engine = app.engine.clone();
    if !background && !streamed {
        let finished = app.owned(async move { engine.exec(id, request).await?.wait().await }).await??;
        return Ok(Reply(ResultBody::from(finished)).into_response());
    }
    let running = app.owned(async move { engine.exec(id, request).await }).await??;
    if background {
        return Ok((StatusCode::ACCEPTED, Reply(ExecutionBody::from(&running.execution))).into_response());
    }
    let follow = Follow::both(&app.engine, running.execution.id).await?;
    Ok(app.events(|events| tell(running, follow, events)))
}

async fn tell(running: Running, mut follow: Follow, events: Events) -> Result<(), HungUp> {
    events.send("start", None, &StartEvent::from(&running.execution)).await?;
    output::tell(&mut follow, &events, true).await?;
    match events.during(running.wait()).await? {
        Ok(finished) => output::end(&events, &ResultBody::without_output(&finished)).await,
        Err(error) => output::fail(&events, error.into()).await,
    }
}
