//! `caisson context new`: an interpreter that stays.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::ContextBody;
use clap::Args;
use http::Method;

use crate::{
    args::InterpreterArgs,
    client::{self, ServerArgs},
    output, printable,
    waiting::spinner,
};

/// Start an interpreter that lives in a sandbox, and print the id of its context
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The sandbox, by its id or name
    sandbox: String,
    #[command(flatten)]
    interpreter: InterpreterArgs,
    /// Print the context as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: NewArgs) -> Result<ExitCode> {
    let body = args.interpreter.into_body()?;
    client::talk(&args.server, async |client| {
        let made = async {
            let target = format!("{}/contexts", client.sandbox(&args.sandbox).await?);
            client.json::<ContextBody>(Method::POST, &target, Some(&body)).await
        };
        let made = spinner("starting the interpreter", made).await?;
        if args.json {
            output::print_json(&made)?;
        } else {
            output::print(&format!("{}\n", printable::text(&made.id)))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
