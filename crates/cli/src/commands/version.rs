//! `caisson version`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::output;

/// Say which version this is
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: VersionArgs) -> Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    if args.json {
        output::print_json(&json!({"name": "caisson", "version": version, "api": "v1"}))?;
    } else {
        output::print(&format!("caisson {version}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
