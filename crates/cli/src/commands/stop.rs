//! `caisson stop`: sandboxes rest, with their files.

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

/// Stop sandboxes whose storage is on disk: their files stay, and whatever needs one starts it again
#[derive(Debug, Args)]
#[command(after_help = "Prints the id of each sandbox that is stopped. The exit status is 1 if any could not be stopped.")]
pub(crate) struct StopArgs {
    /// Ids or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: StopArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let mut failed = false;
        for id in &args.ids {
            match spinner("stopping the sandbox", stop(&client, id)).await {
                Ok(stopped) if stopped.state == "stopped" => output::print(&format!("{}\n", printable::text(&stopped.id)))?,
                Ok(other) => {
                    failed = true;
                    status::complain(&format!("{id} is {} and not stopped yet; look at it with `caisson ls`", other.state));
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

async fn stop(client: &Client, id: &str) -> Result<SandboxBody> {
    let target = format!("{}/stop", client.sandbox(id).await?);
    client.json(Method::POST, &target, None::<&()>).await
}
