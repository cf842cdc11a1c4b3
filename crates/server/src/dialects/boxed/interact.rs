//! A process on a WebSocket: it begins with the connection and ends with it.
//!
//! ```text
//! server ─▶ client   result of id 1, (stdout | stderr | answer)*, artifact*, exit, close 1000
//! client ─▶ server   text for standard input, or {"method":"repl.input","params":{"data":…}}
//! ```

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{
        FromRequestParts,
        ws::{Message, WebSocket},
    },
    http::request::Parts,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use caisson_core::{Error, ExecutionId, SandboxId, Stream};
use caisson_engine::{Engine, ExecRequest, Program, Running, Stdin};
use futures::{
    SinkExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{SplitSink, SplitStream},
};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    OUTPUT,
    answer::{Named, has_ended},
    artifacts,
    rpc::{self, Heard},
};
use crate::{
    app::App,
    caller::Caller,
    dialects::{program::exit_code, utf8::Text},
    error::ApiResult,
    follow::Follow,
    native::stream::broken,
    params::Params,
    sse::KEEP_ALIVE,
    websocket::{CLOSE_WITHIN, Closing, MAX_READ, Upgrade},
};

/// What a client has sent that is not done with: not taken by the program, or not answered, because the client does not read.
const MAX_PENDING: usize = 4 << 20;
/// What a frame costs beyond its text.
const FRAME: usize = 128;
const FRAMES: usize = MAX_PENDING / FRAME;
/// The exit code of what was killed with its sandbox, and of what could not be started.
const KILLED: i32 = 137;
const NOT_STARTED: i32 = 127;
/// Answers line by line although nothing is a terminal; without prompts and a banner, which nobody asked for.
const PYTHON: [&str; 6] = ["python3", "-u", "-i", "-q", "-c", "import sys; sys.ps1 = sys.ps2 = ''; del sys"];
const BASH: [&str; 1] = ["bash"];

/// An upgrade, if it is one. Pages of other sites have no key, and where none is needed they were refused at the door.
pub(crate) struct Asked(Option<Upgrade>);

impl FromRequestParts<Arc<App>> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(Self(Upgrade::asked_for(parts, app).await.ok()))
    }
}

/// Starts a process and talks to it.
///
/// A WebSocket. Every message is one JSON-RPC 2.0 object as text: the server sends the notifications `stdout` and `stderr` (`{"chunk"}`),
/// `artifact` (as in an exec, at the end), `error` (`{"message"}`) and `exit` (`{"code"}`), and closes with 1000 after `exit`, or with 1001 when
/// the sandbox has gone. The client sends text for standard input as it is, or as `repl.input` with `{"data"}`, which is answered where it
/// has an `id`. When the connection ends, so does the process with everything that it has started.
#[utoipa::path(get, path = "/v1/sandbox/{id}/interact", operation_id = "boxed_interact", tag = "boxed",
    params(("id" = String, Path), ("lang" = Option<String>, Query, description = "`python`; everything else is `bash`")),
    responses((status = 101, description = "The WebSocket")))]
pub(crate) async fn interact(Caller(app): Caller, named: Named, mut params: Params, Asked(upgrade): Asked) -> ApiResult<Response> {
    let Some(upgrade) = upgrade else {
        return Ok((StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "Bad Request").into_response());
    };
    let sandbox = named.living(&app.engine).await?;
    let argv = match params.all_bytes("lang").first().map(Vec::as_slice) {
        Some(b"python") => &PYTHON[..],
        _ => &BASH[..],
    };
    let engine = app.engine.clone();
    Ok(upgrade.serve(&app, move |socket, shut_out| begin(engine, sandbox, argv, socket, shut_out)))
}

async fn begin(
    engine: Engine,
    sandbox: SandboxId,
    argv: &'static [&'static str],
    mut socket: WebSocket,
    shut_out: BoxFuture<'static, Closing>,
) -> Option<(WebSocket, Closing)> {
    let request = ExecRequest {
        stdin: Stdin::Clients,
        wait_for_readers: true,
        report_changes: Some(OUTPUT.to_owned()),
        ..ExecRequest::new(Program::Argv(argv.iter().map(|word| (*word).to_owned()).collect()))
    };
    let running = match engine.exec(sandbox, request).await {
        Ok(running) => running,
        Err(error) => {
            let closing = not_started(&engine, sandbox, &error, &mut socket).await?;
            return Some((socket, closing));
        }
    };
    let id = running.execution.id;
    let talk = Talk { engine: engine.clone(), id, sandbox };
    let ended = talk.carry_on(socket, running, shut_out).await;
    // Whatever the end was about, nothing goes on behind it. It may have ended by itself.
    engine.kill(id).await.ok();
    ended
}

