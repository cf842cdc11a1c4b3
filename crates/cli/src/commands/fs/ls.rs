//! `caisson fs ls`: what is in a directory.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{entries::EntriesArgs, escaped};
use crate::{client, waiting::spinner};

/// The most levels that the server lists.
const DEEPEST: u32 = 64;

/// List what is in a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  caisson fs ls build\n  caisson fs ls build /etc -r -q")]
pub(crate) struct LsArgs {
    /// The sandbox, by its id or name
    #[arg(value_name = "SANDBOX")]
    id: String,
    /// The directory
    #[arg(default_value = ".")]
    path: OsString,
    /// What is in the directories in it as well
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    entries: EntriesArgs,
}

pub(super) fn run(args: LsArgs) -> Result<ExitCode> {
    client::talk(&args.entries.server, async |client| {
        let listing = async {
            let depth = if args.recursive { DEEPEST } else { 1 };
            let target = format!("{}/files/list?path={}&depth={depth}", client.sandbox(&args.id).await?, escaped(&args.path));
            args.entries.gather(&client, &target).await
        };
        args.entries.show(&spinner("asking the server", listing).await?)
    })
}
