//! Tenants, keys, answers, documents and webhooks. `again` says that the same may have been done before on a connection that broke.

use caisson_core::{Delivery, Document, Happened, KeptAnswer, Key, KeyId, Quotas, SandboxId, Tenant, Webhook, WebhookId};
use jiff::Timestamp;
use sqlx::{Connection, PgConnection};

use super::{attempts::Failure, storable};
use crate::{
    PURGE_BATCH,
    rows::{self, Columns, clamp},
};

pub(super) async fn insert_key(db: &mut PgConnection, key: &Key) -> Result<(), Failure> {
    let mut both = db.begin().await?;
    come_into_being(&mut both, &key.tenant).await?;
    sqlx::query(
        "insert into keys (id, hash, tenant, scope, note, created_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7) \
         on conflict (id) do nothing",
    )
    .bind(key.id.to_string())
    .bind(&key.hash.0[..])
    .bind(key.tenant.as_str())
    .bind(key.scope.as_str())
    .bind(storable(&key.note))
    .bind(key.created_at.as_microsecond())
    .bind(key.expires_at.map(Timestamp::as_microsecond))
    .execute(&mut *both)
    .await?;
    Ok(both.commit().await?)
}

async fn come_into_being(db: &mut PgConnection, tenant: &Tenant) -> Result<(), Failure> {
    sqlx::query("insert into tenants (name) values ($1) on conflict do nothing").bind(tenant.as_str()).execute(db).await?;
    Ok(())
}

pub(super) async fn remove_key(db: &mut PgConnection, id: KeyId, again: bool) -> Result<bool, Failure> {
    let removed = sqlx::query("delete from keys where id = $1").bind(id.to_string()).execute(db).await?;
    Ok(again || removed.rows_affected() > 0)
}

pub(super) async fn keys(db: &mut PgConnection) -> Result<Vec<Key>, Failure> {
    let found = sqlx::query("select * from keys").fetch_all(db).await?;
    Ok(found.iter().map(rows::key).collect::<Result<_, _>>()?)
}

