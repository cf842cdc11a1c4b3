//! `caisson stdin`: input for a program in the background.

use std::process::ExitCode;

use anyhow::{Result, bail};
use bytes::Bytes;
use caisson_core::ExecutionId;
use caisson_server::native::types::StdinBody;
use clap::Args;

use super::exec::input;
use crate::{
    client::{self, ServerArgs},
    status, stdin,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
It goes behind what the program has got already, and its end is the end of the program's standard input as well, unless --keep-open is \
given. The program must have been started with `caisson exec -d -i` or, over the API, with `stdin_stream`.

Examples:
  id=$(caisson exec -d -i build -- sort)
  caisson stdin $id --keep-open < a.txt
  caisson stdin $id < b.txt
  caisson logs $id --follow";

/// Pass standard input on to a program in the background
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StdinArgs {
    /// The execution
    #[arg(value_name = "EXECUTION")]
    id: String,
    /// Leave the program's standard input open for more
    #[arg(short, long)]
    keep_open: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: StdinArgs) -> Result<ExitCode> {
    let Ok(execution) = args.id.parse::<ExecutionId>() else {
        bail!("`{}` is no execution's id; `caisson exec -d -i` prints it", args.id);
    };
    let Some(pieces) = stdin::stream()? else { bail!("standard input is a terminal on which another job is in the foreground") };
    client::talk(&args.server, async |client| {
        let target = format!("/v1/executions/{execution}/stdin");
        // Nothing more is sent with it: it tells how much the program has got, or why it takes nothing.
        let StdinBody { stdin_bytes } = spinner("asking the server", client.post_bytes(&target, Bytes::new())).await?;
        match input::pass(&client, &target, stdin_bytes, pieces).await? {
            Some(end) if !args.keep_open => input::close(&client, &target, end).await?,
            Some(_) => {}
            None => {
                status::complain("the program has ended or closed its standard input, and did not take everything");
                return Ok(ExitCode::from(status::FAILURE));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
