//! `caisson fs mkdir`: new directories.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use caisson_server::native::types::{FileBody, Mode};
use clap::Args;
use http::Method;

use super::escaped;
use crate::{
    client::{self, ServerArgs},
    output,
    waiting::spinner,
};

/// Make a directory
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caisson fs mkdir -p build out/a/b")]
pub(crate) struct MkdirArgs {
    /// The sandbox, by its id or name
    #[arg(value_name = "SANDBOX")]
    id: String,
    path: OsString,
    /// Make those that it is in too, and take one that is there already
    #[arg(short, long)]
    parents: bool,
    /// Permission bits in octal [default: 755]
    #[arg(short, long)]
    mode: Option<Mode>,
    /// Print it as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: MkdirArgs) -> Result<ExitCode> {
    let mode = args.mode.map(|Mode(bits)| format!("&mode={bits:04o}")).unwrap_or_default();
    client::talk(&args.server, async |client| {
        let made = async {
            let sandbox = client.sandbox(&args.id).await?;
            let target = format!("{sandbox}/files/mkdir?path={}&parents={}{mode}", escaped(&args.path), args.parents);
            client.json::<FileBody>(Method::POST, &target, None::<&()>).await
        };
        let made = spinner("making the directory", made).await?;
        if args.json {
            output::print_json(&made)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
