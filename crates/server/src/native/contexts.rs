//! Contexts: interpreters that live in a sandbox.

use std::sync::Arc;

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::{ContextId, SandboxId, Stream};
use caisson_engine::{OutputChunk, RunningCode, Shown};
use http::{HeaderMap, StatusCode};

use super::{id::Id, output};
use crate::{
    caller::Caller,
    error::ApiResult,
    follow::Follow,
    json::Json,
    native::types::{CodeBody, CodeResultBody, CodeStartEvent, ContextBody, ContextsBody, CreateContextBody, ShownBody},
    params::Params,
    sse::{self, Events, HungUp, Pieces},
};

/// Starts an interpreter that lives in the sandbox.
///
/// It runs one piece of code after the other, and each finds what those before it have left. Answers when it is ready. A sandbox has 16 at
/// most, and they alone do not keep it from being idle.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/contexts", operation_id = "create_context", tag = "contexts",
    params(("id" = String, Path, description = "The sandbox")), request_body = CreateContextBody,
    responses((status = 201, description = "It is ready", body = ContextBody)))]
pub(crate) async fn create(Caller(app): Caller, Id(id): Id<SandboxId>, Json(body): Json<CreateContextBody>) -> ApiResult<Response> {
    let engine = app.engine.clone();
    let request = body.into_request()?;
    let made = app.owned(async move { engine.create_context(id, request).await }).await??;
    Ok((StatusCode::CREATED, Reply(ContextBody::from(&made))).into_response())
}

/// Lists the contexts of a sandbox.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/contexts", operation_id = "list_contexts", tag = "contexts",
    params(("id" = String, Path, description = "The sandbox")),
    responses((status = 200, description = "All of them", body = ContextsBody)))]
pub(crate) async fn list(Caller(app): Caller, Id(id): Id<SandboxId>, params: Params) -> ApiResult<Reply<ContextsBody>> {
    params.finish()?;
    let data = app.engine.contexts(id).await?.iter().map(ContextBody::from).collect();
    Ok(Reply(ContextsBody { data }))
}

/// A context as it is now.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/contexts/{context_id}", operation_id = "get_context", tag = "contexts",
    params(("id" = String, Path, description = "The sandbox"), ("context_id" = String, Path)),
    responses((status = 200, description = "The context", body = ContextBody)))]
pub(crate) async fn get(
    Caller(app): Caller,
    Id(sandbox): Id<SandboxId>,
    Id(id): Id<ContextId>,
    params: Params,
) -> ApiResult<Reply<ContextBody>> {
    params.finish()?;
    Ok(Reply(ContextBody::from(&app.engine.context(sandbox, id).await?)))
}

/// Ends a context with everything that it has started.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/contexts/{context_id}", operation_id = "delete_context", tag = "contexts",
    params(("id" = String, Path, description = "The sandbox"), ("context_id" = String, Path)),
    responses((status = 204, description = "It is no more")))]
pub(crate) async fn delete(
    Caller(app): Caller,
    Id(sandbox): Id<SandboxId>,
    Id(id): Id<ContextId>,
    params: Params,
) -> ApiResult<StatusCode> {
    params.finish()?;
    let engine = app.engine.clone();
    app.owned(async move { engine.delete_context(sandbox, id).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Runs code in a context.
///
/// Code that fails is a success here: look at `status` and `error`. Runs of one context wait for those before them. With
/// `Accept: text/event-stream` the answer is a stream of the events `start`, `stdout`, `stderr`, `display`, `value`, and in the end `result`
/// (without what was told already) or `error`. The code runs on when the client hangs up; each run is an execution, whose record and output
/// stay.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/contexts/{context_id}/run", operation_id = "run_code", tag = "contexts",
    params(("id" = String, Path, description = "The sandbox"), ("context_id" = String, Path)), request_body = CodeBody, responses(
    (status = 200, description = "How it came out", content((CodeResultBody = "application/json"), (String = "text/event-stream"))),
))]
pub(crate) async fn run(
    Caller(app): Caller,
    Id(sandbox): Id<SandboxId>,
    Id(id): Id<ContextId>,
    headers: HeaderMap,
    Json(body): Json<CodeBody>,
) -> ApiResult<Response> {
    let request = body.into_request()?;
    let engine = app.engine.clone();
    if !sse::wanted(&headers) {
        let finished = app.owned(async move { engine.run_code(sandbox, id, request).await?.wait().await }).await??;
        return Ok(Reply(CodeResultBody::from(finished)).into_response());
    }
    let running = app.owned(async move { engine.run_code(sandbox, id, request).await }).await??;
    let follow = Follow::both(&app.engine, running.execution.id).await?;
    Ok(app.events(|events| tell(running, follow, events)))
}

/// Interrupts what runs in a context, as Ctrl-C does.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/contexts/{context_id}/interrupt", operation_id = "interrupt_context", tag = "contexts",
    params(("id" = String, Path, description = "The sandbox"), ("context_id" = String, Path)),
    responses((status = 204, description = "It was told")))]
