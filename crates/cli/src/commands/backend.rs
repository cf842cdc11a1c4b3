//! `caisson backend`: what sandboxes of a server can be made by.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{BackendBody, BackendList};
use clap::{Args, Subcommand};
use http::Method;

use crate::{
    client::{self, ServerArgs},
    output, printable, table,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
A request or a template names one with `backend`; the first is taken where neither does. What a server may use its operator says with \
CAISSON_BACKENDS. `caisson doctor --backend NAME` attacks sandboxes of one on this machine.

Examples:
  caisson backend ls
  caisson new --backend oci:runsc";

/// Show what sandboxes can be made by
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum BackendCommand {
    Ls(LsArgs),
}

/// List backends: what each is, what it can do, and what the doctor found last
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(command: BackendCommand) -> Result<ExitCode> {
    let BackendCommand::Ls(args) = command;
    client::talk(&args.server, async |client| {
        let list: BackendList = spinner("asking the server", client.json(Method::GET, "/v1/backends", None::<&()>)).await?;
        if args.json {
            output::print_json(&list)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = list.backends.iter().map(row).collect();
        output::print(&table::render(&["BACKEND", "STATE", "VERSION", "PLATFORM", "FEATURES", "DOCTOR"], &rows))?;
        for backend in &list.backends {
            if let Some(reason) = &backend.reason {
                output::print(&format!("{}: {}\n", printable::text(&backend.name), printable::text(reason)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn row(backend: &BackendBody) -> Vec<String> {
    let or_none = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), |text| printable::text(text).to_string());
    let features = if backend.features.is_empty() { "-".to_owned() } else { backend.features.join(", ") };
    vec![
        printable::text(&backend.name).to_string(),
        format!("{}{}", printable::text(&backend.state), if backend.default { ", default" } else { "" }),
        or_none(&backend.version),
        or_none(&backend.platform),
        printable::text(&features).to_string(),
        backend
            .doctor
            .as_ref()
            .map_or_else(|| "-".to_owned(), |proof| format!("{}: {} of {}", printable::text(&proof.state), proof.held, proof.guarantees)),
    ]
}
