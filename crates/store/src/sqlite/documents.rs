//! What dialects keep, and whose a sandbox is.

use caisson_core::{Document, SandboxId, StoreError, Tenant};
use sqlx::{SqliteConnection, SqlitePool};

use super::statements::Failure;
use crate::{
    rows::{self, Columns},
    unavailable,
};

pub(super) async fn insert(db: &mut SqliteConnection, document: &Document) -> Result<bool, Failure> {
    let inserted =
        sqlx::query("insert into documents (kind, owner, id, body, until_us, sandbox) values (?, ?, ?, ?, ?, ?) on conflict (kind, owner, id) do nothing")
            .bind(document.kind.clone())
            .bind(document.owner.clone())
            .bind(document.id.clone())
            .bind(document.body.clone())
            .bind(document.until.map(|until| until.as_microsecond()))
            .bind(document.sandbox.map(|sandbox| sandbox.to_string()))
            .execute(db)
            .await?;
    Ok(inserted.rows_affected() > 0)
}

pub(super) async fn replace(db: &mut SqliteConnection, document: &Document) -> Result<bool, Failure> {
    let replaced = sqlx::query("update documents set body = ?, until_us = ?, sandbox = ? where kind = ? and owner = ? and id = ?")
        .bind(document.body.clone())
        .bind(document.until.map(|until| until.as_microsecond()))
        .bind(document.sandbox.map(|sandbox| sandbox.to_string()))
        .bind(document.kind.clone())
        .bind(document.owner.clone())
        .bind(document.id.clone())
        .execute(db)
        .await?;
    Ok(replaced.rows_affected() > 0)
}

pub(super) async fn remove(db: &mut SqliteConnection, kind: &str, owner: &str, id: &str) -> Result<bool, Failure> {
    let removed = sqlx::query("delete from documents where kind = ? and owner = ? and id = ?")
        .bind(kind.to_owned())
        .bind(owner.to_owned())
        .bind(id.to_owned())
        .execute(db)
        .await?;
    Ok(removed.rows_affected() > 0)
}

/// Removes at most so many whose time has come. Whether there may be more.
pub(super) async fn forget(db: &mut SqliteConnection, now_us: i64, limit: u32) -> Result<bool, Failure> {
    let removed = sqlx::query("delete from documents where number in (select number from documents where until_us < ? limit ?)")
        .bind(now_us)
        .bind(i64::from(limit))
        .execute(db)
        .await?;
    Ok(removed.rows_affected() >= u64::from(limit))
}

pub(super) async fn one(pool: &SqlitePool, kind: &str, owner: &str, id: &str) -> Result<Option<Document>, StoreError> {
    let found = sqlx::query("select * from documents where kind = ? and owner = ? and id = ?")
        .bind(kind.to_owned())
        .bind(owner.to_owned())
        .bind(id.to_owned())
        .fetch_optional(pool)
        .await
        .map_err(unavailable)?;
    found.as_ref().map(rows::document).transpose()
}

pub(super) async fn of(pool: &SqlitePool, kind: &str, owner: &str) -> Result<Vec<Document>, StoreError> {
    let found = sqlx::query("select * from documents where kind = ? and owner = ? order by number")
        .bind(kind.to_owned())
        .bind(owner.to_owned())
        .fetch_all(pool)
        .await
        .map_err(unavailable)?;
    found.iter().map(rows::document).collect()
}

pub(super) async fn owner(pool: &SqlitePool, id: SandboxId) -> Result<Option<Tenant>, StoreError> {
    let found = sqlx::query("select tenant from sandboxes where id = ?").bind(id.to_string()).fetch_optional(pool).await;
    let Some(row) = found.map_err(unavailable)? else { return Ok(None) };
    row.parsed("tenant").map(Some).ok_or_else(|| StoreError::Corrupt(id.to_string()))
}
