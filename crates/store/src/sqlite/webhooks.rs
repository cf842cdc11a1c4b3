//! Webhooks: few, and how far each has come.

use caisson_core::{Delivery, EventKind, FailedAttempt, StoreError, Tenant, Webhook, WebhookId, WebhookSecret};
use jiff::Timestamp;
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    rows::{clamp, integer, parsed, text, timestamp},
    statements::Failure,
    unavailable,
};

/// Between the names of kinds, none of which has one.
const BETWEEN: char = ',';

pub(super) async fn insert(db: &mut SqliteConnection, webhook: &Webhook) -> Result<(), Failure> {
    sqlx::query("insert into tenants (name) values (?) on conflict do nothing").bind(webhook.tenant.to_string()).execute(&mut *db).await?;
    let kinds: Vec<&str> = webhook.kinds.iter().map(|kind| kind.as_str()).collect();
    sqlx::query(
        "insert into webhooks (id, tenant, url, secret, kinds, description, created_at, told_until, failures, missed, disabled) \
         values (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0)",
    )
    .bind(webhook.id.to_string())
    .bind(webhook.tenant.to_string())
    .bind(webhook.url.clone())
    .bind(webhook.secret.0.to_vec())
    .bind(kinds.join(&BETWEEN.to_string()))
    .bind(webhook.description.clone())
    .bind(webhook.created_at.as_microsecond())
    .execute(&mut *db)
    .await?;
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
    found.fetch_all(pool).await.map_err(unavailable)?.iter().map(webhook).collect()
}

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<Webhook>, StoreError> {
    let found = sqlx::query("select * from webhooks").fetch_all(pool).await.map_err(unavailable)?;
    let readable = |row| webhook(row).inspect_err(|error| tracing::error!(error = %error, "A webhook is told nothing")).ok();
    Ok(found.iter().filter_map(readable).collect())
}

fn webhook(row: &SqliteRow) -> Result<Webhook, StoreError> {
    read(row).ok_or_else(|| StoreError::Corrupt(text(row, "id").flatten().unwrap_or_default()))
}

fn read(row: &SqliteRow) -> Option<Webhook> {
    let number = |column| u64::try_from(integer(row, column)??).ok();
    let moment = |column| match integer(row, column)? {
        None => Some(None),
        Some(us) => Some(Some(timestamp(us)?)),
    };
    let secret: Vec<u8> = row.try_get("secret").ok()?;
    let kinds = text(row, "kinds")??;
    let kinds = kinds.split(BETWEEN).filter(|name| !name.is_empty()).map(str::parse::<EventKind>);
    Some(Webhook {
        id: parsed(row, "id")?,
        tenant: parsed(row, "tenant")?,
        url: text(row, "url")??,
        secret: WebhookSecret(secret.try_into().ok()?),
        kinds: kinds.collect::<Result<_, _>>().ok()?,
        description: text(row, "description")??,
        created_at: timestamp(integer(row, "created_at")??)?,
        delivery: Delivery {
            until: number("told_until")?,
            last_event: match integer(row, "last_event")? {
                None => None,
                Some(number) => Some(u64::try_from(number).ok()?),
            },
            last_success_at: moment("last_success_at")?,
            failures: u32::try_from(integer(row, "failures")??).ok()?,
            last_failure: match moment("failed_at")? {
                None => None,
                Some(at) => Some(FailedAttempt { at, reason: text(row, "failure")?? }),
            },
            next_attempt_at: moment("next_attempt_at")?,
            missed: number("missed")?,
            disabled: integer(row, "disabled")?? != 0,
        },
    })
}
