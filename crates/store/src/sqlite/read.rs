//! Questions, answered by the pool of read-only connections.

use std::fmt::Display;

use caisson_core::{Execution, ExecutionFilter, ExecutionId, Page, Sandbox, SandboxFilter, SandboxId, StoreError};
use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqlitePool, sqlite::SqliteRow};

use super::{rows, unavailable};

pub(super) async fn ping(pool: &SqlitePool) -> Result<(), StoreError> {
    sqlx::query("select 1").execute(pool).await.map_err(unavailable)?;
    Ok(())
}

pub(super) async fn sandbox(pool: &SqlitePool, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
    let row = sqlx::query("select * from sandboxes where id = ?").bind(id.to_string()).fetch_optional(pool).await.map_err(unavailable)?;
    row.as_ref().map(rows::sandbox).transpose()
}

pub(super) async fn execution(pool: &SqlitePool, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
    let row = sqlx::query("select * from executions where id = ?").bind(id.to_string()).fetch_optional(pool).await.map_err(unavailable)?;
    row.as_ref().map(rows::execution).transpose()
}

pub(super) async fn sandboxes(pool: &SqlitePool, filter: &SandboxFilter) -> Result<Page<Sandbox>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("select * from sandboxes where true");
    if !filter.states.is_empty() {
        query.push(" and state in (");
        let mut list = query.separated(", ");
        for state in &filter.states {
            list.push_bind(state.as_str());
        }
        query.push(")");
    }
    for (key, value) in &filter.metadata {
        query.push(" and exists (select 1 from json_each(metadata) as pair where pair.key = ").push_bind(key.clone());
        query.push(" and pair.value = ").push_bind(value.clone()).push(")");
    }
    if let Some(name) = &filter.name {
        query.push(" and name = ").push_bind(name.clone());
    }
    if let Some(text) = &filter.cursor {
        let Some((at, id)) = parse_cursor::<SandboxId>(text) else { return Ok(empty()) };
        query.push(" and (created_at, id) < (").push_bind(at).push(", ").push_bind(id).push(")");
    }
    query.push(" order by created_at desc, id desc limit ").push_bind(i64::from(filter.limit) + 1);
    let found = query.build().fetch_all(pool).await.map_err(unavailable)?;
    page(&found, filter.limit, rows::sandbox, |s| cursor(s.created_at, s.id))
}

pub(super) async fn executions(pool: &SqlitePool, filter: &ExecutionFilter) -> Result<Page<Execution>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("select * from executions where sandbox = ");
    query.push_bind(filter.sandbox.to_string());
    if let Some(text) = &filter.cursor {
        let Some((at, id)) = parse_cursor::<ExecutionId>(text) else { return Ok(empty()) };
        query.push(" and (started_at, id) < (").push_bind(at).push(", ").push_bind(id).push(")");
    }
    query.push(" order by started_at desc, id desc limit ").push_bind(i64::from(filter.limit) + 1);
    let found = query.build().fetch_all(pool).await.map_err(unavailable)?;
    page(&found, filter.limit, rows::execution, |e| cursor(e.started_at, e.id))
}

/// Cuts off the one row that was only asked for to see whether there is more.
fn page<T>(
    found: &[SqliteRow],
    limit: u32,
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
    cursor: impl Fn(&T) -> String,
) -> Result<Page<T>, StoreError> {
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX).min(found.len());
    let data = found[..wanted].iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let next_cursor = if found.len() > wanted { data.last().map(cursor) } else { None };
    Ok(Page { data, next_cursor })
}

fn empty<T>() -> Page<T> {
    Page { data: Vec::new(), next_cursor: None }
}

/// Where a page ended: the sort key of its last row, so rows that come or go do not shift the next page.
fn cursor(at: Timestamp, id: impl Display) -> String {
    format!("{:x}.{id}", at.as_microsecond())
}

fn parse_cursor<Id: std::str::FromStr + Display>(text: &str) -> Option<(i64, String)> {
    let (at, id) = text.split_once('.')?;
    Some((i64::from_str_radix(at, 16).ok()?, id.parse::<Id>().ok()?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_others_are_refused() {
        let (at, id) = (Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(), SandboxId::random());
        let text = cursor(at, id);
        assert_eq!(parse_cursor::<SandboxId>(&text), Some((at.as_microsecond(), id.to_string())));
        assert_eq!(parse_cursor::<ExecutionId>(&text), None);
        for bad in ["", ".", "1", "1.", "zz.sbx", "1.' or 1=1"] {
            assert_eq!(parse_cursor::<SandboxId>(bad), None, "{bad}");
        }
    }
}
