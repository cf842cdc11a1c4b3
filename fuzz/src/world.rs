//! An engine whose sandboxes are agents by script, on a clock that is put forward whenever everybody waits.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use caisson_core::{
    AgentStream, Backend, BackendError, Death, ExecutionStatus, Files, Observed, SandboxId, SandboxSpec, State, TimeLimits, Usage,
};
use caisson_engine::{CreateRequest, Created, Engine, EngineConfig, ExecRequest, Program};
use caisson_wire::{Health, STAT_HEADER, VERSION};
use futures::{StreamExt, stream};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncWriteExt, DuplexStream, copy, sink, split},
    runtime::Runtime,
    task::AbortHandle,
};

use crate::{
    Records,
    script::{Answer, End, Piece, Status},
};

/// On the engine's clock: longer than anything that it waits for by itself.
const PATIENCE: Duration = Duration::from_secs(1200);
/// Bytes under way in one direction.
const UNDER_WAY: usize = 1 << 20;

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Answers = dyn Fn(&Uri) -> Option<Answer> + Send + Sync;

/// How the agents of new sandboxes behave.
#[derive(Clone)]
pub enum Play {
    /// They greet as they should, and answer by this; `None`: never.
    Answers(Arc<Answers>),
    /// They say this, whatever they are asked, and then hang up or not.
    Bytes(Bytes, End),
}

/// See the module.
pub struct World {
    runtime: Runtime,
    engine: Engine,
    agents: Arc<Agents>,
    records: Arc<Records>,
    logs: PathBuf,
    /// Whatever happens to others, its one program runs on.
    bystander: SandboxId,
    _directory: tempfile::TempDir,
}

