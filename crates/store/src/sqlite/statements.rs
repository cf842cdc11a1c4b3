//! The statements that change something. Each runs on the writer's connection, inside its transaction.

use caisson_core::{ExecutionId, SandboxId, StopReason, StoreError, Tombstone};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use crate::{
    doomed::{Doomed, Mark},
    rows::{self, Columns, ExecutionRow, OutcomeRow, SandboxRow},
};

/// Why one operation of a batch did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    /// Only this one: the others of its transaction are not touched.
    Own(StoreError),
    /// The transaction as a whole cannot be trusted any more.
    Batch(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        // SQLite undoes just the statement when a constraint is violated, and possibly everything on other errors.
        let own = error.as_database_error().is_some_and(|e| !matches!(e.kind(), sqlx::error::ErrorKind::Other));
        if own { Self::Own(crate::unavailable(error)) } else { Self::Batch(error) }
    }
}

pub(super) async fn insert_sandbox(db: &mut SqliteConnection, row: &SandboxRow) -> Result<(), Failure> {
    let inserted = sqlx::query(
        "insert into sandboxes (id, tenant, name, state, spec, lifetime_us, idle_timeout_us, metadata, created_at, last_active_at, \
         starts, stop_reason, stopped_at, tombstone_reason, tombstone_message, tombstone_at) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (id) do nothing",
    )
    .bind(row.id.clone())
    .bind(row.tenant.clone())
    .bind(row.name.clone())
    .bind(row.state)
    .bind(row.spec.clone())
    .bind(row.lifetime_us)
    .bind(row.idle_timeout_us)
    .bind(row.metadata.clone())
    .bind(row.created_at)
    .bind(row.last_active_at)
    .bind(row.starts)
    .bind(row.stop_reason)
    .bind(row.stopped_at)
    .bind(row.tombstone_reason)
    .bind(row.tombstone_message.clone())
    .bind(row.tombstone_at)
    .execute(&mut *db)
    .await;
    let Err(error) = inserted else { return Ok(()) };
    if error.as_database_error().is_some_and(|e| e.is_unique_violation()) && row.name.is_some() {
        let holder = sqlx::query("select id from sandboxes where tenant = ? and name = ? and state <> 'ended'")
            .bind(row.tenant.clone())
            .bind(row.name.clone())
            .fetch_optional(db);
        if let Some(found) = holder.await? {
            // Written again, it holds its name itself.
            if found.text("id").flatten().is_some_and(|id| id == row.id) {
                return Ok(());
            }
            return Err(Failure::Own(found.parsed("id").map_or_else(|| found.corrupt("id"), StoreError::NameTaken)));
        }
    }
    Err(error.into())
}

