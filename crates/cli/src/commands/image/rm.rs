//! `caisson image rm`.

use std::{collections::HashSet, process::ExitCode};

use anyhow::Result;
use caisson_image::Reference;
use caisson_server::native::types::CollectedBody;
use clap::Args;
use http::Method;

use super::place::{self, Place, query};
use crate::{client::ServerArgs, output, printable, status, waiting::spinner};

/// Remove images, and what of them no other image needs
#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Such as alpine:3.20
    #[arg(value_name = "IMAGE", required = true)]
    names: Vec<String>,
    /// Also what sandboxes are made of: it loses its name now, and goes with a later `gc` when they have ended
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &RmArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        let mut failed = false;
        for name in &args.names {
            match spinner("removing the image", remove(&place, name, args.force)).await {
                Ok(()) => output::print(&format!("{}\n", printable::text(name)))?,
                Err(error) => {
                    failed = true;
                    status::complain(&format!("{error:#}"));
                }
            }
        }
        Ok(if failed { ExitCode::from(status::FAILURE) } else { ExitCode::SUCCESS })
    })
}

/// Takes a name away.
pub(super) async fn remove(place: &Place, name: &str, force: bool) -> Result<()> {
    match place {
        Place::Server(client) => {
            let target = format!("/v1/images?{}&force={force}", query(name));
            client.json::<CollectedBody>(Method::DELETE, &target, None::<&()>).await?;
        }
        Place::Here(store) => {
            let (name, nobody) = (name.parse::<Reference>()?, HashSet::new());
            if force {
                store.remove(&name, nobody).await?
            } else {
                store.remove_unused(&name, nobody).await?
            };
        }
    }
    Ok(())
}
