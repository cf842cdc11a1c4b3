//! Sandboxes and executions: the statements that change them.

use caisson_core::{ExecutionId, SandboxId, StopReason, StoreError, Tombstone};
use sqlx::{Connection, PgConnection, QueryBuilder};

use super::{attempts::Failure, owner::Owner, storable};
use crate::{
    PURGE_BATCH,
    doomed::{Doomed, Mark},
    rows::{Columns, ExecutionRow, OutcomeRow, SandboxRow},
    unavailable,
};

/// Whose records.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    /// Those of one server.
    One(&'a str),
    /// Those of one server, and of times when none was named.
    OneOrNobody(&'a str),
    Everybody,
}

/// Another server has declared this one dead, and nothing is recorded under its old lease.
#[derive(Debug, thiserror::Error)]
#[error("another server has ended what this one hosted, because its lease was over")]
struct DeclaredDead;

/// Of an insert that found nothing to do: it was done before, or may not be done any more.
async fn done_before(db: &mut PgConnection, query: &'static str, id: &str) -> Result<(), Failure> {
    match sqlx::query(query).bind(id).fetch_optional(db).await? {
        Some(_) => Ok(()),
        None => Err(Failure::Final(unavailable(DeclaredDead))),
    }
}

/// Written again, it is the same one. Its host has to be there: nobody declares it dead meanwhile.
pub(super) async fn insert_sandbox(db: &mut PgConnection, owner: &Owner, row: &SandboxRow, pairs: &[String]) -> Result<(), Failure> {
    let inserted = sqlx::query(
        "insert into sandboxes (id, tenant, name, state, spec, lifetime_us, idle_timeout_us, metadata, pairs, created_at, last_active_at, \
         starts, stop_reason, stopped_at, tombstone_reason, tombstone_message, tombstone_at, server) \
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, id from servers where id = $18 and run = $19 \
         for key share on conflict (id) do nothing",
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
    .bind(owner.id())
    .bind(owner.run())
    .execute(&mut *db)
    .await;
    let error = match inserted {
        Ok(inserted) if inserted.rows_affected() > 0 => return Ok(()),
        Ok(_) => return done_before(db, "select 1 from sandboxes where id = $1", &row.id).await,
        Err(error) => error,
    };
    if error.as_database_error().is_some_and(|e| e.is_unique_violation()) && row.name.is_some() {
        let holder = sqlx::query("select id from sandboxes where tenant = $1 and name = $2 and state <> 'ended'");
        if let Some(found) = holder.bind(&row.tenant).bind(&row.name).fetch_optional(db).await? {
            return Err(Failure::Final(found.parsed("id").map_or_else(|| found.corrupt("id"), StoreError::NameTaken)));
        }
    }
    Err(error.into())
}

/// What has ended stays as it ended, and what was started again as it is now: a writer that comes late, or a second time, changes nothing. One
/// that was declared dead is told so.
pub(super) async fn update_sandbox(db: &mut PgConnection, owner: &Owner, row: &SandboxRow, pairs: &[String]) -> Result<(), Failure> {
    let updated = sqlx::query(
        "with host as (select id from servers where id = $14 and run = $15 for key share) update sandboxes set state = $1, lifetime_us = $2, \
         idle_timeout_us = $3, metadata = $4, pairs = $5, last_active_at = $6, starts = $7, stop_reason = $8, stopped_at = $9, \
         tombstone_reason = $10, tombstone_message = $11, tombstone_at = $12, spec = $16 \
         where id = $13 and state <> 'ended' and starts <= $7 and exists (select 1 from host)",
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
    .bind(owner.id())
    .bind(owner.run())
    .bind(&row.spec)
    .execute(&mut *db)
    .await?;
    if updated.rows_affected() > 0 {
        return Ok(());
    }
    // Or it has ended, or begun another life.
    let left_alone = sqlx::query("select 1 from sandboxes where id = $1 and state <> 'ended' and starts <= $2");
    match left_alone.bind(&row.id).bind(row.starts).fetch_optional(db).await? {
        Some(_) => Err(Failure::Final(unavailable(DeclaredDead))),
        None => Ok(()),
    }
}

/// Likewise.
pub(super) async fn insert_execution(db: &mut PgConnection, owner: &Owner, row: &ExecutionRow) -> Result<(), Failure> {
    let inserted = sqlx::query(
        "insert into executions (id, sandbox, tenant, argv, started_at, status) \
         select $1, $2, $3, $4, $5, 'running' from servers where id = $6 and run = $7 for key share on conflict (id) do nothing",
    )
    .bind(&row.id)
    .bind(&row.sandbox)
    .bind(&row.tenant)
    .bind(&row.argv)
    .bind(row.started_at)
    .bind(owner.id())
    .bind(owner.run())
    .execute(&mut *db)
    .await?;
    if inserted.rows_affected() > 0 {
        return Ok(());
    }
    done_before(db, "select 1 from executions where id = $1", &row.id).await
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

/// What an earlier run of this server has left; those of `kept` that were running are stopped. One that has the database alone starts where
/// all others are gone.
pub(super) async fn bury_own(
    db: &mut PgConnection,
    owner: &Owner,
    tombstone: &Tombstone,
    kept: &[SandboxId],
) -> Result<(u64, u64), Failure> {
    let kept = Kept::Named(kept.iter().map(ToString::to_string).collect());
    let mut all = db.begin().await?;
    let (mut sandboxes, mut executions) = bury(&mut all, Of::OneOrNobody(owner.id()), tombstone, &kept).await?;
    if owner.membership.sharing.is_none() {
        let of_others = bury(&mut all, Of::Everybody, tombstone, &Kept::OnDisk).await?;
        (sandboxes, executions) = (sandboxes + of_others.0, executions + of_others.1);
    }
    all.commit().await?;
    Ok((sandboxes, executions))
}

/// Whose files are there when their server is not.
#[derive(Debug)]
pub(super) enum Kept {
    Named(Vec<String>),
    /// All that have them on a disk, as nobody but their server can look for them.
    OnDisk,
}

/// Returns how many sandboxes and executions were still alive. For a transaction.
pub(super) async fn bury(db: &mut PgConnection, of: Of<'_>, tombstone: &Tombstone, kept: &Kept) -> Result<(u64, u64), Failure> {
    let (at, message) = (tombstone.at.as_microsecond(), storable(&tombstone.message));
    let (server, or_nobody, everybody) = match of {
        Of::One(server) => (Some(server), false, false),
        Of::OneOrNobody(server) => (Some(server), true, false),
        Of::Everybody => (None, true, true),
    };
    let executions = sqlx::query(
        "update executions set status = 'lost', message = $1, duration_us = greatest(0, $2 - started_at) from sandboxes \
          where sandboxes.id = executions.sandbox and status = 'running' and ($5 or server = $3 or ($4 and server is null))",
    );
    let executions = executions.bind(&*message).bind(at).bind(server).bind(or_nobody).bind(everybody);
    let executions = executions.execute(&mut *db).await?.rows_affected();
    let (named, on_disk) = match kept {
        Kept::Named(ids) => (ids.as_slice(), false),
        Kept::OnDisk => (&[][..], true),
    };
    let stopped = sqlx::query(
        "update sandboxes set state = 'stopped', stop_reason = $1, stopped_at = $2 where state in ('running', 'stopping') \
         and (id = any($6) or ($7 and spec::jsonb ->> 'storage' = 'disk')) and ($5 or server = $3 or ($4 and server is null))",
    );
    let stopped = stopped.bind(StopReason::ServerLost.as_str()).bind(at).bind(server).bind(or_nobody).bind(everybody).bind(named);
    let stopped = stopped.bind(on_disk).execute(&mut *db).await?.rows_affected();
    let ended = sqlx::query(
        "update sandboxes set state = 'ended', tombstone_reason = $1, tombstone_message = $2, tombstone_at = $6 \
          where state not in ('ended', 'stopped') and ($5 or server = $3 or ($4 and server is null))",
    );
    let ended = ended.bind(tombstone.reason.as_str()).bind(&*message).bind(server).bind(or_nobody).bind(everybody).bind(at);
    let ended = ended.execute(db).await?.rows_affected();
    Ok((stopped + ended, executions))
}

/// Some of those that are to go, with their executions. Those of other servers that are there go with what these have of them on their disks.
pub(super) async fn choose(db: &mut PgConnection, doomed: &Doomed, server: &str) -> Result<(Vec<String>, Vec<ExecutionId>), Failure> {
    let mut query = QueryBuilder::new("select id from sandboxes where state = 'ended' and ");
    match doomed {
        Doomed::Before(us) => query.push("tombstone_at < ").push_bind(*us),
        Doomed::UpTo(Mark { tenant, at, id }) => {
            query.push("tenant = ").push_bind(tenant);
            query.push(" and (tombstone_at, id) <= (").push_bind(*at).push(", ").push_bind(id).push(")")
        }
    };
    query.push(" and (server is null or server = ").push_bind(server);
    query.push(" or not exists (select 1 from servers where servers.id = sandboxes.server))");
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
