//! `caisson rm`: the end of sandboxes.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::SandboxBody;
use clap::Args;
use http::Method;

use crate::{
    client::{self, Client, ServerArgs},
    output, printable, status,
    waiting::spinner,
};

/// End sandboxes and everything in them
#[derive(Debug, Args)]
#[command(after_help = "Prints the id of each sandbox that has ended. The exit status is 1 if any could not be ended.")]
pub(crate) struct RmArgs {
    /// Ids or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: RmArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let mut failed = false;
        for id in &args.ids {
            match spinner("ending the sandbox", end(&client, id)).await {
                Ok(ended) if ended.state == "ended" => output::print(&format!("{}\n", printable::text(&ended.id)))?,
                Ok(other) => {
                    failed = true;
                    status::complain(&format!("{id} is {} and has not ended yet; look at it with `caisson ls`", other.state));
                }
                Err(error) => {
                    failed = true;
                    status::complain(&format!("{id}: {error:#}"));
                }
            }
        }
        Ok(if failed { ExitCode::from(status::FAILURE) } else { ExitCode::SUCCESS })
    })
}

async fn end(client: &Client, id: &str) -> Result<SandboxBody> {
    let target = client.sandbox(id).await?;
    client.json(Method::DELETE, &target, None::<&()>).await
}
