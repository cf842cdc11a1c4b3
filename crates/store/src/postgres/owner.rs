//! Who may use a database: one server alone, or those that know how to reach each other.
//!
//! Every connection of a server holds two advisory locks of its session, shared with the others of its server: that of servers that are alone or
//! of those that are not, and that of its own id. Whoever starts needs the first kind for itself, as far as it could not share the database with
//! those who hold it, and its own id; the locks go with the last connection of whoever had them. It writes down which run of which server it is.
//! A server that is alone looks there on every connection that comes back after a loss. Those that are not have a lease: see
//! [`super::servers`].

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use caisson_core::ServerId;
use sqlx::{AssertSqlSafe, PgConnection, Row};

/// The number of an advisory lock.
type Lock = (i32, i32);

/// "cais", "son" and nothing: whoever is alone.
const ALONE: Lock = (0x6361_6973, 0x736f_6e00);
/// Those who are not.
const AMONG_PEERS: Lock = (0x6361_6973, 0x736f_6e01);
/// Whoever starts.
const STARTING: Lock = (0x6361_6973, 0x736f_6e02);
/// How long a predecessor that has just died may take to be noticed.
const FREE_WITHIN: Duration = Duration::from_secs(5);
/// How long others may take to start.
const STARTED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What holds for a session: a commit is on disk when it is told, and a machine that has gone is noticed within 35 s.
const SESSION: &str = "set search_path to caisson;
    set tcp_keepalives_idle to 20; set tcp_keepalives_interval to 5; set tcp_keepalives_count to 3;
    select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// How a server takes part in a database.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Which server this is, over restarts.
    pub id: ServerId,
    /// How it shares the database; absent for one that has it alone.
    pub sharing: Option<Sharing>,
}

/// How a server shares a database with others.
#[derive(Debug, Clone)]
pub struct Sharing {
    /// Where the others reach it.
    pub url: String,
    /// How long it is believed to be there when it says nothing.
    pub lease: Duration,
}

/// Why a database is not to be had.
#[derive(Debug)]
pub(super) enum Taken {
    /// Somebody who is alone has it.
    ByOne(String),
    /// Others share it, and this server would be alone.
    ByPeers(String),
    /// Somebody has the id of this server.
    ById(String),
    /// Somebody else has been starting for long.
    Starting(String),
    /// Another server is reached at the same address.
    Address(String),
}

/// This run of a server.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) membership: Membership,
    run: Mutex<String>,
    /// Why no connection is of use any more.
    refused: Mutex<Option<String>>,
}

impl Owner {
    pub(super) fn new(membership: Membership) -> Self {
        Self { membership, run: Mutex::new(new_run()), refused: Mutex::default() }
    }

    pub(super) fn id(&self) -> &str {
        self.membership.id.as_str()
    }

    /// The run that records are written under.
    pub(super) fn run(&self) -> String {
        text(&self.run).clone()
    }

    fn is_alone(&self) -> bool {
        self.membership.sharing.is_none()
    }

    /// What all connections of the server hold.
    fn held(&self) -> [Lock; 2] {
        [if self.is_alone() { ALONE } else { AMONG_PEERS }, own(self.membership.id)]
    }

