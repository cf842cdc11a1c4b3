//! Tenants and their keys: few, read whole when a server starts.

use caisson_core::{Key, KeyId, Quotas, StoreError, Tenant};
use sqlx::{SqliteConnection, SqlitePool};

use super::statements::Failure;
use crate::{
    rows::{self, clamp},
    unavailable,
};

pub(super) async fn insert_key(db: &mut SqliteConnection, key: &Key) -> Result<(), Failure> {
    sqlx::query("insert into tenants (name) values (?) on conflict do nothing").bind(key.tenant.to_string()).execute(&mut *db).await?;
    sqlx::query(
        "insert into keys (id, hash, tenant, scope, note, created_at, expires_at) values (?, ?, ?, ?, ?, ?, ?) on conflict (id) do nothing",
    )
    .bind(key.id.to_string())
    .bind(key.hash.0.to_vec())
    .bind(key.tenant.to_string())
    .bind(key.scope.as_str())
    .bind(key.note.clone())
    .bind(key.created_at.as_microsecond())
    .bind(key.expires_at.map(jiff::Timestamp::as_microsecond))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn remove_key(db: &mut SqliteConnection, id: KeyId) -> Result<bool, Failure> {
    let removed = sqlx::query("delete from keys where id = ?").bind(id.to_string()).execute(db).await?;
    Ok(removed.rows_affected() > 0)
}

pub(super) async fn save(db: &mut SqliteConnection, tenant: &Tenant, quotas: &Quotas) -> Result<(), Failure> {
    sqlx::query(
        "insert into tenants (name, sandboxes, executions_per_minute, memory_bytes, disk_bytes, workspace_bytes) values (?, ?, ?, ?, ?, ?) \
         on conflict (name) do update set sandboxes = excluded.sandboxes, executions_per_minute = excluded.executions_per_minute, \
         memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes, workspace_bytes = excluded.workspace_bytes",
    )
    .bind(tenant.to_string())
    .bind(quotas.sandboxes.map(clamp))
    .bind(quotas.executions_per_minute.map(clamp))
    .bind(quotas.memory_bytes.map(clamp))
    .bind(quotas.disk_bytes.map(clamp))
    .bind(quotas.workspace_bytes.map(clamp))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn keys(pool: &SqlitePool) -> Result<Vec<Key>, StoreError> {
    let found = sqlx::query("select * from keys").fetch_all(pool).await.map_err(unavailable)?;
    found.iter().map(rows::key).collect()
}

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<(Tenant, Quotas)>, StoreError> {
    let found = sqlx::query("select * from tenants").fetch_all(pool).await.map_err(unavailable)?;
    found.iter().map(rows::tenant).collect()
}
