//! `caisson image build`: an image from a Dockerfile.
//!
//! Steps that touch files are done in sandboxes, one after the other, each made of the image that the one before has become. All of it goes
//! over the API: to the server that is named, or to one that lives as long as the build.

mod builder;
mod cache;
mod config;
mod context;
mod copy;
mod lent;
mod parcel;
mod plan;
mod scope;
mod told;
mod workshop;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use caisson_core::Limits;
use caisson_dockerfile::{Dockerfile, Problem};
use caisson_image::{Reference, Version};
use caisson_server::native::types::{ImageBody, LimitsBody, Number};
use clap::Args;
use rustix::process::{Signal, getppid, nice, set_parent_process_death_signal};
use serde::Serialize;

pub(super) use self::cache::is_step;
use self::{builder::Builder, context::Context, lent::Lent, plan::Plan, scope::Globals, told::Told, workshop::Workshop};
use crate::{
    args::{Pair, disk, memory, unique},
    client::{self, Client, ServerArgs},
    config::Here,
    embedded, output, printable,
    signals::Signals,
    status,
};

const AFTER_HELP: &str = "\
The Dockerfile is DIR/Dockerfile unless --file names another, and files are copied from DIR alone; what DIR/.dockerignore (or, before \
that, the Dockerfile's own, as in Dockerfile.dockerignore) leaves out is not there. Steps that have been done before, on the same image with \
the same files, are not done again; `caisson image gc --steps` removes what is kept for that.

Each RUN is done in a sandbox of its own, without a network. With --network host steps are in the network of this machine, and have its \
proxies, its mirrors of packages (pip, npm, Go, apt's proxies) and its certificates: for Dockerfiles that you trust with all that listens \
here. What is not supported is refused by its line before anything runs: VOLUME, \
HEALTHCHECK, STOPSIGNAL, ONBUILD, MAINTAINER, RUN --mount, ADD of a URL. For these, build the image with `buildah` and take it in with \
`caisson image import`.

Steps and their output go to standard error; digest and name of the image to standard output.

Exit status: 0 when the image is there; 1 when a step has failed, or the Dockerfile cannot be built; 2 on bad usage; 130, 143 or 129 when \
Ctrl-C, SIGTERM or SIGHUP ended it.

Examples:
  caisson image build -t app:1 .
  caisson image build -t app:1 -f deploy/Dockerfile --build-arg VERSION=1.2 --target final .
  id=$(caisson image build -q -t app:1 .)";

/// Make an image from a Dockerfile
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct BuildArgs {
    /// The directory that files may be copied from
    #[arg(value_name = "DIR")]
    context: PathBuf,
    /// What the image is to be called, such as app:1
    #[arg(short = 't', long = "tag", value_name = "IMAGE")]
    name: String,
    /// The Dockerfile, or `-` for standard input [default: DIR/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A value for an ARG; without `=` that of the environment. May repeat
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = build_arg)]
    build_arg: Vec<Pair>,
    /// The stage to build, by its name or number [default: the last one]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Do every step anew
    #[arg(long)]
    no_cache: bool,
    /// Look for newer images in their registries
    #[arg(long)]
    pull: bool,
    /// Print the image's digest alone; of a step that fails, what it has written
    #[arg(short, long)]
    quiet: bool,
    /// Print a JSON object on standard output
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// End with the program that has started this one, and stand back for all others
    #[arg(long, hide = true)]
    in_background: bool,
    /// What steps reach: `none`, or `host` for all that this machine does [default: none]
    #[arg(long, value_name = "NETWORK", value_enum, default_value = "none", hide_default_value = true, hide_possible_values = true)]
    network: Reach,
    /// Where files of steps are: `disk` or `memory` [default: disk]
    #[arg(long, value_name = "WHERE", default_value = "disk", hide_default_value = true)]
    storage: String,
    /// Memory of a step [default: 2G]
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = memory, default_value = "2G", hide_default_value = true)]
    memory: u64,
    /// Processor time of a step, in CPUs [default: 2]
    #[arg(long, help_heading = "Limits", value_name = "N", value_parser = crate::args::cpus, default_value = "2", hide_default_value = true)]
    cpus: f64,
    /// Processes and threads of a step [default: 1024]
    #[arg(long, help_heading = "Limits", value_name = "N", value_parser = crate::args::pids, default_value = "1024", hide_default_value = true)]
    pids: u32,
    /// Bytes that a step may add [default: 4G]
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = disk, default_value = "4G", hide_default_value = true)]
    disk: u64,
    #[command(flatten)]
    server: ServerArgs,
}

/// What steps of a build reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Reach {
    None,
    Host,
}

/// As of `nice`.
const STAND_BACK: i32 = 15;
/// Files and directories that a step may add, for each MiB that it may.
const ENTRIES_PER_MIB: u64 = 100;

fn build_arg(text: &str) -> Result<Pair, String> {
    if text.contains('=') {
        return text.parse().map_err(str::to_owned);
    }
    match std::env::var(text) {
        Ok(value) => Ok(Pair { name: text.to_owned(), value }),
        Err(_) => Err(format!("there is no variable `{text}`; write {text}=VALUE")),
    }
}