/// What has ended stays as it ended: a writer that comes late, or a second time, changes nothing.
pub(super) async fn update_sandbox(db: &mut SqliteConnection, row: &SandboxRow) -> Result<(), Failure> {
    sqlx::query(
        "update sandboxes set state = ?, spec = ?, lifetime_us = ?, idle_timeout_us = ?, metadata = ?, last_active_at = ?, \
         starts = ?, stop_reason = ?, stopped_at = ?, tombstone_reason = ?, tombstone_message = ?, tombstone_at = ? \
         where id = ? and state <> 'ended' and starts <= ?",
    )
    .bind(row.state)
    .bind(row.spec.clone())
    .bind(row.lifetime_us)
    .bind(row.idle_timeout_us)
    .bind(row.metadata.clone())
    .bind(row.last_active_at)
    .bind(row.starts)
    .bind(row.stop_reason)
    .bind(row.stopped_at)
    .bind(row.tombstone_reason)
    .bind(row.tombstone_message.clone())
    .bind(row.tombstone_at)
    .bind(row.id.clone())
    .bind(row.starts)
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn insert_execution(db: &mut SqliteConnection, row: &ExecutionRow) -> Result<(), Failure> {
    sqlx::query(
        "insert into executions (id, sandbox, tenant, argv, started_at, status) values (?, ?, ?, ?, ?, 'running') \
         on conflict (id) do nothing",
    )
    .bind(row.id.clone())
    .bind(row.sandbox.clone())
    .bind(row.tenant.clone())
    .bind(row.argv.clone())
    .bind(row.started_at)
    .execute(db)
    .await?;
    Ok(())
}

/// Likewise.
pub(super) async fn finish_execution(db: &mut SqliteConnection, id: ExecutionId, row: &OutcomeRow) -> Result<(), Failure> {
    sqlx::query(
        "update executions set status = ?, exit_code = ?, signal = ?, message = ?, duration_us = ?, cpu_us = ?, peak_memory_bytes = ?, \
         stdout_total = ?, stdout_dropped = ?, stderr_total = ?, stderr_dropped = ? where id = ? and status = 'running'",
    )
    .bind(row.status)
    .bind(row.exit_code)
    .bind(row.signal)
    .bind(row.message.clone())
    .bind(row.duration_us)
    .bind(row.cpu_us)
    .bind(row.peak_memory_bytes)
    .bind(row.stdout.0)
    .bind(row.stdout.1)
    .bind(row.stderr.0)
    .bind(row.stderr.1)
    .bind(id.to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// Returns how many sandboxes and executions were still alive. Those of `kept` that were running are stopped.
pub(super) async fn bury(db: &mut SqliteConnection, tombstone: &Tombstone, kept: &[SandboxId]) -> Result<(u64, u64), Failure> {
    let at = tombstone.at.as_microsecond();
    let executions =
        sqlx::query("update executions set status = 'lost', message = ?, duration_us = max(0, ? - started_at) where status = 'running'")
            .bind(tombstone.message.clone())
            .bind(at)
            .execute(&mut *db)
            .await?;
    let mut stopped = QueryBuilder::<Sqlite>::new("update sandboxes set state = 'stopped', stop_reason = ");
    stopped.push_bind(StopReason::ServerLost.as_str()).push(", stopped_at = ").push_bind(at);
    stopped.push(" where state in ('running', 'stopping') and id in (select value from json_each(");
    stopped.push_bind(rows::json(&kept.iter().map(ToString::to_string).collect::<Vec<_>>())).push("))");
    let stopped = stopped.build().execute(&mut *db).await?;
    let ended = sqlx::query(
        "update sandboxes set state = 'ended', tombstone_reason = ?, tombstone_message = ?, tombstone_at = ? \
         where state not in ('ended', 'stopped')",
    )
    .bind(tombstone.reason.as_str())
    .bind(tombstone.message.clone())
    .bind(at)
    .execute(db)
    .await?;
    Ok((stopped.rows_affected() + ended.rows_affected(), executions.rows_affected()))
}

/// Removes up to `limit` sandboxes; returns how many it were and the ids of their executions.
pub(super) async fn purge(db: &mut SqliteConnection, doomed: &Doomed, limit: u32) -> Result<(u64, Vec<ExecutionId>), Failure> {
    let mut executions = QueryBuilder::<Sqlite>::new("select id from executions where sandbox in (");
    choose(&mut executions, doomed, limit);
    let found = executions.build().fetch_all(&mut *db).await?;
    let executions = found.iter().filter_map(|row| row.parsed("id")).collect();
    let mut sandboxes = QueryBuilder::<Sqlite>::new("delete from sandboxes where id in (");
    choose(&mut sandboxes, doomed, limit);
    Ok((sandboxes.build().execute(db).await?.rows_affected(), executions))
}

fn choose(query: &mut QueryBuilder<Sqlite>, doomed: &Doomed, limit: u32) {
    query.push("select id from sandboxes where state = 'ended' and ");
    match doomed {
        Doomed::Before(us) => query.push("tombstone_at < ").push_bind(*us),
        Doomed::UpTo(Mark { tenant, at, id }) => {
            query.push("tenant = ").push_bind(tenant.clone());
            query.push(" and (tombstone_at, id) <= (").push_bind(*at).push(", ").push_bind(id.clone()).push(")")
        }
    };
    query.push(" order by tombstone_at, id limit ").push_bind(limit).push(")");
}
