//! Executions over a WebSocket: output as it comes, and what is said to the program meanwhile.
//!
//! ```text
//! server ─▶ client   {"type":"start",…}  (binary: stream 1, offset 8 BE, bytes)*  {"type":"end",…}  close 1000
//!                    with {"type":"error",…} for each message that was not carried out
//! client ─▶ server   binary: bytes for standard input      {"type":"resize"|"signal"|"close_stdin",…}
//! ```

use std::{sync::Arc, time::Duration};

use axum::{
    extract::ws::{Message, WebSocket},
    response::Response,
};
use bytes::Bytes;
use caisson_core::{ExecutionId, SandboxId, Stream};
use caisson_engine::Engine;
use futures::{
    SinkExt, StreamExt,
    future::BoxFuture,
    stream::{SplitSink, SplitStream},
};
use tokio::sync::mpsc;

use super::{
    id::Id,
    types::{ClientMessage, ExecBody, ExecutionBody, Number, ServerMessage, TerminalBody, encode_output},
};
use crate::{
    caller::{Caller, View},
    error::{ApiError, ApiResult},
    follow::Follow,
    json,
    params::Params,
    sse::KEEP_ALIVE,
    websocket::{CLOSE_WITHIN, Closing, MAX_MESSAGE, Upgrade, Wanted},
};

/// Refusals that wait for a slow client; it is not listened to after that.
const REFUSALS: usize = 4;
/// Control messages are short.
const MAX_CONTROL: usize = 16 << 10;
/// A client that says nothing for so long, not even that it is there, has gone.
const SILENCE: Duration = KEEP_ALIVE.saturating_mul(4);

/// Follows an execution over a WebSocket, and talks to its program.
///
/// A WebSocket (RFC 6455). The server's first message is the text `{"type": "start", …}`. Then comes the output in binary messages: one
/// byte for the stream (1 standard output, 2 standard error), the offset of the first byte in that stream (8 bytes, big-endian), and up
/// to 32 KiB of output. Offsets are contiguous but where the log has left something out. The last message is the text
/// `{"type": "end", …}` with the record of the execution, and the server closes with 1000. Whoever loses the connection comes back with the
/// offsets behind what came; any number of clients may follow, and hanging up ends nothing.
///
/// Binary messages of the client, up to 256 KiB, are bytes for the standard input of a program with `stdin_stream` or `terminal`. Text
/// messages are `{"type": "resize", "cols", "rows"}` for a terminal, `{"type": "signal", "signal"}` and `{"type": "close_stdin"}`. While a
/// program does not read its input, what is sent behind it waits; `POST …/signal`, `…/resize` and `…/kill` do not. A message that is not
/// carried out is answered with `{"type": "error", "error": {"code", "message"}}` and the connection goes on; one that is too long closes
/// it with 1009, and what is no WebSocket frame with 1002.
#[utoipa::path(get, path = "/v1/executions/{id}/stream", operation_id = "stream_execution", tag = "executions",
    params(
        ("id" = String, Path),
        ("stdout_offset" = Option<u64>, Query, description = "Begin here in standard output; 0 when absent"),
        ("stderr_offset" = Option<u64>, Query, description = "Begin here in standard error; 0 when absent"),
    ),
    responses((status = 101, description = "The WebSocket; text messages of the server", body = ServerMessage)))]
pub(crate) async fn stream(Caller(app): Caller, Id(id): Id<ExecutionId>, mut params: Params, wanted: Wanted) -> ApiResult<Response> {
    let mut offset = |name| ApiResult::Ok(params.parsed::<u64>(name, "a whole number")?.unwrap_or(0));
    let streams = vec![(Stream::Stdout, offset("stdout_offset")?), (Stream::Stderr, offset("stderr_offset")?)];
    params.finish()?;
    let upgrade = wanted.upgrade()?;
    let follow = Follow::new(&app.engine, id, streams).await?;
    let terminal = follow.attached().is_terminal();
    begin(&app, id, follow, terminal, upgrade).await
}

