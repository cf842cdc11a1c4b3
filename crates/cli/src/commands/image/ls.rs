//! `caisson image ls`.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::ImageBody;
use clap::Args;

use super::{build::is_step, place};
use crate::{args::roughly, client::ServerArgs, output, table, waiting::spinner};

/// List images
#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Also what builds have kept of their steps
    #[arg(long)]
    steps: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &LsArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        let mut page = spinner("asking the server", place.list()).await?;
        if !args.steps {
            page.data.retain(|image| !is_step(&image.name));
        }
        if args.json {
            output::print_json(&page)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = page.data.into_iter().map(row).collect();
        output::print(&table::render(&["NAME", "ID", "SIZE", "UNPACKED", "ADDED", "WHOSE"], &rows))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// So much of an id tells it from others.
const SHORT: usize = 12;

fn row(image: ImageBody) -> Vec<String> {
    let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id).chars().take(SHORT).collect();
    let whose = if image.private { "own" } else { "everybody" };
    vec![image.name, id, roughly(image.size_bytes), roughly(image.unpacked_bytes), image.added_at, whose.to_owned()]
}
