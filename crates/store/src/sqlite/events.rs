//! What has happened, as the triggers of the schema have written it.

use caisson_core::{EventFilter, Events, Happened, SandboxId, StoreError, Tenant};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use super::{read::one_of, statements::Failure};
use crate::{
    rows::{self, clamp},
    unavailable,
};

pub(super) async fn events(pool: &SqlitePool, tenant: &Tenant, filter: &EventFilter) -> Result<Events, StoreError> {
    // One view of all that is asked.
    let mut view = pool.begin().await.map_err(unavailable)?;
    let (last, kept_from) = range(&mut view, tenant).await?;
    if filter.after > last {
        return Err(StoreError::ForeignCursor);
    }
    let mut query = QueryBuilder::<Sqlite>::new("select * from events where tenant = ");
    query.push_bind(tenant.to_string()).push(" and number > ").push_bind(clamp(filter.after));
    one_of(&mut query, "kind", filter.kinds.iter().map(|kind| kind.as_str()));
    if let Some(sandbox) = filter.sandbox {
        query.push(" and sandbox = ").push_bind(sandbox.to_string());
    }
    query.push(" order by number limit ").push_bind(i64::from(filter.limit));
    let found = query.build().fetch_all(&mut *view).await.map_err(unavailable)?;
    let data: Vec<_> = found.iter().map(|row| rows::event(row, tenant)).collect::<Result<_, _>>()?;
    let until = match data.last() {
        Some(event) if data.len() == filter.limit as usize => event.number,
        _ => last,
    };
    Ok(Events { data, until, kept_from })
}

/// Tells of something once, by its name.
pub(super) async fn tell(db: &mut SqliteConnection, tenant: &Tenant, sandbox: SandboxId, what: &Happened) -> Result<(), Failure> {
    let Some((name, reason, message)) = rows::told(what) else { return Ok(()) };
    let kind = what.kind().as_str();
    let known = sqlx::query("select 1 from events where tenant = ? and sandbox = ? and kind = ? and name = ?")
        .bind(tenant.to_string())
        .bind(sandbox.to_string())
        .bind(kind)
        .bind(name.clone())
        .fetch_optional(&mut *db)
        .await?;
    if known.is_some() {
        return Ok(());
    }
    sqlx::query("update tenants set last_event = last_event + 1 where name = ?").bind(tenant.to_string()).execute(&mut *db).await?;
    sqlx::query(
        "insert into events (tenant, number, at, kind, sandbox, name, reason, message) \
         select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), ?, ?, ?, ?, ? from tenants where name = ?",
    )
    .bind(kind)
    .bind(sandbox.to_string())
    .bind(name)
    .bind(reason)
    .bind(message)
    .bind(tenant.to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// Removes some of those that are older; says whether there may be more.
pub(super) async fn forget(db: &mut SqliteConnection, before_us: i64, limit: u32) -> Result<bool, Failure> {
    let removed = sqlx::query("delete from events where (tenant, number) in (select tenant, number from events where at < ? limit ?)")
        .bind(before_us)
        .bind(i64::from(limit))
        .execute(db)
        .await?;
    Ok(removed.rows_affected() >= u64::from(limit))
}

/// The last number of all, and the first one that is kept.
async fn range(db: &mut SqliteConnection, tenant: &Tenant) -> Result<(u64, u64), StoreError> {
    let row = sqlx::query(
        "select last_event, coalesce((select min(number) from events where tenant = tenants.name), last_event + 1) as kept_from \
         from tenants where name = ?",
    )
    .bind(tenant.to_string())
    .fetch_optional(db)
    .await
    .map_err(unavailable)?;
    row.map_or(Ok((0, 1)), |row| rows::range(&row, tenant))
}
