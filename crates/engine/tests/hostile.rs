//! The engine over agents that follow a script, mostly a malicious one: each ends its own sandbox and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use caisson_core::{
    AgentStream, Backend, BackendError, Death, Error, Execution, ExecutionFilter, ExecutionId, ExecutionStatus, Files, Network, Observed,
    Outcome, Page, Sandbox, SandboxFilter, SandboxId, SandboxSpec, State, Store, StoreError, Tenant, Tombstone, TombstoneReason, Usage,
};
use caisson_engine::{
    CodeRequest, CodeStatus, ContextRequest, ContextState, CreateRequest, Created, Driver, EgressConfig, Engine, EngineConfig, ExecRequest,
    InputFile, Program, RunRequest, SandboxUpdate,
};
use caisson_store::Sqlite;
use caisson_wire::{
    Ended, ExecExit, FileKind, FileStat, Found, Health, Listing, Started, VERSION,
    egress::{Announced, Message, Way},
    frame::{Frame, Kind},
};
use futures::{FutureExt, StreamExt, future::join_all, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use tokio::{io::AsyncWriteExt, task::AbortHandle};

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Script = Arc<dyn Fn(&Request<Incoming>) -> Option<Response<Body>> + Send + Sync>;

/// What agents answer with.
#[derive(Clone)]
enum Play {
    /// Greets as it should, and otherwise follows the script; what the script has no answer for is never answered.
    Agent(Script),
    /// The stream is handed over and breaks at once.
    Broken,
    /// These bytes are said on the stream, the last of them for ever, whatever is asked.
    Says(Vec<Bytes>),
    /// The backend itself has a bug.
    Panic,
}

struct Scripted {
    play: Mutex<Play>,
    death: Mutex<Option<Death>>,
    alive: Mutex<HashMap<SandboxId, AbortHandle>>,
    launched: AtomicUsize,
}

#[async_trait]
impl Backend for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn probe(&self) -> &'static [u8] {
        b"#!/bin/false\n"
    }

    async fn launch(&self, id: SandboxId, _: &SandboxSpec, _: Files) -> Result<AgentStream, BackendError> {
        self.launched.fetch_add(1, Ordering::Relaxed);
        let play = self.play.lock().unwrap().clone();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        match play {
            Play::Panic => panic!("a bug of the backend"),
            Play::Broken => drop(theirs),
            Play::Says(parts) => {
                let said = tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(theirs);
                    let deaf = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
                    let last = parts.last().cloned().unwrap_or_default();
                    for part in parts.into_iter().chain(std::iter::repeat(last)) {
                        if writer.write_all(&part).await.is_err() {
                            break;
                        }
                    }
                    deaf.abort();
                });
                self.alive.lock().unwrap().insert(id, said.abort_handle());
            }
            Play::Agent(script) => {
                let service = service_fn(move |request: Request<Incoming>| {
                    let script = Arc::clone(&script);
                    async move {
                        if request.uri().path() == "/health" {
                            return Ok::<_, Infallible>(json(&Health { version: VERSION }));
                        }
                        match script(&request) {
                            Some(answer) => {
                                // Whoever hangs up on the request is told to have been killed.
                                tokio::spawn(request.into_body().collect());
                                Ok(answer)
                            }
                            None => std::future::pending().await,
                        }
                    }
                });
                let served = tokio::spawn(
                    http2::Builder::new(TokioExecutor::new()).max_concurrent_streams(512).serve_connection(TokioIo::new(theirs), service),
                );
                self.alive.lock().unwrap().insert(id, served.abort_handle());
            }
        }
        Ok(Box::new(ours))
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), BackendError> {
        if let Some(agent) = self.alive.lock().unwrap().remove(&id) {
            agent.abort();
        }
        Ok(())
    }

    async fn death(&self, _: SandboxId) -> Option<Death> {
        self.death.lock().unwrap().clone()
    }

    async fn usage(&self, _: SandboxId) -> Option<Usage> {
        // It hangs, as one does whose helper is stuck.
        std::future::pending().await
    }

    async fn list(&self) -> Result<Vec<Observed>, BackendError> {
        Ok(Vec::new())
    }

    async fn shutdown(&self) {}
}

/// A database that takes its time over new sandboxes, and sometimes writes and does not say so, as one does whose connection breaks.
struct Slow(Sqlite, Duration, Arc<AtomicBool>);

impl Slow {
    fn said<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if self.2.load(Ordering::Acquire) { Err(StoreError::Unavailable("the connection broke".into())) } else { done }
    }
}

