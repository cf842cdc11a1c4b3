//! `caisson fs cp`: copies within a sandbox.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::CopiedBody;
use clap::Args;
use http::Method;

use super::{Ends, shown};
use crate::{client, output, status, waiting::spinner};

/// Copy a file, a link as a link, or a directory with everything in it
#[derive(Debug, Args)]
#[command(after_help = "\
The copy appears whole or not at all. Between here and a sandbox it is `caisson cp`.

Example:
  caisson fs cp build src src.orig")]
pub(crate) struct CpArgs {
    #[command(flatten)]
    ends: Ends,
}

pub(super) fn run(CpArgs { ends }: CpArgs) -> Result<ExitCode> {
    client::talk(&ends.server, async |client| {
        let copied = async {
            let target = format!("{}/files/copy?{}", client.sandbox(&ends.id).await?, ends.query());
            client.json::<CopiedBody>(Method::POST, &target, None::<&()>).await
        };
        let copied = spinner("copying", copied).await?;
        if ends.json {
            output::print_json(&copied)?;
            return Ok(ExitCode::SUCCESS);
        }
        for left in &copied.made.left_out {
            status::complain(&format!("left out {}: {}", shown(&left.path, left.path_base64.as_deref()), left.reason));
        }
        let more = copied.made.left_out_total.saturating_sub(copied.made.left_out.len() as u64);
        if more > 0 {
            status::complain(&format!("left out {more} more"));
        }
        Ok(ExitCode::SUCCESS)
    })
}
