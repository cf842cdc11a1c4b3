//! One operation, however often its connection breaks meanwhile.
//!
//! A connection that breaks says nothing about what it was asked to do. So whatever is written may be written again (inserts of one id are
//! one, ends are final, the rest says how things are to be), and within a few seconds it is. Then it is up to whoever asked.

use std::time::Duration;

use caisson_core::StoreError;
use sqlx::{PgPool, Postgres, pool::PoolConnection};
use tokio::time::{Instant, timeout_at};

use super::owner::Owner;
use crate::unavailable;

/// For all attempts together.
pub(super) const WITHIN: Duration = Duration::from_secs(4);
const REST: Duration = Duration::from_millis(25);

/// Why an operation did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database has answered, and this is what it comes to.
    Final(StoreError),
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

/// `with_connection!(store, |db, again| work)`: does the work on a connection `db`, and again on another when it breaks. `again` says whether
/// it may have been done before. The result is that of the work.
macro_rules! with_connection {
    ($store:expr, |$db:ident, $again:ident| $work:expr) => {{
        let mut attempts = $store.attempts();
        loop {
            let mut connection = attempts.connection().await?;
            let $again = attempts.again();
            let $db: &mut sqlx::PgConnection = &mut connection;
            let outcome = attempts.in_time($work).await;
            if let Some(result) = attempts.settle(connection, outcome).await {
                break result;
            }
        }
    }};
    ($store:expr, |$db:ident| $work:expr) => {
        with_connection!($store, |$db, _again| $work)
    };
}
pub(super) use with_connection;

#[derive(Debug)]
pub(super) struct Attempts<'a> {
    pool: &'a PgPool,
    owner: &'a Owner,
    until: Instant,
    again: bool,
}

/// Nothing came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the database within {} s", WITHIN.as_secs())]
pub(super) struct Late;

impl<'a> Attempts<'a> {
    pub(super) fn new(pool: &'a PgPool, owner: &'a Owner) -> Self {
        Self { pool, owner, until: Instant::now() + WITHIN, again: false }
    }

    /// Whether a connection broke after it was asked.
    pub(super) fn again(&self) -> bool {
        self.again
    }

    pub(super) async fn connection(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        loop {
            let error = match timeout_at(self.until, self.pool.acquire()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::PoolTimedOut,
            };
            if let Some(why) = self.owner.why_refused() {
                return Err(unavailable(why));
            }
            if matches!(error, sqlx::Error::PoolTimedOut) {
                return Err(unavailable(Late));
            }
            if !passes(&error) || Instant::now() + REST >= self.until {
                return Err(unavailable(error));
            }
            tokio::time::sleep(REST).await;
        }
    }

    pub(super) async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Option<Result<T, Failure>> {
        timeout_at(self.until, work).await.ok()
    }

    /// What it has come to; `None` when it is worth another attempt.
    pub(super) async fn settle<T>(
        &mut self,
        connection: PoolConnection<Postgres>,
        outcome: Option<Result<T, Failure>>,
    ) -> Option<Result<T, StoreError>> {
        match outcome {
            Some(Ok(done)) => Some(Ok(done)),
            Some(Err(Failure::Final(error))) => Some(Err(error)),
            Some(Err(Failure::Sql(error))) if passes(&error) => {
                self.again |= is_unsure(&error);
                // Not back into the pool: it is of no use to anybody.
                drop(connection.detach());
                if Instant::now() + REST >= self.until {
                    return Some(Err(unavailable(error)));
                }
                tracing::debug!(error = %error, "The database is asked again on another connection");
                tokio::time::sleep(REST).await;
                None
            }
            Some(Err(Failure::Sql(error))) => Some(Err(unavailable(error))),
            None => {
                // It may be asleep in the middle of an answer.
                drop(connection.detach());
                Some(Err(unavailable(Late)))
            }
        }
    }
}

/// The SQLSTATE that the database has answered with.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether it may be otherwise on the next connection.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // Two that wait for each other, too many connections, and a server that takes no writes while it changes places.
        _ => is_unsure(error) || matches!(code(error).as_deref(), Some("40001" | "40P01" | "53300" | "25006")),
    }
}

/// Whether what was asked may have been done: the connection broke (class 08), or the server is going or coming (57P).
fn is_unsure(error: &sqlx::Error) -> bool {
    match code(error) {
        Some(code) => code.starts_with("08") || code.starts_with("57P"),
        None => matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed),
    }
}
