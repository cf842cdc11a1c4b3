//! What a server keeps beside the records.

use caisson_core::{
    Delivery, Document, EventKind, FailedAttempt, Happened, KeptAnswer, Key, KeyHash, LifecycleEvent, Quotas, StoreError, Tenant, Webhook,
    WebhookSecret,
};
use jiff::Timestamp;

use super::Columns;

/// Between the names of kinds, none of which has one.
const BETWEEN: char = ',';

pub(crate) fn key(row: &impl Columns) -> Result<Key, StoreError> {
    let read = || {
        Some(Key {
            id: row.parsed("id")?,
            hash: KeyHash(row.bytes("hash")?.try_into().ok()?),
            tenant: row.parsed("tenant")?,
            scope: row.parsed("scope")?,
            note: row.text("note")??,
            created_at: row.moment("created_at")??,
            expires_at: row.moment("expires_at")?,
        })
    };
    read().ok_or_else(|| row.corrupt("id"))
}

pub(crate) fn tenant(row: &impl Columns) -> Result<(Tenant, Quotas), StoreError> {
    let read = || {
        let quotas = Quotas {
            sandboxes: row.number("sandboxes")?,
            executions_per_minute: row.number("executions_per_minute")?,
            memory_bytes: row.number("memory_bytes")?,
            disk_bytes: row.number("disk_bytes")?,
            workspace_bytes: row.number("workspace_bytes")?,
        };
        Some((row.parsed("name")?, quotas))
    };
    read().ok_or_else(|| row.corrupt("name"))
}

/// `key` is what it was asked for by.
pub(crate) fn answer(row: &impl Columns, key: &str) -> Result<KeptAnswer, StoreError> {
    let read = || {
        Some(KeptAnswer {
            fingerprint: row.bytes("fingerprint")?.try_into().ok()?,
            status: u16::try_from(row.integer("status")??).ok()?,
            body: row.bytes("body")?,
        })
    };
    read().ok_or_else(|| StoreError::Corrupt(format!("answer {key}")))
}

pub(crate) fn document(row: &impl Columns) -> Result<Document, StoreError> {
    let column = |name| row.text(name).flatten();
    let read = || {
        let until = match row.integer("until_us")? {
            Some(at) => Some(Timestamp::from_microsecond(at).ok()?),
            None => None,
        };
        let sandbox = match row.text("sandbox")? {
            Some(id) => Some(id.parse().ok()?),
            None => None,
        };
        Some(Document { kind: column("kind")?, owner: column("owner")?, id: column("id")?, body: column("body")?, until, sandbox })
    };
    read().ok_or_else(|| StoreError::Corrupt(format!("document {}", row.integer("number").flatten().unwrap_or_default())))
}

/// How far the events of a tenant go: the last number of all, and the first one that is kept.
pub(crate) fn range(row: &impl Columns, tenant: &Tenant) -> Result<(u64, u64), StoreError> {
    let figure = |column| row.number(column).flatten();
    figure("last_event").zip(figure("kept_from")).ok_or_else(|| StoreError::Corrupt(format!("tenant {tenant}")))
}

pub(crate) fn event(row: &impl Columns, tenant: &Tenant) -> Result<LifecycleEvent, StoreError> {
    let number = || row.integer("number").flatten().unwrap_or_default();
    read_event(row).ok_or_else(|| StoreError::Corrupt(format!("event {} of {tenant}", number())))
}

/// Name, reason and message of what is told without a change; none of anything else.
pub(crate) fn told(what: &Happened) -> Option<(String, Option<String>, String)> {
    match what {
        Happened::Refused { destination, reason, message } => Some((destination.clone(), Some(reason.clone()), message.clone())),
        Happened::Summary { start, egress } => Some((start.to_string(), None, egress.to_string())),
        _ => None,
    }
}

fn read_event(row: &impl Columns) -> Option<LifecycleEvent> {
    let kind: EventKind = row.parsed("kind")?;
    let what = match kind {
        EventKind::SandboxCreated => Happened::Created { name: row.text("name")? },
        EventKind::SandboxUpdated => Happened::Updated,
        EventKind::SandboxStopped => Happened::Stopped { reason: row.parsed("reason")? },
        EventKind::SandboxStarted => Happened::Restarted,
        EventKind::SandboxEnded => Happened::Ended { reason: row.parsed("reason")?, message: row.text("message")?.unwrap_or_default() },
        EventKind::ExecutionStarted => Happened::Started { execution: row.parsed("execution")? },
        EventKind::ExecutionEnded => Happened::Finished {
            execution: row.parsed("execution")?,
            status: row.parsed("status")?,
            exit_code: row.small("exit_code")?,
            signal: row.small("signal")?,
        },
        EventKind::EgressRefused => Happened::Refused {
            destination: row.text("name")??,
            reason: row.text("reason")??,
            message: row.text("message")?.unwrap_or_default(),
        },
        EventKind::EgressSummary => Happened::Summary { start: row.parsed("name")?, egress: row.parsed("message")? },
    };
    Some(LifecycleEvent { number: row.number("number")??, at: row.moment("at")??, sandbox: row.parsed("sandbox")?, what })
}

/// As one column has them.
pub(crate) fn kinds(kinds: &[EventKind]) -> String {
    kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(&BETWEEN.to_string())
}

pub(crate) fn webhook(row: &impl Columns) -> Result<Webhook, StoreError> {
    read_webhook(row).ok_or_else(|| row.corrupt("id"))
}

fn read_webhook(row: &impl Columns) -> Option<Webhook> {
    let kinds = row.text("kinds")??;
    let kinds = kinds.split(BETWEEN).filter(|name| !name.is_empty()).map(str::parse::<EventKind>);
    Some(Webhook {
        id: row.parsed("id")?,
        tenant: row.parsed("tenant")?,
        url: row.text("url")??,
        secret: WebhookSecret(row.bytes("secret")?.try_into().ok()?),
        kinds: kinds.collect::<Result<_, _>>().ok()?,
        description: row.text("description")??,
        created_at: row.moment("created_at")??,
        delivery: Delivery {
            until: row.number("told_until")??,
            last_event: row.number("last_event")?,
            last_success_at: row.moment("last_success_at")?,
            failures: u32::try_from(row.integer("failures")??).ok()?,
            last_failure: match row.moment("failed_at")? {
                None => None,
                Some(at) => Some(FailedAttempt { at, reason: row.text("failure")?? }),
            },
            next_attempt_at: row.moment("next_attempt_at")?,
            missed: row.number("missed")??,
            disabled: row.integer("disabled")?? != 0,
        },
    })
}

/// Those that can be read; of the others the log tells.
pub(crate) fn readable_webhooks(rows: &[impl Columns]) -> Vec<Webhook> {
    let readable = |row| webhook(row).inspect_err(|error| tracing::error!(error = %error, "A webhook is told nothing")).ok();
    rows.iter().filter_map(readable).collect()
}