pub(crate) async fn interrupt(
    Caller(app): Caller,
    Id(sandbox): Id<SandboxId>,
    Id(id): Id<ContextId>,
    params: Params,
) -> ApiResult<StatusCode> {
    params.finish()?;
    app.engine.interrupt_context(sandbox, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the interpreter of a context with everything that it has started, and starts another under the same id.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/contexts/{context_id}/restart", operation_id = "restart_context", tag = "contexts",
    params(("id" = String, Path, description = "The sandbox"), ("context_id" = String, Path)),
    responses((status = 200, description = "It is ready again", body = ContextBody)))]
pub(crate) async fn restart(
    Caller(app): Caller,
    Id(sandbox): Id<SandboxId>,
    Id(id): Id<ContextId>,
    params: Params,
) -> ApiResult<Reply<ContextBody>> {
    params.finish()?;
    let engine = app.engine.clone();
    let context = app.owned(async move { engine.restart_context(sandbox, id).await }).await??;
    Ok(Reply(ContextBody::from(&context)))
}

/// What comes next of a run.
enum Next {
    Wrote(Stream, OutputChunk),
    Showed(Arc<Shown>),
    Nothing,
}

async fn tell(mut running: RunningCode, mut follow: Follow, events: Events) -> Result<(), HungUp> {
    events.send("start", None, &CodeStartEvent::from(&running)).await?;
    let mut pieces = Pieces::default();
    loop {
        let next = events.during(next(&mut running, &mut follow)).await?;
        match next {
            Ok(Next::Wrote(stream, chunk)) => wrote(&events, &mut pieces, stream, &chunk).await?,
            Ok(Next::Showed(shown)) => {
                // What was written before it is told before it.
                while let Ok(Some((stream, chunk))) = follow.next_available().await {
                    wrote(&events, &mut pieces, stream, &chunk).await?;
                }
                let shown = ShownBody::from(&*shown);
                events.send(&shown.kind, None, &shown).await?;
            }
            Ok(Next::Nothing) => break,
            Err(error) => return output::fail(&events, error.into()).await,
        }
    }
    for (stream, event) in pieces.finish() {
        output::send(&events, stream, event).await?;
    }
    match events.during(running.wait()).await? {
        Ok(finished) => output::end(&events, &CodeResultBody::without_output(finished)).await,
        Err(error) => output::fail(&events, error.into()).await,
    }
}

async fn wrote(events: &Events, pieces: &mut Pieces, stream: Stream, chunk: &OutputChunk) -> Result<(), HungUp> {
    for event in pieces.push(stream, chunk) {
        output::send(events, stream, event).await?;
    }
    Ok(())
}

/// Cancel-safe, as both that it waits for are.
async fn next(running: &mut RunningCode, follow: &mut Follow) -> caisson_core::Result<Next> {
    tokio::select! {
        biased;
        Some(shown) = running.display.next() => Ok(Next::Showed(shown)),
        next = follow.next() => Ok(match next? {
            Some((stream, chunk)) => Next::Wrote(stream, chunk),
            // What was shown last may have come between the two looks.
            None => running.display.next_available().map_or(Next::Nothing, Next::Showed),
        }),
    }
}