#[async_trait]
impl Store for Slow {
    async fn insert_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        tokio::time::sleep(self.1).await;
        let done = self.0.insert_sandbox(sandbox).await;
        self.said(done)
    }
    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        self.0.update_sandbox(sandbox).await
    }
    async fn sandbox(&self, tenant: &Tenant, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.0.sandbox(tenant, id).await
    }
    async fn sandboxes(&self, tenant: &Tenant, filter: &SandboxFilter) -> Result<Page<Sandbox>, StoreError> {
        self.0.sandboxes(tenant, filter).await
    }
    async fn insert_execution(&self, execution: &Execution) -> Result<(), StoreError> {
        let done = self.0.insert_execution(execution).await;
        self.said(done)
    }
    async fn finish_execution(&self, id: ExecutionId, outcome: &Outcome) -> Result<(), StoreError> {
        self.0.finish_execution(id, outcome).await
    }
    async fn execution(&self, tenant: &Tenant, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
        self.0.execution(tenant, id).await
    }
    async fn executions(&self, tenant: &Tenant, filter: &ExecutionFilter) -> Result<Page<Execution>, StoreError> {
        self.0.executions(tenant, filter).await
    }
    async fn bury_the_living(&self, tombstone: &Tombstone, kept: &[SandboxId]) -> Result<(u64, u64), StoreError> {
        self.0.bury_the_living(tombstone, kept).await
    }

    async fn stopped(&self) -> Result<Vec<Sandbox>, StoreError> {
        self.0.stopped().await
    }
    async fn purge(&self, before: Timestamp) -> Result<Vec<ExecutionId>, StoreError> {
        self.0.purge(before).await
    }
    async fn purge_beyond(&self, kept: u64) -> Result<Vec<ExecutionId>, StoreError> {
        self.0.purge_beyond(kept).await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.0.ping().await
    }
}

struct World {
    engine: Engine,
    backend: Arc<Scripted>,
    unsure: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(script: impl Fn(&Request<Incoming>) -> Option<Response<Body>> + Send + Sync + 'static) -> Self {
        Self::slow(Duration::ZERO, script).await
    }

    async fn slow(insert: Duration, script: impl Fn(&Request<Incoming>) -> Option<Response<Body>> + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = Arc::new(Scripted {
            play: Mutex::new(Play::Agent(Arc::new(script))),
            death: Mutex::default(),
            alive: Mutex::default(),
            launched: AtomicUsize::new(0),
        });
        let unsure = Arc::new(AtomicBool::new(false));
        let store = Slow(Sqlite::open(&dir.path().join("caisson.db")).await.unwrap(), insert, Arc::clone(&unsure));
        let config = EngineConfig { egress: Some(EgressConfig::default()), ..EngineConfig::new(dir.path().to_owned()) };
        let engine = Engine::open(config, Arc::clone(&backend) as Arc<dyn Backend>, Arc::new(store)).await.unwrap();
        Self { engine, backend, unsure, _dir: dir }
    }

    fn play(&self, play: Play) {
        *self.backend.play.lock().unwrap() = play;
    }

    async fn sandbox(&self) -> SandboxId {
        match self.engine.create(CreateRequest::default()).await.unwrap() {
            Created::New(sandbox) | Created::Existing(sandbox) => sandbox.id,
        }
    }