/// All that is known before anything runs.
#[derive(Debug)]
struct Job {
    file: Dockerfile,
    globals: Globals,
    plan: Plan,
    context: Arc<Context>,
}

pub(super) fn run(args: BuildArgs) -> Result<ExitCode> {
    let name: Reference = args.name.parse()?;
    if matches!(name.version(), Version::Digest(_)) || is_step(&name.to_string()) {
        bail!("`{}` cannot be the name of an image that is built; write it as app:1", args.name);
    }
    let host_network = args.network == Reach::Host;
    if args.server.is_named() && host_network {
        bail!("a server gives its network to nobody; for --network host build on its machine without --server, and beside it");
    }
    if args.in_background {
        stand_back()?;
    }
    let job = job(&args)?;
    if args.server.is_named() {
        return client::talk(&args.server, async |client| attend(&client, &args, &name, &job).await);
    }
    embedded::serving(Here::find()?, host_network, async |client| attend(&client, &args, &name, &job).await)
}

/// Ends with whoever has started this program, and leaves processors to everybody else.
fn stand_back() -> Result<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot end with the program that has started this one")?;
    if getppid() != parent || parent.is_none() {
        bail!("the program that has started this one has ended");
    }
    nice(STAND_BACK).context("cannot stand back for other programs")?;
    Ok(())
}

fn job(args: &BuildArgs) -> Result<Job> {
    let shown = args.context.to_string_lossy();
    if shown == "-" || shown.contains("://") || shown.starts_with("git@") {
        bail!("the context `{shown}` is no directory; get it first, and name the directory");
    }
    let path = match &args.file {
        Some(path) if path == Path::new("-") => None,
        Some(path) => Some(path.clone()),
        None => Some(args.context.join("Dockerfile")),
    };
    let context = Context::open(&args.context, path.as_deref())?;
    let (text, shown) = match &path {
        None if std::io::stdin().is_terminal() => bail!("standard input is a terminal; name the Dockerfile with --file"),
        None => (context::text(std::io::stdin(), "standard input")?, "standard input".to_owned()),
        Some(path) => {
            let shown = path.display().to_string();
            let text = context::read_text(path)?.with_context(|| format!("there is no Dockerfile {shown}; name another with --file"))?;
            (text, shown)
        }
    };
    let refused = |problems: Vec<Problem>| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{shown} cannot be built:\n  {}", lines.join("\n  "))
    };
    let file = caisson_dockerfile::parse(&text).map_err(refused)?;
    let globals = Globals::new(&file, unique("--build-arg", args.build_arg.clone())?).map_err(|problem| refused(vec![problem]))?;
    let plan = Plan::new(&file, &globals, args.target.as_deref()).map_err(refused)?;
    Ok(Job { file, globals, plan, context: Arc::new(context) })
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Built {
    #[serde(flatten)]
    image: ImageBody,
    /// Steps of all stages that were built, and how many of them had been done before.
    steps: usize,
    cached: usize,
}

async fn attend(client: &Client, args: &BuildArgs, name: &Reference, job: &Job) -> Result<ExitCode> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let limits = LimitsBody {
        memory_bytes: Some(args.memory.into()),
        cpus: Some(Number(args.cpus)),
        pids: Some(args.pids.into()),
        disk_bytes: Some(args.disk.into()),
        disk_inodes: Some(
            (args.disk >> 20).saturating_mul(ENTRIES_PER_MIB).clamp(Limits::default().disk_inodes, Limits::MAX.disk_inodes).into(),
        ),
        ..LimitsBody::default()
    };
    let workshop = Workshop::new(client, limits, args.storage.clone())?;
    let mut builder = Builder::new((&job.file, &job.plan, &job.globals), Arc::clone(&job.context), &workshop, Told::new(args.quiet));
    (builder.anew, builder.pull) = (args.no_cache, args.pull);
    if args.network == Reach::Host {
        builder.lent = Lent::of_this_machine()?;
    }
    let name = name.to_string();
    let ended = tokio::select! {
        built = Box::pin(builder.build(&name)) => Ok(built),
        // Sandboxes are ended below; images of steps that were done stay for the next time.
        signal = signals.next() => Err(signal),
    };
    let left = tokio::select! {
        left = workshop.clear_up() => left,
        // Asked twice.
        signal = signals.next() => return Ok(status::of_signal(signal)),
    };
    if let Err(error) = left {
        status::complain(&format!("{error:#}"));
    }
    let image = match ended {
        Ok(built) => built?,
        Err(signal) => return Ok(status::of_signal(signal)),
    };
    if args.json {
        output::print_json(&Built { image, steps: builder.steps, cached: builder.cached })?;
    } else if args.quiet {
        output::print(&format!("{}\n", printable::text(&image.digest)))?;
    } else {
        output::print(&format!("{} {}\n", printable::text(&image.digest), printable::text(&image.name)))?;
    }
    Ok(ExitCode::SUCCESS)
}