/// Starts a program on a new terminal and follows it.
///
/// A WebSocket that begins with an execution of its own: the same as `exec` with `terminal` and `background`, and then
/// `GET /v1/executions/{id}/stream`, whose messages these are. The first one has the execution's id; whoever loses the connection comes
/// back with it there.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/pty", operation_id = "open_terminal", tag = "executions",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("cmd" = Option<Vec<String>>, Query, description = "A program and its arguments, one parameter each; the user's shell when absent"),
        ("cols" = Option<u16>, Query, description = "1 to 4096, 80 when absent"),
        ("rows" = Option<u16>, Query, description = "1 to 4096, 24 when absent"),
        ("cwd" = Option<String>, Query, description = "Directory to start in; the work dir when absent"),
        ("env.NAME" = Option<String>, Query, description = "A variable; may repeat with other names"),
        ("timeout_s" = Option<f64>, Query, description = "Seconds until its whole process tree is killed; no limit when absent"),
        ("wait_for_readers" = Option<bool>, Query, description = "The program waits when everybody who follows is far behind"),
    ),
    responses((status = 101, description = "The WebSocket; text messages of the client", body = ClientMessage)))]
pub(crate) async fn pty(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params, wanted: Wanted) -> ApiResult<Response> {
    let cmd = params.texts("cmd")?;
    let mut env = std::collections::BTreeMap::new();
    for (name, value) in params.prefixed("env.")? {
        if env.insert(name.clone(), value).is_some() {
            return Err(ApiError::bad_request("invalid_parameter", format!("parameter `env.{name}` is given more than once")));
        }
    }
    let default = TerminalBody::default();
    let mut figure = |name| params.parsed::<i64>(name, "a whole number").map(|n| n.map(Into::into));
    let terminal = TerminalBody { cols: figure("cols")?.unwrap_or(default.cols), rows: figure("rows")?.unwrap_or(default.rows) };
    let body = ExecBody {
        cmd: (!cmd.is_empty()).then_some(cmd),
        env,
        terminal: Some(terminal),
        cwd: params.text("cwd")?,
        timeout_s: params.parsed("timeout_s", "a number of seconds")?.map(|seconds| Some(Number(seconds))),
        wait_for_readers: params.flag("wait_for_readers")?,
        ..ExecBody::default()
    };
    params.finish()?;
    let request = body.into_request()?;
    let upgrade = wanted.upgrade()?;
    let engine = app.engine.clone();
    let running = app.owned(async move { engine.exec(id, request).await }).await??;
    let id = running.execution.id;
    let follow = Follow::new(&app.engine, id, vec![(Stream::Stdout, 0)]).await?;
    // It may have ended by now.
    begin(&app, id, follow, true, upgrade).await
}

async fn begin(app: &Arc<View>, id: ExecutionId, follow: Follow, terminal: bool, upgrade: Upgrade) -> ApiResult<Response> {
    let sandbox = app.engine.execution(id).await?.sandbox;
    let engine = app.engine.clone();
    Ok(upgrade.serve(app, move |socket, shut_out| Talk { engine, id, sandbox, terminal }.carry_on(socket, follow, shut_out)))
}

/// One client's conversation with one execution.
struct Talk {
    engine: Engine,
    id: ExecutionId,
    sandbox: SandboxId,
    /// The program has one.
    terminal: bool,
}

impl Talk {
    /// Until the execution has ended, the client has gone or is shut out; says how to close.
    async fn carry_on(self, socket: WebSocket, mut follow: Follow, shut_out: BoxFuture<'static, Closing>) -> Option<(WebSocket, Closing)> {
        let (mut sink, mut stream) = socket.split();
        let (refuse, refusals) = mpsc::channel(REFUSALS);
        let closing = tokio::select! {
            // Whichever ends decides; the other has nothing more to do. A message that is half sent is sent on with the close.
            closing = self.tell(&mut sink, &mut follow, refusals) => closing?,
            closing = self.listen(&mut stream, refuse) => closing?,
            closing = shut_out => closing,
        };
        Some((sink.reunite(stream).ok()?, closing))
    }

