//! `caisson template rm`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use caisson_server::templates::TemplateName;
use clap::Args;
use http::Method;

use super::{
    super::each::each,
    place::{self, Place, none_here, target},
};
use crate::{client::ServerArgs, waiting::spinner};

/// Remove templates; sandboxes that were made from them stay
#[derive(Debug, Args)]
pub(super) struct RmArgs {
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &RmArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| each(&args.names, async |name| remove(&place, name).await).await)
}

async fn remove(place: &Place, name: &str) -> Result<()> {
    let name: TemplateName = name.parse()?;
    match place {
        Place::Server(client) => spinner("removing the template", client.done(Method::DELETE, &target(&name))).await,
        Place::Here(folder) => {
            let removed = folder.remove(&name).with_context(|| format!("cannot remove {}", folder.file(&name).display()))?;
            if removed { Ok(()) } else { Err(none_here(folder, &name)) }
        }
    }
}
