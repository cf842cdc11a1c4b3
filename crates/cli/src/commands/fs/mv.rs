//! `caisson fs mv`: other paths for what is there.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::FileBody;
use clap::Args;
use http::Method;

use super::Ends;
use crate::{client, output, waiting::spinner};

/// Give a file, link or directory another path
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caisson fs mv build out/program out/program.old --replace")]
pub(crate) struct MvArgs {
    #[command(flatten)]
    ends: Ends,
}

pub(super) fn run(MvArgs { ends }: MvArgs) -> Result<ExitCode> {
    client::talk(&ends.server, async |client| {
        let moved = async {
            let target = format!("{}/files/move?{}", client.sandbox(&ends.id).await?, ends.query());
            client.json::<FileBody>(Method::POST, &target, None::<&()>).await
        };
        let moved = spinner("moving", moved).await?;
        if ends.json {
            output::print_json(&moved)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
