//! `caisson stop`: sandboxes rest, with their files.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use caisson_server::native::types::SandboxBody;
use clap::Args;
use http::Method;

use crate::{
    client::{self, Client, ServerArgs},
    printable,
    waiting::spinner,
};

use super::each::each_says;

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
        each_says(&args.ids, async |id| {
            let now = spinner("stopping the sandbox", stop(&client, id)).await.with_context(|| id.clone())?;
            if now.state != "stopped" {
                bail!("{id} is {} and not stopped yet; look at it with `caisson ls`", now.state);
            }
            Ok(printable::text(&now.id))
        })
        .await
    })
}

async fn stop(client: &Client, id: &str) -> Result<SandboxBody> {
    let target = format!("{}/stop", client.sandbox(id).await?);
    client.json(Method::POST, &target, None::<&()>).await
}
