//! [`Postgres`]: a server of databases, over a pool of connections.

mod attempts;
mod ledger;
mod migrations;
mod open;
mod owner;
mod read;
mod records;
mod servers;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use caisson_core::{
    Abandoned, Buried, Delivery, Document, EventFilter, Events, Execution, ExecutionFilter, ExecutionId, Happened, Hosted, KeptAnswer, Key,
    KeyId, Ledger, Outcome, Page, Quotas, Sandbox, SandboxFilter, SandboxId, Seen, ServerId, Servers, Store, StoreError, Tenant, Tombstone,
    Webhook, WebhookId,
};
use jiff::Timestamp;
use sqlx::{PgPool, Row, postgres::PgRow};
use tokio::{sync::watch, task::JoinHandle};

use self::{
    attempts::{Attempts, with_connection},
    owner::Owner,
};
pub use self::{
    open::OpenError,
    owner::{Membership, Sharing},
};
use crate::{
    doomed::Doomed,
    rows::{Columns, ExecutionRow, OutcomeRow, SandboxRow, json},
};

/// Records in a PostgreSQL database of their own, in its schema `caisson`. What a call has returned `Ok` for is committed there. A call whose
/// connection breaks is made again on another, for a few seconds; then it fails with [`StoreError::Unavailable`], and the next one may succeed.
#[derive(Debug)]
pub struct Postgres {
    pool: PgPool,
    owner: Arc<Owner>,
    written: watch::Sender<()>,
    /// How many there were of all tenants at the last look.
    events: AtomicU64,
    looking: JoinHandle<()>,
}

impl Postgres {
    fn attempts(&self) -> Attempts<'_> {
        Attempts::new(&self.pool, &self.owner)
    }

    /// An event may tell of it. Of what failed as well, because it may have been done.
    fn told<T>(&self, result: T) -> T {
        self.written.send_replace(());
        result
    }

    /// A batch at a time. What goes is in the list, also when it is not known whether it has gone: its time is over.
    async fn remove(&self, doomed: &Doomed, removed: &mut Vec<ExecutionId>) -> Result<(), StoreError> {
        loop {
            let chosen = async { with_connection!(self, |db| records::choose(db, doomed, self.owner.id())) }.await;
            let (sandboxes, executions) = match chosen {
                Ok(chosen) => chosen,
                Err(error) => return broken_off(error, removed),
            };
            if sandboxes.is_empty() {
                return Ok(());
            }
            removed.extend(executions);
            let gone: Result<(), StoreError> = async { with_connection!(self, |db| records::remove(db, &sandboxes)) }.await;
            if let Err(error) = gone {
                return broken_off(error, removed);
            }
        }
    }
}

/// Whoever asked has logs to remove; the next purge goes on here.
fn broken_off(error: StoreError, removed: &[ExecutionId]) -> Result<(), StoreError> {
    if removed.is_empty() {
        return Err(error);
    }
    tracing::warn!(error = %error, "A purge broke off; the next one goes on");
    Ok(())
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

#[async_trait]
impl Store for Postgres {
    async fn insert_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        let (row, pairs) = (SandboxRow::from(sandbox), pairs(sandbox));
        self.told(with_connection!(self, |db| records::insert_sandbox(db, &self.owner, &row, &pairs)))
    }

    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        let (row, pairs) = (SandboxRow::from(sandbox), pairs(sandbox));
        self.told(with_connection!(self, |db| records::update_sandbox(db, &self.owner, &row, &pairs)))
    }

    async fn sandbox(&self, tenant: &Tenant, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        with_connection!(self, |db| read::sandbox(db, tenant, id))
    }

    async fn sandboxes(&self, tenant: &Tenant, filter: &SandboxFilter) -> Result<Page<Sandbox>, StoreError> {
        if filter.name.as_deref().is_some_and(cannot_be_there) {
            return Ok(Page { data: Vec::new(), next_cursor: None });
        }
        with_connection!(self, |db| read::sandboxes(db, tenant, filter))
    }

    async fn insert_execution(&self, execution: &Execution) -> Result<(), StoreError> {
        let row = ExecutionRow::from(execution);
        self.told(with_connection!(self, |db| records::insert_execution(db, &self.owner, &row)))
    }

    async fn finish_execution(&self, id: ExecutionId, outcome: &Outcome) -> Result<(), StoreError> {
        let row = OutcomeRow::from(outcome);
        self.told(with_connection!(self, |db| records::finish_execution(db, id, &row)))
    }

    async fn execution(&self, tenant: &Tenant, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
        with_connection!(self, |db| read::execution(db, tenant, id))
    }

    async fn executions(&self, tenant: &Tenant, filter: &ExecutionFilter) -> Result<Page<Execution>, StoreError> {
        with_connection!(self, |db| read::executions(db, tenant, filter))
    }

    async fn bury_the_living(&self, tombstone: &Tombstone, kept: &[SandboxId]) -> Result<(u64, u64), StoreError> {
        self.told(with_connection!(self, |db| records::bury_own(db, &self.owner, tombstone, kept)))
    }

    async fn stopped(&self) -> Result<Vec<Sandbox>, StoreError> {
        with_connection!(self, |db| read::stopped(db, &self.owner))
    }

    async fn purge(&self, before: Timestamp) -> Result<Vec<ExecutionId>, StoreError> {
        let mut removed = Vec::new();
        self.remove(&Doomed::Before(before.as_microsecond()), &mut removed).await?;
        Ok(removed)
    }

    async fn purge_beyond(&self, kept: u64) -> Result<Vec<ExecutionId>, StoreError> {
        let marks = with_connection!(self, |db| read::marks(db, kept))?;
        let mut removed = Vec::new();
        for mark in marks {
            self.remove(&Doomed::UpTo(mark), &mut removed).await?;
        }
        Ok(removed)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        with_connection!(self, |db| async { Ok(sqlx::query("select 1").execute(db).await.map(drop)?) })
    }

    fn ledger(&self) -> Option<&dyn Ledger> {
        Some(self)
    }
}

