//! Tenants and their keys: few, read whole when a server starts.

use caisson_core::{Key, KeyHash, KeyId, Quotas, StoreError, Tenant};
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    rows::{clamp, integer, parsed, text, timestamp},
    statements::Failure,
    unavailable,
};

pub(super) async fn insert_key(db: &mut SqliteConnection, key: &Key) -> Result<(), Failure> {
    sqlx::query("insert into tenants (name) values (?) on conflict do nothing").bind(key.tenant.to_string()).execute(&mut *db).await?;
    sqlx::query("insert into keys (id, hash, tenant, scope, note, created_at, expires_at) values (?, ?, ?, ?, ?, ?, ?)")
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
        "insert into tenants (name, sandboxes, executions_per_minute, memory_bytes, disk_bytes) values (?, ?, ?, ?, ?) \
         on conflict (name) do update set sandboxes = excluded.sandboxes, executions_per_minute = excluded.executions_per_minute, \
         memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes",
    )
    .bind(tenant.to_string())
    .bind(quotas.sandboxes.map(clamp))
    .bind(quotas.executions_per_minute.map(clamp))
    .bind(quotas.memory_bytes.map(clamp))
    .bind(quotas.disk_bytes.map(clamp))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn keys(pool: &SqlitePool) -> Result<Vec<Key>, StoreError> {
    let found = sqlx::query("select * from keys").fetch_all(pool).await.map_err(unavailable)?;
    found.iter().map(|row| read_key(row).ok_or_else(|| corrupt(row, "id"))).collect()
}

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<(Tenant, Quotas)>, StoreError> {
    let found = sqlx::query("select * from tenants").fetch_all(pool).await.map_err(unavailable)?;
    found.iter().map(|row| read_tenant(row).ok_or_else(|| corrupt(row, "name"))).collect()
}

fn corrupt(row: &SqliteRow, column: &str) -> StoreError {
    StoreError::Corrupt(text(row, column).flatten().unwrap_or_default())
}

fn read_key(row: &SqliteRow) -> Option<Key> {
    let hash: Vec<u8> = row.try_get("hash").ok()?;
    Some(Key {
        id: parsed(row, "id")?,
        hash: KeyHash(hash.try_into().ok()?),
        tenant: parsed(row, "tenant")?,
        scope: parsed(row, "scope")?,
        note: text(row, "note")??,
        created_at: timestamp(integer(row, "created_at")??)?,
        expires_at: match integer(row, "expires_at")? {
            None => None,
            Some(us) => Some(timestamp(us)?),
        },
    })
}

fn read_tenant(row: &SqliteRow) -> Option<(Tenant, Quotas)> {
    let quota = |column| match integer(row, column)? {
        None => Some(None),
        Some(figure) => u64::try_from(figure).ok().map(Some),
    };
    let quotas = Quotas {
        sandboxes: quota("sandboxes")?,
        executions_per_minute: quota("executions_per_minute")?,
        memory_bytes: quota("memory_bytes")?,
        disk_bytes: quota("disk_bytes")?,
    };
    Some((parsed(row, "name")?, quotas))
}
