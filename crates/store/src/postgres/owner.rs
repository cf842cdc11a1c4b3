//! One server for one database, for as long as it runs.
//!
//! A server has its living sandboxes in memory, and a second one would bury them when it starts. So every connection holds an advisory lock of
//! its session, shared with the others of its server; whoever starts needs it for itself alone, which it gets when no connection of another is
//! left, and writes down whose the database is now. A connection that comes back after a loss looks there first.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgConnection, Row};

/// "cais", "son" and nothing: the number of the lock.
const LOCK: (i32, i32) = (0x6361_6973, 0x736f_6e00);
/// How long a predecessor that has just died may take to be noticed.
const FREE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What holds for a session: a commit is on disk when it is told, and a machine that has gone is noticed within 35 s.
const SESSION: &str = "set search_path to caisson;
    set tcp_keepalives_idle to 20; set tcp_keepalives_interval to 5; set tcp_keepalives_count to 3;
    select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// This run of a server.
#[derive(Debug)]
pub(super) struct Owner {
    run: String,
    /// Why no connection is of use any more.
    refused: Mutex<Option<String>>,
}

impl Owner {
    pub(super) fn new() -> Self {
        Self { run: caisson_core::SandboxId::random().to_string(), refused: Mutex::default() }
    }

    /// Gets the lock alone, or says who has it.
    pub(super) async fn claim(&self, db: &mut PgConnection) -> Result<Result<(), String>, sqlx::Error> {
        let begun = Instant::now();
        while !yes(db, "pg_try_advisory_lock").await? {
            if begun.elapsed() >= FREE_WITHIN {
                return Ok(Err(holder(db).await?));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        sqlx::raw_sql(SESSION).execute(db).await?;
        Ok(Ok(()))
    }

    /// Writes down whose the database is, and leaves the lock to all connections of this run.
    pub(super) async fn settle(&self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("insert into server (run) values ($1) on conflict (one) do update set run = excluded.run")
            .bind(&self.run)
            .execute(&mut *db)
            .await?;
        yes(db, "pg_try_advisory_lock_shared").await?;
        yes(db, "pg_advisory_unlock").await?;
        Ok(())
    }

    /// For each new connection: whether the database is still ours.
    pub(super) async fn admit(&self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(SESSION).execute(&mut *db).await?;
        // In this order: as long as we have the lock, nobody writes another name there.
        if !yes(db, "pg_try_advisory_lock_shared").await? {
            return Err(self.refuse(format!("another server is taking the database: {}", holder(db).await?)));
        }
        let row = sqlx::query("select run from server").fetch_optional(&mut *db).await?;
        let run: Option<String> = row.map(|row| row.try_get("run")).transpose()?;
        if run.as_ref() == Some(&self.run) {
            *self.refused() = None;
            return Ok(());
        }
        let others = holder(db).await?;
        Err(self.refuse(format!("another server has taken the database while it was away from this one ({others}); restart this server")))
    }

    /// Why the last connection was of no use, if it was for that.
    pub(super) fn why_refused(&self) -> Option<String> {
        self.refused().clone()
    }

    fn refuse(&self, why: String) -> sqlx::Error {
        tracing::error!("{why}");
        *self.refused() = Some(why.clone());
        sqlx::Error::Configuration(why.into())
    }

    /// A text is whole or not there.
    fn refused(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one of the functions about the lock says.
async fn yes(db: &mut PgConnection, function: &'static str) -> Result<bool, sqlx::Error> {
    let (first, second) = LOCK;
    sqlx::query(AssertSqlSafe(format!("select {function}({first}, {second}) as yes"))).fetch_one(db).await?.try_get("yes")
}

/// Who else holds it, in words: the name, the address and the start of each connection that may be seen.
async fn holder(db: &mut PgConnection) -> Result<String, sqlx::Error> {
    let (first, second) = LOCK;
    let found = sqlx::query(AssertSqlSafe(format!(
        "select coalesce(nullif(application_name, ''), 'unnamed') || coalesce(' at ' || host(client_addr), '') as name \
         from pg_locks join pg_stat_activity using (pid) where locktype = 'advisory' and classid = {first} and objid = {second} \
         and granted and pg_locks.database = (select oid from pg_database where datname = current_database()) \
         and pid <> pg_backend_pid() order by backend_start limit 1"
    )));
    let row = found.fetch_optional(db).await?;
    row.map_or_else(|| Ok("it has just gone".to_owned()), |row| row.try_get("name"))
}
