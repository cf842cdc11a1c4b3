//! `boxed serve`: the service, with upstream's few settings over ours.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::cli::ServeArgs;
use crate::{
    commands,
    config::{Environment, Setting, Sources},
    key::Key,
};

pub(super) fn run(args: &ServeArgs, key: Option<Key>, verbose: bool, json_log: bool) -> Result<ExitCode> {
    let mut notes = vec![format!("The driver is `{}` by name alone: sandboxes are made without it", args.driver)];
    let port = match args.port {
        Some(port) => Some((port, "--port")),
        None => port_of_environment()?.map(|port| (port, "PORT")),
    };
    let mut flags: Vec<(Setting, &'static str, String)> = Vec::new();
    if let Some((port, place)) = port {
        flags.push((Setting::Listen, place, format!("127.0.0.1:{port}")));
        if place == "PORT" {
            notes.push("PORT of the environment is used".to_owned());
        }
    }
    if let Some(key) = key {
        flags.push((Setting::BoxedApiKey, "BOXED_API_KEY", key.reveal().to_owned()));
    }
    if verbose {
        flags.push((Setting::Log, "--verbose", "info,caisson_cli=debug,caisson_engine=debug,caisson_server=debug".to_owned()));
    }
    if json_log {
        flags.push((Setting::LogFormat, "--json-log", "json".to_owned()));
    } else if std::env::var_os("BOXED_ENV").is_some_and(|value| value == "production") {
        flags.push((Setting::LogFormat, "BOXED_ENV", "json".to_owned()));
        notes.push("BOXED_ENV of the environment is used".to_owned());
    }
    commands::serve::with(&Sources { file: Sources::file(None), environment: Environment::now(), flags }, &notes)
}

/// `PORT`, which means something under this name alone.
fn port_of_environment() -> Result<Option<u16>> {
    let Some(text) = std::env::var_os("PORT").filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.to_str().and_then(|text| text.parse().ok()) {
        Some(port) => Ok(Some(port)),
        None => bail!("PORT is `{}`, which is no port; correct it, or give --port", text.to_string_lossy()),
    }
}
