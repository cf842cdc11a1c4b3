//! `caisson ls`: which sandboxes there are.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{PageBody, SandboxBody};
use clap::Args;
use http::Method;
use jiff::Timestamp;

use crate::{
    args::Pair,
    client::{self, Client, ServerArgs, percent},
    output, printable, status, table,
    waiting::spinner,
};

/// The server's largest page.
const PAGE: usize = 1000;

/// List sandboxes, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caisson rm $(caisson ls -q --metadata project=x)")]
pub(crate) struct LsArgs {
    /// Ended ones as well
    #[arg(short, long)]
    all: bool,
    /// Only of this name
    #[arg(long)]
    name: Option<String>,
    /// Only those with this label; may repeat
    #[arg(long, value_name = "NAME=VALUE")]
    metadata: Vec<Pair>,
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

pub(crate) fn run(args: LsArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let page = spinner("asking the server", gather(&client, &args)).await?;
        if args.json {
            output::print_json(&page)?;
            return Ok(ExitCode::SUCCESS);
        }
        if args.quiet {
            let ids: String = page.data.iter().map(|sandbox| format!("{}\n", printable::text(&sandbox.id))).collect();
            output::print(&ids)?;
        } else {
            let now = Timestamp::now();
            let rows: Vec<Vec<String>> = page.data.iter().map(|sandbox| row(sandbox, now)).collect();
            output::print(&table::render(&["ID", "NAME", "STATE", "AGE", "ACTIVE", "ENDS IN", "IMAGE"], &rows))?;
        }
        if page.next_cursor.is_some() {
            status::complain(&format!("these are the newest {}, there are more; --limit shows them", page.data.len()));
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// As many pages as are needed.
async fn gather(client: &Client, args: &LsArgs) -> Result<PageBody<SandboxBody>> {
    let mut query = String::new();
    if !args.all {
        query.push_str("&state=creating&state=running&state=stopping");
    }
    if let Some(name) = &args.name {
        query.push_str(&format!("&name={}", percent(name.as_bytes())));
    }
    for Pair { name, value } in &args.metadata {
        query.push_str(&format!("&metadata.{}={}", percent(name.as_bytes()), percent(value.as_bytes())));
    }
    let mut all = PageBody { data: Vec::new(), next_cursor: None };
    loop {
        let limit = (args.limit.max(1) - all.data.len()).min(PAGE);
        let cursor = all.next_cursor.take().map(|cursor: String| format!("&cursor={}", percent(cursor.as_bytes()))).unwrap_or_default();
        let target = format!("/v1/sandboxes?limit={limit}{query}{cursor}");
        let page: PageBody<SandboxBody> = client.json(Method::GET, &target, None::<&()>).await?;
        let nothing_came = page.data.is_empty();
        all.data.extend(page.data.into_iter().take(limit));
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_none() || nothing_came || all.data.len() >= args.limit {
            return Ok(all);
        }
    }
}

fn row(sandbox: &SandboxBody, now: Timestamp) -> Vec<String> {
    let since = |text: &str| text.parse().map(|at| span(now.as_second() - Timestamp::as_second(at))).unwrap_or_default();
    let state = match &sandbox.tombstone {
        Some(tombstone) => format!("{} ({})", sandbox.state, tombstone.reason),
        None => sandbox.state.clone(),
    };
    let expires: Option<Timestamp> = sandbox.expires_at.as_ref().and_then(|text| text.parse().ok()).filter(|_| sandbox.tombstone.is_none());
    vec![
        sandbox.id.clone(),
        sandbox.name.clone().unwrap_or_default(),
        state,
        since(&sandbox.created_at),
        since(&sandbox.last_active_at),
        expires.map(|at| span(at.as_second() - now.as_second())).unwrap_or_default(),
        sandbox.image.clone(),
    ]
}

/// Seconds as people say them: one unit, rounded down.
pub(super) fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_one_unit() {
        for (seconds, text) in [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d"), (864_000, "10 d")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
