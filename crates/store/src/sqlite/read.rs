//! Questions, answered by the pool of read-only connections.

use std::{fmt::Display, str::FromStr};

use caisson_core::{Cursor, Execution, ExecutionFilter, ExecutionId, Page, Sandbox, SandboxFilter, SandboxId, StoreError, Tenant};
use sqlx::{QueryBuilder, Sqlite, SqlitePool};

use crate::{
    doomed::{MARKS, Mark},
    rows::{self, clamp},
    unavailable,
};

pub(super) async fn ping(pool: &SqlitePool) -> Result<(), StoreError> {
    sqlx::query("select 1").execute(pool).await.map_err(unavailable)?;
    Ok(())
}

pub(super) async fn sandbox(pool: &SqlitePool, tenant: &Tenant, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
    let row = sqlx::query("select * from sandboxes where id = ? and tenant = ?")
        .bind(id.to_string())
        .bind(tenant.to_string())
        .fetch_optional(pool)
        .await
        .map_err(unavailable)?;
    row.as_ref().map(rows::sandbox).transpose()
}

pub(super) async fn execution(pool: &SqlitePool, tenant: &Tenant, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
    let row = sqlx::query("select * from executions where id = ? and tenant = ?")
        .bind(id.to_string())
        .bind(tenant.to_string())
        .fetch_optional(pool)
        .await
        .map_err(unavailable)?;
    row.as_ref().map(rows::execution).transpose()
}

pub(super) async fn sandboxes(pool: &SqlitePool, tenant: &Tenant, filter: &SandboxFilter) -> Result<Page<Sandbox>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("select * from sandboxes where tenant = ");
    query.push_bind(tenant.to_string());
    one_of(&mut query, "state", filter.states.iter().map(|state| state.as_str()));
    for (key, value) in &filter.metadata {
        query.push(" and exists (select 1 from json_each(metadata) as pair where pair.key = ").push_bind(key.clone());
        query.push(" and pair.value = ").push_bind(value.clone()).push(")");
    }
    if let Some(name) = &filter.name {
        query.push(" and name = ").push_bind(name.clone());
    }
    if let Some(cursor) = after::<SandboxId>(filter.cursor.as_deref())? {
        query.push(" and (created_at, id) < (").push_bind(cursor.at).push(", ").push_bind(cursor.id.to_string()).push(")");
    }
    query.push(" order by created_at desc, id desc limit ").push_bind(i64::from(filter.limit) + 1);
    let found = query.build().fetch_all(pool).await.map_err(unavailable)?;
    let data = found.iter().map(rows::sandbox).collect::<Result<_, _>>()?;
    Ok(Page::cut(data, filter.limit, |s| Cursor { at: s.created_at.as_microsecond(), id: s.id }.to_text()))
}

pub(super) async fn executions(pool: &SqlitePool, tenant: &Tenant, filter: &ExecutionFilter) -> Result<Page<Execution>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("select * from executions where sandbox = ");
    query.push_bind(filter.sandbox.to_string()).push(" and tenant = ").push_bind(tenant.to_string());
    one_of(&mut query, "status", filter.statuses.iter().map(|status| status.as_str()));
    if let Some(cursor) = after::<ExecutionId>(filter.cursor.as_deref())? {
        query.push(" and (started_at, id) < (").push_bind(cursor.at).push(", ").push_bind(cursor.id.to_string()).push(")");
    }
    query.push(" order by started_at desc, id desc limit ").push_bind(i64::from(filter.limit) + 1);
    let found = query.build().fetch_all(pool).await.map_err(unavailable)?;
    let data = found.iter().map(rows::execution).collect::<Result<_, _>>()?;
    Ok(Page::cut(data, filter.limit, |e| Cursor { at: e.started_at.as_microsecond(), id: e.id }.to_text()))
}

pub(super) async fn stopped(pool: &SqlitePool) -> Result<Vec<Sandbox>, StoreError> {
    let found = sqlx::query("select * from sandboxes where state = 'stopped'").fetch_all(pool).await.map_err(unavailable)?;
    found.iter().map(rows::sandbox).collect()
}

/// Where each tenant that has more ended sandboxes than are kept has too many.
pub(super) async fn marks(pool: &SqlitePool, kept: u64) -> Result<Vec<Mark>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(MARKS);
    query.push_bind(clamp(kept.saturating_add(1)));
    let found = query.build().fetch_all(pool).await.map_err(unavailable)?;
    found.iter().map(rows::mark).collect()
}

/// Nothing in the list means everything.
pub(super) fn one_of(query: &mut QueryBuilder<Sqlite>, column: &str, values: impl ExactSizeIterator<Item = &'static str>) {
    if values.len() == 0 {
        return;
    }
    query.push(format!(" and {column} in ("));
    let mut list = query.separated(", ");
    for value in values {
        list.push_bind(value);
    }
    query.push(")");
}

fn after<Id: Display + FromStr>(cursor: Option<&str>) -> Result<Option<Cursor<Id>>, StoreError> {
    cursor.map(|text| Cursor::parse(text).ok_or(StoreError::ForeignCursor)).transpose()
}
