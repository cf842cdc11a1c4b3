//! Which interpreter, as `repl` and `context new` take it.

use anyhow::Result;
use caisson_server::native::types::CreateContextBody;
use clap::Args;

use super::{Pair, unique};

/// The interpreter and its surroundings.
#[derive(Debug, Args)]
pub(crate) struct InterpreterArgs {
    /// `python`, `node`, `bash`, `r`, or the language of a Jupyter kernel in the image
    #[arg(short, long, value_name = "LANG")]
    lang: String,
    /// `builtin` for our own driver, `jupyter` for a kernel of the image [default: a kernel where there is one]
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// A variable for the interpreter; may repeat
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<Pair>,
    /// Directory to start in [default: /workspace]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
}

impl InterpreterArgs {
    /// As the API takes it.
    pub(crate) fn into_body(self) -> Result<CreateContextBody> {
        let Self { lang, driver, env, cwd } = self;
        Ok(CreateContextBody { language: lang, driver, env: unique("--env", env)?, cwd })
    }
}
