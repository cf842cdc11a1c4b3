//! Speed, side by side: the same work by bare chroot, bubblewrap, runc, gVisor and Caisson, and by `cp` and `tar` where it is about files,
//! interleaved, by git where it is about patches, every output checked. Prints medians and tails beside the targets; nothing here passes or fails.
//!
//! `caisson-bench PROGRAM [--runs N] [--csv FILE] [--only PART,PART]`, as root.

mod backends;
mod egress;
mod figures;
mod files;
mod followers;
mod idle;
mod latency;
mod load;
mod patch;
mod peers;
mod root;
mod server;
mod session;
mod terminal;
mod warm;
mod workspaces;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{peers::Peers, root::Root, server::Server};

/// Runs of each peer.
const RUNS: usize = 150;
/// What can be asked for alone.
const PARTS: [&str; 13] =
    ["cold", "warm", "backends", "exec", "files", "patch", "sessions", "terminal", "followers", "idle", "sync", "egress", "load"];

#[derive(Debug)]
struct Arguments {
    program: PathBuf,
    runs: usize,
    csv: Option<PathBuf>,
    /// All of them when empty.
    only: Vec<String>,
}

impl Arguments {
    fn wants(&self, part: &str) -> bool {
        debug_assert!(PARTS.contains(&part));
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == part)
    }
}

fn arguments() -> Result<Arguments> {
    let mut words = std::env::args().skip(1);
    let program = words.next().context("name the caisson program")?;
    let mut arguments = Arguments { program: fs::canonicalize(&program).context(program)?, runs: RUNS, csv: None, only: Vec::new() };
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--runs" => arguments.runs = value.parse().context("--runs is a number")?,
            "--csv" => arguments.csv = Some(value.into()),
            "--only" => {
                arguments.only = value.split(',').map(str::to_owned).collect();
                if let Some(unknown) = arguments.only.iter().find(|part| !PARTS.contains(&part.as_str())) {
                    bail!("there is no part {unknown}; there are {}", PARTS.join(", "));
                }
            }
            _ => bail!("there is no option {word}; there are --runs, --csv and --only"),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caisson-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = arguments()?;
    if !root::in_a_mount_namespace_of_our_own()? {
        return root::enter_one();
    }
    let directory = tempfile::tempdir()?;
    let root = Root::make(directory.path())?;
    let server = Server::start(&arguments.program, directory.path(), "off")?;
    let peers = Peers::find(&root, &server)?;
    machine();
    if arguments.wants("cold") {
        let samples = latency::cold(&peers, arguments.runs)?;
        if let Some(file) = &arguments.csv {
            latency::write_csv(file, &samples)?;
        }
    }
    if arguments.wants("warm") {
        warm::warm(&arguments.program, directory.path(), arguments.runs)?;
    }
    if arguments.wants("backends") {
        backends::backends(&arguments.program, directory.path(), &root, arguments.runs / 5)?;
    }
    if arguments.wants("exec") {
        latency::exec(&server, arguments.runs * 2)?;
    }
    if arguments.wants("files") {
        files::files(&server, directory.path(), arguments.runs / 5)?;
    }
    if arguments.wants("patch") {
        patch::patch(&server, directory.path(), arguments.runs / 15)?;
    }
    if arguments.wants("sessions") {
        session::sessions(&arguments.program, directory.path(), arguments.runs / 5)?;
    }
    if arguments.wants("terminal") {
        terminal::echo(&server, arguments.runs * 10)?;
    }
    if arguments.wants("followers") {
        followers::followers(&server)?;
    }
    if arguments.wants("idle") {
        idle::memory(&server)?;
        idle::many(&arguments.program, directory.path())?;
    }
    if arguments.wants("sync") {
        workspaces::sync(&arguments.program, directory.path(), arguments.runs / 30)?;
    }
    if arguments.wants("egress") {
        egress::requests(&arguments.program, directory.path(), arguments.runs / 15)?;
    }
    if arguments.wants("load") {
        load::throughput(&peers)?;
        load::burst(&peers)?;
    }
    Ok(())
}

/// Where this was measured.
fn machine() {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let cgroups = if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) { "v2" } else { "v1" };
    println!("Linux {}, {processors} processors, cgroup {cgroups}. Machines are noisy: compare within one run.", kernel.trim());
}