pub(super) async fn save_tenant(db: &mut PgConnection, tenant: &Tenant, quotas: &Quotas) -> Result<(), Failure> {
    sqlx::query(
        "insert into tenants (name, sandboxes, executions_per_minute, memory_bytes, disk_bytes, workspace_bytes) values ($1, $2, $3, $4, $5, $6) \
         on conflict (name) do update set sandboxes = excluded.sandboxes, executions_per_minute = excluded.executions_per_minute, \
         memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes, workspace_bytes = excluded.workspace_bytes",
    )
    .bind(tenant.as_str())
    .bind(quotas.sandboxes.map(clamp))
    .bind(quotas.executions_per_minute.map(clamp))
    .bind(quotas.memory_bytes.map(clamp))
    .bind(quotas.disk_bytes.map(clamp))
    .bind(quotas.workspace_bytes.map(clamp))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn tenants(db: &mut PgConnection) -> Result<Vec<(Tenant, Quotas)>, Failure> {
    let found = sqlx::query("select * from tenants").fetch_all(db).await?;
    Ok(found.iter().map(rows::tenant).collect::<Result<_, _>>()?)
}

/// Tells of something once, by its name.
pub(super) async fn tell(db: &mut PgConnection, tenant: &Tenant, sandbox: SandboxId, what: &Happened) -> Result<(), Failure> {
    let Some((name, reason, message)) = rows::told(what) else { return Ok(()) };
    sqlx::query(
        "insert into events (tenant, number, at, kind, sandbox, name, reason, message) \
         select $1, next_event($1), now_us(), $2, $3, $4, $5, $6 \
         where not exists (select 1 from events where tenant = $1 and sandbox = $3 and kind = $2 and name = $4)",
    )
    .bind(tenant.as_str())
    .bind(what.kind().as_str())
    .bind(sandbox.to_string())
    .bind(storable(&name))
    .bind(reason)
    .bind(storable(&message))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn keep_answer(
    db: &mut PgConnection,
    tenant: &Tenant,
    key: &str,
    answer: &KeptAnswer,
    at: Timestamp,
) -> Result<(), Failure> {
    sqlx::query("insert into answers (tenant, key, fingerprint, status, body, at) values ($1, $2, $3, $4, $5, $6) on conflict do nothing")
        .bind(tenant.as_str())
        .bind(key)
        .bind(&answer.fingerprint[..])
        .bind(i64::from(answer.status))
        .bind(&answer.body)
        .bind(at.as_microsecond())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn kept_answer(db: &mut PgConnection, tenant: &Tenant, key: &str) -> Result<Option<KeptAnswer>, Failure> {
    let query = sqlx::query("select * from answers where tenant = $1 and key = $2").bind(tenant.as_str()).bind(key);
    Ok(query.fetch_optional(db).await?.map(|row| rows::answer(&row, key)).transpose()?)
}

/// Removes some of those that are older; says whether there may be more.
pub(super) async fn forget_answers(db: &mut PgConnection, before: Timestamp) -> Result<bool, Failure> {
    let query = sqlx::query("delete from answers where (tenant, key) in (select tenant, key from answers where at < $1 limit $2)");
    let removed = query.bind(before.as_microsecond()).bind(i64::from(PURGE_BATCH)).execute(db).await?;
    Ok(removed.rows_affected() >= u64::from(PURGE_BATCH))
}

/// Likewise.
pub(super) async fn forget_events(db: &mut PgConnection, before: Timestamp) -> Result<bool, Failure> {
    let query = sqlx::query("delete from events where (tenant, number) in (select tenant, number from events where at < $1 limit $2)");
    let removed = query.bind(before.as_microsecond()).bind(i64::from(PURGE_BATCH)).execute(db).await?;
    Ok(removed.rows_affected() >= u64::from(PURGE_BATCH))
}

/// Whether there was none of that name. One that is there to the letter may be what was written a moment ago.
pub(super) async fn insert_document(db: &mut PgConnection, document: &Document, again: bool) -> Result<bool, Failure> {
    let Document { kind, owner, id, body, until, sandbox } = document;
    let query = sqlx::query(
        "insert into documents (kind, owner, id, body, until_us, sandbox) values ($1, $2, $3, $4, $5, $6) \
         on conflict (kind, owner, id) do nothing",
    );
    let query = query.bind(kind).bind(owner).bind(id).bind(body);
    let query = query.bind(until.map(|until| until.as_microsecond())).bind(sandbox.map(|sandbox| sandbox.to_string()));
    let inserted = query.execute(&mut *db).await?.rows_affected() > 0;
    Ok(inserted || (again && self::document(db, kind, owner, id).await?.as_ref() == Some(document)))
}

pub(super) async fn replace_document(db: &mut PgConnection, document: &Document) -> Result<bool, Failure> {
    let Document { kind, owner, id, body, until, sandbox } = document;
    let query = sqlx::query("update documents set body = $1, until_us = $2, sandbox = $3 where kind = $4 and owner = $5 and id = $6");
    let query = query.bind(body).bind(until.map(|until| until.as_microsecond())).bind(sandbox.map(|sandbox| sandbox.to_string()));
    Ok(query.bind(kind).bind(owner).bind(id).execute(db).await?.rows_affected() > 0)
}

/// Removes at most a batch of those whose time has come. Whether there may be more.
pub(super) async fn forget_documents(db: &mut PgConnection, now: Timestamp) -> Result<bool, Failure> {
    let query = sqlx::query("delete from documents where number in (select number from documents where until_us < $1 limit $2)");
    let removed = query.bind(now.as_microsecond()).bind(i64::from(PURGE_BATCH)).execute(db).await?;
    Ok(removed.rows_affected() >= u64::from(PURGE_BATCH))
}

pub(super) async fn remove_document(db: &mut PgConnection, kind: &str, owner: &str, id: &str, again: bool) -> Result<bool, Failure> {
    let query = sqlx::query("delete from documents where kind = $1 and owner = $2 and id = $3").bind(kind).bind(owner).bind(id);
    let removed = query.execute(db).await?.rows_affected();
    Ok(again || removed > 0)
}

pub(super) async fn document(db: &mut PgConnection, kind: &str, owner: &str, id: &str) -> Result<Option<Document>, Failure> {
    let query = sqlx::query("select * from documents where kind = $1 and owner = $2 and id = $3").bind(kind).bind(owner).bind(id);
    Ok(query.fetch_optional(db).await?.as_ref().map(rows::document).transpose()?)
}

pub(super) async fn documents(db: &mut PgConnection, kind: &str, owner: &str) -> Result<Vec<Document>, Failure> {
    let query = sqlx::query("select * from documents where kind = $1 and owner = $2 order by number").bind(kind).bind(owner);
    Ok(query.fetch_all(db).await?.iter().map(rows::document).collect::<Result<_, _>>()?)
}

pub(super) async fn owner(db: &mut PgConnection, id: SandboxId) -> Result<Option<Tenant>, Failure> {
    let found = sqlx::query("select tenant from sandboxes where id = $1").bind(id.to_string()).fetch_optional(db).await?;
    found.map(|row| row.parsed("tenant").ok_or_else(|| row.corrupt("tenant").into())).transpose()
}

/// Of one that is written again nothing changes: it may have come further meanwhile.
pub(super) async fn insert_webhook(db: &mut PgConnection, webhook: &Webhook) -> Result<(), Failure> {
    let mut all = db.begin().await?;
    come_into_being(&mut all, &webhook.tenant).await?;
    let inserted = sqlx::query(
        "insert into webhooks (id, tenant, url, secret, kinds, description, created_at, told_until, failures, missed, disabled) \
         values ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, 0) on conflict (id) do nothing",
    )
    .bind(webhook.id.to_string())
    .bind(webhook.tenant.as_str())
    .bind(storable(&webhook.url))
    .bind(&webhook.secret.0[..])
    .bind(rows::kinds(&webhook.kinds))
    .bind(storable(&webhook.description))
    .bind(webhook.created_at.as_microsecond())
    .execute(&mut *all)
    .await?;
    if inserted.rows_affected() > 0 {
        save_delivery(&mut all, webhook.id, &webhook.delivery).await?;
    }
    Ok(all.commit().await?)
}

/// Of one that was removed meanwhile nothing is written.
pub(super) async fn save_delivery(db: &mut PgConnection, id: WebhookId, delivery: &Delivery) -> Result<(), Failure> {
    let failed = delivery.last_failure.as_ref();
    sqlx::query(
        "update webhooks set told_until = $1, last_event = $2, last_success_at = $3, failures = $4, failed_at = $5, failure = $6, \
         next_attempt_at = $7, missed = $8, disabled = $9 where id = $10",
    )
    .bind(clamp(delivery.until))
    .bind(delivery.last_event.map(clamp))
    .bind(delivery.last_success_at.map(Timestamp::as_microsecond))
    .bind(i64::from(delivery.failures))
    .bind(failed.map(|failed| failed.at.as_microsecond()))
    .bind(failed.map(|failed| storable(&failed.reason)))
    .bind(delivery.next_attempt_at.map(Timestamp::as_microsecond))
    .bind(clamp(delivery.missed))
    .bind(i64::from(delivery.disabled))
    .bind(id.to_string())
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn remove_webhook(db: &mut PgConnection, tenant: &Tenant, id: WebhookId, again: bool) -> Result<bool, Failure> {
    let query = sqlx::query("delete from webhooks where id = $1 and tenant = $2").bind(id.to_string()).bind(tenant.as_str());
    let removed = query.execute(db).await?.rows_affected();
    Ok(again || removed > 0)
}

pub(super) async fn webhooks(db: &mut PgConnection, tenant: &Tenant) -> Result<Vec<Webhook>, Failure> {
    let found = sqlx::query("select * from webhooks where tenant = $1 order by created_at, id").bind(tenant.as_str()).fetch_all(db).await?;
    Ok(found.iter().map(rows::webhook).collect::<Result<_, _>>()?)
}

pub(super) async fn every_webhook(db: &mut PgConnection) -> Result<Vec<Webhook>, Failure> {
    Ok(rows::readable_webhooks(&sqlx::query("select * from webhooks").fetch_all(db).await?))
}
