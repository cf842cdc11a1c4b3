//! `caisson context new`: an interpreter that stays.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{ContextBody, CreateContextBody};
use clap::Args;
use http::Method;

use crate::{
    args::{Pair, unique},
    client::{self, ServerArgs},
    output, printable,
    waiting::spinner,
};

/// Start an interpreter that lives in a sandbox, and print the id of its context
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The sandbox, by its id or name
    sandbox: String,
    /// `python`, `node`, `bash`, `r`, or the language of a Jupyter kernel in the image
    #[arg(short, long, value_name = "LANG")]
    lang: String,
    /// `builtin` for our own driver, `jupyter` for a kernel of the image [default: a kernel where there is one]
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// A variable for the interpreter; may repeat
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<Pair>,
    /// Directory to start in [default: /workspace]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Print the context as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: NewArgs) -> Result<ExitCode> {
    let body = CreateContextBody { language: args.lang, driver: args.driver, env: unique("--env", args.env)?, cwd: args.cwd };
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
