//! What all lists of the command line share: as many pages as are needed, shown as a table, as ids or as JSON.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::PageBody;
use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    client::{Client, ServerArgs, percent},
    output, printable, status, table,
};

/// The server's largest page.
const PAGE: usize = 1000;

/// How much is listed, and how it is shown.
#[derive(Debug, Args)]
pub(super) struct Listing {
    /// At most this many [default: 1000]
    #[arg(long, value_name = "N", default_value_t = PAGE, hide_default_value = true)]
    limit: usize,
    /// Ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    pub(super) server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A kind of record in lists.
pub(super) trait Listed: Serialize + DeserializeOwned {
    const COLUMNS: &[&str];

    fn id(&self) -> &str;

    /// Its cells, one for each column.
    fn row(&self, now: Timestamp) -> Vec<String>;
}

impl Listing {
    /// Reads `path` with `query` (each parameter begins with `&`) until there are enough; `keep` leaves out what the server cannot.
    pub(super) async fn gather<T: Listed>(
        &self,
        client: &Client,
        path: &str,
        query: &str,
        keep: Option<fn(&T) -> bool>,
    ) -> Result<PageBody<T>> {
        let wanted = self.limit.max(1);
        let mut all = PageBody { data: Vec::new(), next_cursor: None };
        loop {
            let limit = if keep.is_some() { PAGE } else { (wanted - all.data.len()).min(PAGE) };
            let cursor = all.next_cursor.take().map(|cursor: String| format!("&cursor={}", percent(cursor.as_bytes()))).unwrap_or_default();
            let page: PageBody<T> = client.json(Method::GET, &format!("{path}?limit={limit}{query}{cursor}"), None::<&()>).await?;
            let nothing_came = page.data.is_empty();
            all.data.extend(page.data.into_iter().filter(|one| keep.is_none_or(|keep| keep(one))));
            all.next_cursor = page.next_cursor;
            if all.next_cursor.is_none() || nothing_came || all.data.len() >= wanted {
                all.data.truncate(wanted);
                return Ok(all);
            }
        }
    }

    /// Prints it as it was asked for.
    pub(super) fn show<T: Listed>(&self, page: &PageBody<T>) -> Result<ExitCode> {
        if self.json {
            output::print_json(page)?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.quiet {
            let ids: String = page.data.iter().map(|one| format!("{}\n", printable::text(one.id()))).collect();
            output::print(&ids)?;
        } else {
            let now = Timestamp::now();
            let rows: Vec<Vec<String>> = page.data.iter().map(|one| one.row(now)).collect();
            output::print(&table::render(T::COLUMNS, &rows))?;
        }
        if page.next_cursor.is_some() {
            status::complain(&format!("these are the newest {}, there are more; --limit shows them", page.data.len()));
        }
        Ok(ExitCode::SUCCESS)
    }
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
