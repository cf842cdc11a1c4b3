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

const AFTER_HELP: &str = "\
One of the two is ID:PATH, a path in a sandbox (by its id or name); a relative one begins in its work directory. The other is a path \
here, or `-` for standard input or output. Directories are copied with everything in them. As with `cp`, a source goes into a \
destination that is a directory, and under the destination's name otherwise. Permission bits are kept, and of directories times and \
links too; owners are not. Sockets, fifos and devices are left out, on the way out of a sandbox also links that lead out of the copy; what \
is left out is said.

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

impl Report {
    /// Adds things below `root`: `total`, of which only the first are named.
    fn add<'a>(&mut self, root: &str, named: impl Iterator<Item = (&'a [u8], &'a str)>, total: u64) {
        let begin = self.left_out.len();
        self.left_out.extend(named.map(|(path, why)| format!("{root}/{}: {why}", String::from_utf8_lossy(path))));
        let more = total.saturating_sub((self.left_out.len() - begin) as u64);
        if more > 0 {
            self.left_out.push(format!("{more} more in {root}"));
        }
    }
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
