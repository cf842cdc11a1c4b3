//! Sessions of daiv-sandbox: how fast they begin, answer and take a repository, beside what a host does for the same.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    figures::{Figures, heading, promise, row},
    server::{Connection, Server},
};

/// Of the repository that is sent.
const FILES: usize = 2000;
const MIB: u64 = 1 << 20;
/// Runs before counting begins.
const WARM_UP: usize = 2;
/// Between two sessions that come one by one.
const PAUSE: Duration = Duration::from_millis(150);

/// 200 MiB of files that are not alike, in directories of a hundred.
const MAKE: &str = "import os
for n in range(2000):
    at = f'tree/{n // 100}'
    os.makedirs(at, exist_ok=True)
    with open(f'{at}/file-{n}', 'wb') as f: f.write(os.urandom(102400 + n * 2))
";

pub(crate) fn sessions(program: &Path, directory: &Path, runs: usize) -> Result<()> {
    for (pool, name) in [("off", "no pool"), ("auto", "with the pool")] {
        let directory = directory.join(format!("sessions-{pool}"));
        fs::create_dir(&directory)?;
        let server = Server::start(program, &directory, pool)?;
        let mut connection = server.connect()?;
        let (mut begins, mut trips, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..runs + WARM_UP {
            let begin = Instant::now();
            let session = start(&mut connection)?;
            let began = begin.elapsed();
            let begin = Instant::now();
            let ran = connection.ask("POST", &session, &json!({"commands": ["true"]}))?;
            let trip = begin.elapsed();
            if ran["results"][0]["exit_code"] != 0 {
                bail!("`true` was answered with {ran}");
            }
            let begin = Instant::now();
            run(Command::new("bash").args(["-lc", "true"]))?;
            if round >= WARM_UP {
                bare.push(begin.elapsed());
                begins.push(began);
                trips.push(trip);
            }
            connection.ask("DELETE", &session, &Value::Null)?;
            thread::sleep(PAUSE);
        }
        let (begins, trips, bare) = (Figures::new(begins), Figures::new(trips), Figures::new(bare));
        heading(&format!("A session begins and runs a command, {name}"));
        row("begins", &begins);
        row("command over HTTP", &trips);
        row("bash -lc true", &bare);
        promise("begins, ms, p50", begins.p50(), 10.0, true);
        promise("command / bash, p50", trips.p50() / bare.p50(), 2.0, true);
        if pool == "off" {
            seeds(&mut connection, &directory, (runs / 10).max(3))?;
        }
    }
    Ok(())
}

/// Its path.
fn start(connection: &mut Connection) -> Result<String> {
    let made = connection.ask("POST", "/session/", &json!({"base_image": "host", "extract_patch": true}))?;
    Ok(format!("/session/{}/", made["session_id"].as_str().context("it has an id")?))
}

fn seeds(connection: &mut Connection, directory: &Path, runs: usize) -> Result<()> {
    run(Command::new("python3").current_dir(directory).args(["-c", MAKE]))?;
    let archive = directory.join("tree.tar");
    run(Command::new("tar").current_dir(directory).args(["-cf", "tree.tar", "-C", "tree", "."]))?;
    let bytes = archive.metadata()?.len();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..runs + 1 {
        let place = directory.join("out");
        fs::create_dir(&place)?;
        let begin = Instant::now();
        run(Command::new("tar").current_dir(&place).args(["-xf"]).arg(&archive))?;
        let by_tar = begin.elapsed();
        fs::remove_dir_all(&place)?;
        let session = start(connection)?;
        let begin = Instant::now();
        connection.send_form(&format!("{session}seed/"), "repo_archive", &archive)?;
        let by_us = begin.elapsed();
        let count = json!({"commands": ["find . -type f | wc -l"]});
        let ran = connection.ask("POST", &session, &count)?;
        if ran["results"][0]["output"] != format!("{FILES}\n") {
            bail!("the repository is not there: {ran}");
        }
        connection.ask("DELETE", &session, &Value::Null)?;
        if round > 0 {
            theirs.push(by_tar);
            ours.push(by_us);
        }
    }
    let (ours, theirs) = (Figures::new(ours), Figures::new(theirs));
    heading(&format!("A repository of {} MiB in {FILES} files is sent", bytes / MIB));
    row("tar -x", &theirs);
    row("seed over HTTP", &ours);
    promise("tar / seed, p50", theirs.p50() / ours.p50(), 0.7, false);
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} failed: {status}") }
}
