//! The program under the name `boxed`: the command line of Boxed, for a server of ours.
//!
//! Texts, flags and exit statuses are upstream's; the key is sent, which upstream's own does not.

mod cli;
mod fs;
mod interact;
mod list;
mod run;
mod serve;
mod types;

use std::{ffi::OsString, path::Path, process::ExitCode};

use anyhow::{Result, anyhow};
use clap::Parser;
use http::HeaderName;

use self::cli::{Cli, Command, Files};
use crate::{
    client::{self, Client, Target},
    key::Key,
    output::Closed,
    printable, status,
};

const KEY_HEADER: HeaderName = HeaderName::from_static("x-boxed-api-key");
/// What ends `SIGPIPE` is told by.
const SIGPIPE: i32 = 13;

/// Whether the program was started under this name.
pub(crate) fn is_called(arguments: &[OsString]) -> bool {
    arguments.first().and_then(|name| Path::new(name).file_name()).is_some_and(|name| name == "boxed")
}

pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to be told when this cannot be printed.
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(status::FAILURE) } else { ExitCode::SUCCESS };
        }
    };
    match carry_out(cli) {
        Ok(code) => code,
        Err(error) if error.is::<Closed>() => status::of_signal(SIGPIPE),
        Err(error) => {
            for line in format!("Error: {error:#}").lines() {
                eprintln!("{}", printable::text(line));
            }
            ExitCode::from(status::FAILURE)
        }
    }
}

fn carry_out(cli: Cli) -> Result<ExitCode> {
    let key = cli.api_key.as_deref().filter(|text| !text.is_empty());
    let key = key.map(|text| Key::new(text).map_err(|what| anyhow!("the key of --api-key or BOXED_API_KEY {what}"))).transpose()?;
    if let Command::Serve(args) = cli.command {
        return serve::run(&args, key, cli.verbose, cli.json_log);
    }
    let server = Target::of_dialect(&cli.url, key, KEY_HEADER)?;
    client::talk_to(server, async |client| match cli.command {
        Command::Serve(_) => Ok(()),
        Command::Run(args) => run::run(&client, &args).await,
        Command::List => list::list(&client).await,
        Command::Repl(args) => interact::repl(&client, &args).await,
        Command::Fs(Files::Ls(args)) => fs::ls(&client, &args).await,
        Command::Fs(Files::Cp(args)) => fs::cp(&client, &args).await,
        Command::Fs(Files::Cat(args)) => fs::cat(&client, &args).await,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where a sandbox is below the server.
fn sandbox(id: &str) -> String {
    format!("/v1/sandbox/{}", client::percent(id.as_bytes()).replace('/', "%2F"))
}

/// A line of our own, with what came from elsewhere made harmless.
fn say(line: &str) -> Result<()> {
    crate::output::print(&format!("{}\n", printable::text(line)))
}

/// Ends a sandbox.
async fn end(client: &Client, id: &str) -> Result<()> {
    client.done(http::Method::DELETE, &sandbox(id)).await
}
