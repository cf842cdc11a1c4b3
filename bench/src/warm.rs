//! One-shots from a pool that has had time to make the next one, beside the same interpreter without any sandbox.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    figures::{Figures, heading, promise, row},
    latency::WARM_UP,
    server::{Connection, Server},
};

/// Between two runs.
const PAUSE: Duration = Duration::from_millis(100);
/// The distribution's, which is what sandboxes of the built-in image have.
const PYTHON: &str = "/usr/bin/python3";
/// A module that takes long to import (package python3-pandas).
const MODULE: &str = "pandas";
const AT_ONCE: usize = 4;
const BLOCK: usize = 60;
const BLOCKS: usize = 5;
const UP_WITHIN: Duration = Duration::from_secs(60);

/// A server of its own, whose templates have interpreters that are ready.
pub(crate) fn warm(program: &Path, directory: &Path, runs: usize) -> Result<()> {
    let directory = directory.join("warm");
    let templates = directory.join("data/templates");
    fs::create_dir_all(&templates)?;
    let has_module = python(&format!("import {MODULE}")).is_ok();
    fs::write(templates.join("ready.toml"), "ready = [\"python\"]\nmin_warm = 2\nmax_warm = 8\n")?;
    if has_module {
        fs::write(templates.join("preload.toml"), format!("preload = [\"{MODULE}\"]\nmin_warm = 2\n"))?;
    }
    let server = Server::start(program, &directory, "auto")?;
    let mut connection = server.connect()?;
    one(&mut connection, "pass", &json!({}), runs, "from the pool", None)?;
    one(&mut connection, "pass", &json!({"template": "ready"}), runs, "ready Python", Some(0.25))?;
    if has_module {
        let code = format!("import {MODULE}");
        one(&mut connection, &code, &json!({"template": "preload"}), (runs / 5).max(3), "ready Python", Some(0.05))?;
    } else {
        println!("  {MODULE} is not compared: {PYTHON} has none (package python3-{MODULE})");
    }
    throughput(&server)
}

/// The answer is the interpreter's own word that it ran.
fn one(connection: &mut Connection, code: &str, template: &Value, runs: usize, how: &str, target: Option<f64>) -> Result<()> {
    let body = body(code, template);
    if let Some(name) = template["template"].as_str() {
        wait_for(connection, name)?;
    }
    let (mut bare, mut warm) = (Vec::new(), Vec::new());
    for round in 0..runs + WARM_UP {
        thread::sleep(PAUSE);
        let begin = Instant::now();
        python(code)?;
        let on_host = begin.elapsed();
        thread::sleep(PAUSE);
        let begin = Instant::now();
        ask(connection, &body)?;
        let pooled = begin.elapsed();
        if round >= WARM_UP {
            bare.push(on_host);
            warm.push(pooled);
        }
        if let Some(name) = template["template"].as_str() {
            wait_for(connection, name)?;
        }
    }
    let (bare, warm) = (Figures::new(bare), Figures::new(warm));
    heading(&format!("Warm one-shot, python3 -c '{code}', {runs} runs each, with pauses"));
    row("on the host", &bare);
    row(&format!("caisson, {how}"), &warm);
    match target {
        Some(target) => promise("caisson / host, p50", warm.p50() / bare.p50(), target, true),
        None => println!("  caisson / host, p50: {:.2}", warm.p50() / bare.p50()),
    }
    Ok(())
}

/// Runs per second without a pause, a few at a time, so that making the next ones is part of it.
fn throughput(server: &Server) -> Result<()> {
    let body = body("pass", &json!({"template": "ready"}));
    let (mut bare, mut warm) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..BLOCKS {
        bare += block(|| Ok(()), |()| python("pass"))?;
        warm += block(|| server.connect(), |connection| ask(connection, &body))?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let rate = |took: Duration| (BLOCK * BLOCKS) as f64 / took.as_secs_f64();
    println!("\nThroughput, python3 -c pass, {AT_ONCE} at a time, {} runs each", BLOCK * BLOCKS);
    println!("{:<28}{:>10.1} runs/s", "on the host", rate(bare));
    println!("{:<28}{:>10.1} runs/s", "caisson, pool included", rate(warm));
    promise("caisson / host", rate(warm) / rate(bare), 0.9, false);
    Ok(())
}

fn block<T>(begin: impl Fn() -> Result<T> + Sync, run: impl Fn(&mut T) -> Result<()> + Sync) -> Result<Duration> {
    let left = AtomicUsize::new(BLOCK);
    let one = || -> Result<()> {
        let mut with = begin()?;
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            run(&mut with)?;
        }
        Ok(())
    };
    let begin = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
    })?;
    Ok(begin.elapsed())
}

fn body(code: &str, template: &Value) -> Value {
    let mut body = json!({"language": "python", "code": code});
    if let Some(name) = template.get("template") {
        body["template"] = name.clone();
    }
    body
}

fn ask(connection: &mut Connection, body: &Value) -> Result<()> {
    let result = connection.ask("POST", "/v1/run", body)?;
    if result["exit_code"] == 0 { Ok(()) } else { bail!("python failed: {result}") }
}

fn python(code: &str) -> Result<()> {
    let mut command = Command::new(PYTHON);
    let status = command.args(["-c", code]).stdin(Stdio::null()).stderr(Stdio::null()).status().with_context(|| PYTHON.to_owned())?;
    if status.success() { Ok(()) } else { bail!("{PYTHON} -c '{code}' failed: {status}") }
}

/// Until as many are warm as are wanted.
fn wait_for(connection: &mut Connection, template: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let pool = connection.ask("GET", &format!("/v1/templates/{template}"), &Value::Null)?["pool"].clone();
        if pool["warm"].as_u64() >= pool["target"].as_u64().map(|target| target.min(2)) && pool["warm"].as_u64() > Some(0) {
            return Ok(());
        }
        if begin.elapsed() > UP_WITHIN {
            bail!("none of {template} is warm: {pool}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}
