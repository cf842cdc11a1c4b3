//! `caisson kill`: signals for programs.

use std::process::ExitCode;

use anyhow::{Result, bail};
use caisson_core::ExecutionId;
use caisson_server::native::types::{SignalBody, SignalName, Whole};
use clap::Args;
use http::Method;

use super::each::each;
use crate::{
    client::{self, Client, ServerArgs},
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Prints the id of each execution that was told. A signal is for the program; --all is for everything that it has started as well, which \
cannot be refused.

Examples:
  caisson kill exe4x1cqgd0nqk7p6s2m8v0zr5aej
  caisson kill -s INT $(caisson ps build -q --running)
  caisson kill --all exe4x1cqgd0nqk7p6s2m8v0zr5aej";

/// Send a signal to programs that run
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct KillArgs {
    /// The executions
    #[arg(value_name = "EXECUTION", required = true)]
    ids: Vec<String>,
    /// A name such as INT or SIGINT, or a number
    #[arg(short, long, default_value = "TERM", value_parser = signal)]
    signal: SignalName,
    /// Kill them with everything that they have started
    #[arg(short, long, conflicts_with = "signal")]
    all: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: KillArgs) -> Result<ExitCode> {
    let body = (!args.all).then_some(SignalBody { signal: args.signal });
    client::talk(&args.server, async |client| {
        each(&args.ids, async |id| spinner("asking the server", kill(&client, id, body.as_ref())).await).await
    })
}

async fn kill(client: &Client, id: &str, signal: Option<&SignalBody>) -> Result<()> {
    let Ok(id) = id.parse::<ExecutionId>() else {
        bail!("`{id}` is no execution's id; `caisson ps` shows them");
    };
    match signal {
        Some(body) => client.tell(Method::POST, &format!("/v1/executions/{id}/signal"), body).await,
        None => client.done(Method::POST, &format!("/v1/executions/{id}/kill")).await,
    }
}

fn signal(text: &str) -> Result<SignalName, String> {
    let signal = text.parse::<u32>().map_or_else(|_| SignalName::Name(text.to_owned()), |number| SignalName::Number(Whole::from(number)));
    match signal.number() {
        Ok(_) => Ok(signal),
        Err(_) => Err("expected a signal's name such as TERM or SIGTERM, or its number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [("TERM", 15), ("SIGTERM", 15), ("usr1", 10), ("9", 9), ("64", 64)] {
            assert_eq!(signal(text).unwrap().number().unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "-9", "NOPE", "15.0"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