    /// Waits for its end and says how it was.
    async fn end_of(&self, id: SandboxId) -> Tombstone {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let sandbox = self.engine.sandbox(id).await.unwrap();
            if sandbox.state == State::Ended {
                return sandbox.tombstone.unwrap();
            }
            assert!(Instant::now() < limit, "{sandbox:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn request(timeout: Option<Duration>) -> ExecRequest {
    let program = Program::Argv(vec!["true".to_owned()]);
    ExecRequest { timeout, ..ExecRequest::new(program) }
}

fn one_shot(timeout: Option<Duration>) -> RunRequest {
    let spec = SandboxSpec::default();
    RunRequest { spec, metadata: BTreeMap::new(), files: Vec::new(), exec: request(timeout), max_file_bytes: 1 << 20 }
}

fn bytes(parts: Vec<Bytes>, and_then_hang: bool) -> Response<Body> {
    let parts = stream::iter(parts).map(|part| Ok(http_body::Frame::data(part)));
    let rest = if and_then_hang { stream::pending().left_stream() } else { stream::empty().right_stream() };
    Response::new(StreamBody::new(parts.chain(rest)).boxed_unsync())
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    bytes(vec![serde_json::to_vec(value).unwrap().into()], false)
}

fn started() -> Bytes {
    Frame::json(Kind::Started, &Started { pid: u32::MAX, program: "/\u{1b}[2J/true".repeat(100) }).encode()
}

fn exit(change: impl FnOnce(&mut ExecExit)) -> Bytes {
    let mut exit = ExecExit {
        exit_code: Some(0),
        signal: None,
        ended: None,
        duration_us: 5,
        cpu_us: 5,
        peak_memory_bytes: 5,
        changes: Vec::new(),
        changes_truncated: false,
    };
    change(&mut exit);
    Frame::json(Kind::Exit, &exit).encode()
}

fn stat(path: &str) -> FileStat {
    FileStat {
        path: path.to_owned(),
        kind: FileKind::File,
        size: 3,
        mode: u32::MAX,
        mtime_ns: i64::MIN,
        uid: 0,
        gid: 0,
        inode: 1,
        target: None,
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    result.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_an_agent_that_hangs_is_ended_at_the_deadline() {
    let world = World::new(|_| Some(bytes(vec![started(), Frame::new(Kind::Stdout, &b"so far"[..]).encode()], true))).await;
    let id = world.sandbox().await;
    let begun = Instant::now();
    let hung = world.engine.exec(id, request(Some(Duration::from_millis(300)))).await.unwrap().wait().await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1300), "{:?}", begun.elapsed());
    let outcome = hung.execution.outcome.unwrap();
    assert_eq!((outcome.status, outcome.message.as_deref()), (ExecutionStatus::TimedOut, Some("timed_out: limit 0.3 s")));
    assert_eq!(&hung.stdout.head[..], b"so far");
    assert_eq!(world.end_of(id).await.reason, TombstoneReason::Crashed);

    let hung = world.engine.run(one_shot(Some(Duration::from_millis(300)))).await.unwrap().wait().await.unwrap();
    assert_eq!(hung.result.execution.status(), ExecutionStatus::TimedOut);
    world.engine.shutdown().await;
}

/// One whose agent announces these.
async fn announcing(said: Vec<Bytes>) -> (World, Result<SandboxId, Error>) {
    let world = World::new(move |request| (request.uri().path() == "/egress").then(|| bytes(said.clone(), true))).await;
    let spec = SandboxSpec { network: Network::Public, ..SandboxSpec::default() };
    let created = world.engine.create(CreateRequest { spec, ..CreateRequest::default() }).await;
    (world, created.map(|(Created::New(sandbox) | Created::Existing(sandbox))| sandbox.id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_an_agent_that_announces_nonsense_ends_its_own_sandbox() {
    let redirected = |id, to: &str| Announced { id, way: Way::Redirected(to.parse().unwrap()) }.encode();
    for said in [
        vec![redirected(1, "169.254.169.254:80"), redirected(1, "169.254.169.254:80")],
        vec![redirected(2, "10.0.0.1:80"), redirected(1, "10.0.0.1:80")],
        vec![Frame::new(Kind::Announced, &b"12345678"[..]).encode()],
        vec![Frame::new(Kind::Question, &b"1"[..]).encode()],
        vec![Frame::new(Kind::Stdout, &b"x"[..]).encode()],
        vec![Bytes::from_static(b"\xff\xff\xff\xff\xff")],
        (1..2000).map(|id| Announced { id, way: Way::Proxy }.encode()).collect(),
    ] {
        let (world, created) = announcing(said).await;
        match created {
            Ok(id) => {
                let end = world.end_of(id).await;
                assert!(end.reason == TombstoneReason::Crashed && end.message.contains("protocol"), "{end}");
            }
            // It was over before it had begun.
            Err(error) => assert!(error.to_string().contains("broke the protocol"), "{error}"),
        }
        world.engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_2_an_agent_gains_nothing_by_what_it_announces() {
    let addresses = ["169.254.169.254:80", "127.0.0.1:22", "[::ffff:10.0.0.1]:443", "[::1]:80", "8.8.8.8:22", "0.0.0.0:0"];
    let mut said: Vec<Bytes> =
        (1..).zip(addresses).map(|(id, to)| Announced { id, way: Way::Redirected(to.parse().unwrap()) }.encode()).collect();
    // Whoever asks nothing that could be answered hears nothing, and goes on.
    said.push(Message { number: 1, message: Bytes::from_static(b"x") }.encode(Kind::Question));
    let (world, created) = announcing(said).await;
    let id = created.unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    let report = loop {
        let report = world.engine.egress(id).await.unwrap();
        if report.refused == addresses.len() as u64 && report.open == 0 {
            break report;
        }
        assert!(Instant::now() < limit, "{report:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(report.allowed, 0);
    assert!(report.decisions.iter().all(|decision| decision.refused.is_some()), "{report:?}");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_an_agent_that_hangs_before_the_start_is_ended_too() {
    let world = World::new(|_| None).await;
    let id = world.sandbox().await;
    // The rest of it hangs as well: not even its health is answered any more.
    world.backend.alive.lock().unwrap()[&id].abort();
    let begun = Instant::now();
    let refused = world.engine.exec(id, request(Some(Duration::from_secs(1)))).await.unwrap_err();
    assert_eq!(refused.code(), "gone", "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());

    // One that only does not start programs loses nothing but the request.
    let id = world.sandbox().await;
    assert_eq!(code(world.engine.exec(id, request(Some(Duration::from_secs(1)))).await), "unavailable");
    assert_eq!(world.engine.sandbox(id).await.unwrap().state, State::Running);
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_garbage_ends_the_sandbox_and_nothing_else() {
    let raw = |kind: u8, length: u32, payload: &'static [u8]| Bytes::from([&[kind], &length.to_be_bytes()[..], payload].concat());
    let many = |path: &str| exit(|e| e.changes = (0..10_000).map(|_| stat(path)).collect());
    let limits =
        [Ended::TimedOut, Ended::OutputLimit].map(|ended| exit(|e| (e.exit_code, e.signal, e.ended) = (None, Some(9), Some(ended))));
    let scripts: Vec<(&str, Vec<Bytes>)> = vec![
        ("an unknown kind", vec![started(), raw(99, 0, b"")]),
        ("a frame of 4 GiB", vec![started(), raw(17, u32::MAX, b"")]),
        ("an exit of 9 MiB", vec![started(), raw(19, 9 << 20, b"")]),
        ("a frame of ours", vec![started(), raw(2, 1, b"x")]),
        ("a start that is no JSON", vec![raw(16, 3, b"\xff{]")]),
        ("an exit that is no JSON", vec![started(), raw(19, 1, b"[")]),
        ("an exit of another shape", vec![started(), raw(19, 2, b"{}")]),
        ("deep JSON", vec![started(), Bytes::from([&[19u8, 0, 1, 0, 0][..], &[b'['; 65536]].concat())]),
        ("huge figures", vec![started(), raw(19, 18, b"{\"exit_code\":1e99}")]),
        ("no exit", vec![started(), exit(|e| e.exit_code = None)]),
        ("two exits in one", vec![started(), exit(|e| e.signal = Some(9))]),
        ("an exit code that is none", vec![started(), exit(|e| e.exit_code = Some(i32::MIN))]),
        ("a limit that was never set", vec![started(), limits[0].clone()]),
        ("another limit that was never set", vec![started(), limits[1].clone()]),
        ("paths that are none", vec![started(), many("../../etc/passwd")]),
        ("paths with NUL", vec![started(), many("/a%00b")]),
        ("input taken that was never sent", vec![started(), Frame::new(Kind::InputTaken, 1u32.to_be_bytes().to_vec()).encode()]),
        ("a count of another length", vec![started(), raw(21, 3, b"abc")]),
        ("two starts", vec![started(), started()]),
        ("output before the start", vec![Frame::new(Kind::Stdout, &b"x"[..]).encode()]),
        ("an exit before the start", vec![exit(|_| {})]),
    ];
    let next: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let play = Arc::clone(&next);
    let world = World::new(move |_| Some(bytes(play.lock().unwrap().clone(), true))).await;
    *next.lock().unwrap() = vec![started()];
    let bystander = world.sandbox().await;
    let running = world.engine.exec(bystander, request(None)).await.unwrap();
    for (what, script) in scripts {
        *next.lock().unwrap() = script;
        let id = world.sandbox().await;
        match world.engine.exec(id, request(None)).await {
            Ok(running) => {
                let ended = running.wait().await.unwrap().execution;
                assert_eq!(ended.status(), ExecutionStatus::Lost, "{what}: {ended:?}");
            }
            Err(error) => assert_eq!(error.code(), "gone", "{what}: {error}"),
        }
        let tombstone = world.end_of(id).await;
        assert_eq!(tombstone.reason, TombstoneReason::Crashed, "{what}: {tombstone}");
        assert!(tombstone.message.contains("protocol") && !tombstone.message.contains('\u{1b}'), "{what}: {tombstone}");
    }
    assert_eq!(world.engine.sandbox(bystander).await.unwrap().state, State::Running);
    assert_eq!(world.engine.execution(running.execution.id).await.unwrap().status(), ExecutionStatus::Running);
    world.engine.shutdown().await;
}

/// Numbers from a seed (Knuth's), so that what a run has found can be found again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// An answer of a good agent with some bytes changed, left out, doubled, or put in, cut into pieces anywhere.
fn garbled(chance: &mut Chance) -> Vec<Bytes> {
    let changes = vec![stat("/workspace/a%20b"), stat("/workspace/\u{e4}")];
    let good = [
        started(),
        Frame::new(Kind::Stdout, &b"output"[..]).encode(),
        Frame::new(Kind::Stderr, &b"\xff\0"[..]).encode(),
        exit(|exit| exit.changes = changes),
    ]
    .concat();
    let mut bytes = good;
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
        match chance.below(6) {
            _ if bytes.is_empty() => bytes.push(16),
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => bytes[at] = [0, 0xff, b'"', b'[', b'{', b'9'][chance.below(6)],
            2 => drop(bytes.drain(at..(at + 1 + chance.below(20)).min(bytes.len()))),
            3 => drop(bytes.splice(at..at, bytes[at..(at + 50).min(bytes.len())].to_vec())),
            4 => drop(bytes.splice(at..at, b"[".repeat(chance.below(300)))),
            _ => bytes.truncate(at),
        }
    }
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let rest = bytes.split_off((1 + chance.below(200)).min(bytes.len()));
        parts.push(std::mem::replace(&mut bytes, rest).into());
    }
    parts
}

/// Whatever comes, an execution ends in one of the known ways, its sandbox goes on or ends, and the rest never notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_garbled_frames_never_reach_beyond_their_sandbox() {
    const RUNS: u64 = 300;
    let seed = Arc::new(AtomicU64::new(0));
    let play = Arc::clone(&seed);
    let world = World::new(move |_| match play.fetch_add(1, Ordering::Relaxed) {
        seed if seed < RUNS => Some(bytes(garbled(&mut Chance(seed)), false)),
        _ => Some(bytes(vec![started(), exit(|_| {})], false)),
    })
    .await;
    let (mut refused, mut lost, mut exited, begun) = (0, 0, 0, Instant::now());
    let runs = stream::iter(0..RUNS).map(|_| async {
        // Whoever is refused is told to come again, or that the sandbox has ended, or never began.
        world.engine.run(one_shot(Some(Duration::from_secs(20)))).await?.wait().await
    });
    for ended in runs.buffer_unordered(64).collect::<Vec<_>>().await {
        let outcome = match ended {
            Ok(done) => done.result.execution.outcome.unwrap(),
            Err(error) => {
                assert!(["gone", "internal", "unavailable"].contains(&error.code()), "{error}");
                assert!(!error.to_string().chars().any(char::is_control), "{error}");
                refused += 1;
                continue;
            }
        };
        match outcome.status {
            ExecutionStatus::Lost => lost += 1,
            ExecutionStatus::Exited | ExecutionStatus::Signaled => exited += 1,
            other => panic!("{other:?}"),
        }
        assert!(!outcome.message.unwrap_or_default().chars().any(char::is_control));
    }
    // An answer that breaks off is noticed at once: one that is waited for takes five seconds.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(
        refused > 30 && lost > 10 && exited > 5,
        "{refused} were refused, {lost} lost, {exited} ended: the bytes are not garbled as they should be"
    );
    seed.store(RUNS, Ordering::Relaxed);
    let fine = world.engine.run(one_shot(None)).await.unwrap().wait().await.unwrap();
    assert_eq!(fine.result.execution.status(), ExecutionStatus::Exited);
    world.engine.shutdown().await;
}

/// What is no HTTP/2, or too much of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_garbage_instead_of_http2_ends_the_sandbox_and_nothing_else() {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        Bytes::from([&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat())
    };
    let settings = || frame(4, 0, 0, &[]);
    let mut chance = Chance(7);
    let random: Vec<u8> = (0..50_000).map(|_| chance.below(256) as u8).collect();
    let world = World::new(|_| Some(bytes(vec![started()], true))).await;
    let bystander = world.sandbox().await;
    let running = world.engine.exec(bystander, request(None)).await.unwrap();
    for (what, says) in [
        ("HTTP/1", vec![Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]),
        ("one byte for ever", vec![Bytes::from_static(&[0; 4096])]),
        ("noise", vec![random.into()]),
        ("a frame of 16 MiB", vec![settings(), Bytes::from_static(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]), Bytes::from_static(&[0; 65536])]),
        ("answers that nobody asked for", vec![settings(), frame(1, 4, 9, &[0x88])]),
        ("headers without an end", vec![settings(), frame(1, 0, 1, &[0x88]), frame(9, 0, 1, &[0, 1, b'a', 1, b'b'].repeat(1000))]),
        ("pushes", vec![settings(), frame(5, 4, 1, &[0, 0, 0, 2, 0x82])]),
        ("pings", vec![settings(), frame(6, 0, 0, b"12345678")]),
        ("settings", vec![settings(), frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])]),
        ("windows that overflow", vec![settings(), frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]),
        ("a farewell", vec![settings(), frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0])]),
    ] {
        world.play(Play::Says(says));
        let begun = Instant::now();
        // Some of it is well-formed, and then it is the silence that tells; nobody has to wait for that here.
        let create = tokio::time::timeout(Duration::from_secs(3), world.engine.create(CreateRequest::default())).await;
        if let Ok(created) = create {
            let error = created.expect_err(what);
            assert!(!error.to_string().chars().any(char::is_control), "{what}: {error}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {:?}", begun.elapsed());
        assert_eq!(world.engine.execution(running.execution.id).await.unwrap().status(), ExecutionStatus::Running, "{what}");
    }
    world.play(Play::Agent(Arc::new(|_| Some(bytes(vec![started(), exit(|_| {})], false)))));
    let fine = world.engine.run(one_shot(None)).await.unwrap().wait().await.unwrap();
    assert_eq!(fine.result.execution.status(), ExecutionStatus::Exited);
    assert_eq!(world.engine.sandbox(bystander).await.unwrap().state, State::Running);
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_a_lying_agent_is_believed_only_as_far_as_it_can_be_true() {
    let world = World::new(|request| {
        Some(match request.uri().path() {
            // Content for a file that has more than it says.
            "/files" => {
                let mut answer = bytes(vec![Bytes::from_static(&[b'x'; 1000])], true);
                let header = serde_json::to_string(&stat("/workspace/a")).unwrap().parse().unwrap();
                answer.headers_mut().insert(caisson_wire::STAT_HEADER, header);
                answer
            }
            "/list" => json(&Listing { entries: vec![stat("/a"); 11], next: None, unreadable: 0 }),
            "/stat" => bytes(vec![Bytes::from(vec![b' '; 300 << 10])], true),
            "/which" => json(&caisson_wire::Found { names: vec!["rm".to_owned(); 1000] }),
            _ => bytes(
                vec![
                    started(),
                    // Nothing, again and again.
                    Frame::new(Kind::Stdout, Bytes::new()).encode().repeat(10_000).into(),
                    exit(|e| {
                        (e.exit_code, e.signal) = (None, Some(9));
                        (e.duration_us, e.cpu_us, e.peak_memory_bytes) = (u64::MAX, u64::MAX, u64::MAX);
                        e.changes = vec![FileStat { size: u64::MAX, ..stat("/workspace/huge") }, stat("/workspace/a")];
                    }),
                    // Too late.
                    Frame::new(Kind::Stdout, &b"more"[..]).encode(),
                    Bytes::from_static(&[99; 100]),
                ],
                true,
            ),
        })
    })
    .await;
    let begun = Instant::now();
    let done = world.engine.run(one_shot(None)).await.unwrap().wait().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let outcome = done.result.execution.outcome.unwrap();
    // The backend hangs over the question whether memory was the cause.
    assert_eq!((outcome.status, outcome.signal, outcome.stdout.total_bytes), (ExecutionStatus::Signaled, Some(9), 0));
    assert!(outcome.duration <= begun.elapsed() && outcome.cpu <= begun.elapsed() * 1024, "{outcome:?}");
    assert_eq!(done.files.iter().map(|file| file.content.is_some()).collect::<Vec<_>>(), [false, false]);

    let id = world.sandbox().await;
    assert_eq!(code(world.engine.list_files(id, b"/", 1, 10, None).await), "gone", "more entries than asked for");
    let id = world.sandbox().await;
    assert_eq!(code(world.engine.stat_file(id, b"/x").await), "too_large", "an answer without end");
    let unknown = Program::Code { language: "typescript".to_owned(), text: String::new(), args: Vec::new() };
    assert_eq!(code(world.engine.exec(id, ExecRequest { program: unknown, ..request(None) }).await), "interpreter_missing");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_fails_late_is_told_like_one_that_fails_at_once() {
    let world = World::new(|_| None).await;
    world.play(Play::Broken);
    let death = |error: Option<BackendError>| {
        Some(Death { oom_kills: 0, how: "its agent exited with status 1".to_owned(), of_all: false, launch_error: error })
    };
    for (death, expect) in [
        (death(Some(BackendError::Unsupported("Linux 5.12 is needed".to_owned()))), "unsupported"),
        (death(Some(BackendError::Exhausted("no room".to_owned()))), "unavailable"),
        (death(Some(BackendError::Failed("at the third step".to_owned()))), "internal"),
        (death(None), "internal"),
        (None, "internal"),
    ] {
        *world.backend.death.lock().unwrap() = death.clone();
        let begun = Instant::now();
        for _ in 0..5 {
            let create = world.engine.create(CreateRequest::default()).await.unwrap_err();
            let run = world.engine.run(one_shot(None)).await.unwrap_err();
            for error in [create, run] {
                assert_eq!(error.code(), expect, "{death:?}: {error}");
                if let Some(Death { launch_error: Some(why), .. }) = &death {
                    assert!(error.to_string().contains(&why.to_string()), "{error}");
                }
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bug_of_ours_takes_one_sandbox_and_shutdown_still_ends() {
    let world = World::new(|_| None).await;
    world.play(Play::Panic);
    assert!(world.engine.create(CreateRequest { name: Some("n".to_owned()), ..CreateRequest::default() }).await.is_err());
    assert!(world.engine.run(one_shot(None)).await.is_err());
    world.play(Play::Agent(Arc::new(|_| None)));
    let named = CreateRequest { name: Some("n".to_owned()), ..CreateRequest::default() };
    let limit = Instant::now() + Duration::from_secs(5);
    while world.engine.create(named.clone()).await.is_err() {
        assert!(Instant::now() < limit, "the name stays taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    world.engine.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_does_not_wait_for_a_record_that_waits_for_it() {
    // Started, and its stream resets before the sandbox is recorded.
    let world = World::slow(Duration::from_millis(500), |_| Some(bytes(vec![started(), Bytes::from_static(&[99; 10])], true))).await;
    let begun = Instant::now();
    let lost = world.engine.run(one_shot(None)).await.unwrap().wait().await.unwrap();
    assert_eq!(lost.result.execution.status(), ExecutionStatus::Lost);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let recorded = world.engine.execution(lost.result.execution.id).await.unwrap();
    assert_eq!(recorded, lost.result.execution, "what is told is what is recorded");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_a_kill_that_nobody_obeys_ends_the_sandbox() {
    let world = World::new(|_| Some(bytes(vec![started()], true))).await;
    let (deaf, fine) = (world.sandbox().await, world.sandbox().await);
    let running = world.engine.exec(fine, request(None)).await.unwrap();
    world.engine.kill(running.execution.id).await.unwrap();
    assert_eq!(running.wait().await.unwrap().execution.status(), ExecutionStatus::Killed);
    assert_eq!(world.engine.sandbox(fine).await.unwrap().state, State::Running);

    let running = world.engine.exec(deaf, request(None)).await.unwrap();
    world.backend.alive.lock().unwrap()[&deaf].abort();
    // The connection ends with its task: either way nothing of it goes on.
    world.engine.kill(running.execution.id).await.unwrap_or(());
    assert!(matches!(running.wait().await.unwrap().execution.status(), ExecutionStatus::Killed | ExecutionStatus::Lost));
    assert_eq!(world.end_of(deaf).await.reason, TombstoneReason::Crashed);
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_of_one_name_get_one_sandbox() {
    let world = World::slow(Duration::from_millis(20), |_| None).await;
    let named = CreateRequest { name: Some("wanted".to_owned()), ..CreateRequest::default() };
    let created = join_all((0..50).map(|_| world.engine.create(named.clone()))).await;
    let (mut ids, mut new) = (Vec::new(), 0);
    for made in created {
        match made.unwrap() {
            Created::New(sandbox) => (new, ids) = (new + 1, [ids, vec![sandbox.id]].concat()),
            Created::Existing(sandbox) => ids.push(sandbox.id),
        }
    }
    ids.dedup();
    assert_eq!((new, ids.len(), world.backend.launched.load(Ordering::Relaxed)), (1, 1, 1));
    // Half of them give up while they wait, after its end: whoever comes next finds one, whole.
    world.engine.destroy(ids[0]).await.unwrap();
    let hasty = (0..50u64).map(|n| tokio::time::timeout(Duration::from_millis(n), world.engine.create(named.clone())));
    join_all(hasty).await;
    let limit = Instant::now() + Duration::from_secs(5);
    let whole = loop {
        match world.engine.create(named.clone()).now_or_never() {
            Some(made) => break made.unwrap(),
            None => match world.engine.create(named.clone()).await {
                Ok(made) => break made,
                Err(error) => assert!(Instant::now() < limit, "{error}"),
            },
        }
    };
    let Created::Existing(whole) = whole else { panic!("the abandoned one was not finished") };
    assert_eq!(whole.state, State::Running);
    assert_eq!(world.backend.alive.lock().unwrap().len(), 1);
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r4_8_what_goes_on_inside_is_bounded() {
    let world = World::new(|_| Some(bytes(vec![started()], true))).await;
    let id = world.sandbox().await;
    let results = join_all((0..600).map(|_| world.engine.exec(id, request(None)))).await;
    let (running, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert!(running.len() == 400 && !refused.is_empty(), "{} run, {} were refused", running.len(), refused.len());
    assert!(refused.into_iter().all(|error| code(error) == "quota_exceeded"));
    assert_eq!(code(world.engine.stat_file(id, b"/").await), "quota_exceeded");
    assert!(world.engine.update(id, SandboxUpdate::default()).await.is_ok(), "what does not go inside is not counted");
    world.engine.destroy(id).await.unwrap();
    for running in running {
        assert_eq!(running.unwrap().wait().await.unwrap().execution.status(), ExecutionStatus::Killed);
    }
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_arguments_are_cut_in_the_record() {
    let world = World::new(|_| Some(bytes(vec![started(), exit(|_| {})], false))).await;
    let id = world.sandbox().await;
    let program = Program::Argv(vec!["x".repeat(100_000), "y".to_owned()]);
    let done = world.engine.exec(id, ExecRequest { program, ..request(None) }).await.unwrap().wait().await.unwrap();
    let argv = done.execution.argv;
    assert!(argv.iter().map(String::len).sum::<usize>() < 5000);
    assert!(argv[0].ends_with("[... 95904 more bytes ...]"), "{}", &argv[0][argv[0].len() - 40..]);
    assert_eq!(argv[1], "[... 1 more arguments ...]");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_shot_that_cannot_be_prepared_leaves_nothing() {
    let world =
        World::new(|_| Some(Response::builder().status(500).body(bytes(vec![Bytes::from_static(b"oops")], false).into_body()).unwrap()))
            .await;
    let files = vec![InputFile { path: b"a".to_vec(), content: Bytes::new(), mode: None }];
    let error = world.engine.run(RunRequest { files, ..one_shot(None) }).await.unwrap_err();
    assert_eq!(error.code(), "internal", "{error}");
    let limit = Instant::now() + Duration::from_secs(5);
    while !world.backend.alive.lock().unwrap().is_empty() {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.engine.shutdown().await;
}

/// An agent that has `bash`, and whose contexts say this.
async fn talkative(said: Vec<Bytes>) -> World {
    World::new(move |request| match request.uri().path() {
        "/which" => Some(json(&Found { names: vec!["bash".to_owned()] })),
        "/exec" => Some(bytes(said.clone(), true)),
        _ => None,
    })
    .await
}

fn channel(text: &'static str) -> Bytes {
    Frame::new(Kind::Channel, text.as_bytes()).encode()
}

fn bash() -> ContextRequest {
    ContextRequest { language: "bash".to_owned(), driver: Driver::Builtin, env: BTreeMap::new(), cwd: None }
}

const READY: &str = "{\"type\":\"ready\",\"version\":\"1\"}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_a_context_that_talks_nonsense_ends_and_its_sandbox_only_with_its_agent() {
    let taken = || Frame::new(Kind::InputTaken, &[0, 0, 0, 1][..]).encode();
    for (what, said, expect, goes_on) in [
        ("garbage", vec![started(), channel("\u{0}\n")], "context_failed", true),
        ("a value before it is ready", vec![started(), channel("{\"type\":\"value\",\"data\":{}}\n")], "context_failed", true),
        ("nothing, and the channel closes", vec![started(), channel("")], "context_failed", true),
        ("an end", vec![started(), exit(|exit| exit.exit_code = Some(3))], "context_failed", true),
        ("input taken that was never sent", vec![started(), taken()], "gone", false),
        ("a second start", vec![started(), started()], "gone", false),
        ("no start", vec![channel(READY)], "gone", false),
    ] {
        let world = talkative(said).await;
        let id = world.sandbox().await;
        assert_eq!(code(world.engine.create_context(id, bash()).await), expect, "{what}");
        if goes_on {
            assert_eq!(world.engine.contexts(id).await.unwrap().len(), 0, "{what}");
        } else {
            assert_eq!(world.end_of(id).await.reason, TombstoneReason::Crashed, "{what}");
        }
        world.engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_4_a_run_ends_whatever_its_context_says_or_keeps_to_itself() {
    let code = || CodeRequest { code: "true".to_owned(), timeout: Some(Duration::from_millis(200)), interactive: false };
    // One that says nothing at all is ended after its time and its grace.
    let world = talkative(vec![started(), channel(READY)]).await;
    let id = world.sandbox().await;
    let context = world.engine.create_context(id, bash()).await.unwrap().id;
    let result = world.engine.run_code(id, context, code()).await.unwrap().wait().await.unwrap();
    assert_eq!(result.status, CodeStatus::TimedOut);
    assert_eq!(result.result.execution.status(), ExecutionStatus::TimedOut);
    assert_eq!(world.engine.run_code(id, context, code()).await.unwrap_err().code(), "context_ended");
    world.engine.shutdown().await;
    // One that tells of an end before there was anything to end.
    let world = talkative(vec![started(), channel(READY), channel("{\"type\":\"done\",\"status\":\"ok\"}\n")]).await;
    let id = world.sandbox().await;
    let context = world.engine.create_context(id, bash()).await.unwrap().id;
    let limit = Instant::now() + Duration::from_secs(5);
    while world.engine.context(id, context).await.unwrap().state != ContextState::Ended {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.engine.run_code(id, context, code()).await.unwrap_err().code(), "context_ended");
    world.engine.shutdown().await;
}

/// A record that was written although nobody said so is not left to say for ever that something runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_recorded_is_ended_in_its_record() {
    let world = World::new(|request| (request.uri().path() == "/exec").then(|| bytes(vec![started()], true))).await;
    let id = world.sandbox().await;
    world.unsure.store(true, Ordering::Release);
    assert_eq!(code(world.engine.exec(id, request(None)).await), "unavailable");
    let named = || CreateRequest { name: Some("box".to_owned()), ..CreateRequest::default() };
    assert_eq!(code(world.engine.create(named()).await), "unavailable");
    world.unsure.store(false, Ordering::Release);

    let limit = Instant::now() + Duration::from_secs(10);
    let filter = ExecutionFilter { sandbox: id, statuses: Vec::new(), limit: 10, cursor: None };
    loop {
        let all = world.engine.executions(&filter).await.unwrap().data;
        let lost = all.iter().filter(|execution| execution.status() == ExecutionStatus::Lost).count();
        let free = world.engine.create(named()).await.is_ok();
        if (all.len(), lost, free) == (1, 1, true) {
            break;
        }
        assert!(Instant::now() < limit, "{all:?}, {free}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.engine.shutdown().await;
}
