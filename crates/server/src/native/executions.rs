//! Executions: records, output, signals.

use std::sync::Arc;

use axum::{
    Json as Reply,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use caisson_core::{ExecutionFilter, ExecutionId, ExecutionStatus, SandboxId, Stream, StreamTotals};
use caisson_engine::OutputChunk;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;

use super::{id::Id, sandboxes::limit};
use crate::{
    caller::{Caller, View},
    error::{ApiError, ApiResult},
    follow::{Follow, total},
    json::Json,
    native::{
        output as told,
        types::{ExecutionBody, PageBody, ResizeBody, SignalBody, StdinBody, TerminalBody, WorkspaceReportBody},
    },
    openapi::Octets,
    params::Params,
    sse::{self, Events, HungUp},
};

const OFFSET: HeaderName = HeaderName::from_static("x-caisson-offset");
const TOTAL: HeaderName = HeaderName::from_static("x-caisson-total");
const DROPPED: HeaderName = HeaderName::from_static("x-caisson-dropped");
const FINISHED: HeaderName = HeaderName::from_static("x-caisson-finished");

/// Lists the executions of a sandbox, newest first.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/executions", operation_id = "list_executions", tag = "executions",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("status" = Option<Vec<String>>, Query, description = "Only those that stand like this, such as `running`; may repeat"),
        ("limit" = Option<u32>, Query, description = "Entries on the page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of executions", body = PageBody<ExecutionBody>)))]
pub(crate) async fn list(Caller(app): Caller, Id(sandbox): Id<SandboxId>, mut params: Params) -> ApiResult<Reply<PageBody<ExecutionBody>>> {
    let statuses = params.choices("status", &ExecutionStatus::ALL.map(ExecutionStatus::as_str))?;
    let filter = ExecutionFilter { sandbox, statuses, limit: limit(&mut params)?, cursor: params.text("cursor")? };
    params.finish()?;
    // Records outlive their sandbox; only one that never was is unknown.
    app.engine.sandbox(sandbox).await?;
    let page = app.engine.executions(&filter).await?;
    Ok(Reply(PageBody::new(&page)))
}

/// The record of an execution.
#[utoipa::path(get, path = "/v1/executions/{id}", operation_id = "get_execution", tag = "executions",
    params(("id" = String, Path)), responses((status = 200, description = "The record", body = ExecutionBody)))]
pub(crate) async fn get(Caller(app): Caller, Id(id): Id<ExecutionId>, params: Params) -> ApiResult<Reply<ExecutionBody>> {
    params.finish()?;
    let execution = app.engine.execution(id).await?;
    let workspace = app.engine.workspace_report(id).await?;
    Ok(Reply(ExecutionBody { workspace: workspace.as_ref().map(WorkspaceReportBody::from), ..ExecutionBody::from(&execution) }))
}

/// The output of an execution, byte for byte.
///
/// The body begins at `x-caisson-offset`, which is larger than the offset asked for when the log has left something out there, and is
/// contiguous: it ends where the log has a gap, at what has been written so far, or, with `follow`, at the end of the execution.
/// Ask again at the offset behind what came to get what is behind a gap. `x-caisson-total` is what the program has written so far,
/// `x-caisson-finished` whether it had ended, `x-caisson-dropped` (of finished ones) what the log has left out between head and tail.
///
/// With `Accept: text/event-stream` the answer is a stream of events like that of `exec`, across gaps; event ids are offsets, and
/// `Last-Event-ID` goes over `offset`.
#[utoipa::path(get, path = "/v1/executions/{id}/output", operation_id = "get_output", tag = "executions",
    params(
        ("id" = String, Path),
        ("stream" = Option<String>, Query, description = "`stdout` (when absent) or `stderr`"),
        ("offset" = Option<u64>, Query, description = "Begin here in what the program wrote; 0 when absent"),
        ("follow" = Option<bool>, Query, description = "Go on until the execution has ended"),
        ("last-event-id" = Option<u64>, Header, description = "Where an event stream is to go on"),
    ),
    responses((status = 200, description = "The output", content((inline(Octets) = "application/octet-stream"), (String = "text/event-stream")))))]
pub(crate) async fn output(Caller(app): Caller, Id(id): Id<ExecutionId>, headers: HeaderMap, mut params: Params) -> ApiResult<Response> {
    let stream: Stream = params.parsed("stream", "`stdout` or `stderr`")?.unwrap_or(Stream::Stdout);
    let offset: u64 = params.parsed("offset", "a whole number")?.unwrap_or(0);
    let follow = params.flag("follow")?;
    params.finish()?;
    if sse::wanted(&headers) {
        let offset = sse::last_event_id(&headers, "an offset")?.unwrap_or(offset);
        let reader = Follow::new(&app.engine, id, vec![(stream, offset)]).await?;
        return Ok(app.events(|events| tell(Arc::clone(&app), id, reader, follow, events)));
    }
    raw(&app, id, stream, offset, follow).await
}

async fn tell(app: Arc<View>, id: ExecutionId, mut reader: Follow, follow: bool, events: Events) -> Result<(), HungUp> {
    told::tell(&mut reader, &events, follow).await?;
    match app.engine.execution(id).await {
        Ok(execution) => told::end(&events, &ExecutionBody::from(&execution)).await,
        Err(error) => told::fail(&events, error.into()).await,
    }
}

