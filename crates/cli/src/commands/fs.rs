//! `caisson fs`: the files of a sandbox, one file per thing to do with them.

mod cp;
mod entries;
mod glob;
mod grep;
mod ls;
mod mkdir;
mod mv;
mod rm;
mod stat;
mod watch;

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};

use crate::{
    client::{ServerArgs, percent},
    printable,
};

const AFTER_HELP: &str = "\
Paths are absolute or relative to the work directory. Files come and go with `caisson cp`.

Examples:
  caisson fs ls build src -r
  caisson fs mkdir -p build out/a/b
  caisson fs glob build '**/*.c'
  caisson fs grep build 'TODO|FIXME' src --include '*.c'
  caisson fs watch -r build src";

/// Look at and change the files of a sandbox
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum FsCommand {
    Ls(ls::LsArgs),
    Stat(stat::StatArgs),
    Mkdir(mkdir::MkdirArgs),
    Mv(mv::MvArgs),
    Cp(cp::CpArgs),
    Rm(rm::RmArgs),
    Glob(glob::GlobArgs),
    Grep(grep::GrepArgs),
    Watch(watch::WatchArgs),
}

pub(crate) fn run(command: FsCommand) -> Result<ExitCode> {
    match command {
        FsCommand::Ls(args) => ls::run(args),
        FsCommand::Stat(args) => stat::run(args),
        FsCommand::Mkdir(args) => mkdir::run(args),
        FsCommand::Mv(args) => mv::run(args),
        FsCommand::Cp(args) => cp::run(args),
        FsCommand::Rm(args) => rm::run(args),
        FsCommand::Glob(args) => glob::run(args),
        FsCommand::Grep(args) => grep::run(args),
        FsCommand::Watch(args) => watch::run(args),
    }
}

/// From where to where, as moving and copying take it.
#[derive(Debug, Args)]
struct Ends {
    /// The sandbox, by its id or name
    #[arg(value_name = "SANDBOX")]
    id: String,
    /// What is there
    from: OsString,
    /// Its whole new path; directories on the way are made
    to: OsString,
    /// Take the place of what is there: a file, a link, an empty directory
    #[arg(long)]
    replace: bool,
    /// Print what has come of it as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl Ends {
    fn query(&self) -> String {
        format!("from={}&to={}&replace={}", escaped(&self.from), escaped(&self.to), self.replace)
    }
}

/// A path in a query.
fn escaped(path: &OsStr) -> String {
    percent(path.as_bytes())
}

/// A path of an answer as it is shown.
fn shown(path: &str, base64: Option<&str>) -> String {
    match base64.and_then(|text| STANDARD.decode(text).ok()) {
        Some(bytes) => printable::bytes(&bytes),
        None => printable::text(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_show_their_bytes() {
        assert_eq!(shown("/a\u{fffd}", Some("L2H/")), "/a\\xff");
        assert_eq!(shown("/łódź\n", None), "/łódź\\n");
    }
}
