//! Sandboxes and executions: the statements that change them.

use caisson_core::{ExecutionId, SandboxId, StopReason, StoreError, Tombstone};
use sqlx::{Connection, PgConnection, QueryBuilder};

use super::{attempts::Failure, storable};
use crate::{
    PURGE_BATCH,
    doomed::{Doomed, Mark},
    rows::{Columns, ExecutionRow, OutcomeRow, SandboxRow},
};

/// Written again, it is the same one.
pub(super) async fn insert_sandbox(db: &mut PgConnection, row: &SandboxRow, pairs: &[String]) -> Result<(), Failure> {
    let inserted = sqlx::query(
        "insert into sandboxes (id, tenant, name, state, spec, lifetime_us, idle_timeout_us, metadata, pairs, created_at, last_active_at, \
         starts, stop_reason, stopped_at, tombstone_reason, tombstone_message, tombstone_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) on conflict (id) do nothing",
    )
    .bind(&row.id)
    .bind(&row.tenant)
    .bind(&row.name)
    .bind(row.state)
    .bind(&row.spec)
    .bind(row.lifetime_us)
    .bind(row.idle_timeout_us)
    .bind(&row.metadata)
    .bind(pairs)
    .bind(row.created_at)
    .bind(row.last_active_at)
    .bind(row.starts)
    .bind(row.stop_reason)
    .bind(row.stopped_at)
    .bind(row.tombstone_reason)
    .bind(row.tombstone_message.as_deref().map(storable))
    .bind(row.tombstone_at)
    .execute(&mut *db)
    .await;
    let Err(error) = inserted else { return Ok(()) };
    if error.as_database_error().is_some_and(|e| e.is_unique_violation()) && row.name.is_some() {
        let holder = sqlx::query("select id from sandboxes where tenant = $1 and name = $2 and state <> 'ended'");
        if let Some(found) = holder.bind(&row.tenant).bind(&row.name).fetch_optional(db).await? {
            return Err(Failure::Final(found.parsed("id").map_or_else(|| found.corrupt("id"), StoreError::NameTaken)));
        }
    }
    Err(error.into())
}

/// What has ended stays as it ended: a writer that comes late, or a second time, changes nothing.
pub(super) async fn update_sandbox(db: &mut PgConnection, row: &SandboxRow, pairs: &[String]) -> Result<(), Failure> {
    sqlx::query(
        "update sandboxes set state = $1, lifetime_us = $2, idle_timeout_us = $3, metadata = $4, pairs = $5, last_active_at = $6, \
         starts = $7, stop_reason = $8, stopped_at = $9, tombstone_reason = $10, tombstone_message = $11, tombstone_at = $12 \
         where id = $13 and state <> 'ended'",
    )
    .bind(row.state)
    .bind(row.lifetime_us)
    .bind(row.idle_timeout_us)
    .bind(&row.metadata)
    .bind(pairs)
    .bind(row.last_active_at)
    .bind(row.starts)
    .bind(row.stop_reason)
    .bind(row.stopped_at)
    .bind(row.tombstone_reason)
    .bind(row.tombstone_message.as_deref().map(storable))
    .bind(row.tombstone_at)
    .bind(&row.id)
    .execute(db)
    .await?;
    Ok(())
}

/// Written again, it is the same one.
pub(super) async fn insert_execution(db: &mut PgConnection, row: &ExecutionRow) -> Result<(), Failure> {
    sqlx::query(
        "insert into executions (id, sandbox, tenant, argv, started_at, status) values ($1, $2, $3, $4, $5, 'running') \
         on conflict (id) do nothing",
    )
    .bind(&row.id)
    .bind(&row.sandbox)
    .bind(&row.tenant)
    .bind(&row.argv)
    .bind(row.started_at)
    .execute(db)
    .await?;
    Ok(())
}

/// What has ended stays as it ended, likewise.
pub(super) async fn finish_execution(db: &mut PgConnection, id: ExecutionId, row: &OutcomeRow) -> Result<(), Failure> {
    sqlx::query(
        "update executions set status = $1, exit_code = $2, signal = $3, message = $4, duration_us = $5, cpu_us = $6, \
         peak_memory_bytes = $7, stdout_total = $8, stdout_dropped = $9, stderr_total = $10, stderr_dropped = $11 \
         where id = $12 and status = 'running'",
    )
    .bind(row.status)
    .bind(row.exit_code.map(i64::from))
    .bind(row.signal.map(i64::from))
    .bind(row.message.as_deref().map(storable))
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
pub(super) async fn bury(db: &mut PgConnection, tombstone: &Tombstone, kept: &[SandboxId]) -> Result<(u64, u64), Failure> {
    let (at, message) = (tombstone.at.as_microsecond(), storable(&tombstone.message));
    let mut both = db.begin().await?;
    let executions = sqlx::query(
        "update executions set status = 'lost', message = $1, duration_us = greatest(0, $2 - started_at) where status = 'running'",
    );
    let executions = executions.bind(&*message).bind(at).execute(&mut *both).await?.rows_affected();
    let stopped = sqlx::query(
        "update sandboxes set state = 'stopped', stop_reason = $1, stopped_at = $2 where state in ('running', 'stopping') and id = any($3)",
    );
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let stopped = stopped.bind(StopReason::ServerLost.as_str()).bind(at).bind(kept).execute(&mut *both).await?.rows_affected();
    let ended = sqlx::query(
        "update sandboxes set state = 'ended', tombstone_reason = $1, tombstone_message = $2, tombstone_at = $3 \
         where state not in ('ended', 'stopped')",
    );
    let ended = ended.bind(tombstone.reason.as_str()).bind(&*message).bind(at).execute(&mut *both).await?.rows_affected();
    both.commit().await?;
    Ok((stopped + ended, executions))
}

/// Some of those that are to go, with their executions.
pub(super) async fn choose(db: &mut PgConnection, doomed: &Doomed) -> Result<(Vec<String>, Vec<ExecutionId>), Failure> {
    let mut query = QueryBuilder::new("select id from sandboxes where state = 'ended' and ");
    match doomed {
        Doomed::Before(us) => query.push("tombstone_at < ").push_bind(*us),
        Doomed::UpTo(Mark { tenant, at, id }) => {
            query.push("tenant = ").push_bind(tenant);
            query.push(" and (tombstone_at, id) <= (").push_bind(*at).push(", ").push_bind(id).push(")")
        }
    };
    query.push(" order by tombstone_at, id limit ").push_bind(i64::from(PURGE_BATCH));
    let found = query.build().fetch_all(&mut *db).await?;
    let sandboxes: Vec<String> = found.iter().filter_map(|row| row.text("id").flatten()).collect();
    let found = sqlx::query("select id from executions where sandbox = any($1)").bind(&sandboxes).fetch_all(db).await?;
    let executions = found.iter().filter_map(|row| row.parsed("id")).collect();
    Ok((sandboxes, executions))
}

/// Executions go with their sandboxes.
pub(super) async fn remove(db: &mut PgConnection, sandboxes: &[String]) -> Result<(), Failure> {
    sqlx::query("delete from sandboxes where id = any($1)").bind(sandboxes).execute(db).await?;
    Ok(())
}
