//! From a URL to a store: whether the database is fit, whether it is free, its schema, its pool.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, PgConnection, Row,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::watch;

use super::{
    Postgres, attempts, migrations,
    owner::{Membership, Owner, Taken},
};
use crate::location::PostgresUrl;

/// How long a database may take to take us in.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// Connections at one time; whoever comes when all are in use waits.
const CONNECTIONS: u32 = 12;
/// As the server counts: thirteen.
const OLDEST: u32 = 130_000;
/// Between two looks at whether the database is still there. A server without requests keeps it for itself all the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a database cannot be used. What is said names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot reach the database {url}; start it, or correct CAISSON_DATABASE_URL")]
    Unreachable {
        url: PostgresUrl,
        #[source]
        cause: sqlx::Error,
    },
    #[error("the database {url} did not answer within {} s; see whether it hangs, or correct CAISSON_DATABASE_URL", CONNECTED_WITHIN.as_secs())]
    Silent { url: PostgresUrl },
    #[error("the database {url} does not let us in; correct user and password in CAISSON_DATABASE_URL, or its pg_hba.conf")]
    Login {
        url: PostgresUrl,
        #[source]
        cause: sqlx::Error,
    },
    #[error("there is no such database as {url}; make it with `createdb`, or correct CAISSON_DATABASE_URL")]
    Missing { url: PostgresUrl },
    #[error("{url} is PostgreSQL {version}; 13 is the oldest that can be used")]
    TooOld { url: PostgresUrl, version: String },
    #[error("the database {url} is encoded as {encoding}; make one with `createdb --encoding UTF8 --template template0`")]
    Encoding { url: PostgresUrl, encoding: String },
    #[error(
        "the database {url} is used by another server ({holder}) that has it alone; stop it, give this server a database of its own, or \
         set CAISSON_PEER_URL for both, each to where the other reaches it: without that, two servers would bury each other's sandboxes"
    )]
    InUse { url: PostgresUrl, holder: String },
    #[error(
        "the database {url} is shared by other servers ({holder}); set CAISSON_PEER_URL to where they reach this one, or give it a database \
         of its own"
    )]
    Shared { url: PostgresUrl, holder: String },
    #[error(
        "another server ({holder}) has the id of this one on the database {url}: one data directory is a copy of the other; remove `server-id` \
         from the copy"
    )]
    SameId { url: PostgresUrl, holder: String },
    #[error("another server ({holder}) has been starting on the database {url} for long; look what holds it up, then start this one again")]
    Starting { url: PostgresUrl, holder: String },
    #[error("server {other} on the database {url} has the same CAISSON_PEER_URL; set it to where this server alone is reached")]
    SameAddress { url: PostgresUrl, other: String },
    #[error("the servers on the database {url} are of an older version; stop all of them before this one brings it up to date")]
    Older { url: PostgresUrl },
    #[error("the user of {url} may not make tables there; `grant create on database` to it, or make the schema `caisson` for it")]
    Rights {
        url: PostgresUrl,
        #[source]
        cause: sqlx::Error,
    },
    #[error("the database {url} was written by a newer version, or changed by hand; use that version, or another database")]
    Foreign {
        url: PostgresUrl,
        #[source]
        cause: MigrateError,
    },
    #[error("cannot prepare the database {url}")]
    Failed {
        url: PostgresUrl,
        #[source]
        cause: sqlx::Error,
    },
}

impl Postgres {
    /// Connects, waits a moment for a predecessor to go, brings the schema `caisson` up to date, and takes the database for this run, or a
    /// part in it.
    pub async fn open(url: &PostgresUrl, membership: Membership) -> Result<Self, OpenError> {
        let options =
            url.options().map_err(|error| OpenError::Unreachable { url: url.clone(), cause: sqlx::Error::Configuration(error.into()) })?;
        let options = options.application_name(&own_name()).disable_statement_logging();
        let mut first = connect(url, &options).await?;
        check(url, &mut first).await?;
        let owner = Arc::new(Owner::new(membership));
        owner.claim(&mut first).await.map_err(|error| failed(url, error))?.map_err(|taken| refused(url, taken))?;
        if !is_present(&mut first).await.map_err(|error| failed(url, error))?
            && !owner.has_it_alone(&mut first).await.map_err(|error| failed(url, error))?
        {
            return Err(OpenError::Older { url: url.clone() });
        }
        migrate(url, &mut first).await?;
        owner.settle(&mut first).await.map_err(|error| failed(url, error))?.map_err(|taken| refused(url, taken))?;
        let guard = Arc::clone(&owner);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .min_connections(1)
            .acquire_timeout(attempts::WITHIN)
            // As long as there is one, nobody else can take the database.
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .after_connect(move |db, _| {
                let guard = Arc::clone(&guard);
                Box::pin(async move { guard.admit(db).await })
            })
            .connect_with(options)
            .await
            .map_err(|error| failed(url, error))?;
        // Only now: the pool has the lock as well.
        first.close().await.ok();
        let looking = tokio::spawn(look(pool.clone()));
        Ok(Self { pool, owner, written: watch::channel(()).0, events: AtomicU64::new(0), looking })
    }
}

