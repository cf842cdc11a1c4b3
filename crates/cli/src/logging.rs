//! The server's log, on standard error.

use std::io::IsTerminal;

use anyhow::{Result, anyhow};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::reports;

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

/// Begins to log, on standard error and, where that is told of it, to Sentry. Call it once.
pub(crate) fn begin(filter: &str, format: Format, sentry: Option<&reports::Settings>) -> Result<()> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| anyhow!("the log filter makes no sense: {error}"))?;
    let all = tracing_subscriber::registry().with(reports::layers(sentry)).with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let begun = match format {
        Format::Text => all.with(lines.with_ansi(std::io::stderr().is_terminal()).with_target(false)).try_init(),
        Format::Json => all.with(lines.json().flatten_event(true).with_current_span(true).with_span_list(false)).try_init(),
    };
    begun.map_err(|error| anyhow!("cannot begin to log: {error}"))
}
