//! What to run, as `run` and `exec` take it.

use std::ffi::OsString;

use anyhow::{Result, anyhow};
use clap::Args;

use super::{Pair, TimeLimit};

/// Source code in a request is at most this long; the engine's own limit.
pub(crate) const MAX_CODE: usize = 8 << 20;

/// The program and its surroundings.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProgramArgs {
    /// Language of the code: python, node, bash, go, ruby, …, or the name of any interpreter of the image
    #[arg(short, long, value_name = "LANG")]
    pub(crate) lang: Option<String>,
    /// Code to run; needs --lang
    #[arg(short, long, value_name = "CODE", requires = "lang", allow_hyphen_values = true)]
    pub(crate) code: Option<String>,
    /// A variable for the program; may repeat
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<Pair>,
    /// Directory to start in [default: /workspace]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Time until the program and everything it started is killed, or `none` [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<TimeLimit>,
}

/// An argument as text, which is what the API carries.
pub(crate) fn text(argument: OsString) -> Result<String> {
    argument.into_string().map_err(|bad| anyhow!("the argument `{}` is not UTF-8; write it in a file and pass that", bad.to_string_lossy()))
}
