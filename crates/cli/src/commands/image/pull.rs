//! `caisson image pull`.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use caisson_image::Reference;
use caisson_server::{
    ErrorBody,
    native::types::{ImageBody, PullBody, PullProgressBody},
};
use clap::Args;
use http::Method;

use super::place::{self, Place};
use crate::{
    client::{Client, ServerArgs},
    images, output, printable,
    waiting::Pulling,
};

/// Get an image from its registry and print its name in full; what is here already is not fetched again
#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Such as alpine:3.20 or ghcr.io/team/app:1
    #[arg(value_name = "IMAGE")]
    name: String,
    /// Print what is known of the image as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &PullArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        let image = match place {
            Place::Server(client) => ask(&client, &args.name).await?,
            Place::Here(store) => {
                let name: Reference = args.name.parse()?;
                let logins = store.logins().await?;
                images::pull(&store, name.clone(), logins).await?;
                ImageBody::from(&store.inspect(&name).await?.listed)
            }
        };
        if args.json {
            output::print_json(&image)?;
        } else {
            output::print(&format!("{}\n", printable::text(&image.name)))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Lets a server get an image, and shows how far it has come.
pub(super) async fn ask(client: &Client, name: &str) -> Result<ImageBody> {
    let bar = Pulling::begin(name);
    let mut events = client.events(Method::POST, "/v1/images/pull", &PullBody { name: name.to_owned(), login: None }).await?;
    while let Some(event) = events.next().await? {
        let senseless = || format!("the server's event `{}` makes no sense; is it of this version?", printable::text(&event.name));
        match event.name.as_str() {
            "progress" => {
                let now: PullProgressBody = serde_json::from_str(&event.data).with_context(senseless)?;
                let unpacked = now.layers.iter().filter(|layer| layer.phase == "done").count();
                bar.at((now.bytes, now.total_bytes), (unpacked, now.layers.len()));
            }
            "result" => return serde_json::from_str(&event.data).with_context(senseless),
            "error" => bail!("{}", serde_json::from_str::<ErrorBody>(&event.data).with_context(senseless)?.error.message),
            _ => {}
        }
    }
    bail!("the server's answer broke off; it may go on with the pull, and `caisson image ls` shows when the image is there")
}
