//! `caisson sh`: a shell in a sandbox, on our own terminal.

use std::process::ExitCode;

use anyhow::{Context, Result};
use caisson_core::ExecutionId;
use caisson_server::native::types::{ExecBody, ExecutionBody};
use clap::Args;
use http::Method;

use crate::{
    args::{Pair, TimeLimit, unique},
    client::{self, Client, ServerArgs},
    terminal,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
With the id of an execution that runs on a terminal instead of that of a sandbox, comes back to it: what it has shown is shown again, and \
then it goes on. Several may look on and type at one time.

`~.` at the beginning of a line leaves without ending the program; so does closing the window. A terminal that nobody looks at ends with its \
sandbox's idle time. When the connection breaks, it is taken up again where it was.

What the program writes reaches your terminal as it is, as with ssh.

Exit status: as of `caisson exec`; 0 when left.";

/// Open a shell in a sandbox that stays, or come back to one
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ShArgs {
    /// The sandbox, by its id or name, or an execution by its id
    id: String,
    /// A variable for the shell; may repeat
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<Pair>,
    /// Directory to start in [default: /workspace]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Time until the shell and everything it started is killed [default: none]
    #[arg(long, value_name = "TIME")]
    timeout: Option<TimeLimit>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: ShArgs) -> Result<ExitCode> {
    let terminal = terminal::wanted()?;
    let env = unique("--env", args.env)?;
    client::talk(&args.server, async |client| {
        let execution = match args.id.parse::<ExecutionId>() {
            Ok(execution) => execution,
            Err(_) => {
                let body = ExecBody {
                    terminal: Some(terminal),
                    env,
                    cwd: args.cwd,
                    timeout_s: TimeLimit::to_field(args.timeout),
                    ..ExecBody::default()
                };
                start(&client, &args.id, body).await?
            }
        };
        terminal::attend(&client, execution).await
    })
}

/// Starts a program on a terminal; it waits for us when we are slow, so that what is typed to it is heard in time.
pub(super) async fn start(client: &Client, sandbox: &str, body: ExecBody) -> Result<ExecutionId> {
    let body = ExecBody { background: true, wait_for_readers: true, ..body };
    let target = format!("{}/exec", spinner("asking the server", client.sandbox(sandbox)).await?);
    let started: ExecutionBody = spinner("starting the program", client.json(Method::POST, &target, Some(&body))).await?;
    started.id.parse().context("the server's answer makes no sense; is it a Caisson server of this version?")
}
