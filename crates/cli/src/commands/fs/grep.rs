//! `caisson fs grep`: files by their contents.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use caisson_server::native::types::{GrepBody, GrepLineBody, GrepMatchBody};
use clap::Args;
use http::Method;

use super::{escaped, shown};
use crate::{
    args::{duration, size},
    client::{self, ServerArgs, percent},
    output, status,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
The pattern is a regular expression over bytes. Shows path, number and text of each line, as `grep` does; what ends the search early is said \
on standard error.

Examples:
  caisson fs grep build 'TODO|FIXME' src
  caisson fs grep build -F 'a[0]' --include '*.c' -C 2";

/// Search files line by line
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct GrepArgs {
    /// The sandbox, by its id or name
    #[arg(value_name = "SANDBOX")]
    id: String,
    /// What to search for
    pattern: String,
    /// File, or directory with everything in it
    #[arg(default_value = ".")]
    path: OsString,
    /// Search for the text as it is
    #[arg(short = 'F', long)]
    literal: bool,
    /// Whether letters are large or small is all the same
    #[arg(short, long)]
    ignore_case: bool,
    /// Only files of this name or path, such as `*.c`; may repeat
    #[arg(long, value_name = "GLOB")]
    include: Vec<OsString>,
    /// No files and directories of this name or path; may repeat
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<OsString>,
    /// So many lines before and behind each as well
    #[arg(short = 'C', long, value_name = "N", default_value_t = 0)]
    context: u32,
    /// At most so many lines that match
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_matches: u32,
    /// At most so much is searched [default: 1G]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    max_bytes: Option<u64>,
    /// At most so long [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_time: Option<std::time::Duration>,
    /// Print what was found as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: GrepArgs) -> Result<ExitCode> {
    let query = query(&args);
    client::talk(&args.server, async |client| {
        let found = async {
            let target = format!("{}/files/grep?{query}", client.sandbox(&args.id).await?);
            client.json::<GrepBody>(Method::GET, &target, None::<&()>).await
        };
        let found = spinner("searching", found).await?;
        if args.json {
            output::print_json(&found)?;
        } else {
            show(&found, args.context > 0)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn query(args: &GrepArgs) -> String {
    let mut query = format!(
        "path={}&pattern={}&literal={}&ignore_case={}&context={}&max_matches={}",
        escaped(&args.path),
        percent(args.pattern.as_bytes()),
        args.literal,
        args.ignore_case,
        args.context,
        args.max_matches
    );
    for (name, patterns) in [("include", &args.include), ("exclude", &args.exclude)] {
        for pattern in patterns {
            query.push_str(&format!("&{name}={}", escaped(pattern)));
        }
    }
    if let Some(bytes) = args.max_bytes {
        query.push_str(&format!("&max_bytes={bytes}"));
    }
    if let Some(time) = args.max_time {
        query.push_str(&format!("&max_seconds={}", time.as_secs_f64()));
    }
    query
}

fn show(found: &GrepBody, with_context: bool) -> Result<()> {
    for (index, one) in found.data.iter().enumerate() {
        if with_context && index > 0 {
            output::print("--\n")?;
        }
        output::print(&lines(one))?;
    }
    if found.unreadable > 0 {
        status::complain(&format!(
            "{} files and directories are not searched, because the sandbox's user may not read them",
            found.unreadable
        ));
    }
    if let Some(limit) = &found.stopped_by {
        status::complain(&format!("there may be more: the search ended at {limit}"));
    }
    Ok(())
}

/// One match between the lines around it.
fn lines(found: &GrepMatchBody) -> String {
    let path = shown(&found.path, found.path_base64.as_deref());
    let line = |mark: char, line: &GrepLineBody| {
        let text = shown(&line.text, line.text_base64.as_deref());
        let (before, behind) = (if line.begin > 0 { "…" } else { "" }, if line.cut { "…" } else { "" });
        format!("{path}{mark}{}{mark}{before}{text}{behind}\n", line.line)
    };
    let before = found.before.iter().map(|one| line('-', one));
    let after = found.after.iter().map(|one| line('-', one));
    before.chain([line(':', &found.line)]).chain(after).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn matches_stand_between_their_lines() {
        let found = json!({
            "path": "/w/a\u{fffd}", "path_base64": "L3cvYf8=", "line": 7, "text": "b\u{1b}[2J", "begin": 90, "cut": true, "spans": [[0, 1]],
            "before": [{"line": 6, "text": "a"}], "after": [{"line": 8, "text": ""}],
        });
        let text = lines(&serde_json::from_value(found).unwrap());
        assert_eq!(text, "/w/a\\xff-6-a\n/w/a\\xff:7:…b\\u{1b}[2J…\n/w/a\\xff-8-\n");
    }
}
