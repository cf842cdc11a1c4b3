//! `caisson context run`: code for an interpreter that is there.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{CodeBody, CodeResultBody};
use clap::Args;
use http::Method;

use super::path;
use crate::{
    args::TimeLimit,
    client::{self, ServerArgs},
    commands::repl,
    output, stdin,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Without --code the code is what comes on standard input. Ctrl-C interrupts it; with --json it runs on.

Exit status: 0; 1 when the code fails, in bash the exit code.";

/// Run code in a context
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RunArgs {
    /// The sandbox, by its id or name
    sandbox: String,
    /// The id of the context
    #[arg(value_name = "CONTEXT")]
    id: String,
    /// The code [default: standard input]
    #[arg(short, long, value_name = "CODE", allow_hyphen_values = true)]
    code: Option<String>,
    /// Time until it is interrupted, or `none` [default: 60s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<TimeLimit>,
    /// Print what came of it as a JSON object instead; the exit status is 0 then, however it came out
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: RunArgs) -> Result<ExitCode> {
    let code = match args.code {
        Some(code) => code,
        None => stdin::read_code("copy it in with `caisson cp` and run that")?,
    };
    let body = CodeBody { code, timeout_s: TimeLimit::to_field(args.timeout), interactive: false };
    client::talk(&args.server, async |client| {
        let target = path(&spinner("asking the server", client.sandbox(&args.sandbox)).await?, &args.id)?;
        if !args.json {
            return repl::once(&client, target, body).await;
        }
        let target = format!("{target}/run");
        let result = client.json::<CodeResultBody>(Method::POST, &target, Some(&body));
        output::print_json(&spinner("running the code", result).await?)?;
        Ok(ExitCode::SUCCESS)
    })
}
