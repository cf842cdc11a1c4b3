//! Ready interpreters beside cold ones, in real agents. Each agent has a pid namespace and nothing else; needs root.

#[path = "../../tests/support/agent.rs"]
mod agent;
mod cold;
mod equal;
mod programs;

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use caisson_core::SandboxSpec;
use caisson_wire::{AgentConfig, Ended};
use tokio::{io::AsyncWriteExt, net::UnixStream};
use tokio_util::task::TaskTracker;

use super::*;
use crate::agent_client::connect;

/// An agent, and a directory that stands in for its root.
struct World {
    unshare: Child,
    agent: AgentClient,
    /// Told apart by nothing but what is done in them.
    spec: SandboxSpec,
}

/// All that can be seen of a program from outside.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    stdout: String,
    stderr: String,
    exit_code: Option<i32>,
    signal: Option<i32>,
    ended: Option<Ended>,
    changes: Vec<(String, u64)>,
}

impl World {
    /// At the same place each time, so that paths are the same. One at a time.
    async fn new(place: &tempfile::TempDir, recipe: Recipe) -> Self {
        Self::with(place, recipe, &[]).await
    }

    /// The same with more variables for all programs.
    async fn with(place: &tempfile::TempDir, recipe: Recipe, more: &[(&str, &str)]) -> Self {
        fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let work_dir = place.path().join("work");
        if work_dir.exists() {
            fs::remove_dir_all(&work_dir).unwrap();
        }
        fs::create_dir(&work_dir).unwrap();
        std::os::unix::fs::chown(&work_dir, Some(1000), Some(1000)).unwrap();
        let work_dir = work_dir.to_str().unwrap().to_owned();
        let env =
            [("HOME", "/nonexistent"), ("LANG", "C.UTF-8"), ("PATH", "/usr/local/bin:/usr/bin:/bin"), ("PYTHONDONTWRITEBYTECODE", "1")];
        let config = AgentConfig {
            uid: 1000,
            gid: 1000,
            name: "user".to_owned(),
            home: "/nonexistent".to_owned(),
            work_dir: work_dir.clone(),
            env: env.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
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
        // A `/tmp` of its own, which the agent itself may be below, and descriptor 3 by way of the shell's standard input.
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup", "--", "sh", "-c"])
            .arg("exec 4<\"$0\" && mount -t tmpfs -o mode=1777 tmpfs /tmp && exec /proc/self/fd/4 3<&0 </dev/null")
            .arg(agent::agent_binary())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut stream = UnixStream::from_std(ours).unwrap();
        stream.write_all(&config.encode().unwrap()).await.unwrap();
        let (agent, _) = connect(Box::new(stream), &TaskTracker::new()).await.unwrap();
        Self { unshare, agent, spec: SandboxSpec { work_dir, recipe, ..SandboxSpec::default() } }
    }

    async fn put(&self, name: &str, text: &str) {
        let path = format!("{}/{name}", self.spec.work_dir);
        self.agent.put(path.as_bytes(), None, text.to_owned().into()).await.unwrap();
    }

    async fn warm_up(&self) -> Option<Ready> {
        warm_up(&self.agent, &self.spec).await
    }

    /// What runs `code`, started anew.
    fn program(&self, language: &str, code: &str) -> ExecStart {
        let Found::Known(language) = languages::find(language).unwrap() else { panic!("{language} is known") };
        let (argv, alternatives) = execution::words(&self.spec.recipe, language).unwrap();
        ExecStart {
            argv,
            alternatives,
            env: Vec::new(),
            cwd: None,
            stdin: false,
            channel: false,
            terminal: None,
            timeout_ms: Some(30_000),
            max_output_bytes: Some(4 << 20),
            code: Some(execution::code_file(&self.spec.recipe, language, code.to_owned())),
            report_changes: Some(self.spec.work_dir.clone()),
            also_report: Vec::new(),
            hold: None,
        }
    }

    async fn cold(&self, program: &ExecStart) -> Seen {
        let (_frames, stream) = self.agent.exec(program, Vec::new()).await.unwrap();
        see(stream).await
    }

    /// What a ready one makes of it; panics when it does not take it.
    async fn warm(&self, program: &ExecStart) -> Seen {
        let ready = self.warm_up().await.expect("it is ready");
        let held = ready.take(program, &self.spec.work_dir).await.expect("it fits");
        let (_frames, stream, first) = held.go(program).await.unwrap();
        assert!(matches!(first, ExecFrame::Started(_)), "{first:?}");
        see(stream).await
    }

    /// Why a ready one does not take it; `None` when it does.
    async fn refusal(&self, program: &ExecStart) -> Option<String> {
        let held = self.warm_up().await.expect("it is ready").take(program, &self.spec.work_dir).await.expect("it fits");
        match held.go(program).await.unwrap() {
            (_, _, ExecFrame::Refused(refusal)) => Some(refusal.message),
            _ => None,
        }
    }

    /// What runs in here beside the agent.
    fn processes(&self) -> Vec<String> {
        let children = |pid: &str| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let agents = children(&self.unshare.id().to_string());
        agents
            .split_ascii_whitespace()
            .flat_map(|agent| children(agent).split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Its child, the namespace's first process, is killed with it, and takes all others along.
        self.unshare.kill().unwrap();
        self.unshare.wait().unwrap();
    }
}

async fn see(mut stream: ExecStream) -> Seen {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match tokio::time::timeout(Duration::from_secs(60), stream.next()).await.unwrap().unwrap() {
            ExecFrame::Started(_) => {}
            ExecFrame::Stdout(data) => stdout.extend_from_slice(&data),
            ExecFrame::Stderr(data) => stderr.extend_from_slice(&data),
            ExecFrame::Exit { exit, changes } => {
                stream.finish();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                return Seen {
                    stdout: text(&stdout),
                    stderr: text(&stderr),
                    exit_code: exit.exit_code,
                    signal: exit.signal,
                    ended: exit.ended,
                    changes: changes.into_iter().map(|file| (text(&file.path), file.size)).collect(),
                };
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Not in `/tmp`, see [`World::with`].
fn place() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn recipe(ready: &[&str], preload: &[&str]) -> Recipe {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Recipe { ready: list(ready), preload: list(preload), ..Recipe::default() }
}
