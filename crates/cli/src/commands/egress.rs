//! `caisson egress`: what a sandbox may reach, and what it has reached.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{EgressBody, NetworkBody, UpdateBody};
use clap::{Args, Subcommand};
use http::Method;

use crate::{
    args::network,
    client::{self, ServerArgs},
    output, printable,
    table::render,
    waiting::spinner,
};

use super::update;

/// Show or change what a sandbox may reach
#[derive(Debug, Subcommand)]
pub(crate) enum EgressCommand {
    Show(ShowArgs),
    Set(SetArgs),
}

/// Show what a sandbox may reach, and what has become of what wanted out
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The sandbox, by its id or name
    id: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Change what a sandbox may reach, which cuts connections that it may not have any more
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson egress set build allow:pypi.org,files.pythonhosted.org
  caisson egress set build 'allow:*;deny:*.example.org'
  caisson egress set build @policy.json
  caisson egress set build none")]
pub(crate) struct SetArgs {
    /// The sandbox, by its id or name; it was made with a network
    id: String,
    /// `none`, `public`, `packages`, `allow:HOST[:PORT],…`, or @FILE with a policy as JSON
    #[arg(value_parser = network)]
    network: NetworkBody,
    #[command(flatten)]
    server: ServerArgs,
    /// Print the sandbox as a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: EgressCommand) -> Result<ExitCode> {
    match command {
        EgressCommand::Show(args) => show(args),
        EgressCommand::Set(args) => set(args),
    }
}

fn show(args: ShowArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let told = async {
            let target = client.sandbox(&args.id).await?;
            client.json::<EgressBody>(Method::GET, &format!("{target}/egress"), None::<&()>).await
        };
        let told = spinner("asking the server", told).await?;
        if args.json {
            output::print_json(&told)?;
        } else {
            output::print(&text(&told))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn text(told: &EgressBody) -> String {
    let EgressBody { network, redirects, open, allowed, refused, bytes_out, bytes_in, decisions } = told;
    let ways = match (network, redirects) {
        (NetworkBody::Name(name), _) if name == "none" => "",
        (_, true) => ", through the proxy or without",
        (_, false) => ", through the proxy alone",
    };
    let mut text = format!(
        "{}{ways}\n{open} open, {allowed} allowed, {refused} refused, {bytes_out} bytes out, {bytes_in} bytes in\n",
        printable::text(&network.to_string())
    );
    if !decisions.is_empty() {
        let row = |decision: &caisson_server::native::types::EgressDecisionBody| {
            let port = decision.port.map(|port| format!(":{port}")).unwrap_or_default();
            let outcome = decision.reason.clone().unwrap_or_else(|| "allowed".to_owned());
            vec![decision.at.clone(), decision.way.clone(), format!("{}{port}", decision.host), outcome]
        };
        text.push('\n');
        text += &render(&["AT", "WAY", "HOST", "OUTCOME"], &decisions.iter().map(row).collect::<Vec<_>>());
    }
    text
}

fn set(args: SetArgs) -> Result<ExitCode> {
    let body = UpdateBody { network: Some(args.network), ..UpdateBody::default() };
    update::change(&args.server, &args.id, &body, args.json)
}
