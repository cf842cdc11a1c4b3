//! `caisson run`: one program in a fresh sandbox, on this machine, without a server; or on the server that has its workspace.

mod files;
mod on_server;
mod program;

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result, bail};
use caisson_core::Image;
use caisson_engine::{Engine, InputFile, RunRequest, RunningOneShot, Stdin};
use caisson_image::{ImageStore, Reference};
use caisson_native::NativeConfig;
use caisson_server::{
    Follow,
    native::types::{NetworkBody, Policy, RunBody, RunResultBody},
    templates::{self, Template},
};
use clap::{ArgGroup, Args};

use crate::{
    args::{LimitsArgs, ProgramArgs, TimeLimit, network, unique},
    client::ServerArgs,
    config::Here,
    embedded::{self, Output},
    images, logging, output,
    signals::Signals,
    status, stdin,
    waiting::spinner,
};

use self::files::FileArg;

const AFTER_HELP: &str = "\
Examples:
  caisson run hello.py                            a file; its name or #! line tells the language
  caisson run report.py --year 2026               what follows the file is the program's
  caisson run -l bash -c 'uname -a'               code on the command line
  echo 'print(6 * 7)' | caisson run -l python -   code on standard input
  caisson run -- ls -la /workspace                a program of the image
  caisson run --file data.csv --file lib.py:vendor/lib.py main.py < input
  caisson run --image alpine:3.20 -- cat /etc/os-release
  caisson run --memory 64M --timeout 2s --json hello.py
  caisson run --workspace notes --in sales.csv report.py

The sandbox has no network, unless --net says otherwise, and nothing of this machine but its programs. It is destroyed when the program ends, and with it everything \
the program made; --json shows the files that the program changed, up to 10 MiB of them.

With --workspace the program runs on the server that has the workspace, and files of the work directory that are new or changed are written \
into it; image and template are the server's. Standard input goes with the request then: it is read to its end first (at most 20 MiB), and a terminal is \
not read.

Exit status: the program's own; 128 + N when signal N ended it; 124 when it was ended at its time limit; 137 at its memory limit; \
125 when Caisson itself failed or was used wrongly; 130, 143 or 129 when Ctrl-C, SIGTERM or SIGHUP ended it; \
141 when nobody reads its output any more.";

/// Run one program in a fresh sandbox; needs no server and no configuration
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_HELP,
    group(ArgGroup::new("made_of").args(["image", "template"]).multiple(true)),
    override_usage = "caisson run [OPTIONS] FILE [ARG]...\n       caisson run [OPTIONS] -l LANG -c CODE [ARG]...\n       \
                      caisson run [OPTIONS] -l LANG - [ARG]...\n       caisson run [OPTIONS] -- PROGRAM [ARG]..."
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
    /// Template of this machine that the sandbox is made from: what it says holds where nothing is said here
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Image that the sandbox is made from [default: host]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Whether to get the image from its registry first: `missing`, where it is not on this machine; `always` or `never` [default: missing]
    #[arg(long, value_name = "WHEN", requires = "made_of")]
    pull: Option<Policy>,
    /// Put a file in, under its own name in the work directory or at DST; may repeat
    #[arg(long, value_name = "SRC[:DST]")]
    file: Vec<FileArg>,
    /// Run on a server, and write new and changed files into this workspace of it
    #[arg(long, value_name = "NAME", conflicts_with = "accept_weaker_limits")]
    workspace: Option<String>,
    /// Put a file of the workspace in, under its name there; may repeat
    #[arg(long = "in", value_name = "FILE", requires = "workspace")]
    inputs: Vec<String>,
    /// What the sandbox may reach: `none`, `public`, `packages`, `allow:HOST[:PORT],…`, or @FILE with a policy [default: none]
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    net: Option<NetworkBody>,
    /// What it is made by: `native`, `oci:runsc`, `oci:runc`, `oci:crun`, `oci:youki`, `docker` or `docker:RUNTIME` [default: native]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Where its files are: `memory` or `disk` [default: memory]
    #[arg(long, value_name = "WHERE")]
    storage: Option<String>,
    /// Who programs are: `user`, or `root` of the sandbox [default: user]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    #[command(flatten)]
    limits: LimitsArgs,
    /// Run even where limits on memory and processor time cannot be enforced in full (an ordinary user without a cgroup of its own)
    #[arg(long)]
    accept_weaker_limits: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Print the result as a JSON object instead of the program's output
    #[arg(long)]
    json: bool,
    /// A file with code (`-` for standard input), or behind `--` a program of the image; and the program's arguments
    #[arg(value_name = "FILE", trailing_var_arg = true)]
    pub(crate) words: Vec<OsString>,
    /// Whether the words stand behind `--`, which the parser does not tell.
    #[arg(skip)]
    pub(crate) behind_dashes: bool,
}

