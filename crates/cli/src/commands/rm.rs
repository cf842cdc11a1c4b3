//! `caisson rm`: the end of sandboxes.

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
        each_says(&args.ids, async |id| {
            let now = spinner("ending the sandbox", end(&client, id)).await.with_context(|| id.clone())?;
            if now.state != "ended" {
                bail!("{id} is {} and has not ended yet; look at it with `caisson ls`", now.state);
            }
            Ok(printable::text(&now.id))
        })
        .await
    })
}

async fn end(client: &Client, id: &str) -> Result<SandboxBody> {
    let target = client.sandbox(id).await?;
    client.json(Method::DELETE, &target, None::<&()>).await
}
