//! `caisson fs rm`: the end of files.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use http::Method;

use super::{super::each::each, escaped};
use crate::{
    client::{self, ServerArgs},
    waiting::spinner,
};

/// Remove files, links and directories
#[derive(Debug, Args)]
#[command(after_help = "Prints each path that is gone.\n\nExample:\n  caisson fs rm -r build out")]
pub(crate) struct RmArgs {
    /// The sandbox, by its id or name
    #[arg(value_name = "SANDBOX")]
    id: String,
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
    /// Directories with everything in them
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: RmArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let sandbox = spinner("asking the server", client.sandbox(&args.id)).await?;
        each(&args.paths, async |path| {
            let target = format!("{sandbox}/files?path={}&recursive={}", escaped(path), args.recursive);
            let removed = spinner("removing", client.done(Method::DELETE, &target)).await;
            removed.with_context(|| format!("cannot remove {}", path.to_string_lossy()))
        })
        .await
    })
}
