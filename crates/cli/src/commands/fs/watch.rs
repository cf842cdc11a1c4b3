//! `caisson fs watch`: what happens to files, as it happens.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result, bail};
use caisson_server::{ErrorBody, native::types::FileEventBody};
use clap::Args;
use serde::Serialize;

use super::{escaped, shown};
use crate::{
    client::{self, Event, ServerArgs},
    output, printable,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
The first line is `ready`: from then on everything is told, until it is interrupted or what is watched is `gone`. `overflow` says that \
something was missed there.

Examples:
  caisson fs watch build out
  caisson fs watch -r build src --json | jq -r .path";

/// Show what happens to a file or in a directory, one line each
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct WatchArgs {
    /// The sandbox, by its id or name
    #[arg(value_name = "SANDBOX")]
    id: String,
    /// File or directory
    #[arg(default_value = ".")]
    path: OsString,
    /// Directories below it as well
    #[arg(short, long)]
    recursive: bool,
    /// One JSON object for each event
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// An event with its name in it, which in the stream stands beside it.
#[derive(Debug, Serialize)]
struct Named<'a> {
    event: &'a str,
    #[serde(flatten)]
    what: FileEventBody,
}

pub(super) fn run(args: WatchArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let events = async {
            let sandbox = client.sandbox(&args.id).await?;
            client.follow(&format!("{sandbox}/files/watch?path={}&recursive={}", escaped(&args.path), args.recursive)).await
        };
        let mut events = spinner("asking the server", events).await?;
        while let Some(event) = events.next().await? {
            show(&event, args.json)?;
            if event.name == "gone" {
                return Ok(ExitCode::SUCCESS);
            }
        }
        bail!("the server ended the stream")
    })
}

fn show(event: &Event, json: bool) -> Result<()> {
    const NONSENSE: &str = "the server's event makes no sense; is it a Caisson server of this version?";
    if event.name == "error" {
        bail!(serde_json::from_str::<ErrorBody>(&event.data).context(NONSENSE)?.error.message);
    }
    let named = Named { event: &event.name, what: serde_json::from_str(&event.data).context(NONSENSE)? };
    let line = if json { printable::json(&serde_json::to_string(&named)?) } else { line(&named) };
    output::print(&format!("{line}\n"))
}

/// `moved     /workspace/a -> /workspace/b`
fn line(Named { event, what }: &Named<'_>) -> String {
    let mut line = format!("{:8}  {}", printable::text(event), shown(&what.path, what.path_base64.as_deref()));
    if let Some(to) = &what.to {
        line.push_str(&format!(" -> {}", shown(to, what.to_base64.as_deref())));
    }
    line
}
