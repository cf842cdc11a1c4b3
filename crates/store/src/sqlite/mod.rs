//! [`Sqlite`]: one file, one writer, a few readers.

mod answers;
mod documents;
mod events;
mod migrations;
mod read;
mod statements;
mod tenants;
mod webhooks;
mod writer;

use std::{
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use async_trait::async_trait;
use caisson_core::{
    Delivery, Document, EventFilter, Events, Execution, ExecutionFilter, ExecutionId, Happened, KeptAnswer, Key, KeyId, Ledger, Outcome,
    Page, Quotas, Sandbox, SandboxFilter, SandboxId, Store, StoreError, Tenant, Tombstone, Webhook, WebhookId,
};
use jiff::Timestamp;
use sqlx::{
    ConnectOptions, Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use tokio::sync::watch;

use self::{
    answers::AnswerRow,
    writer::{Done, Operation, Writer},
};
use crate::{
    PURGE_BATCH,
    doomed::Doomed,
    rows::{Columns, ExecutionRow, OutcomeRow, SandboxRow},
    unavailable,
};

/// How long to wait for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Readers at one time; more wait.
const READERS: u32 = 4;
/// Pages of the write-ahead log after which the writer itself moves them, should the checkpointer not keep up.
const BACKSTOP_PAGES: &str = "8000";

/// Records in one SQLite file. What a call has returned `Ok` for survives the death of this process (`synchronous=NORMAL` in WAL mode:
/// a power cut may take the last moments, but never tears a record).
#[derive(Debug)]
pub struct Sqlite {
    writer: Writer,
    readers: SqlitePool,
}

impl Sqlite {
    /// Opens the file and brings its schema up to date; makes it (mode 0600) and its directory (mode 0700) where they are missing.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let file = path.to_owned();
        tokio::task::spawn_blocking(move || prepare(&file)).await.map_err(unavailable)?.map_err(unavailable)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .pragma("wal_autocheckpoint", BACKSTOP_PAGES)
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(unavailable)?;
        migrations::migrator().run(&mut connection).await.map_err(unavailable)?;
        let checkpointer = options.connect().await.map_err(unavailable)?;
        let writer = Writer::start(connection, checkpointer);
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_lazy_with(options.read_only(true));
        Ok(Self { writer, readers })
    }

    /// A batch at a time. What goes is in the list, also when one of them fails.
    async fn remove(&self, doomed: Doomed, removed: &mut Vec<ExecutionId>) -> Result<(), StoreError> {
        loop {
            let purge = Operation::Purge { doomed: doomed.clone(), limit: PURGE_BATCH };
            match self.writer.submit(purge).await {
                Ok(Done::Purged { sandboxes, executions }) => {
                    removed.extend(executions);
                    if sandboxes < u64::from(PURGE_BATCH) {
                        return Ok(());
                    }
                }
                Ok(_) => return Ok(()),
                // Whoever asked has logs to remove; the next purge goes on here.
                Err(error) if !removed.is_empty() => {
                    tracing::warn!(error = %error, "A purge broke off; the next one goes on");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Columns for SqliteRow {
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

#[async_trait]
impl Store for Sqlite {
    async fn insert_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        self.writer.submit(Operation::InsertSandbox(Box::new(SandboxRow::from(sandbox)))).await?;
        Ok(())
    }

    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        self.writer.submit(Operation::UpdateSandbox(Box::new(SandboxRow::from(sandbox)))).await?;
        Ok(())
    }

    async fn sandbox(&self, tenant: &Tenant, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        read::sandbox(&self.readers, tenant, id).await
    }

    async fn sandboxes(&self, tenant: &Tenant, filter: &SandboxFilter) -> Result<Page<Sandbox>, StoreError> {
        read::sandboxes(&self.readers, tenant, filter).await
    }

    async fn insert_execution(&self, execution: &Execution) -> Result<(), StoreError> {
        self.writer.submit(Operation::InsertExecution(Box::new(ExecutionRow::from(execution)))).await?;
        Ok(())
    }

    async fn finish_execution(&self, id: ExecutionId, outcome: &Outcome) -> Result<(), StoreError> {
        self.writer.submit(Operation::FinishExecution(id, Box::new(OutcomeRow::from(outcome)))).await?;
        Ok(())
    }

    async fn execution(&self, tenant: &Tenant, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
        read::execution(&self.readers, tenant, id).await
    }

    async fn executions(&self, tenant: &Tenant, filter: &ExecutionFilter) -> Result<Page<Execution>, StoreError> {
        read::executions(&self.readers, tenant, filter).await
    }

    async fn bury_the_living(&self, tombstone: &Tombstone, kept: &[SandboxId]) -> Result<(u64, u64), StoreError> {
        match self.writer.submit(Operation::Bury(tombstone.clone(), kept.to_vec())).await? {
            Done::Buried { sandboxes, executions } => Ok((sandboxes, executions)),
            _ => Ok((0, 0)),
        }
    }

    async fn stopped(&self) -> Result<Vec<Sandbox>, StoreError> {
        read::stopped(&self.readers).await
    }

    async fn purge(&self, before: Timestamp) -> Result<Vec<ExecutionId>, StoreError> {
        let mut removed = Vec::new();
        self.remove(Doomed::Before(before.as_microsecond()), &mut removed).await?;
        Ok(removed)
    }

    async fn purge_beyond(&self, kept: u64) -> Result<Vec<ExecutionId>, StoreError> {
        let mut removed = Vec::new();
        for mark in read::marks(&self.readers, kept).await? {
            self.remove(Doomed::UpTo(mark), &mut removed).await?;
        }
        Ok(removed)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.submit(Operation::Ping).await?;
        read::ping(&self.readers).await
    }

    fn ledger(&self) -> Option<&dyn Ledger> {
        Some(self)
    }
}

#[async_trait]
impl Ledger for Sqlite {
    async fn insert_key(&self, key: &Key) -> Result<(), StoreError> {
        self.writer.submit(Operation::InsertKey(Box::new(key.clone()))).await?;
        Ok(())
    }

    async fn remove_key(&self, id: KeyId) -> Result<bool, StoreError> {
        Ok(matches!(self.writer.submit(Operation::RemoveKey(id)).await?, Done::Removed(true)))
    }

    async fn keys(&self) -> Result<Vec<Key>, StoreError> {
        tenants::keys(&self.readers).await
    }

    async fn save_tenant(&self, tenant: &Tenant, quotas: &Quotas) -> Result<(), StoreError> {
        self.writer.submit(Operation::SaveTenant(tenant.clone(), *quotas)).await?;
        Ok(())
    }

    async fn tenants(&self) -> Result<Vec<(Tenant, Quotas)>, StoreError> {
        tenants::all(&self.readers).await
    }

    async fn keep_answer(&self, tenant: &Tenant, key: &str, answer: &KeptAnswer, at: Timestamp) -> Result<(), StoreError> {
        let row = AnswerRow { tenant: tenant.to_string(), key: key.to_owned(), answer: answer.clone(), at: at.as_microsecond() };
        self.writer.submit(Operation::KeepAnswer(Box::new(row))).await?;
        Ok(())
    }

    async fn kept_answer(&self, tenant: &Tenant, key: &str) -> Result<Option<KeptAnswer>, StoreError> {
        answers::kept(&self.readers, tenant, key).await
    }

    async fn forget_answers(&self, before: Timestamp) -> Result<(), StoreError> {
        let before_us = before.as_microsecond();
        while let Done::Removed(true) = self.writer.submit(Operation::ForgetAnswers { before_us, limit: PURGE_BATCH }).await? {}
        Ok(())
    }

    async fn events(&self, tenant: &Tenant, filter: &EventFilter) -> Result<Events, StoreError> {
        events::events(&self.readers, tenant, filter).await
    }

    async fn tell(&self, tenant: &Tenant, sandbox: SandboxId, what: &Happened) -> Result<(), StoreError> {
        self.writer.submit(Operation::Tell(tenant.clone(), sandbox, Box::new(what.clone()))).await?;
        Ok(())
    }

    async fn forget_events(&self, before: Timestamp) -> Result<(), StoreError> {
        let before_us = before.as_microsecond();
        while let Done::Removed(true) = self.writer.submit(Operation::ForgetEvents { before_us, limit: PURGE_BATCH }).await? {}
        Ok(())
    }

    fn written(&self) -> watch::Receiver<()> {
        self.writer.written()
    }

    async fn insert_document(&self, document: &Document) -> Result<bool, StoreError> {
        Ok(matches!(self.writer.submit(Operation::InsertDocument(Box::new(document.clone()))).await?, Done::Changed(true)))
    }

    async fn replace_document(&self, document: &Document) -> Result<bool, StoreError> {
        Ok(matches!(self.writer.submit(Operation::ReplaceDocument(Box::new(document.clone()))).await?, Done::Changed(true)))
    }

    async fn remove_document(&self, kind: &str, owner: &str, id: &str) -> Result<bool, StoreError> {
        let operation = Operation::RemoveDocument { kind: kind.to_owned(), owner: owner.to_owned(), id: id.to_owned() };
        Ok(matches!(self.writer.submit(operation).await?, Done::Removed(true)))
    }

    async fn document(&self, kind: &str, owner: &str, id: &str) -> Result<Option<Document>, StoreError> {
        documents::one(&self.readers, kind, owner, id).await
    }

    async fn documents(&self, kind: &str, owner: &str) -> Result<Vec<Document>, StoreError> {
        documents::of(&self.readers, kind, owner).await
    }

    async fn forget_documents(&self, now: Timestamp) -> Result<(), StoreError> {
        let now_us = now.as_microsecond();
        while let Done::Removed(true) = self.writer.submit(Operation::ForgetDocuments { now_us, limit: PURGE_BATCH }).await? {}
        Ok(())
    }

    async fn owner(&self, id: SandboxId) -> Result<Option<Tenant>, StoreError> {
        documents::owner(&self.readers, id).await
    }

    async fn insert_webhook(&self, webhook: &Webhook) -> Result<(), StoreError> {
        self.writer.submit(Operation::InsertWebhook(Box::new(webhook.clone()))).await?;
        Ok(())
    }

    async fn save_delivery(&self, id: WebhookId, delivery: &Delivery) -> Result<(), StoreError> {
        self.writer.submit(Operation::SaveDelivery(id, Box::new(delivery.clone()))).await?;
        Ok(())
    }

    async fn remove_webhook(&self, tenant: &Tenant, id: WebhookId) -> Result<bool, StoreError> {
        Ok(matches!(self.writer.submit(Operation::RemoveWebhook(tenant.clone(), id)).await?, Done::Removed(true)))
    }

    async fn webhooks(&self, tenant: &Tenant) -> Result<Vec<Webhook>, StoreError> {
        webhooks::of(&self.readers, tenant).await
    }

    async fn every_webhook(&self) -> Result<Vec<Webhook>, StoreError> {
        webhooks::all(&self.readers).await
    }
}

/// Directory and file with modes that keep others out; SQLite gives its side files the mode of the main file.
fn prepare(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    Ok(())
}
