//! `caisson image inspect`.

use std::process::ExitCode;

use anyhow::Result;
use caisson_image::Reference;
use caisson_server::native::types::ImageDetailsBody;
use clap::Args;
use http::Method;

use super::place::{self, Place, query};
use crate::{client::ServerArgs, output, waiting::spinner};

/// Print all that is known of an image as a JSON object: layers, digests, and what it says about the programs that run on it
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Such as alpine:3.20
    #[arg(value_name = "IMAGE")]
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &InspectArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        let image: ImageDetailsBody = match place {
            Place::Server(client) => {
                let target = format!("/v1/images/inspect?{}", query(&args.name));
                spinner("asking the server", client.json(Method::GET, &target, None::<&()>)).await?
            }
            Place::Here(store) => ImageDetailsBody::from(&store.inspect(&args.name.parse::<Reference>()?).await?),
        };
        output::print_json(&image)?;
        Ok(ExitCode::SUCCESS)
    })
}