    /// Gets what it takes to start, or says who has it.
    pub(super) async fn claim(&self, db: &mut PgConnection) -> Result<Result<(), Taken>, sqlx::Error> {
        let begun = Instant::now();
        while !try_lock(db, STARTING).await? {
            if begun.elapsed() >= STARTED_WITHIN {
                return Ok(Err(Taken::Starting(holder(db, STARTING).await?)));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        sqlx::raw_sql(SESSION).execute(&mut *db).await?;
        type Kind = fn(String) -> Taken;
        let by_one: (Lock, Kind) = (ALONE, Taken::ByOne);
        let needed: &[(Lock, Kind)] = if self.is_alone() {
            &[by_one, (AMONG_PEERS, Taken::ByPeers), (own(self.membership.id), Taken::ById)]
        } else {
            &[by_one, (own(self.membership.id), Taken::ById)]
        };
        let begun = Instant::now();
        for (lock, taken) in needed {
            while !try_lock(db, *lock).await? {
                if begun.elapsed() >= FREE_WITHIN {
                    return Ok(Err(taken(holder(db, *lock).await?)));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(Ok(()))
    }

    /// Whether nobody else uses the database; nobody begins to until the connection is closed.
    pub(super) async fn has_it_alone(&self, db: &mut PgConnection) -> Result<bool, sqlx::Error> {
        Ok(self.is_alone() || try_lock(db, AMONG_PEERS).await?)
    }

    /// Writes down which run this is, and leaves the locks to all connections of it.
    pub(super) async fn settle(&self, db: &mut PgConnection) -> Result<Result<(), Taken>, sqlx::Error> {
        if let Some(Sharing { url, lease }) = &self.membership.sharing {
            let until = Instant::now() + *lease + Duration::from_secs(1);
            // Its lease may be all that is left of it.
            while let Some(other) = self.at_same_address(db, url).await? {
                if Instant::now() >= until {
                    return Ok(Err(Taken::Address(other)));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        self.write_down(db).await?;
        // What an earlier run has begun nobody goes on with.
        sqlx::query("delete from answers_under_way where server = $1").bind(self.id()).execute(&mut *db).await?;
        for lock in self.held() {
            call(db, "pg_try_advisory_lock_shared", lock).await?;
            call(db, "pg_advisory_unlock", lock).await?;
        }
        Ok(Ok(()))
    }

    /// Takes a lease under a new run. Refused where somebody has the database alone.
    pub(super) async fn rejoin(&self, db: &mut PgConnection) -> Result<Result<(), String>, sqlx::Error> {
        for lock in [STARTING, ALONE] {
            if !try_lock(db, lock).await? {
                let holder = holder(db, lock).await?;
                if lock == ALONE {
                    call(db, "pg_advisory_unlock", STARTING).await?;
                }
                return Ok(Err(holder));
            }
        }
        *text(&self.run) = new_run();
        let written = self.write_down(db).await;
        for lock in [ALONE, STARTING] {
            call(db, "pg_advisory_unlock", lock).await?;
        }
        written.map(Ok)
    }

    /// Who else is reached there, as far as somebody knows.
    async fn at_same_address(&self, db: &mut PgConnection, url: &str) -> Result<Option<String>, sqlx::Error> {
        let found = sqlx::query("select id from servers where url = $1 and id <> $2 and lease_until > now_us()").bind(url).bind(self.id());
        found.fetch_optional(db).await?.map(|row| row.try_get("id")).transpose()
    }

    async fn write_down(&self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Those who were alone are gone, and where this one is alone, all are.
        let gone = sqlx::query("delete from servers where id <> $1 and (url is null or $2)").bind(self.id()).bind(self.is_alone());
        gone.execute(&mut *db).await?;
        let sharing = self.membership.sharing.as_ref();
        sqlx::query(
            "insert into servers (id, run, url, version, joined_at, lease_until) values ($1, $2, $3, $4, now_us(), now_us() + $5) \
             on conflict (id) do update set run = excluded.run, url = excluded.url, version = excluded.version, joined_at = excluded.joined_at, \
             lease_until = excluded.lease_until",
        )
        .bind(self.id())
        .bind(self.run())
        .bind(sharing.map(|sharing| &sharing.url))
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(sharing.map_or(0, |sharing| lease_us(sharing.lease)))
        .execute(db)
        .await?;
        Ok(())
    }

    /// For each new connection: whether the database is still for us.
    pub(super) async fn admit(&self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(SESSION).execute(&mut *db).await?;
        // In this order: as long as we have the locks, nobody writes another name there.
        for lock in self.held() {
            if !call(db, "pg_try_advisory_lock_shared", lock).await? {
                return Err(self.refuse(format!("another server is taking the database: {}", holder(db, lock).await?)));
            }
        }
        // Those who share it hear by their leases.
        if self.is_alone() {
            let row = sqlx::query("select run from servers where id = $1").bind(self.id()).fetch_optional(&mut *db).await?;
            let run: Option<String> = row.map(|row| row.try_get("run")).transpose()?;
            if run != Some(self.run()) {
                let others = holder(db, ALONE).await?;
                let why = format!("another server has taken the database while it was away from this one ({others}); restart this server");
                return Err(self.refuse(why));
            }
        }
        *self.refused() = None;
        Ok(())
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

    fn refused(&self) -> MutexGuard<'_, Option<String>> {
        text(&self.refused)
    }
}

/// A text is whole or not there.
fn text<T>(text: &Mutex<T>) -> MutexGuard<'_, T> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_run() -> String {
    ServerId::random().to_string()
}

pub(super) fn lease_us(lease: Duration) -> i64 {
    i64::try_from(lease.as_micros()).unwrap_or(i64::MAX)
}

/// That of one server: bits of its id.
fn own(id: ServerId) -> Lock {
    let bits = id.uuid().to_string().replace('-', "");
    let half = |from: usize| u32::from_str_radix(bits.get(from..from + 8).unwrap_or_default(), 16).unwrap_or_default().cast_signed();
    (half(0), half(24))
}

async fn try_lock(db: &mut PgConnection, lock: Lock) -> Result<bool, sqlx::Error> {
    call(db, "pg_try_advisory_lock", lock).await
}

/// What one of the functions about a lock says.
async fn call(db: &mut PgConnection, function: &'static str, (first, second): Lock) -> Result<bool, sqlx::Error> {
    sqlx::query(AssertSqlSafe(format!("select {function}({first}, {second}) as yes"))).fetch_one(db).await?.try_get("yes")
}

/// Who else holds it, in words: the name and the address of the oldest connection that may be seen.
async fn holder(db: &mut PgConnection, (first, second): Lock) -> Result<String, sqlx::Error> {
    // There they are written without a sign.
    let (first, second) = (first.cast_unsigned(), second.cast_unsigned());
    let found = sqlx::query(AssertSqlSafe(format!(
        "select coalesce(nullif(application_name, ''), 'unnamed') || coalesce(' at ' || host(client_addr), '') as name \
         from pg_locks join pg_stat_activity using (pid) where locktype = 'advisory' and classid = {first} and objid = {second} \
         and granted and pg_locks.database = (select oid from pg_database where datname = current_database()) \
         and pid <> pg_backend_pid() order by backend_start limit 1"
    )));
    let row = found.fetch_optional(db).await?;
    row.map_or_else(|| Ok("it has just gone".to_owned()), |row| row.try_get("name"))
}
