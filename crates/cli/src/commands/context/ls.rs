//! `caisson context ls`: which contexts there are.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{ContextBody, ContextsBody};
use clap::Args;
use http::Method;
use jiff::Timestamp;

use crate::{
    client::{self, ServerArgs},
    commands::listing::span,
    output, table,
    waiting::spinner,
};

/// List the contexts of a sandbox, oldest first
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The sandbox, by its id or name
    sandbox: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: LsArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let contexts = async {
            let target = format!("{}/contexts", client.sandbox(&args.sandbox).await?);
            client.json::<ContextsBody>(Method::GET, &target, None::<&()>).await
        };
        let contexts = spinner("asking the server", contexts).await?;
        if args.json {
            output::print_json(&contexts)?;
        } else {
            let now = Timestamp::now();
            let rows: Vec<_> = contexts.data.into_iter().map(|context| row(context, now)).collect();
            output::print(&table::render(&["CONTEXT", "LANGUAGE", "KERNEL", "STATE", "AGE", "RUNS", "WAITING"], &rows))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn row(context: ContextBody, now: Timestamp) -> Vec<String> {
    let state = match context.message {
        Some(message) => format!("{} ({message})", context.state),
        None => context.state,
    };
    let made: Option<Timestamp> = context.created_at.parse().ok();
    vec![
        context.id,
        context.language,
        context.kernel.unwrap_or_default(),
        state,
        made.map(|at| span(now.as_second() - at.as_second())).unwrap_or_default(),
        context.runs.to_string(),
        context.waiting.to_string(),
    ]
}
