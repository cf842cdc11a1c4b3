//! `caisson ps`: what was and is run in a sandbox.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::ExecutionBody;
use clap::Args;
use jiff::Timestamp;

use super::listing::{Listed, Listing, span};
use crate::{client, waiting::spinner};

/// Characters of a command in the table.
const SHOWN: usize = 60;

/// List the executions of a sandbox, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  caisson ps build --running\n  caisson logs $(caisson ps build -q --limit 1)")]
pub(crate) struct PsArgs {
    /// The sandbox, by its id or name
    id: String,
    /// Only those that run
    #[arg(short, long)]
    running: bool,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) fn run(args: PsArgs) -> Result<ExitCode> {
    client::talk(&args.listing.server, async |client| {
        let keep: Option<fn(&ExecutionBody) -> bool> = args.running.then_some(|execution| execution.status == "running");
        let page = async {
            let sandbox = client.sandbox(&args.id).await?;
            args.listing.gather(&client, &format!("{sandbox}/executions"), "", keep).await
        };
        args.listing.show(&spinner("asking the server", page).await?)
    })
}

impl Listed for ExecutionBody {
    const COLUMNS: &[&str] = &["EXECUTION", "STATUS", "STARTED", "TOOK", "COMMAND"];

    fn id(&self) -> &str {
        &self.id
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        let status = match (self.exit_code, self.signal) {
            (Some(code), _) => format!("{} {code}", self.status),
            (None, Some(signal)) if self.status == "signaled" => format!("{} {signal}", self.status),
            _ => self.status.clone(),
        };
        let started: Option<Timestamp> = self.started_at.parse().ok();
        vec![
            self.id.clone(),
            status,
            started.map(|at| span(now.as_second() - at.as_second())).unwrap_or_default(),
            self.duration_ms.map(took).unwrap_or_default(),
            shortened(&self.cmd.join(" ")),
        ]
    }
}

fn took(milliseconds: f64) -> String {
    if milliseconds < 1000.0 { format!("{milliseconds:.0} ms") } else { format!("{:.1} s", milliseconds / 1000.0) }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_are_shortened_at_a_character() {
        assert_eq!(shortened("ls -l"), "ls -l");
        assert_eq!(shortened(&"ä".repeat(SHOWN + 1)), format!("{}…", "ä".repeat(SHOWN)));
    }

    #[test]
    fn spans_are_told_in_their_unit() {
        assert_eq!((took(3.4), took(999.4), took(61_500.0)), ("3 ms".into(), "999 ms".into(), "61.5 s".into()));
    }
}