#[async_trait]
impl Ledger for Postgres {
    async fn insert_key(&self, key: &Key) -> Result<(), StoreError> {
        with_connection!(self, |db| ledger::insert_key(db, key))
    }

    async fn remove_key(&self, id: KeyId) -> Result<bool, StoreError> {
        with_connection!(self, |db, again| ledger::remove_key(db, id, again))
    }

    async fn keys(&self) -> Result<Vec<Key>, StoreError> {
        with_connection!(self, |db| ledger::keys(db))
    }

    async fn save_tenant(&self, tenant: &Tenant, quotas: &Quotas) -> Result<(), StoreError> {
        with_connection!(self, |db| ledger::save_tenant(db, tenant, quotas))
    }

    async fn tenants(&self) -> Result<Vec<(Tenant, Quotas)>, StoreError> {
        with_connection!(self, |db| ledger::tenants(db))
    }

    async fn keep_answer(&self, tenant: &Tenant, key: &str, answer: &KeptAnswer, at: Timestamp) -> Result<(), StoreError> {
        with_connection!(self, |db| ledger::keep_answer(db, tenant, key, answer, at))
    }

    async fn kept_answer(&self, tenant: &Tenant, key: &str) -> Result<Option<KeptAnswer>, StoreError> {
        with_connection!(self, |db| ledger::kept_answer(db, tenant, key))
    }

    async fn forget_answers(&self, before: Timestamp) -> Result<(), StoreError> {
        loop {
            if !with_connection!(self, |db| ledger::forget_answers(db, before))? {
                return Ok(());
            }
        }
    }

    async fn events(&self, tenant: &Tenant, filter: &EventFilter) -> Result<Events, StoreError> {
        with_connection!(self, |db| read::events(db, tenant, filter))
    }

    async fn tell(&self, tenant: &Tenant, sandbox: SandboxId, what: &Happened) -> Result<(), StoreError> {
        self.told(with_connection!(self, |db| ledger::tell(db, tenant, sandbox, what)))
    }

    async fn forget_events(&self, before: Timestamp) -> Result<(), StoreError> {
        loop {
            if !with_connection!(self, |db| ledger::forget_events(db, before))? {
                return Ok(());
            }
        }
    }

    fn written(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }

    async fn insert_document(&self, document: &Document) -> Result<bool, StoreError> {
        with_connection!(self, |db, again| ledger::insert_document(db, document, again))
    }

    async fn replace_document(&self, document: &Document) -> Result<bool, StoreError> {
        with_connection!(self, |db| ledger::replace_document(db, document))
    }

    async fn remove_document(&self, kind: &str, owner: &str, id: &str) -> Result<bool, StoreError> {
        if [owner, id].into_iter().any(cannot_be_there) {
            return Ok(false);
        }
        with_connection!(self, |db, again| ledger::remove_document(db, kind, owner, id, again))
    }

    async fn document(&self, kind: &str, owner: &str, id: &str) -> Result<Option<Document>, StoreError> {
        if [owner, id].into_iter().any(cannot_be_there) {
            return Ok(None);
        }
        with_connection!(self, |db| ledger::document(db, kind, owner, id))
    }

    async fn documents(&self, kind: &str, owner: &str) -> Result<Vec<Document>, StoreError> {
        if cannot_be_there(owner) {
            return Ok(Vec::new());
        }
        with_connection!(self, |db| ledger::documents(db, kind, owner))
    }

