//! Backends side by side: a fresh sandbox and one of the pool for each, beside the bare runtime with a bundle of the same programs, or
//! `docker run` with an image of them. The Docker daemon is the one that is there, or that of `DOCKER_HOST`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    figures::{Figures, heading, promise, row},
    latency::WARM_UP,
    peers::{CODE, make_bundle},
    root::Root,
    server::{Connection, Server},
};

/// Between two runs, so that whatever is ended behind an answer takes nothing from the next.
const PAUSE: Duration = Duration::from_millis(100);
const UP_WITHIN: Duration = Duration::from_secs(60);
/// Where `tools/gvisor` puts it, below the directory of the program.
const RUNSC: &str = "../tools/gvisor/runsc";

const DOCKER: &str = "docker";
/// What `docker run` is given.
const IMAGE: &str = "caisson-bench:1";

/// A backend, and its runtime alone.
struct Backend {
    name: &'static str,
    bare: Option<PathBuf>,
}

pub(crate) fn backends(program: &Path, directory: &Path, root: &Root, runs: usize) -> Result<()> {
    let directory = directory.join("backends");
    fs::create_dir_all(&directory)?;
    let all = find(program);
    let names: Vec<&str> = all.iter().map(|backend| backend.name).collect();
    let mut settings = vec![("CAISSON_BACKENDS", names.join(","))];
    if let Some(runsc) = all.iter().find(|backend| backend.name == "oci:runsc").and_then(|backend| backend.bare.as_ref()) {
        settings.push(("CAISSON_OCI_RUNTIMES", format!("runsc={}", runsc.display())));
    }
    let made = directory.join("bundle");
    make_bundle(&made, root)?;
    let has_docker = names.contains(&DOCKER);
    if has_docker {
        import(root)?;
    }
    for backend in &all {
        cold(program, &directory, &settings, (backend, &made), runs)?;
    }
    if has_docker {
        Command::new(DOCKER).args(["image", "rm", "--force", IMAGE]).output()?;
    }
    for backend in &all {
        pooled(program, &directory, &settings, backend, runs)?;
    }
    Ok(())
}

/// Those that this machine has.
fn find(program: &Path) -> Vec<Backend> {
    let mut all = vec![Backend { name: "native", bare: None }];
    let runsc = program.parent().map(|directory| directory.join(RUNSC)).and_then(|path| path.canonicalize().ok());
    for (name, bare, remedy) in [("oci:runc", Some(PathBuf::from("runc")), "package runc"), ("oci:runsc", runsc, "tools/gvisor")] {
        let is_there = |path: &PathBuf| Command::new(path).arg("--version").output().is_ok_and(|output| output.status.success());
        match bare.filter(is_there) {
            Some(bare) => all.push(Backend { name, bare: Some(bare) }),
            None => println!("{name} is not compared: its runtime is missing ({remedy})"),
        }
    }
    let answers = Command::new(DOCKER).arg("version").output().is_ok_and(|output| output.status.success());
    if answers {
        all.push(Backend { name: DOCKER, bare: Some(DOCKER.into()) });
    } else {
        println!("docker is not compared: no daemon answers (package docker.io; start it, or say with DOCKER_HOST where it is)");
    }
    all
}

