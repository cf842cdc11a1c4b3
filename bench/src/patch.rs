//! What has changed in a large tree after a few edits, beside git on the host.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{
    figures::{Figures, heading, promise, row},
    server::Server,
};

/// Files of the tree, in directories of a hundred.
const FILES: usize = 100_000;
const EDITS: usize = 10;
/// Runs before counting begins.
const WARM_UP: usize = 2;

/// Makes the tree in the directory that it runs in.
const MAKE: &str = "import os
for n in range(100_000):
    at = f'tree/{n // 10_000}/{n // 100}'
    if n % 100 == 0: os.makedirs(at)
    with open(f'{at}/file-{n}.txt', 'w') as f: f.write(f'{n} is a line of its own\\n' * 20)
";

pub(crate) fn patch(server: &Server, directory: &Path, runs: usize) -> Result<()> {
    let directory = directory.join("patch");
    fs::create_dir(&directory)?;
    let tree = directory.join("tree");
    run(Command::new("python3").current_dir(&directory).args(["-c", MAKE]))?;
    git(&tree, &["init", "-q", "--template="])?;
    git(&tree, &["add", "-A"])?;
    git(&tree, &["commit", "-q", "-m", "first"])?;

    let mut connection = server.connect()?;
    let limits = json!({"disk_bytes": 4u64 << 30, "disk_inodes": 4 * FILES, "memory_bytes": 1u64 << 30});
    let made = connection.ask("POST", "/v1/sandboxes", &json!({"storage": "disk", "limits": limits}))?;
    let id = made["id"].as_str().context("it has an id")?.to_owned();
    let exec = format!("/v1/sandboxes/{id}/exec");
    let ended = connection.ask("POST", &exec, &json!({"language": "python", "code": MAKE, "timeout_s": 600}))?;
    if ended["exit_code"] != 0 {
        bail!("the tree could not be made: {ended}");
    }
    let checkpoint = |connection: &mut crate::server::Connection| {
        let begin = Instant::now();
        connection.ask("POST", &format!("/v1/sandboxes/{id}/checkpoint"), &json!({"path": "tree"}))?;
        anyhow::Ok(begin.elapsed())
    };
    let first = checkpoint(&mut connection)?;
    let (ours, theirs) = (directory.join("ours"), directory.join("theirs"));
    let mut took: [Vec<Duration>; 3] = Default::default();
    for round in 0..runs.max(5) + WARM_UP {
        let edit: String = (0..EDITS)
            .map(|edit| {
                let n = (round * 7919 + edit * 9973) % FILES;
                format!("echo {round} >> tree/{}/{}/file-{n}.txt\n", n / 10_000, n / 100)
            })
            .collect();
        run(Command::new("sh").current_dir(&directory).args(["-c", &edit]))?;
        connection.ask("POST", &exec, &json!({"shell": edit}))?;
        let begin = Instant::now();
        git(&tree, &["add", "-A"])?;
        fs::write(&theirs, git(&tree, &["diff", "--cached", "-M", "--binary", "--full-index"])?)?;
        let by_git = begin.elapsed();
        let begin = Instant::now();
        connection.download(&format!("/v1/sandboxes/{id}/patch?path=tree"), &ours)?;
        let by_us = begin.elapsed();
        if fs::read(&ours)? != fs::read(&theirs)? {
            bail!("git has another patch");
        }
        git(&tree, &["commit", "-q", "-m", "next"])?;
        let moved = checkpoint(&mut connection)?;
        if round >= WARM_UP {
            took[0].push(by_git);
            took[1].push(by_us);
            took[2].push(moved);
        }
    }
    connection.ask("DELETE", &format!("/v1/sandboxes/{id}"), &serde_json::Value::Null)?;
    let [git, patch, checkpoint] = took.map(Figures::new);
    heading(&format!("The patch after {EDITS} edits in a tree of {FILES} files"));
    row("git add -A, diff --cached", &git);
    row("patch over HTTP", &patch);
    row("checkpoint over HTTP", &checkpoint);
    println!("  the first checkpoint: {:.0} ms", first.as_secs_f64() * 1000.0);
    promise("patch / git, p50", patch.p50() / git.p50(), 0.1, true);
    Ok(())
}

fn git(tree: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let settings = ["core.autocrlf=false", "core.fsmonitor=false", "gc.auto=0", "user.name=a", "user.email=a"];
    let mut command = Command::new("git");
    command.current_dir(tree).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for setting in settings {
        command.args(["-c", setting]);
    }
    run(command.args(arguments))
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if output.status.success() { Ok(output.stdout) } else { bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)) }
}