impl World {
    /// # Panics
    /// When the engine does not start, as after every broken promise here: a panic is what a fuzzer takes for a find.
    #[must_use]
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let (agents, records) = (Arc::new(Agents::default()), Arc::new(Records::default()));
        let config = EngineConfig::new(directory.path().to_owned());
        let (backend, store) = (Arc::clone(&agents), Arc::clone(&records));
        let (engine, bystander) = runtime.block_on(async {
            let engine = Engine::open(config, backend as Arc<dyn Backend>, store).await.expect("the engine starts");
            let runs = Answer { status: Status::Good, stat: None, body: vec![Piece::Started(String::new())], end: End::Never };
            agents.become_of_new(Play::Answers(Arc::new(move |_| Some(runs.clone()))));
            let time_limits = TimeLimits { lifetime: None, idle_timeout: None };
            let bystander = create(&engine, time_limits).await.expect("good agents make sandboxes");
            engine.exec(bystander, exec_request(None, None)).await.expect("good agents run programs");
            (engine, bystander)
        });
        let logs = directory.path().join("executions");
        Self { runtime, engine, agents, records, logs, bystander, _directory: directory }
    }

    /// Has somebody do something with the engine while new agents behave like this. It must come to an end; afterwards nothing of it is
    /// left and nobody else has noticed.
    pub fn play<T>(&self, play: Play, act: impl AsyncFnOnce(&Engine) -> T) -> T {
        self.agents.become_of_new(play);
        let result = self.runtime.block_on(async {
            let result = in_time("what was asked of the engine", act(&self.engine)).await;
            in_time("the end of all sandboxes", self.end_the_rest()).await;
            result
        });
        assert_eq!(self.agents.alive(), [self.bystander], "sandboxes are left");
        let snapshot = self.engine.metrics();
        let count = |wanted: State| snapshot.sandboxes.iter().find(|(state, _)| *state == wanted).map_or(0, |(_, count)| *count);
        assert_eq!((count(State::Creating), count(State::Running), count(State::Stopping)), (0, 1, 0));
        let running = snapshot.executions.iter().find(|(status, _)| *status == ExecutionStatus::Running).map(|(_, count)| *count);
        assert_eq!(running, Some(1), "the bystander's program, and no other");
        self.records.forget_the_ended();
        clear(&self.logs);
        result
    }

    async fn end_the_rest(&self) {
        loop {
            let left: Vec<SandboxId> = self.agents.alive().into_iter().filter(|id| *id != self.bystander).collect();
            if left.is_empty() && self.records.living() == 1 {
                return;
            }
            for id in left {
                // It may be ending already.
                self.engine.destroy(id).await.ok();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl fmt::Debug for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Play")
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// A sandbox with an agent of the present play.
pub async fn create(engine: &Engine, time_limits: TimeLimits) -> caisson_core::Result<SandboxId> {
    match engine.create(CreateRequest { time_limits, ..CreateRequest::default() }).await? {
        Created::New(sandbox) | Created::Existing(sandbox) => Ok(sandbox.id),
    }
}

/// A program for an agent that runs none.
#[must_use]
pub fn exec_request(timeout: Option<Duration>, max_output_bytes: Option<u64>) -> ExecRequest {
    let program = Program::Argv(vec!["true".to_owned()]);
    ExecRequest { timeout, max_output_bytes, ..ExecRequest::new(program) }
}

/// # Panics
/// When it takes for ever.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(result) => result,
        Err(_) => panic!("{what} does not come within {} s", PATIENCE.as_secs()),
    }
}

/// The logs of programs; millions of them would not fit.
fn clear(logs: &PathBuf) {
    for shard in fs::read_dir(logs).expect("the engine has made it") {
        fs::remove_dir_all(shard.expect("an entry").path()).expect("what the engine made can be removed");
    }
}

/// The backend.
struct Agents {
    play: Mutex<Play>,
    alive: Mutex<HashMap<SandboxId, AbortHandle>>,
}

impl Default for Agents {
    fn default() -> Self {
        Self { play: Mutex::new(Play::Bytes(Bytes::new(), End::InOrder)), alive: Mutex::default() }
    }
}

impl Agents {
    fn become_of_new(&self, play: Play) {
        *lock(&self.play) = play;
    }

    fn alive(&self) -> Vec<SandboxId> {
        lock(&self.alive).keys().copied().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Backend for Agents {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn probe(&self) -> &'static [u8] {
        b""
    }

    async fn launch(&self, id: SandboxId, _: &SandboxSpec, _: Files) -> Result<AgentStream, BackendError> {
        let (ours, theirs) = tokio::io::duplex(UNDER_WAY);
        let play = lock(&self.play).clone();
        let agent = tokio::spawn(async move {
            match play {
                Play::Answers(answers) => serve(theirs, answers).await,
                Play::Bytes(bytes, end) => say(theirs, &bytes, end).await,
            }
        });
        lock(&self.alive).insert(id, agent.abort_handle());
        Ok(Box::new(ours))
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), BackendError> {
        if let Some(agent) = lock(&self.alive).remove(&id) {
            agent.abort();
        }
        Ok(())
    }

    async fn death(&self, _: SandboxId) -> Option<Death> {
        None
    }

    async fn usage(&self, _: SandboxId) -> Option<Usage> {
        Some(Usage::default())
    }

    async fn list(&self) -> Result<Vec<Observed>, BackendError> {
        Ok(Vec::new())
    }

    async fn shutdown(&self) {}
}

/// An agent that speaks HTTP/2 as it should.
async fn serve(stream: DuplexStream, answers: Arc<Answers>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move {
            let uri = request.uri().clone();
            // Whoever hangs up on a request is told so at once.
            tokio::spawn(request.into_body().collect());
            if uri.path() == "/health" {
                return Ok(health());
            }
            match answers(&uri) {
                Some(answer) => Ok::<_, Infallible>(response(&answer)),
                None => std::future::pending().await,
            }
        }
    });
    // An error is the end of the stream, which is the engine's to notice.
    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
}

fn health() -> Response<Body> {
    let text = serde_json::to_vec(&Health { version: VERSION }).expect("wire types are plain data");
    Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync())
}

fn response(answer: &Answer) -> Response<Body> {
    let parts = stream::iter(answer.parts()).map(|part| Ok(http_body::Frame::data(part)));
    let body = match answer.end {
        End::InOrder => parts.boxed(),
        End::Never => parts.chain(stream::pending()).boxed(),
        End::Reset => parts.chain(stream::iter([Err(io::Error::other("reset"))])).boxed(),
    };
    let mut response = Response::new(StreamBody::new(body).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(answer.status()).expect("three digits");
    // What cannot be a header cannot be sent as one.
    if let Some(Ok(stat)) = answer.stat.as_ref().map(|stat| HeaderValue::from_bytes(&stat.bytes())) {
        response.headers_mut().insert(STAT_HEADER, stat);
    }
    response
}

/// An agent that speaks what it likes.
async fn say(stream: DuplexStream, bytes: &[u8], end: End) {
    let (mut from, mut to) = split(stream);
    // The other side may have hung up, and then nobody listens.
    to.write_all(bytes).await.ok();
    match end {
        End::InOrder | End::Reset => {}
        End::Never => {
            copy(&mut from, &mut sink()).await.ok();
        }
    }
}
