//! `caisson fs glob`: files by their names.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{entries::EntriesArgs, escaped};
use crate::{client, waiting::spinner};

const AFTER_HELP: &str = "\
`?`, `*`, `[a-z]`, `[!a-z]` and `{a,b}` stand for parts of a name, `**` for any number of directories.

Example:
  caisson fs glob build '**/*.{c,h}' src";

/// Find files by their names
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct GlobArgs {
    /// The sandbox, by its id or name
    #[arg(value_name = "SANDBOX")]
    id: String,
    /// Of paths below the directory
    pattern: OsString,
    /// The directory
    #[arg(default_value = ".")]
    path: OsString,
    #[command(flatten)]
    entries: EntriesArgs,
}

pub(super) fn run(args: GlobArgs) -> Result<ExitCode> {
    client::talk(&args.entries.server, async |client| {
        let listing = async {
            let sandbox = client.sandbox(&args.id).await?;
            let target = format!("{sandbox}/files/glob?path={}&pattern={}", escaped(&args.path), escaped(&args.pattern));
            args.entries.gather(&client, &target).await
        };
        args.entries.show(&spinner("searching", listing).await?)
    })
}