/// Makes the image that `docker run` alone is given: the root without the programs, which are lent.
fn import(root: &Root) -> Result<()> {
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(&root.path)
        .args(["--exclude=./usr/*", "-cf", "-", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start tar")?;
    let input = tar.stdout.take().context("its output is piped")?;
    let imported = Command::new(DOCKER).args(["import", "-", IMAGE]).stdin(input).output()?;
    if tar.wait()?.success() && imported.status.success() {
        Ok(())
    } else {
        bail!("docker import failed: {}", String::from_utf8_lossy(&imported.stderr))
    }
}

fn cold(program: &Path, directory: &Path, settings: &[(&str, String)], (backend, bundle): (&Backend, &Path), runs: usize) -> Result<()> {
    let server = Server::start_with(program, directory, "off", settings)?;
    let mut connection = server.connect()?;
    let body = json!({"backend": backend.name, "language": "python", "code": CODE});
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..runs + WARM_UP {
        thread::sleep(PAUSE);
        let begin = Instant::now();
        ask(&mut connection, &body)?;
        let took = begin.elapsed();
        if round >= WARM_UP {
            ours.push(took);
        }
        let Some(bare) = &backend.bare else { continue };
        thread::sleep(PAUSE);
        let begin = Instant::now();
        run(backend.name, bare, directory, bundle, round)?;
        let took = begin.elapsed();
        if round >= WARM_UP {
            theirs.push(took);
        }
    }
    heading(&format!("Backend {}, cold one-shot, python3 print('hello'), {runs} runs each", backend.name));
    let ours = Figures::new(ours);
    row("caisson, over HTTP", &ours);
    if let Some(bare) = &backend.bare {
        let theirs = Figures::new(theirs);
        let name = bare.file_name().unwrap_or_default().to_string_lossy();
        row(&format!("{name} run"), &theirs);
        promise(&format!("caisson / {name} run, p50"), ours.p50() / theirs.p50(), 1.15, true);
    }
    Ok(())
}

/// The runtime alone, once.
fn run(backend: &str, bare: &Path, directory: &Path, bundle: &Path, round: usize) -> Result<()> {
    let id = format!("caisson-bench-{}-{round}", std::process::id());
    let mut command = Command::new(bare);
    if backend == DOCKER {
        command.args([
            "run",
            "--rm",
            "--network",
            "none",
            "--volume",
            "/usr:/usr:ro",
            "--name",
            &id,
            IMAGE,
            "/usr/bin/python3",
            "-c",
            CODE,
        ]);
    } else {
        command.arg("--root").arg(directory.join("state"));
        if backend == "oci:runsc" {
            command.args(["--network=none", "--overlay2=none", "--ignore-cgroups"]);
        }
        command.args(["run", "--bundle"]).arg(bundle).arg(&id);
    }
    let output = command.output().with_context(|| format!("cannot start {}", bare.display()))?;
    if output.stdout == b"hello\n" { Ok(()) } else { bail!("{} failed: {}", bare.display(), String::from_utf8_lossy(&output.stderr)) }
}

fn pooled(program: &Path, directory: &Path, settings: &[(&str, String)], backend: &Backend, runs: usize) -> Result<()> {
    let templates = directory.join("data/templates");
    fs::create_dir_all(&templates)?;
    let name = backend.name.replace(':', "-");
    let file = templates.join(format!("{name}.toml"));
    fs::write(&file, format!("backend = \"{}\"\nready = [\"python\"]\nmin_warm = 2\nmax_warm = 4\n", backend.name))?;
    let server = Server::start_with(program, directory, "auto", settings)?;
    let mut connection = server.connect()?;
    let body = json!({"template": name, "language": "python", "code": CODE});
    let mut times = Vec::new();
    for round in 0..runs + WARM_UP {
        wait_for(&mut connection, &name)?;
        thread::sleep(PAUSE);
        let begin = Instant::now();
        ask(&mut connection, &body)?;
        if round >= WARM_UP {
            times.push(begin.elapsed());
        }
    }
    fs::remove_file(file)?;
    let figures = Figures::new(times);
    heading(&format!("Backend {}, one-shot of the pool, ready Python, {runs} runs", backend.name));
    row("caisson, over HTTP", &figures);
    promise("p50 ms", figures.p50(), 5.0, true);
    Ok(())
}

fn wait_for(connection: &mut Connection, template: &str) -> Result<()> {
    let begin = Instant::now();
    while connection.ask("GET", &format!("/v1/templates/{template}"), &Value::Null)?["pool"]["warm"].as_u64() < Some(2) {
        if begin.elapsed() > UP_WITHIN {
            bail!("none of {template} is warm");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn ask(connection: &mut Connection, body: &Value) -> Result<()> {
    let result = connection.ask("POST", "/v1/run", body)?;
    if result["stdout"] == "hello\n" { Ok(()) } else { bail!("python failed: {result}") }
}