pub(crate) fn run(mut args: RunArgs) -> Result<ExitCode> {
    if let Some(name) = args.workspace.take() {
        return on_server::run(args, name);
    }
    if args.server.is_on_command_line() {
        bail!("--server and --key-file go with --workspace; without it the program runs on this machine");
    }
    if let Some(filter) = std::env::var_os("CAISSON_LOG") {
        logging::begin(&filter.to_string_lossy(), logging::Format::Text, None)?;
    }
    let (json, accept_weaker_limits) = (args.json, args.accept_weaker_limits);
    let pull = args.pull;
    let policy = pull.unwrap_or(Policy::Missing);
    let (request, stdin_is_code) = request(args)?;
    let choice = embedded::choice(&request.spec)?;
    let has_own_images = choice.docker.is_some();
    if has_own_images && pull.is_some() {
        bail!(
            "--pull is about images of this machine's own store, and backend `{}` has those of its daemon: use `docker pull`",
            request.spec.backend
        );
    }
    let wanted = match &request.spec.image {
        Image::Named { name, .. } if !has_own_images => Some((Here::find()?, name.clone())),
        _ => None,
    };
    let (walls, scratch) =
        embedded::start(choice, NativeConfig { accept_weaker_limits, ..embedded::config(wanted.as_ref().map(|(here, _)| here.path())) })?;
    let weaker = walls.weaker_limits();
    if !weaker.is_empty() && !json {
        status::complain(&format!("WARNING: limits that this host cannot enforce in full: {}", weaker.join(", ")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let code = runtime.block_on(async {
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        let images = match wanted {
            Some((here, name)) => tokio::select! {
                images = provided(here, &name, policy) => Some(images?),
                // What has come of it stays for the next time.
                signal = signals.next() => return Ok(status::of_signal(signal)),
            },
            None => None,
        };
        let engine = embedded::open(walls, &scratch, if json { Output::Collected } else { Output::Streamed }, images).await?;
        let work = one_shot(&engine, request, stdin_is_code, json);
        let result = tokio::select! {
            result = work => result,
            // The program ends with the engine, below.
            signal = signals.next() => Ok(status::of_signal(signal)),
        };
        tokio::select! {
            () = engine.shutdown() => {}
            // Asked twice: the launcher ends everything when it sees that we are gone.
            signal = signals.next() => return Ok(status::of_signal(signal)),
        }
        result
    });
    // A write to a pipe that nobody empties may go on for ever.
    runtime.shutdown_background();
    code
}

/// The images of this machine, with the one that is wanted among them.
async fn provided(here: Here, name: &str, policy: Policy) -> Result<ImageStore> {
    let store = images::open(here).await?;
    let reference: Reference = name.parse()?;
    let pull = match policy {
        Policy::Never => false,
        Policy::Missing => !store.has(&reference).await?,
        Policy::Always => true,
    };
    if pull {
        let logins = store.logins().await?;
        images::pull(&store, reference, logins).await?;
    }
    Ok(store)
}

/// What the engine is asked for, and whether standard input is used up by the code.
fn request(args: RunArgs) -> Result<(RunRequest, bool)> {
    let template = args.template.as_deref().map(template).transpose()?;
    let has_image = args.image.is_some() || template.as_ref().is_some_and(|template| template.recipe.image.is_some());
    let files = args.file.iter().map(FileArg::read).collect::<Result<Vec<InputFile>>>()?;
    let (body, stdin_is_code) = body(args, has_image)?;
    let mut request = match template {
        Some(template) => template.run(body)?,
        None => body.into_request()?,
    };
    request.files = files;
    Ok((request, stdin_is_code))
}

/// What the options say, without files, and whether standard input is used up by the code.
fn body(args: RunArgs, has_image: bool) -> Result<(RunBody, bool)> {
    let program = program::of(&args.program, args.words, args.behind_dashes, has_image)?;
    let body = RunBody {
        cmd: program.cmd,
        language: program.language,
        code: program.code,
        args: program.args,
        env: unique("--env", args.program.env)?,
        cwd: args.program.cwd,
        timeout_s: TimeLimit::to_field(args.program.timeout),
        // Nobody would see them.
        max_file_bytes: (!args.json).then_some(0.into()),
        image: args.image,
        limits: args.limits.to_body(),
        network: args.net,
        backend: args.backend,
        storage: args.storage,
        user: args.user,
        ..RunBody::default()
    };
    Ok((body, program.stdin_is_code))
}

/// The template of this machine that has this name.
fn template(name: &str) -> Result<Template> {
    let folder = Here::find()?.templates();
    if let Ok(name) = name.parse()
        && let Some(template) = templates::of_operator(&folder, &name)?
    {
        return Ok(template);
    }
    let there: Vec<String> = folder.all().into_iter().map(|(name, _)| name).collect();
    Err(templates::unknown(name, &there).into())
}

async fn one_shot(engine: &Engine, mut request: RunRequest, stdin_is_code: bool, json: bool) -> Result<ExitCode> {
    if !stdin_is_code && let Some(input) = stdin::stream()? {
        request.exec.stdin = Stdin::Stream(input);
    }
    let running = spinner("starting the sandbox", Box::pin(engine.run(request))).await?;
    let result = if json {
        let result = RunResultBody::from(running.wait().await?);
        output::print_json(&result)?;
        result
    } else {
        tell(engine, running).await?
    };
    let (code, message) = status::of_result(&result.result);
    if let Some(message) = message {
        status::complain(&message);
    }
    Ok(ExitCode::from(code))
}

/// Passes the output on as it comes.
async fn tell(engine: &Engine, running: RunningOneShot) -> Result<RunResultBody> {
    let mut follow = Follow::both(engine, running.execution.id).await?;
    let mut gaps = output::Gaps::default();
    while let Some((stream, chunk)) = follow.next().await? {
        gaps.passed(stream, chunk.offset, chunk.data.len())?;
        output::write(stream, chunk.data).await?;
    }
    Ok(RunResultBody::without_output(running.wait().await?))
}
