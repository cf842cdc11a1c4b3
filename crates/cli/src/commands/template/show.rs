//! `caisson template show`.

use std::{
    io::{IsTerminal, stdout},
    process::ExitCode,
};

use anyhow::{Result, bail};
use caisson_server::templates::{self, TemplateName};
use clap::Args;

use super::place;
use crate::{client::ServerArgs, output, printable};

/// Print a template as TOML, which `add` takes again
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    name: TemplateName,
    /// Print the template as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &ShowArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        let template = place.one(&args.name).await?;
        if args.json {
            output::print_json(&template)?;
            return Ok(ExitCode::SUCCESS);
        }
        match (template.recipe, template.problem) {
            (Some(recipe), _) => output::print(&shown(&templates::write(&recipe)))?,
            (None, problem) => bail!("template `{}` cannot be used: {}", args.name, problem.unwrap_or_default()),
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// As it is for files and programs; harmless for terminals.
fn shown(text: &str) -> String {
    if stdout().is_terminal() { text.lines().map(|line| format!("{}\n", printable::text(line))).collect() } else { text.to_owned() }
}
