//! `caisson image gc`.

use std::{collections::HashSet, process::ExitCode};

use anyhow::Result;
use caisson_server::native::types::CollectedBody;
use clap::Args;
use http::Method;

use super::{
    build::is_step,
    place::{self, Place},
    rm,
};
use crate::{args::roughly, client::ServerArgs, output, waiting::spinner};

/// Remove images that have lost their names and that no sandbox uses, and whatever belongs to no image
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Also what builds have kept of their steps, so that the next build does all of them
    #[arg(long)]
    steps: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &GcArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        if args.steps {
            spinner("removing", forget_steps(&place)).await?;
        }
        let done: CollectedBody = match place {
            Place::Server(client) => spinner("removing", client.json(Method::POST, "/v1/images/gc", None::<&()>)).await?,
            Place::Here(store) => CollectedBody::from(&spinner("removing", store.gc(HashSet::new())).await?),
        };
        if args.json {
            output::print_json(&done)?;
            return Ok(ExitCode::SUCCESS);
        }
        let CollectedBody { images, layers, freed_bytes, in_use, pull_under_way } = done;
        let mut text = format!("removed {images} images and {layers} layers, {}\n", roughly(freed_bytes));
        if in_use > 0 {
            text.push_str(&format!("{in_use} without a name stay, because they are in use\n"));
        }
        if pull_under_way {
            text.push_str("a pull or an import is under way; whatever it may count on stays\n");
        }
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Takes the names of steps away, also of those that sandboxes are made of at the moment.
async fn forget_steps(place: &Place) -> Result<()> {
    for name in place.names().await?.iter().filter(|name| is_step(name)) {
        rm::remove(place, name, true).await?;
    }
    Ok(())
}
