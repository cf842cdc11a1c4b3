//! `caisson fs stat`: what is known of a file.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use caisson_server::native::types::FileBody;
use clap::Args;
use http::Method;

use super::{entries::rendered, escaped};
use crate::{
    client::{self, ServerArgs},
    output,
    waiting::spinner,
};

/// Show what is known of a file, link or directory; links are not followed
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caisson fs stat build out/program --json | jq .size")]
pub(crate) struct StatArgs {
    /// The sandbox, by its id or name
    #[arg(value_name = "SANDBOX")]
    id: String,
    path: OsString,
    /// Print it as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: StatArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let entry = async {
            let target = format!("{}/files/stat?path={}", client.sandbox(&args.id).await?, escaped(&args.path));
            client.json::<FileBody>(Method::GET, &target, None::<&()>).await
        };
        let entry = spinner("asking the server", entry).await?;
        if args.json {
            output::print_json(&entry)?;
        } else {
            output::print(&rendered(&[entry]))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