/// Says why nothing runs. `None` when the client has gone.
async fn not_started(engine: &Engine, sandbox: SandboxId, error: &Error, socket: &mut WebSocket) -> Option<Closing> {
    if has_ended(engine, sandbox).await {
        return Some(Closing::going_away("the sandbox has ended"));
    }
    let message = format!("Failed to spawn process: {error}");
    socket.send(text(rpc::notification("error", &json!({"message": message})))).await.ok()?;
    socket.send(text(rpc::notification("exit", &json!({"code": NOT_STARTED})))).await.ok()?;
    Some(Closing::done())
}

/// One client's conversation with one process.
struct Talk {
    engine: Engine,
    id: ExecutionId,
    sandbox: SandboxId,
}

/// What is on its way to standard input.
struct Input {
    data: Bytes,
    id: Option<Value>,
    room: OwnedSemaphorePermit,
}

/// What is on its way to the client.
struct Answer {
    text: String,
    _room: OwnedSemaphorePermit,
}

impl Talk {
    /// Until the process has ended, the client has gone or is shut out; says how to close.
    async fn carry_on(&self, socket: WebSocket, running: Running, shut_out: BoxFuture<'static, Closing>) -> Option<(WebSocket, Closing)> {
        let (mut sink, mut stream) = socket.split();
        // Both have room for every frame that there is room for at all.
        let (input, inputs) = mpsc::channel(FRAMES);
        let (answer, answers) = mpsc::channel(FRAMES);
        let closing = tokio::select! {
            // Whichever ends decides; the others have nothing more to do.
            closing = self.tell(&mut sink, running, answers) => closing?,
            closing = self.listen(&mut stream, input, answer.clone()) => closing?,
            () = self.feed(inputs, answer) => Closing::done(),
            closing = shut_out => closing,
        };
        Some((sink.reunite(stream).ok()?, closing))
    }

    /// `None` when the client has gone.
    async fn tell(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        running: Running,
        mut answers: mpsc::Receiver<Answer>,
    ) -> Option<Closing> {
        // The start was asked for with the connection itself.
        sink.send(text(rpc::success(&json!(1)))).await.ok()?;
        let mut follow = match Follow::both(&self.engine, self.id).await {
            Ok(follow) => follow,
            Err(_) => return self.gone(sink).await,
        };
        let mut alive = tokio::time::interval(KEEP_ALIVE);
        let (mut stdout, mut stderr) = (Said::new("stdout"), Said::new("stderr"));
        loop {
            let frame = tokio::select! {
                // Cancel-safe, see there.
                next = follow.next() => match next {
                    Ok(Some((stream, chunk))) => {
                        let said = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                        for frame in said.more(chunk.offset, &chunk.data) {
                            sink.send(text(frame)).await.ok()?;
                        }
                        continue;
                    }
                    Ok(None) => break,
                    Err(_) => return self.gone(sink).await,
                },
                // Both keep what is not taken for the next round.
                Some(answer) = answers.recv() => text(answer.text),
                _ = alive.tick() => Message::Ping(Bytes::new()),
            };
            sink.send(frame).await.ok()?;
        }
        for frame in [stdout.last(), stderr.last()].into_iter().flatten() {
            sink.send(text(frame)).await.ok()?;
        }
        let Ok(result) = running.wait().await else { return self.gone(sink).await };
        let ended_itself = result.execution.outcome.as_ref().is_some_and(|outcome| outcome.exit_code.is_some() || outcome.signal.is_some());
        if !ended_itself && has_ended(&self.engine, self.sandbox).await {
            return self.gone(sink).await;
        }
        let mut files = std::pin::pin!(artifacts::read(self.engine.clone(), self.sandbox, artifacts::wanted(&result, &mut Vec::new())));
        loop {
            match files.try_next().await {
                Ok(Some(artifact)) => sink.send(text(rpc::notification("artifact", &json!(artifact)))).await.ok()?,
                Ok(None) => break,
                Err(_) if has_ended(&self.engine, self.sandbox).await => return Some(Closing::going_away("the sandbox has ended")),
                Err(error) => {
                    let message = format!("the files in {OUTPUT} cannot be read: {error}");
                    sink.send(text(rpc::notification("error", &json!({"message": message})))).await.ok()?;
                    return Some(Closing::failed());
                }
            }
        }
        sink.send(text(rpc::notification("exit", &json!({"code": exit_code(&result).unwrap_or(KILLED)})))).await.ok()?;
        Some(Closing::done())
    }

