//! The server's log, on standard error.

use std::io::IsTerminal;

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged when nobody says anything.
pub(crate) const DEFAULT_FILTER: &str = "info";

/// Checks a filter such as `info,caisson_engine=debug`. An error says what is wrong.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::builder().parse(filter).map(drop).map_err(|error| error.to_string())
}

/// Begins to log. Call it once.
pub(crate) fn begin(filter: &str, format: Format) -> Result<()> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| anyhow!("the log filter makes no sense: {error}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    begun.map_err(|error| anyhow!("cannot begin to log: {error}"))
}
