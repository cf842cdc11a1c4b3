//! `caisson image`: images that sandboxes are made of.

mod build;
mod export;
mod gc;
mod import;
mod inspect;
mod ls;
mod place;
mod pull;
mod rm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use self::{
    build::BuildArgs, export::ExportArgs, gc::GcArgs, import::ImportArgs, inspect::InspectArgs, ls::LsArgs, pull::PullArgs, rm::RmArgs,
};

const AFTER_HELP: &str = "\
These commands work on the images of this machine, which are those of `caisson run` and of a server with the same data directory: \
/var/lib/caisson as root, or what CAISSON_DATA_DIR names. With --server or CAISSON_SERVER they talk to that server, and need an admin's key \
for all that changes something.

Registries on private networks, over plain HTTP, and mirrors have to be named in the configuration (CAISSON_PRIVATE_REGISTRIES, \
CAISSON_INSECURE_REGISTRIES, CAISSON_REGISTRY_MIRRORS). Logins are those of ~/.docker/config.json (CAISSON_REGISTRY_LOGINS).

Examples:
  caisson image pull alpine:3.20
  caisson image ls
  docker save app:1 | caisson image import -
  caisson image build -t app:1 .
  caisson image import rootfs.tar.gz --name base:1
  caisson image export alpine:3.20 -o alpine.tar
  caisson image rm alpine:3.20";

/// Get, build, list, import, export and remove images
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Ls(LsArgs),
    Pull(PullArgs),
    Build(Box<BuildArgs>),
    Import(ImportArgs),
    Export(ExportArgs),
    Inspect(InspectArgs),
    Rm(RmArgs),
    Gc(GcArgs),
}

pub(crate) fn run(args: ImageArgs) -> Result<ExitCode> {
    match args.what {
        What::Ls(args) => ls::run(&args),
        What::Pull(args) => pull::run(&args),
        What::Build(args) => build::run(*args),
        What::Import(args) => import::run(&args),
        What::Export(args) => export::run(&args),
        What::Inspect(args) => inspect::run(&args),
        What::Rm(args) => rm::run(&args),
        What::Gc(args) => gc::run(&args),
    }
}