    /// The sandbox has ended under the process.
    async fn gone(&self, sink: &mut SplitSink<WebSocket, Message>) -> Option<Closing> {
        sink.send(text(rpc::notification("exit", &json!({"code": KILLED})))).await.ok()?;
        Some(Closing::going_away("the sandbox has ended"))
    }

    /// `None` when the client has gone. Up to [`MAX_PENDING`] it waits for nothing but the client, so that this is noticed at once whatever the
    /// process does. One that says nothing, and answers no ping either, is not gone: upstream's Python client does so while it is not asked for anything.
    async fn listen(
        &self,
        stream: &mut SplitStream<WebSocket>,
        input: mpsc::Sender<Input>,
        answer: mpsc::Sender<Answer>,
    ) -> Option<Closing> {
        let pending = Arc::new(Semaphore::new(MAX_PENDING));
        loop {
            let frame = match stream.next().await? {
                Ok(Message::Text(text)) => Bytes::from(text),
                Ok(Message::Binary(bytes)) => bytes,
                Ok(Message::Ping(_) | Message::Pong(_)) => continue,
                Ok(Message::Close(_)) => {
                    // The answer goes out with the next look, which then finds the end.
                    tokio::time::timeout(CLOSE_WITHIN, stream.next()).await.ok();
                    return None;
                }
                Err(error) => {
                    let closing = broken(&error)?;
                    let too_long = || format!("a message may have {MAX_READ} bytes; send several");
                    return Some(if closing.code == 1009 { Closing { reason: too_long(), ..closing } } else { closing });
                }
            };
            let cost = u32::try_from(frame.len() + FRAME).unwrap_or(u32::MAX);
            // Whoever sends faster than the process reads waits, as at a pipe; it is found to have gone by the pings then. The semaphore is
            // never closed.
            let room = Arc::clone(&pending).acquire_many_owned(cost).await.ok()?;
            // The others have ended: then this ends with them.
            match rpc::hear(&frame) {
                Heard::Input(data, id) => input.send(Input { data: data.into(), id, room }).await.ok()?,
                Heard::Answer(text) => answer.send(Answer { text, _room: room }).await.ok()?,
                Heard::Nothing => {}
            }
        }
    }

    /// Writes to standard input what has been heard, as the process takes it.
    async fn feed(&self, mut inputs: mpsc::Receiver<Input>, answers: mpsc::Sender<Answer>) {
        while let Some(Input { data, id, room }) = inputs.recv().await {
            // What is written to a process that has ended or reads no more is lost, as in a pipe.
            let written = data.is_empty() || self.engine.write_stdin(self.id, None, data).await.is_ok();
            let text = id.map(|id| if written { rpc::success(&id) } else { rpc::not_written(&id) });
            if let Some(text) = text
                && answers.send(Answer { text, _room: room }).await.is_err()
            {
                return;
            }
        }
        // Nobody listens any more, and whoever noticed says how to close.
        std::future::pending().await
    }
}

/// One stream on its way to the client.
struct Said {
    name: &'static str,
    text: Text,
    next: u64,
}

impl Said {
    fn new(name: &'static str) -> Self {
        Self { name, text: Text::default(), next: 0 }
    }

    fn more(&mut self, offset: u64, data: &[u8]) -> Vec<String> {
        let mut frames = Vec::new();
        if offset > self.next {
            let message = format!("{} bytes of {} are lost, because they were not read in time", offset - self.next, self.name);
            frames.extend(self.last());
            frames.push(rpc::notification("error", &json!({"message": message})));
        }
        self.next = offset + data.len() as u64;
        let chunk = self.text.push(data);
        frames.extend(self.chunk(chunk));
        frames
    }

    fn last(&mut self) -> Option<String> {
        let chunk = self.text.finish();
        self.chunk(chunk)
    }

    fn chunk(&self, chunk: String) -> Option<String> {
        (!chunk.is_empty()).then(|| rpc::notification(self.name, &json!({"chunk": chunk})))
    }
}

fn text(frame: String) -> Message {
    Message::Text(frame.into())
}