    async fn forget_documents(&self, now: Timestamp) -> Result<(), StoreError> {
        loop {
            if !with_connection!(self, |db| ledger::forget_documents(db, now))? {
                return Ok(());
            }
        }
    }

    async fn owner(&self, id: SandboxId) -> Result<Option<Tenant>, StoreError> {
        with_connection!(self, |db| ledger::owner(db, id))
    }

    async fn insert_webhook(&self, webhook: &Webhook) -> Result<(), StoreError> {
        with_connection!(self, |db| ledger::insert_webhook(db, webhook))
    }

    async fn save_delivery(&self, id: WebhookId, delivery: &Delivery) -> Result<(), StoreError> {
        with_connection!(self, |db| ledger::save_delivery(db, id, delivery))
    }

    async fn remove_webhook(&self, tenant: &Tenant, id: WebhookId) -> Result<bool, StoreError> {
        with_connection!(self, |db, again| ledger::remove_webhook(db, tenant, id, again))
    }

    async fn webhooks(&self, tenant: &Tenant) -> Result<Vec<Webhook>, StoreError> {
        with_connection!(self, |db| ledger::webhooks(db, tenant))
    }

    async fn every_webhook(&self) -> Result<Vec<Webhook>, StoreError> {
        with_connection!(self, |db| ledger::every_webhook(db))
    }

    fn servers(&self) -> Option<&dyn Servers> {
        self.owner.membership.sharing.as_ref().map(|_| self as &dyn Servers)
    }
}

#[async_trait]
impl Servers for Postgres {
    fn own(&self) -> ServerId {
        self.owner.membership.id
    }

    fn lease(&self) -> Duration {
        self.owner.membership.sharing.as_ref().map_or(Duration::MAX, |sharing| sharing.lease)
    }

    async fn look(&self) -> Result<Option<Seen>, StoreError> {
        let Some((seen, events)) = with_connection!(self, |db| servers::look(db, &self.owner))? else { return Ok(None) };
        // Others have written them.
        if self.events.swap(events, Ordering::AcqRel) != events {
            self.written.send_replace(());
        }
        Ok(Some(seen))
    }

    async fn renew(&self) -> Result<bool, StoreError> {
        with_connection!(self, |db| servers::renew(db, &self.owner))
    }

    async fn bury_the_dead(&self, tombstone: &Tombstone) -> Result<Vec<Buried>, StoreError> {
        self.told(with_connection!(self, |db| servers::bury_the_dead(db, &self.owner, tombstone)))
    }

    async fn end_abandoned(&self, which: Abandoned, tombstone: &Tombstone) -> Result<u64, StoreError> {
        self.told(with_connection!(self, |db| servers::end_abandoned(db, which, tombstone)))
    }

    async fn rejoin(&self) -> Result<(), StoreError> {
        let joined: Result<_, StoreError> = async { with_connection!(self, |db| async { Ok(self.owner.rejoin(db).await?) }) }.await;
        joined?.map_err(|holder| crate::unavailable(format!("another server has taken the database alone: {holder}")))
    }

    async fn leave(&self) -> Result<(), StoreError> {
        with_connection!(self, |db| servers::leave(db, &self.owner))
    }

    async fn host(&self, what: Hosted) -> Result<Option<ServerId>, StoreError> {
        with_connection!(self, |db| servers::host(db, what))
    }

    async fn secret(&self, candidate: [u8; 32]) -> Result<[u8; 32], StoreError> {
        with_connection!(self, |db| servers::secret(db, &candidate))
    }

    async fn claim_answer(&self, tenant: &Tenant, key: &str) -> Result<bool, StoreError> {
        with_connection!(self, |db| servers::claim_answer(db, &self.owner, tenant, key))
    }

    async fn release_answer(&self, tenant: &Tenant, key: &str) -> Result<(), StoreError> {
        with_connection!(self, |db| servers::release_answer(db, &self.owner, tenant, key))
    }
}

impl Columns for PgRow {
    fn text(&self, column: &str) -> Option<Option<String>> {
        self.try_get(column).ok()
    }

    fn integer(&self, column: &str) -> Option<Option<i64>> {
        self.try_get(column).ok()
    }

    fn bytes(&self, column: &str) -> Option<Vec<u8>> {
        self.try_get(column).ok()
    }
}

/// What lists are chosen by.
fn pairs(sandbox: &Sandbox) -> Vec<String> {
    sandbox.metadata.iter().map(|(key, value)| pair(key, value)).collect()
}

fn pair(key: &str, value: &str) -> String {
    json(&[key, value])
}

/// Text of PostgreSQL may hold everything but this one character; in JSON it is written otherwise anyway.
fn storable(text: &str) -> Cow<'_, str> {
    if cannot_be_there(text) { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

fn cannot_be_there(text: &str) -> bool {
    text.contains('\0')
}
