//! `caisson ps`: what was and is run in a sandbox.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{ExecutionBody, PageBody};
use clap::Args;
use http::Method;
use jiff::Timestamp;

use super::ls::span;
use crate::{
    client::{self, Client, ServerArgs, percent},
    output, printable, status, table,
    waiting::spinner,
};

/// The server's largest page.
const PAGE: usize = 1000;
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
    /// At most this many [default: 1000]
    #[arg(long, value_name = "N", default_value_t = PAGE, hide_default_value = true)]
    limit: usize,
    /// Ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: PsArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let page = spinner("asking the server", gather(&client, &args)).await?;
        if args.json {
            output::print_json(&page)?;
            return Ok(ExitCode::SUCCESS);
        }
        if args.quiet {
            let ids: String = page.data.iter().map(|execution| format!("{}\n", printable::text(&execution.id))).collect();
            output::print(&ids)?;
        } else {
            let now = Timestamp::now();
            let rows: Vec<Vec<String>> = page.data.iter().map(|execution| row(execution, now)).collect();
            output::print(&table::render(&["EXECUTION", "STATUS", "STARTED", "TOOK", "COMMAND"], &rows))?;
        }
        if page.next_cursor.is_some() {
            status::complain(&format!("these are the newest {}, there are more; --limit shows them", page.data.len()));
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// As many pages as are needed.
async fn gather(client: &Client, args: &PsArgs) -> Result<PageBody<ExecutionBody>> {
    let sandbox = client.sandbox(&args.id).await?;
    let mut all = PageBody { data: Vec::new(), next_cursor: None };
    loop {
        let cursor = all.next_cursor.take().map(|cursor: String| format!("&cursor={}", percent(cursor.as_bytes()))).unwrap_or_default();
        let limit = if args.running { PAGE } else { (args.limit.max(1) - all.data.len()).min(PAGE) };
        let page: PageBody<ExecutionBody> =
            client.json(Method::GET, &format!("{sandbox}/executions?limit={limit}{cursor}"), None::<&()>).await?;
        let nothing_came = page.data.is_empty();
        all.data.extend(page.data.into_iter().filter(|execution| !args.running || execution.status == "running"));
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_none() || nothing_came || all.data.len() >= args.limit.max(1) {
            all.data.truncate(args.limit.max(1));
            return Ok(all);
        }
    }
}

fn row(execution: &ExecutionBody, now: Timestamp) -> Vec<String> {
    let status = match (execution.exit_code, execution.signal) {
        (Some(code), _) => format!("{} {code}", execution.status),
        (None, Some(signal)) if execution.status == "signaled" => format!("{} {signal}", execution.status),
        _ => execution.status.clone(),
    };
    let started: Option<Timestamp> = execution.started_at.parse().ok();
    vec![
        execution.id.clone(),
        status,
        started.map(|at| span(now.as_second() - at.as_second())).unwrap_or_default(),
        execution.duration_ms.map(took).unwrap_or_default(),
        shortened(&execution.cmd.join(" ")),
    ]
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