async fn raw(app: &View, id: ExecutionId, stream: Stream, offset: u64, follow: bool) -> ApiResult<Response> {
    let progress = *app.engine.progress(id).await?.borrow();
    let record = app.engine.execution(id).await?;
    let mut reader = Follow::new(&app.engine, id, vec![(stream, offset)]).await?;
    let first = reader.next_available().await?.map(|(_, chunk)| chunk);
    let begin = first.as_ref().map_or(offset, |chunk| chunk.offset);

    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(OFFSET, begin.into());
    let behind = first.as_ref().map_or(0, |chunk| chunk.offset + chunk.data.len() as u64);
    headers.insert(TOTAL, total(progress, stream).max(behind).into());
    headers.insert(FINISHED, HeaderValue::from_static(if progress.finished { "true" } else { "false" }));
    if let Some(outcome) = &record.outcome {
        let StreamTotals { dropped_bytes, .. } = match stream {
            Stream::Stdout => outcome.stdout,
            Stream::Stderr => outcome.stderr,
        };
        headers.insert(DROPPED, dropped_bytes.into());
    }
    let state = Raw { reader, expected: begin, first, follow };
    let body = Body::from_stream(stream::unfold(state, |mut state| async move { state.next().await.map(|data| (data, state)) }));
    Ok((headers, body).into_response())
}

/// A contiguous body that is being read.
struct Raw {
    reader: Follow,
    /// Where the next piece must begin.
    expected: u64,
    first: Option<OutputChunk>,
    follow: bool,
}

impl Raw {
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        let next = match self.first.take() {
            Some(chunk) => Ok(Some(chunk)),
            None if self.follow => self.reader.next().await.map(|next| next.map(|(_, chunk)| chunk)),
            None => self.reader.next_available().await.map(|next| next.map(|(_, chunk)| chunk)),
        };
        match next {
            Ok(Some(chunk)) if chunk.offset == self.expected => {
                self.expected += chunk.data.len() as u64;
                Some(Ok(chunk.data))
            }
            Ok(_) => None,
            Err(error) => Some(Err(std::io::Error::other(error))),
        }
    }
}

/// Appends to the standard input of a program.
///
/// For programs that were started with `stdin_stream` or `terminal`. The body is taken as it comes and as fast as the program reads, and the
/// answer says how much was accepted in all. With `offset` a request can be repeated: what was accepted already is passed over.
#[utoipa::path(post, path = "/v1/executions/{id}/stdin", operation_id = "write_stdin", tag = "executions",
    params(
        ("id" = String, Path),
        ("offset" = Option<u64>, Query, description = "Where the body begins in all of standard input; behind what was accepted when absent"),
        ("close" = Option<bool>, Query, description = "End standard input behind the body"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "How much was accepted", body = StdinBody)))]
pub(crate) async fn stdin(
    Caller(app): Caller,
    Id(id): Id<ExecutionId>,
    mut params: Params,
    request: Request,
) -> ApiResult<Reply<StdinBody>> {
    let offset: Option<u64> = params.parsed("offset", "a whole number")?;
    let close = params.flag("close")?;
    params.finish()?;
    let mut progress = app.engine.progress(id).await?;
    // What it yields must not be held while others wait.
    let end = async { drop(progress.wait_for(|progress| progress.finished).await) };
    let stdin_bytes = tokio::select! {
        accepted = feed(&app, id, offset, close, request.into_body()) => accepted?,
        // However slowly the client sends, it does not outlive the program. What was accepted is counted.
        () = end => app.engine.write_stdin(id, None, Bytes::new()).await?,
    };
    Ok(Reply(StdinBody { stdin_bytes }))
}

async fn feed(app: &View, id: ExecutionId, mut offset: Option<u64>, close: bool, mut body: Body) -> ApiResult<u64> {
    // Whether anything can be sent at all is said before it is.
    let mut accepted = app.engine.write_stdin(id, offset, Bytes::new()).await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("body_incomplete", "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = data.len() as u64;
        accepted = app.engine.write_stdin(id, offset, data).await?;
        offset = offset.map(|offset| offset.saturating_add(length));
    }
    if close {
        app.engine.end_stdin(id).await?;
    }
    Ok(accepted)
}

/// Gives the terminal of a program another size.
#[utoipa::path(post, path = "/v1/executions/{id}/resize", operation_id = "resize_terminal", tag = "executions",
    params(("id" = String, Path)), request_body = ResizeBody, responses((status = 204, description = "It has the size")))]
pub(crate) async fn resize(Caller(app): Caller, Id(id): Id<ExecutionId>, Json(body): Json<ResizeBody>) -> ApiResult<StatusCode> {
    let size = TerminalBody { cols: body.cols, rows: body.rows }.size()?;
    app.engine.resize(id, size).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a signal to the program.
#[utoipa::path(post, path = "/v1/executions/{id}/signal", operation_id = "signal_execution", tag = "executions",
    params(("id" = String, Path)), request_body = SignalBody, responses((status = 204, description = "It was sent")))]
pub(crate) async fn signal(Caller(app): Caller, Id(id): Id<ExecutionId>, Json(body): Json<SignalBody>) -> ApiResult<StatusCode> {
    app.engine.signal(id, body.signal.number()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Kills the program with all its descendants.
#[utoipa::path(post, path = "/v1/executions/{id}/kill", operation_id = "kill_execution", tag = "executions",
    params(("id" = String, Path)), responses((status = 204, description = "It is being killed; its status will be `killed`")))]
pub(crate) async fn kill(Caller(app): Caller, Id(id): Id<ExecutionId>, params: Params) -> ApiResult<StatusCode> {
    params.finish()?;
    let engine = app.engine.clone();
    app.owned(async move { engine.kill(id).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}
