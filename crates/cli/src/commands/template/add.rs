//! `caisson template add`.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use caisson_server::{
    native::types::TemplateBody,
    templates::{self, LARGEST, TemplateName},
};
use clap::Args;
use http::Method;

use super::place::{self, Place, target};
use crate::{client::ServerArgs, output, stdin, waiting::spinner};

/// Add a template, or put another in its place
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// What to call it: 1 to 64 characters of a-z, 0-9, `.`, `_` and `-`
    name: TemplateName,
    /// What it says, in TOML or JSON; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the template as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &AddArgs) -> Result<ExitCode> {
    let text = text(&args.file)?;
    let shown = args.file.display();
    let recipe = templates::read(&text).with_context(|| format!("the template in {shown} cannot be used"))?;
    place::with(&args.server, async |place| {
        let kept: TemplateBody = match place {
            Place::Server(client) => spinner("adding the template", client.json(Method::PUT, &target(&args.name), Some(&recipe))).await?,
            Place::Here(folder) => {
                // TOML stays as it was written, with its comments.
                let is_json = text.trim_start().starts_with('{');
                let text = if is_json { templates::write(&recipe) } else { text };
                folder.put(&args.name, &text).with_context(|| format!("cannot write {}", folder.file(&args.name).display()))?;
                TemplateBody::everybodys(args.name.to_string(), Ok(recipe.into()))
            }
        };
        if args.json {
            output::print_json(&kept)?;
        } else {
            output::print(&format!("{}\n", args.name))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn text(path: &Path) -> Result<String> {
    let shown = path.display();
    let bytes = if path == Path::new("-") {
        stdin::read_all(LARGEST, "put files into the template's image")?
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let mut bytes = Vec::new();
        file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
        bytes
    };
    if bytes.len() > LARGEST {
        bail!("{shown} is larger than {} KiB, which no template is; put files into its image", LARGEST >> 10);
    }
    String::from_utf8(bytes).with_context(|| format!("{shown} is not UTF-8 text"))
}
