//! `caisson port`: an address at which a port of a sandbox can be reached.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use caisson_server::native::types::{LinkBody, LinkRequestBody, Number, Whole};
use clap::Args;
use http::Method;

use crate::{
    args::duration,
    client::{self, ServerArgs},
    output, printable,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Prints an address. Whoever has it can reach the port, without a key, until it expires; it ends with the sandbox, too.

Examples:
  caisson exec -d build -- python3 -m http.server 8000
  caisson port build 8000
  curl $(caisson port build 8000 --expires 10m)";

/// Make a link to a port of a sandbox
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PortArgs {
    /// The sandbox, by its id or name
    id: String,
    /// What a program listens on inside, or is going to
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// How long the link opens the port, 7d at most [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires: Option<Duration>,
    /// Print the link as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: PortArgs) -> Result<ExitCode> {
    let body = LinkRequestBody { port: Whole::from(args.port), expires_in_s: args.expires.map(Number::from) };
    client::talk(&args.server, async |client| {
        let made = async {
            let sandbox = client.sandbox(&args.id).await?;
            client.json(Method::POST, &format!("{sandbox}/links"), Some(&body)).await
        };
        let link: LinkBody = spinner("asking the server", made).await?;
        if args.json {
            output::print_json(&link)?;
        } else {
            output::print(&format!("{}\n", printable::text(&link.url)))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
