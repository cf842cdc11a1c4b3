//! Answers that are kept for requests that come again.

use caisson_core::{KeptAnswer, StoreError, Tenant};
use sqlx::{SqliteConnection, SqlitePool};

use super::statements::Failure;
use crate::{rows, unavailable};

/// An answer with where it belongs.
#[derive(Debug)]
pub(super) struct AnswerRow {
    pub(super) tenant: String,
    pub(super) key: String,
    pub(super) answer: KeptAnswer,
    pub(super) at: i64,
}

pub(super) async fn keep(db: &mut SqliteConnection, row: &AnswerRow) -> Result<(), Failure> {
    sqlx::query("insert into answers (tenant, key, fingerprint, status, body, at) values (?, ?, ?, ?, ?, ?) on conflict do nothing")
        .bind(row.tenant.clone())
        .bind(row.key.clone())
        .bind(row.answer.fingerprint.to_vec())
        .bind(i64::from(row.answer.status))
        .bind(row.answer.body.clone())
        .bind(row.at)
        .execute(db)
        .await?;
    Ok(())
}

/// Removes some of those that are older; says whether there may be more.
pub(super) async fn forget(db: &mut SqliteConnection, before_us: i64, limit: u32) -> Result<bool, Failure> {
    let removed = sqlx::query("delete from answers where rowid in (select rowid from answers where at < ? limit ?)")
        .bind(before_us)
        .bind(i64::from(limit))
        .execute(db)
        .await?;
    Ok(removed.rows_affected() >= u64::from(limit))
}

pub(super) async fn kept(pool: &SqlitePool, tenant: &Tenant, key: &str) -> Result<Option<KeptAnswer>, StoreError> {
    let found = sqlx::query("select fingerprint, status, body from answers where tenant = ? and key = ?")
        .bind(tenant.to_string())
        .bind(key.to_owned())
        .fetch_optional(pool)
        .await
        .map_err(unavailable)?;
    found.map(|row| rows::answer(&row, key)).transpose()
}