/// Connections that broke are found and replaced also when nobody asks for anything.
async fn look(pool: sqlx::PgPool) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut idle: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
        if idle.is_empty()
            && let Ok(Ok(connection)) = tokio::time::timeout(attempts::WITHIN, pool.acquire()).await
        {
            idle.push(connection);
        }
        for mut connection in idle {
            let answer = tokio::time::timeout(attempts::WITHIN, connection.ping()).await;
            if !matches!(answer, Ok(Ok(()))) {
                drop(connection.detach());
            }
        }
    }
}

/// As lists of connections show it: which process of which machine this is.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("caisson serve, process {} of {}", std::process::id(), host.trim())
}

async fn connect(url: &PostgresUrl, options: &PgConnectOptions) -> Result<PgConnection, OpenError> {
    let url = || url.clone();
    match tokio::time::timeout(CONNECTED_WITHIN, options.connect()).await {
        Err(_) => Err(OpenError::Silent { url: url() }),
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(cause)) => Err(match attempts::code(&cause).as_deref() {
            Some("28P01" | "28000") => OpenError::Login { url: url(), cause },
            Some("3D000") => OpenError::Missing { url: url() },
            _ => OpenError::Unreachable { url: url(), cause },
        }),
    }
}

async fn check(url: &PostgresUrl, db: &mut PgConnection) -> Result<(), OpenError> {
    let found = sqlx::query("select current_setting('server_version') as version, current_setting('server_encoding') as encoding");
    let row = found.fetch_one(&mut *db).await.map_err(|error| failed(url, error))?;
    let text = |column: &str| row.try_get::<String, _>(column).map_err(|error| failed(url, error));
    let (version, encoding) = (text("version")?, text("encoding")?);
    if db.server_version_num().is_none_or(|number| number < OLDEST) {
        return Err(OpenError::TooOld { url: url.clone(), version });
    }
    if encoding != "UTF8" {
        return Err(OpenError::Encoding { url: url.clone(), encoding });
    }
    Ok(())
}

fn refused(url: &PostgresUrl, taken: Taken) -> OpenError {
    let url = url.clone();
    match taken {
        Taken::ByOne(holder) => OpenError::InUse { url, holder },
        Taken::ByPeers(holder) => OpenError::Shared { url, holder },
        Taken::ById(holder) => OpenError::SameId { url, holder },
        Taken::Starting(holder) => OpenError::Starting { url, holder },
        Taken::Address(other) => OpenError::SameAddress { url, other },
    }
}

/// Whether there is nothing to bring up to date.
async fn is_present(db: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let there = sqlx::query("select 1 where to_regclass('caisson._sqlx_migrations') is not null").fetch_optional(&mut *db).await?;
    if there.is_none() {
        return Ok(false);
    }
    let row = sqlx::query("select count(*) as applied from caisson._sqlx_migrations where success").fetch_one(db).await?;
    Ok(migrations::is_present(row.try_get("applied")?))
}

async fn migrate(url: &PostgresUrl, db: &mut PgConnection) -> Result<(), OpenError> {
    let failed = |error| failed(url, error);
    // A schema that somebody made for us is as good, and needs no right to make one.
    let there = sqlx::query("select 1 from pg_namespace where nspname = 'caisson'").fetch_optional(&mut *db).await.map_err(failed)?;
    if there.is_none() {
        sqlx::query("create schema caisson").execute(&mut *db).await.map_err(failed)?;
    }
    sqlx::query("set search_path to caisson").execute(&mut *db).await.map_err(failed)?;
    migrations::migrator().run(db).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed(error),
        cause => OpenError::Foreign { url: url.clone(), cause },
    })
}

fn failed(url: &PostgresUrl, cause: sqlx::Error) -> OpenError {
    match attempts::code(&cause).as_deref() {
        Some("42501") => OpenError::Rights { url: url.clone(), cause },
        _ => OpenError::Failed { url: url.clone(), cause },
    }
}
