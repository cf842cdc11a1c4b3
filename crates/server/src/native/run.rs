//! One-shots.

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_engine::RunningOneShot;
use http::HeaderMap;

use crate::{
    caller::Caller,
    error::ApiResult,
    follow::Follow,
    json::Json,
    native::{
        images, output, templates,
        types::{RunBody, RunResultBody, StartEvent},
    },
    sse::{self, Events, HungUp},
};

/// Runs a program in a fresh sandbox that is destroyed afterwards.
///
/// A program that fails is a success here: look at `status` and `exit_code`. With `Accept: text/event-stream` the answer is a
/// stream of the events `start`, `stdout`, `stderr`, and in the end `result` (without output) or `error`. The program goes on when
/// the client hangs up; its record and output stay.
#[utoipa::path(post, path = "/v1/run", operation_id = "run", tag = "run", request_body = RunBody, responses(
    (status = 200, description = "How it ended", content((RunResultBody = "application/json"), (String = "text/event-stream"))),
))]
pub(crate) async fn run(Caller(app): Caller, headers: HeaderMap, Json(mut body): Json<RunBody>) -> ApiResult<Response> {
    let policy = body.pull.take();
    let workspace = body.workspace.take().map(|workspace| workspace.into_use(app.engine.tenant())).transpose()?;
    let mut request = match templates::named(&app, body.template.take()).await? {
        Some(template) => template.run(body)?,
        None => body.into_request()?,
    };
    request.exec.workspace = workspace;
    images::pull::provide(&app, &request.spec.image, policy).await?;
    let engine = app.engine.clone();
    if !sse::wanted(&headers) {
        let finished = app.owned(async move { engine.run(request).await?.wait().await }).await??;
        return Ok(Reply(RunResultBody::from(finished)).into_response());
    }
    let running = app.owned(async move { engine.run(request).await }).await??;
    let follow = Follow::both(&app.engine, running.execution.id).await?;
    Ok(app.events(|events| tell(running, follow, events)))
}

async fn tell(running: RunningOneShot, mut follow: Follow, events: Events) -> Result<(), HungUp> {
    events.send("start", None, &StartEvent::from(&running.execution)).await?;
    output::tell(&mut follow, &events, true).await?;
    match events.during(running.wait()).await? {
        Ok(finished) => output::end(&events, &RunResultBody::without_output(finished)).await,
        Err(error) => output::fail(&events, error.into()).await,
    }
}
