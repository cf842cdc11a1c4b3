//! Entries of directories: as many as are wanted, and how they are shown.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{FileBody, ListingBody};
use clap::Args;
use http::Method;

use super::shown;
use crate::{
    client::{Client, ServerArgs, percent},
    output, status, table,
};

/// The server's largest page.
const PAGE: usize = 10_000;

/// How many are listed, and how they are shown.
#[derive(Debug, Args)]
pub(super) struct EntriesArgs {
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Paths only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl EntriesArgs {
    /// Reads `target`, which has a query, until there are enough.
    pub(super) async fn gather(&self, client: &Client, target: &str) -> Result<ListingBody> {
        let wanted = self.limit.max(1);
        let mut all = ListingBody { data: Vec::new(), truncated: false, next_cursor: None, unreadable: 0 };
        loop {
            let limit = (wanted - all.data.len()).min(PAGE);
            let cursor = all.next_cursor.take().map(|cursor| format!("&cursor={}", percent(cursor.as_bytes()))).unwrap_or_default();
            let page: ListingBody = client.json(Method::GET, &format!("{target}&limit={limit}{cursor}"), None::<&()>).await?;
            all.data.extend(page.data);
            all.unreadable = all.unreadable.saturating_add(page.unreadable);
            all.next_cursor = page.next_cursor;
            // Pages may be empty although there is more.
            if all.next_cursor.is_none() || all.data.len() >= wanted {
                all.truncated = all.next_cursor.is_some();
                return Ok(all);
            }
        }
    }

    /// Prints them as was asked for.
    pub(super) fn show(&self, listing: &ListingBody) -> Result<ExitCode> {
        if self.json {
            output::print_json(listing)?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.quiet {
            let paths: String = listing.data.iter().map(|one| format!("{}\n", shown(&one.path, one.path_base64.as_deref()))).collect();
            output::print(&paths)?;
        } else {
            output::print(&rendered(&listing.data))?;
        }
        if listing.unreadable > 0 {
            let message = format!("{} directories are not listed, because the sandbox's user may not read them", listing.unreadable);
            status::complain(&message);
        }
        if listing.truncated {
            status::complain(&format!("these are the first {}, there are more; --limit shows them", listing.data.len()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A table of entries.
pub(super) fn rendered(entries: &[FileBody]) -> String {
    let rows: Vec<_> = entries.iter().map(row).collect();
    table::render(&["MODE", "OWNER", "SIZE", "MODIFIED", "PATH"], &rows)
}

fn row(entry: &FileBody) -> Vec<String> {
    let path = shown(&entry.path, entry.path_base64.as_deref());
    let path = match &entry.target {
        Some(target) => format!("{path} -> {}", shown(target, entry.target_base64.as_deref())),
        None => path,
    };
    vec![
        permissions(&entry.kind, entry.mode),
        format!("{}:{}", entry.uid, entry.gid),
        entry.size.to_string(),
        entry.modified_at.clone(),
        path,
    ]
}

/// Kind and permission bits as `ls -l` shows them.
fn permissions(kind: &str, mode: u32) -> String {
    let kind = match kind {
        "file" => '-',
        "directory" => 'd',
        "symlink" => 'l',
        _ => '?',
    };
    let bits = (0..9).map(|bit| if mode & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] });
    std::iter::once(kind).chain(bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_shown_as_elsewhere() {
        for (kind, mode, text) in [
            ("file", 0o644, "-rw-r--r--"),
            ("directory", 0o755, "drwxr-xr-x"),
            ("symlink", 0o777, "lrwxrwxrwx"),
            ("other", 0, "?---------"),
        ] {
            assert_eq!(permissions(kind, mode), text);
        }
    }
}
