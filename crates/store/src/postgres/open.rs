//! From a URL to a store: whether the database is fit, whether it is free, its schema, its pool.

use std::{sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection, Row,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::watch;

use super::{Postgres, attempts, migrations, owner::Owner};
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
        "the database {url} is used by another server ({holder}); stop it, or give this server a database of its own: \
         two servers on one would bury each other's sandboxes"
    )]
    InUse { url: PostgresUrl, holder: String },
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
    /// Connects, waits a moment for a predecessor to go, brings the schema `caisson` up to date, and takes the database for this run.
    pub async fn open(url: &PostgresUrl) -> Result<Self, OpenError> {
        let options =
            url.options().map_err(|error| OpenError::Unreachable { url: url.clone(), cause: sqlx::Error::Configuration(error.into()) })?;
        let options = options.application_name(&own_name()).disable_statement_logging();
        let mut first = connect(url, &options).await?;
        check(url, &mut first).await?;
        let owner = Arc::new(Owner::new());
        owner
            .claim(&mut first)
            .await
            .map_err(|error| failed(url, error))?
            .map_err(|holder| OpenError::InUse { url: url.clone(), holder })?;
        migrate(url, &mut first).await?;
        owner.settle(&mut first).await.map_err(|error| failed(url, error))?;
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
        Ok(Self { pool, owner, written: watch::channel(()).0, looking })
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
