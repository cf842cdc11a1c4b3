//! `caisson template`: named recipes for sandboxes.

mod add;
mod ls;
mod place;
mod rm;
mod show;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use self::{add::AddArgs, ls::LsArgs, rm::RmArgs, show::ShowArgs};

const AFTER_HELP: &str = "\
A template is what a request for a sandbox may say (image, limits, env, user, storage, ...), and commands that are run in the new sandbox before \
it is handed over. `caisson run --template NAME` and `caisson new --template NAME` use it.

These commands work on the files in templates/ of this machine's data directory, /var/lib/caisson as root, or what CAISSON_DATA_DIR names. A \
server with that directory has them for all its tenants, from the next request on. With --server or CAISSON_SERVER they talk to that \
server, where `add` and `rm` need an admin's key and are about templates of its tenant alone.

Examples:
  caisson template add python-ml ml.toml
  printf 'image = \"alpine:3.20\"\\nsetup = [\"mkdir -p data\"]\\n' | caisson template add small -
  caisson template show small
  caisson run --template small -- ls
  caisson template rm small";

/// Add, list, show and remove templates: named recipes for sandboxes
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Add(AddArgs),
    Ls(LsArgs),
    Show(ShowArgs),
    Rm(RmArgs),
}

pub(crate) fn run(args: TemplateArgs) -> Result<ExitCode> {
    match args.what {
        What::Add(args) => add::run(&args),
        What::Ls(args) => ls::run(&args),
        What::Show(args) => show::run(&args),
        What::Rm(args) => rm::run(&args),
    }
}
