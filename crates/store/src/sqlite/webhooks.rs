//! Webhooks: few, and how far each has come.

use caisson_core::{Delivery, StoreError, Tenant, Webhook, WebhookId};
use jiff::Timestamp;
use sqlx::{SqliteConnection, SqlitePool};

use super::statements::Failure;
use crate::{
    rows::{self, clamp},
    unavailable,
};

pub(super) async fn insert(db: &mut SqliteConnection, webhook: &Webhook) -> Result<(), Failure> {
    sqlx::query("insert into tenants (name) values (?) on conflict do nothing").bind(webhook.tenant.to_string()).execute(&mut *db).await?;
    let inserted = sqlx::query(
        "insert into webhooks (id, tenant, url, secret, kinds, description, created_at, told_until, failures, missed, disabled) \
         values (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0) on conflict (id) do nothing",
    )
    .bind(webhook.id.to_string())
    .bind(webhook.tenant.to_string())
    .bind(webhook.url.clone())
    .bind(webhook.secret.0.to_vec())
    .bind(rows::kinds(&webhook.kinds))
    .bind(webhook.description.clone())
    .bind(webhook.created_at.as_microsecond())
    .execute(&mut *db)
    .await?;
    // One that is written again may have come further meanwhile.
    if inserted.rows_affected() == 0 {
        return Ok(());
    }
    save(db, webhook.id, &webhook.delivery).await
}

/// Of one that was removed meanwhile nothing is written.
pub(super) async fn save(db: &mut SqliteConnection, id: WebhookId, delivery: &Delivery) -> Result<(), Failure> {
    let failed = delivery.last_failure.as_ref();
    sqlx::query(
        "update webhooks set told_until = ?, last_event = ?, last_success_at = ?, failures = ?, failed_at = ?, failure = ?, \
         next_attempt_at = ?, missed = ?, disabled = ? where id = ?",
    )
    .bind(clamp(delivery.until))
    .bind(delivery.last_event.map(clamp))
    .bind(delivery.last_success_at.map(Timestamp::as_microsecond))
    .bind(i64::from(delivery.failures))
    .bind(failed.map(|failed| failed.at.as_microsecond()))
    .bind(failed.map(|failed| failed.reason.clone()))
    .bind(delivery.next_attempt_at.map(Timestamp::as_microsecond))
    .bind(clamp(delivery.missed))
    .bind(i64::from(delivery.disabled))
    .bind(id.to_string())
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn remove(db: &mut SqliteConnection, tenant: &Tenant, id: WebhookId) -> Result<bool, Failure> {
    let removed = sqlx::query("delete from webhooks where id = ? and tenant = ?").bind(id.to_string()).bind(tenant.to_string());
    Ok(removed.execute(db).await?.rows_affected() > 0)
}

pub(super) async fn of(pool: &SqlitePool, tenant: &Tenant) -> Result<Vec<Webhook>, StoreError> {
    let found = sqlx::query("select * from webhooks where tenant = ? order by created_at, id").bind(tenant.to_string());
    found.fetch_all(pool).await.map_err(unavailable)?.iter().map(rows::webhook).collect()
}

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<Webhook>, StoreError> {
    let found = sqlx::query("select * from webhooks").fetch_all(pool).await.map_err(unavailable)?;
    Ok(rows::readable_webhooks(&found))
}
