//! `caisson new`: a sandbox that stays.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{CreateBody, NetworkBody, Policy, SandboxBody};
use clap::{ArgGroup, Args};
use http::Method;

use crate::{
    args::{LimitsArgs, Pair, TimeLimit, network, unique},
    client::{self, ServerArgs},
    output, printable,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Prints the id of the sandbox. With --name, the living sandbox of that name is found instead of made anew.

Examples:
  id=$(caisson new)
  caisson new --name build --memory 2G --cpus 2 --idle-timeout 1h --metadata project=x";

/// Make a sandbox that stays until it is removed or its time is over
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, group(ArgGroup::new("made_of").args(["image", "template"]).multiple(true)))]
pub(crate) struct NewArgs {
    /// A name, unique among living sandboxes
    #[arg(long)]
    name: Option<String>,
    /// Template that it is made from: what it says holds where nothing is said here
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Image that it is made from [default: host]
    #[arg(long)]
    image: Option<String>,
    /// Whether the server gets the image from its registry first: `never`, `missing` or `always`; takes an admin's key [default: never]
    #[arg(long, value_name = "WHEN", requires = "made_of")]
    pull: Option<Policy>,
    /// A variable for every program in it; may repeat
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<Pair>,
    /// A label of your own; may repeat
    #[arg(long, value_name = "NAME=VALUE")]
    metadata: Vec<Pair>,
    /// Its host name [default: sandbox]
    #[arg(long)]
    hostname: Option<String>,
    /// What it may reach: `none`, `public`, `packages`, `allow:HOST[:PORT],…`, or @FILE with a policy [default: none]
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    net: Option<NetworkBody>,
    /// What it is made by: `native`, or another that `caisson backend ls` shows [default: the server's choice]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Where its files are: `memory` or `disk` [default: memory]
    #[arg(long, value_name = "WHERE")]
    storage: Option<String>,
    /// Who programs are: `user`, or `root` of the sandbox [default: user]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Time until it ends, counted from now, or `none` [default: 24h]
    #[arg(long, value_name = "TIME")]
    lifetime: Option<TimeLimit>,
    /// Time without a request and without a running program until it ends, or `none` [default: 15m]
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<TimeLimit>,
    #[command(flatten)]
    limits: LimitsArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// Print the sandbox as a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: NewArgs) -> Result<ExitCode> {
    let body = CreateBody {
        name: args.name,
        template: args.template,
        image: args.image,
        pull: args.pull.map(|policy| policy.as_str().to_owned()),
        limits: args.limits.to_body(),
        env: unique("--env", args.env)?,
        network: args.net,
        backend: args.backend,
        storage: args.storage,
        user: args.user,
        hostname: args.hostname,
        lifetime_s: TimeLimit::to_field(args.lifetime),
        idle_timeout_s: TimeLimit::to_field(args.idle_timeout),
        metadata: unique("--metadata", args.metadata)?,
    };
    client::talk(&args.server, async |client| {
        let made: SandboxBody = spinner("starting the sandbox", client.json(Method::POST, "/v1/sandboxes", Some(&body))).await?;
        if args.json {
            output::print_json(&made)?;
        } else {
            output::print(&format!("{}\n", printable::text(&made.id)))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
