//! `caisson context`: interpreters that live in a sandbox.

mod ls;
mod new;
mod run;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use caisson_core::ContextId;
use caisson_server::native::types::ContextBody;
use clap::{Args, Subcommand};
use http::Method;

use super::each::each;
use crate::{
    client::{self, Client, ServerArgs},
    waiting::spinner,
};

const AFTER_HELP: &str = "\
`caisson repl` talks to one line by line.

Examples:
  id=$(caisson context new build -l python)
  caisson context run build $id -c 'x = 6'
  caisson context run build $id -c 'x * 7'
  caisson context rm build $id";

/// Make, use and end interpreters that live in a sandbox
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum ContextCommand {
    Ls(ls::LsArgs),
    New(new::NewArgs),
    Run(run::RunArgs),
    /// Interrupt what runs in contexts, as Ctrl-C does
    Interrupt(Those),
    /// End interpreters with everything that they have started, and start others in their place
    Restart(Those),
    /// End contexts with everything that they have started
    Rm(Those),
}

/// Contexts of one sandbox. The id of each that it went well for is printed.
#[derive(Debug, Args)]
pub(crate) struct Those {
    /// The sandbox, by its id or name
    sandbox: String,
    /// Ids of contexts
    #[arg(value_name = "CONTEXT", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(command: ContextCommand) -> Result<ExitCode> {
    match command {
        ContextCommand::Ls(args) => ls::run(args),
        ContextCommand::New(args) => new::run(args),
        ContextCommand::Run(args) => run::run(args),
        ContextCommand::Interrupt(those) => {
            those.each(async |client, target| client.done(Method::POST, &format!("{target}/interrupt")).await)
        }
        ContextCommand::Restart(those) => those.each(async |client, target| {
            let target = format!("{target}/restart");
            let restarted = client.json::<ContextBody>(Method::POST, &target, None::<&()>);
            spinner("starting the interpreter", restarted).await.map(drop)
        }),
        ContextCommand::Rm(those) => those.each(async |client, target| client.done(Method::DELETE, target).await),
    }
}

impl Those {
    fn each(self, work: impl AsyncFn(&Client, &str) -> Result<()>) -> Result<ExitCode> {
        client::talk(&self.server, async |client| {
            let sandbox = spinner("asking the server", client.sandbox(&self.sandbox)).await?;
            each(&self.ids, async |id| work(&client, &path(&sandbox, id)?).await).await
        })
    }
}

/// The path of a context in the API.
fn path(sandbox: &str, id: &str) -> Result<String> {
    let known: ContextId = id.parse().map_err(|_| anyhow!("`{id}` is no id of a context; `caisson context ls` shows them"))?;
    Ok(format!("{sandbox}/contexts/{known}"))
}
