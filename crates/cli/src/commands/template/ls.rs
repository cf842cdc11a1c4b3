//! `caisson template ls`.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{PageBody, TemplateBody};
use clap::Args;

use super::place;
use crate::{client::ServerArgs, output, table};

/// List templates; one that cannot be used says why
#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &LsArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        let data = place.all().await?;
        if args.json {
            output::print_json(&PageBody { data, next_cursor: None })?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = data.into_iter().map(row).collect();
        output::print(&table::render(&["NAME", "IMAGE", "SET-UP", "WHOSE", "DESCRIPTION"], &rows))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn row(template: TemplateBody) -> Vec<String> {
    let recipe = template.recipe.unwrap_or_default();
    let about = match template.problem {
        Some(problem) => format!("BROKEN: {problem}"),
        None => recipe.description.unwrap_or_default(),
    };
    let setup = if recipe.setup.is_empty() { String::new() } else { recipe.setup.len().to_string() };
    vec![template.name, recipe.image.unwrap_or_default(), setup, template.whose, about]
}
