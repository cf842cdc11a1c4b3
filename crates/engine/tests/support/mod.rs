//! An engine over the real agent and the real store. The backend gives each agent a pid namespace and nothing else: what is proven here
//! is the engine, and the walls have suites of their own.

mod agent;

use std::{
    collections::{BTreeMap, HashMap},
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use caisson_core::{AgentStream, Backend, BackendError, Death, Files, Observed, SandboxId, SandboxSpec, Usage};
use caisson_engine::{CreateRequest, Created, Engine, EngineConfig, ExecRequest, Program, RunRequest};
use caisson_store::Sqlite;
use caisson_wire::AgentConfig;
use tokio::{io::AsyncWriteExt, net::UnixStream};

use self::agent::agent_binary;

/// Everything of one test; what it made goes with it.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) backend: Arc<Agents>,
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut EngineConfig)) -> Self {
        // Before any clock runs: another build may be in the way of this one.
        agent_binary();
        let dir = tempfile::tempdir().unwrap();
        // Programs run as another user and must reach their work dirs in here.
        std::process::Command::new("chmod").arg("0755").arg(dir.path()).status().unwrap();
        let mut config = EngineConfig::new(dir.path().join("data"));
        change(&mut config);
        let backend = Arc::new(Agents::default());
        let engine = open(config, Arc::clone(&backend)).await;
        Self { engine, backend, dir }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("data/caisson.db")
    }

    /// A work dir of its own for one sandbox, which stands in for its root file system.
    pub(crate) fn spec(&self) -> SandboxSpec {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let work_dir = self.dir.path().join(format!("work-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&work_dir).unwrap();
        std::os::unix::fs::chown(&work_dir, Some(1000), Some(1000)).unwrap();
        SandboxSpec { work_dir: work_dir.to_str().unwrap().to_owned(), ..SandboxSpec::default() }
    }

    pub(crate) async fn sandbox(&self) -> SandboxId {
        match self.engine.create(CreateRequest { spec: self.spec(), ..CreateRequest::default() }).await.unwrap() {
            Created::New(sandbox) => sandbox.id,
            Created::Existing(other) => panic!("{} has no name and cannot exist", other.id),
        }
    }

    pub(crate) fn one_shot(&self, exec: ExecRequest) -> RunRequest {
        RunRequest { spec: self.spec(), metadata: BTreeMap::new(), files: Vec::new(), exec, max_file_bytes: 1 << 20 }
    }
}

pub(crate) async fn open(config: EngineConfig, backend: Arc<Agents>) -> Engine {
    let store = Sqlite::open(&config.data_dir.join("caisson.db")).await.unwrap();
    Engine::open(config, backend, Arc::new(store)).await.unwrap()
}

pub(crate) fn shell(line: &str) -> ExecRequest {
    exec(Program::Shell(line.to_owned()))
}

pub(crate) fn exec(program: Program) -> ExecRequest {
    ExecRequest { timeout: Some(Duration::from_secs(60)), ..ExecRequest::new(program) }
}

/// Starts agents and remembers them.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    alive: Mutex<HashMap<SandboxId, Child>>,
    /// Refuses launches with this.
    pub(crate) refuse: Mutex<Option<BackendError>>,
    pub(crate) oom_kills: AtomicU64,
}

impl Agents {
    /// Kills an agent as a crash would.
    pub(crate) fn crash(&self, id: SandboxId) {
        kill(self.alive.lock().unwrap().get_mut(&id).expect("the sandbox lives"));
    }

    /// The sandboxes that there are.
    pub(crate) fn ids(&self) -> Vec<SandboxId> {
        self.alive.lock().unwrap().keys().copied().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.alive.lock().unwrap().len()
    }
}

#[async_trait]
impl Backend for Agents {
    fn name(&self) -> &'static str {
        "agents"
    }

    fn probe(&self) -> &'static [u8] {
        b"#!/bin/false\n"
    }

    async fn launch(&self, id: SandboxId, spec: &SandboxSpec, _: Files) -> Result<AgentStream, BackendError> {
        if let Some(error) = self.refuse.lock().unwrap().clone() {
            return Err(error);
        }
        let config = AgentConfig {
            uid: spec.user.uid,
            gid: spec.user.gid,
            name: spec.user.name.clone(),
            home: "/tmp".to_owned(),
            work_dir: spec.work_dir.clone(),
            env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            open_files: 1024,
            instead_of_cgroup: None,
            of_runtime: None,
            of_image: None,
            places: Vec::new(),
            ways_out: None,
            trusts: None,
        };
        let (ours, theirs) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        // Descriptor 3 by way of the shell's standard input. The namespace's first process takes all others with it when it dies.
        let child = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup", "--", "sh", "-c", "exec \"$0\" 3<&0 </dev/null"])
            .arg(agent_binary())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(|error| BackendError::Failed(error.to_string()))?;
        self.alive.lock().unwrap().insert(id, child);
        let mut stream = UnixStream::from_std(ours).unwrap();
        stream.write_all(&config.encode().unwrap()).await.unwrap();
        Ok(Box::new(stream))
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), BackendError> {
        let child = self.alive.lock().unwrap().remove(&id);
        let Some(mut child) = child else { return Ok(()) };
        tokio::task::spawn_blocking(move || {
            kill(&mut child);
            child.wait().unwrap();
        })
        .await
        .unwrap();
        Ok(())
    }

    async fn death(&self, id: SandboxId) -> Option<Death> {
        self.alive.lock().unwrap().get(&id)?;
        let oom_kills = self.oom_kills.load(Ordering::Relaxed);
        Some(Death { oom_kills, how: "its agent was killed".to_owned(), of_all: false, launch_error: None })
    }

    async fn usage(&self, id: SandboxId) -> Option<Usage> {
        self.alive.lock().unwrap().get(&id)?;
        Some(Usage { oom_kills: self.oom_kills.load(Ordering::Relaxed), ..Usage::default() })
    }

    async fn list(&self) -> Result<Vec<Observed>, BackendError> {
        Ok(self.alive.lock().unwrap().keys().map(|id| Observed { id: *id }).collect())
    }

    async fn shutdown(&self) {
        let left: Vec<SandboxId> = self.alive.lock().unwrap().keys().copied().collect();
        for id in left {
            self.destroy(id).await.unwrap();
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        for child in self.alive.lock().unwrap().values_mut() {
            kill(child);
            child.wait().ok();
        }
    }
}

/// Kills the agent, and `unshare`, which waits for it.
fn kill(unshare: &mut Child) {
    let id = unshare.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    for agent in children.split_ascii_whitespace() {
        Command::new("kill").args(["-KILL", agent]).stderr(Stdio::null()).status().unwrap();
    }
    unshare.kill().ok();
}
