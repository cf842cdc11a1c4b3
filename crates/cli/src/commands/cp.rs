//! `caisson cp`: files in and out of a sandbox that stays.

mod download;
mod place;
mod remote;
mod upload;

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::{place::Place, remote::Remote};
use crate::{
    client::{self, ServerArgs},
    signals::Signals,
    status,
};

/// Files on their way at one time.
const FILES_AT_ONCE: usize = 8;

const AFTER_HELP: &str = "\
One of the two is ID:PATH, a path in a sandbox (by its id or name); a relative one begins in its work directory. The other is a path \
here, or `-` for standard input or output. Directories are copied with everything in them. As with `cp`, a source goes into a \
destination that is a directory, and under the destination's name otherwise. Permission bits are kept, owners are not. \
Links, sockets and devices inside directories are left out, and said.

Examples:
  caisson cp data.csv build:/workspace/
  caisson cp src build:src
  caisson cp build:/workspace/out ./out
  caisson cp build:result.json - | jq .";

/// Copy files into a sandbox or out of it
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CpArgs {
    /// What to copy
    #[arg(value_name = "SRC")]
    source: OsString,
    /// Where to
    #[arg(value_name = "DST")]
    destination: OsString,
    #[command(flatten)]
    server: ServerArgs,
}

/// What became of a copy that was not given up.
#[derive(Debug, Default)]
struct Report {
    /// What cannot be copied, and why.
    left_out: Vec<String>,
}

pub(crate) fn run(args: CpArgs) -> Result<ExitCode> {
    let (source, destination) = (Place::parse(args.source)?, Place::parse(args.destination)?);
    client::talk(&args.server, async |client| {
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        let copy = async {
            match (source, destination) {
                (Place::Sandbox { name, path }, to @ (Place::Here(_) | Place::Standard)) => {
                    download::copy(&Remote::find(&client, &name).await?, path, to).await
                }
                (from @ (Place::Here(_) | Place::Standard), Place::Sandbox { name, path }) => {
                    upload::copy(&Remote::find(&client, &name).await?, from, path).await
                }
                (Place::Sandbox { .. }, Place::Sandbox { .. }) => bail!("both SRC and DST are in sandboxes; copy by way of this machine"),
                _ => bail!("neither SRC nor DST is in a sandbox; write that one as ID:PATH"),
            }
        };
        let report = tokio::select! {
            report = copy => report?,
            // Files that are not whole yet go with what was writing them.
            signal = signals.next() => return Ok(status::of_signal(signal)),
        };
        for what in &report.left_out {
            status::complain(&format!("left out: {what}"));
        }
        Ok(if report.left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(status::FAILURE) })
    })
}
