//! `caisson commit`: an image out of a sandbox.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{CommitBody, CommitConfigBody, ImageDetailsBody};
use clap::Args;
use http::Method;

use crate::{
    args::{Pair, unique},
    client::{self, ServerArgs},
    output, printable,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Prints the name of the image in full. The sandbox has to be made of an image; its programs stand still while its files are read, and then go on. \
It needs an admin's key.

What is not said of the image's programs stays as it was; variables and labels are added. An empty --workdir, --user or word of --cmd and \
--entrypoint takes away what was there.

Examples:
  caisson new --image debian:12 --user root --name build
  caisson exec build -- dpkg -i /tmp/tool.deb
  caisson commit build team/tool:1 --env MODE=fast --cmd tool --cmd --serve
  caisson run --image team/tool:1";

/// Make an image of what a sandbox has become
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CommitArgs {
    /// The sandbox, by its id or name
    id: String,
    /// What the image is to be called, such as team/app:1
    #[arg(value_name = "IMAGE")]
    name: String,
    /// A variable for its programs; may repeat
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<Pair>,
    /// The words of its command; may repeat
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Option<Vec<String>>,
    /// The words of its entrypoint; may repeat
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Option<Vec<String>>,
    /// Where its programs start
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// Who its programs are: NAME, UID, NAME:GROUP or UID:GID
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A label; may repeat
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<Pair>,
    /// A port that is told to people, such as 8080/tcp; may repeat
    #[arg(long, value_name = "PORT")]
    expose: Option<Vec<String>>,
    /// A note for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Print what is known of the image as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: CommitArgs) -> Result<ExitCode> {
    let (env, labels) = (unique("--env", args.env)?, unique("--label", args.label)?);
    let config = CommitConfigBody {
        env: (!env.is_empty()).then_some(env),
        working_dir: args.workdir,
        user: args.user,
        entrypoint: args.entrypoint.map(words),
        cmd: args.cmd.map(words),
        labels: (!labels.is_empty()).then_some(labels),
        exposed_ports: args.expose,
        shell: None,
    };
    let body = CommitBody { name: args.name, config: Some(config), comment: args.message };
    client::talk(&args.server, async |client| {
        let made = async {
            let target = client.sandbox(&args.id).await?;
            client.json::<ImageDetailsBody>(Method::POST, &format!("{target}/commit"), Some(&body)).await
        };
        let made = spinner("making the image", made).await?;
        if args.json {
            output::print_json(&made)?;
        } else {
            output::print(&format!("{}\n", printable::text(&made.image.name)))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// One that is empty stands for none.
fn words(words: Vec<String>) -> Vec<String> {
    if words.iter().all(String::is_empty) { Vec::new() } else { words }
}