    /// `None` when the client has gone.
    async fn tell(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        follow: &mut Follow,
        mut refusals: mpsc::Receiver<ApiError>,
    ) -> Option<Closing> {
        let progress = follow.progress();
        let start = ServerMessage::Start {
            id: self.id.to_string(),
            sandbox_id: self.sandbox.to_string(),
            terminal: self.terminal,
            stdout_bytes: progress.stdout_bytes,
            stderr_bytes: progress.stderr_bytes,
            stdin_bytes: follow.attached().stdin_bytes(),
        };
        sink.send(text(&start)).await.ok()?;
        let mut alive = tokio::time::interval(KEEP_ALIVE);
        let last = loop {
            tokio::select! {
                // Cancel-safe, see there.
                next = follow.next() => match next {
                    Ok(Some((stream, chunk))) => sink.send(Message::Binary(encode_output(stream, &chunk).into())).await.ok()?,
                    Ok(None) => break self.engine.execution(self.id).await,
                    Err(error) => break Err(error),
                },
                // Both keep what is not taken for the next round.
                Some(refusal) = refusals.recv() => sink.send(error(refusal)).await.ok()?,
                _ = alive.tick() => sink.send(Message::Ping(Bytes::new())).await.ok()?,
            }
        };
        match last {
            Ok(execution) => {
                sink.send(text(&ServerMessage::End(Box::new(ExecutionBody::from(&execution))))).await.ok()?;
                Some(Closing::done())
            }
            Err(failure) => {
                sink.send(error(failure.into())).await.ok()?;
                Some(Closing::failed())
            }
        }
    }

    /// `None` when the client has gone.
    async fn listen(&self, stream: &mut SplitStream<WebSocket>, refuse: mpsc::Sender<ApiError>) -> Option<Closing> {
        loop {
            let done = match tokio::time::timeout(SILENCE, stream.next()).await.ok()?? {
                Ok(Message::Binary(bytes)) if bytes.len() > MAX_MESSAGE => return Some(Closing::too_long(MAX_MESSAGE)),
                Ok(Message::Binary(bytes)) => self.engine.write_stdin(self.id, None, bytes).await.map(drop).map_err(ApiError::from),
                Ok(Message::Text(text)) if text.len() > MAX_CONTROL => {
                    return Some(Closing::too_long(MAX_CONTROL));
                }
                Ok(Message::Text(text)) => self.obey(text.as_bytes()).await,
                Ok(Message::Ping(_) | Message::Pong(_)) => Ok(()),
                Ok(Message::Close(_)) => {
                    // The answer goes out with the next look, which then finds the end.
                    tokio::time::timeout(CLOSE_WITHIN, stream.next()).await.ok();
                    return None;
                }
                Err(error) => return broken(&error),
            };
            if let Err(refusal) = done {
                // The other half has ended: then this one ends with it.
                refuse.send(refusal).await.ok()?;
            }
        }
    }

    async fn obey(&self, text: &[u8]) -> ApiResult<()> {
        match json::parse::<ClientMessage>(text)? {
            ClientMessage::Resize { cols, rows } => self.engine.resize(self.id, TerminalBody { cols, rows }.size()?).await?,
            ClientMessage::Signal { signal } => self.engine.signal(self.id, signal.number()?).await?,
            ClientMessage::CloseStdin {} => self.engine.end_stdin(self.id).await?,
        }
        Ok(())
    }
}

/// How to close after what could not be read; `None` when there is nobody any more.
pub(crate) fn broken(error: &axum::Error) -> Option<Closing> {
    use tokio_tungstenite::tungstenite::Error as Broken;
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Broken>());
    match cause? {
        Broken::Capacity(_) => Some(Closing::too_long(MAX_MESSAGE)),
        Broken::Protocol(what) => Some(Closing::malformed(what.to_string())),
        Broken::Utf8(_) => Some(Closing { code: 1007, reason: "a text message is not UTF-8".to_owned() }),
        _ => None,
    }
}

fn text(message: &ServerMessage) -> Message {
    Message::Text(serde_json::to_string(message).expect("what is sent has text keys and finite figures").into())
}

fn error(refusal: ApiError) -> Message {
    text(&ServerMessage::Error { error: refusal.body().error })
}
