//! Questions about sandboxes, executions and events.

use std::{fmt::Display, str::FromStr};

use caisson_core::{
    Cursor, EventFilter, Events, Execution, ExecutionFilter, ExecutionId, Page, Sandbox, SandboxFilter, SandboxId, StoreError, Tenant,
};
use sqlx::{Connection, PgConnection, Postgres, QueryBuilder};

use super::{attempts::Failure, owner::Owner, pair};
use crate::{
    doomed::{MARKS, Mark},
    rows::{self, clamp},
};

pub(super) async fn sandbox(db: &mut PgConnection, tenant: &Tenant, id: SandboxId) -> Result<Option<Sandbox>, Failure> {
    let query = sqlx::query("select * from sandboxes where id = $1 and tenant = $2").bind(id.to_string()).bind(tenant.as_str());
    Ok(query.fetch_optional(db).await?.as_ref().map(rows::sandbox).transpose()?)
}

pub(super) async fn execution(db: &mut PgConnection, tenant: &Tenant, id: ExecutionId) -> Result<Option<Execution>, Failure> {
    let query = sqlx::query("select * from executions where id = $1 and tenant = $2").bind(id.to_string()).bind(tenant.as_str());
    Ok(query.fetch_optional(db).await?.as_ref().map(rows::execution).transpose()?)
}

pub(super) async fn sandboxes(db: &mut PgConnection, tenant: &Tenant, filter: &SandboxFilter) -> Result<Page<Sandbox>, Failure> {
    let mut query = QueryBuilder::new("select * from sandboxes where tenant = ");
    query.push_bind(tenant.as_str());
    one_of(&mut query, "state", filter.states.iter().map(|state| state.as_str()));
    if !filter.metadata.is_empty() {
        let pairs: Vec<String> = filter.metadata.iter().map(|(key, value)| pair(key, value)).collect();
        query.push(" and pairs @> ").push_bind(pairs);
    }
    if let Some(name) = &filter.name {
        query.push(" and name = ").push_bind(name);
    }
    if let Some(cursor) = after::<SandboxId>(filter.cursor.as_deref())? {
        query.push(" and (created_at, id) < (").push_bind(cursor.at).push(", ").push_bind(cursor.id.to_string()).push(")");
    }
    query.push(" order by created_at desc, id desc limit ").push_bind(i64::from(filter.limit) + 1);
    let found = query.build().fetch_all(db).await?;
    let data = found.iter().map(rows::sandbox).collect::<Result<_, _>>()?;
    Ok(Page::cut(data, filter.limit, |s| Cursor { at: s.created_at.as_microsecond(), id: s.id }.to_text()))
}

pub(super) async fn executions(db: &mut PgConnection, tenant: &Tenant, filter: &ExecutionFilter) -> Result<Page<Execution>, Failure> {
    let mut query = QueryBuilder::new("select * from executions where sandbox = ");
    query.push_bind(filter.sandbox.to_string()).push(" and tenant = ").push_bind(tenant.as_str());
    one_of(&mut query, "status", filter.statuses.iter().map(|status| status.as_str()));
    if let Some(cursor) = after::<ExecutionId>(filter.cursor.as_deref())? {
        query.push(" and (started_at, id) < (").push_bind(cursor.at).push(", ").push_bind(cursor.id.to_string()).push(")");
    }
    query.push(" order by started_at desc, id desc limit ").push_bind(i64::from(filter.limit) + 1);
    let found = query.build().fetch_all(db).await?;
    let data = found.iter().map(rows::execution).collect::<Result<_, _>>()?;
    Ok(Page::cut(data, filter.limit, |e| Cursor { at: e.started_at.as_microsecond(), id: e.id }.to_text()))
}

/// Of this server and of nobody, or of all where it has the database alone.
pub(super) async fn stopped(db: &mut PgConnection, owner: &Owner) -> Result<Vec<Sandbox>, Failure> {
    let found = sqlx::query("select * from sandboxes where state = 'stopped' and ($2 or server = $1 or server is null)");
    let found = found.bind(owner.id()).bind(owner.membership.sharing.is_none());
    let found = found.fetch_all(db).await?;
    Ok(found.iter().map(rows::sandbox).collect::<Result<_, _>>()?)
}

pub(super) async fn events(db: &mut PgConnection, tenant: &Tenant, filter: &EventFilter) -> Result<Events, Failure> {
    // One view of all that is asked.
    let mut view = db.begin_with("begin isolation level repeatable read read only").await?;
    let range = sqlx::query(
        "select last_event, coalesce((select min(number) from events where tenant = tenants.name), last_event + 1) as kept_from \
         from tenants where name = $1",
    );
    let range = range.bind(tenant.as_str()).fetch_optional(&mut *view).await?;
    let (last, kept_from) = range.map_or(Ok((0, 1)), |row| rows::range(&row, tenant))?;
    if filter.after > last {
        return Err(StoreError::ForeignCursor.into());
    }
    let mut query = QueryBuilder::new("select * from events where tenant = ");
    query.push_bind(tenant.as_str()).push(" and number > ").push_bind(clamp(filter.after));
    one_of(&mut query, "kind", filter.kinds.iter().map(|kind| kind.as_str()));
    if let Some(sandbox) = filter.sandbox {
        query.push(" and sandbox = ").push_bind(sandbox.to_string());
    }
    query.push(" order by number limit ").push_bind(i64::from(filter.limit));
    let found = query.build().fetch_all(&mut *view).await?;
    view.commit().await?;
    let data: Vec<_> = found.iter().map(|row| rows::event(row, tenant)).collect::<Result<_, _>>()?;
    let until = match data.last() {
        Some(event) if data.len() == filter.limit as usize => event.number,
        _ => last,
    };
    Ok(Events { data, until, kept_from })
}

/// Where each tenant that has more ended sandboxes than are kept has too many.
pub(super) async fn marks(db: &mut PgConnection, kept: u64) -> Result<Vec<Mark>, Failure> {
    let mut query = QueryBuilder::<Postgres>::new(MARKS);
    query.push_bind(clamp(kept.saturating_add(1)));
    let found = query.build().fetch_all(db).await?;
    Ok(found.iter().map(rows::mark).collect::<Result<_, _>>()?)
}

/// Nothing in the list means everything.
fn one_of(query: &mut QueryBuilder<Postgres>, column: &str, values: impl ExactSizeIterator<Item = &'static str>) {
    if values.len() > 0 {
        let values: Vec<&str> = values.collect();
        query.push(format!(" and {column} = any(")).push_bind(values).push(")");
    }
}

fn after<Id: Display + FromStr>(cursor: Option<&str>) -> Result<Option<Cursor<Id>>, StoreError> {
    cursor.map(|text| Cursor::parse(text).ok_or(StoreError::ForeignCursor)).transpose()
}
