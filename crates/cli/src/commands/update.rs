//! `caisson update`: what can be changed of a sandbox that lives.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use caisson_server::native::types::{NetworkBody, SandboxBody, UpdateBody};
use clap::Args;
use http::Method;

use crate::{
    args::{Pair, TimeLimit, network, unique},
    client::{self, ServerArgs},
    output, printable,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Prints the id of the sandbox. What is not named stays as it is.

Examples:
  caisson update build --lifetime 48h --idle-timeout none
  caisson update build --metadata project=x --metadata stage=test";

/// Give a sandbox more or less time, or other labels
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct UpdateArgs {
    /// The sandbox, by its id or name
    id: String,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    server: ServerArgs,
    /// Print the sandbox as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// Time until it ends, counted from when it was made, or `none`
    #[arg(long, value_name = "TIME")]
    lifetime: Option<TimeLimit>,
    /// Time without a request and without a running program until it ends, or `none`
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<TimeLimit>,
    /// A label in place of all that it has; may repeat
    #[arg(long, value_name = "NAME=VALUE")]
    metadata: Vec<Pair>,
    /// What it may reach: `none`, `public`, `packages`, `allow:HOST[:PORT],…`, or @FILE with a policy; it was made with a network
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    net: Option<NetworkBody>,
}

pub(crate) fn run(args: UpdateArgs) -> Result<ExitCode> {
    let metadata: BTreeMap<_, _> = unique("--metadata", args.changes.metadata)?;
    let body = UpdateBody {
        lifetime_s: TimeLimit::to_field(args.changes.lifetime),
        idle_timeout_s: TimeLimit::to_field(args.changes.idle_timeout),
        metadata: (!metadata.is_empty()).then_some(metadata),
        network: args.changes.net,
    };
    change(&args.server, &args.id, &body, args.json)
}

/// Changes a sandbox, and says which.
pub(super) fn change(server: &ServerArgs, id: &str, body: &UpdateBody, as_json: bool) -> Result<ExitCode> {
    client::talk(server, async |client| {
        let changed = async {
            let target = client.sandbox(id).await?;
            client.json::<SandboxBody>(Method::PATCH, &target, Some(body)).await
        };
        let changed = spinner("asking the server", changed).await?;
        if as_json {
            output::print_json(&changed)?;
        } else {
            output::print(&format!("{}\n", printable::text(&changed.id)))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
