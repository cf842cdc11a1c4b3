//! The one task that writes. Whatever waits when it comes round goes into one transaction (group commit), so that a burst of records
//! costs one commit, and a single record costs one statement.

use std::sync::Arc;

use caisson_core::{
    Delivery, Document, ExecutionId, Happened, Key, KeyId, Quotas, SandboxId, StoreError, Tenant, Tombstone, Webhook, WebhookId,
};
use sqlx::SqliteConnection;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    answers::{self, AnswerRow},
    documents, events,
    statements::{self, Failure},
    tenants, webhooks,
};
use crate::{
    doomed::Doomed,
    rows::{ExecutionRow, OutcomeRow, SandboxRow},
    unavailable,
};

/// Operations in one transaction.
const BATCH: usize = 256;
/// Operations that wait; whoever comes when it is full waits to be let in.
const QUEUE: usize = 1024;
/// Operations between two checkpoints of the write-ahead log.
const CHECKPOINT_AFTER: usize = 500;

/// Something to write.
#[derive(Debug)]
pub(super) enum Operation {
    InsertSandbox(Box<SandboxRow>),
    UpdateSandbox(Box<SandboxRow>),
    InsertExecution(Box<ExecutionRow>),
    FinishExecution(ExecutionId, Box<OutcomeRow>),
    InsertKey(Box<Key>),
    RemoveKey(KeyId),
    SaveTenant(Tenant, Quotas),
    KeepAnswer(Box<AnswerRow>),
    ForgetAnswers { before_us: i64, limit: u32 },
    ForgetEvents { before_us: i64, limit: u32 },
    Tell(Tenant, SandboxId, Box<Happened>),
    InsertDocument(Box<Document>),
    ReplaceDocument(Box<Document>),
    ForgetDocuments { now_us: i64, limit: u32 },
    RemoveDocument { kind: String, owner: String, id: String },
    InsertWebhook(Box<Webhook>),
    SaveDelivery(WebhookId, Box<Delivery>),
    RemoveWebhook(Tenant, WebhookId),
    Bury(Tombstone, Vec<SandboxId>),
    Purge { doomed: Doomed, limit: u32 },
    Ping,
}

/// What an operation that succeeded has to tell.
#[derive(Debug)]
pub(super) enum Done {
    Written,
    /// Whether anything is other than before.
    Changed(bool),
    /// Whether there was something to remove, or may be more.
    Removed(bool),
    Buried {
        sandboxes: u64,
        executions: u64,
    },
    Purged {
        sandboxes: u64,
        executions: Vec<ExecutionId>,
    },
}

type Reply = Result<Done, StoreError>;

#[derive(Debug)]
struct Job {
    operation: Operation,
    reply: oneshot::Sender<Reply>,
}

/// The way to the writer. The tasks behind it end when it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
    written: watch::Receiver<()>,
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection, checkpointer: SqliteConnection) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (committed, written) = watch::channel(());
        let due = Arc::new(Notify::new());
        let checkpoints = tokio::spawn(checkpoint(checkpointer, Arc::clone(&due)));
        tokio::spawn(async move {
            write(connection, jobs, &committed, &due).await;
            // Between two checkpoints nothing is half done: the log stays and the next opening uses it.
            checkpoints.abort();
        });
        Self { queue, written }
    }

    /// Changes with every commit that an event may tell of.
    pub(super) fn written(&self) -> watch::Receiver<()> {
        self.written.clone()
    }

    /// Returns when the operation is committed. A caller that goes away changes nothing: the operation is done all the same.
    pub(super) async fn submit(&self, operation: Operation) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Job { operation, reply }).await.map_err(|_| unavailable("the writer has ended"))?;
        answer.await.map_err(|_| unavailable("the writer has ended"))?
    }
}

async fn write(mut db: SqliteConnection, mut jobs: mpsc::Receiver<Job>, committed: &watch::Sender<()>, checkpoint_due: &Notify) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut since_checkpoint = 0;
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        since_checkpoint += batch.len();
        let replies = if let [job] = &batch[..]
            && job.operation.is_one_statement()
        {
            // SQLite commits a lone statement by itself.
            vec![alone(&mut db, &job.operation).await]
        } else {
            together(&mut db, &batch).await
        };
        if batch.iter().any(|job| job.operation.makes_events()) {
            committed.send_replace(());
        }
        for (job, reply) in batch.drain(..).zip(replies) {
            // Whoever asked may have gone; what was asked is done all the same.
            job.reply.send(reply).ok();
        }
        if since_checkpoint >= CHECKPOINT_AFTER {
            since_checkpoint = 0;
            checkpoint_due.notify_one();
        }
    }
}

/// Moves pages from the log into the database file on a connection of its own, so that its `fsync`s keep no writer waiting.
async fn checkpoint(mut db: SqliteConnection, due: Arc<Notify>) {
    loop {
        due.notified().await;
        if let Err(error) = sqlx::query("pragma wal_checkpoint(passive)").execute(&mut db).await {
            tracing::warn!(error = %error, "Cannot checkpoint the database; its log grows until the next attempt");
        }
    }
}

/// One transaction for all. When it breaks, each operation gets a transaction of its own, so that only the guilty one fails.
async fn together(db: &mut SqliteConnection, batch: &[Job]) -> Vec<Reply> {
    match transaction(db, batch).await {
        Ok(replies) => replies,
        Err(error) => {
            rollback(db).await;
            if let [_] = batch {
                return vec![Err(unavailable(error))];
            }
            tracing::warn!(error = %error, operations = batch.len(), "A transaction failed; trying its operations one by one");
            let mut replies = Vec::with_capacity(batch.len());
            for job in batch {
                replies.push(match transaction(db, std::slice::from_ref(job)).await {
                    Ok(mut one) => one.pop().unwrap_or_else(|| Err(unavailable("an operation got no answer"))),
                    Err(error) => {
                        rollback(db).await;
                        Err(unavailable(error))
                    }
                });
            }
            replies
        }
    }
}

async fn transaction(db: &mut SqliteConnection, batch: &[Job]) -> Result<Vec<Reply>, sqlx::Error> {
    sqlx::query("begin immediate").execute(&mut *db).await?;
    let mut replies = Vec::with_capacity(batch.len());
    for job in batch {
        match apply(db, &job.operation).await {
            Ok(done) => replies.push(Ok(done)),
            Err(Failure::Own(error)) => replies.push(Err(error)),
            Err(Failure::Batch(error)) => return Err(error),
        }
    }
    sqlx::query("commit").execute(&mut *db).await?;
    Ok(replies)
}

async fn rollback(db: &mut SqliteConnection) {
    // SQLite may have rolled back by itself, and then there is nothing to roll back.
    if let Err(error) = sqlx::query("rollback").execute(db).await {
        tracing::debug!(error = %error, "Nothing to roll back");
    }
}

async fn alone(db: &mut SqliteConnection, operation: &Operation) -> Reply {
    apply(db, operation).await.map_err(|failure| match failure {
        Failure::Own(error) => error,
        Failure::Batch(error) => unavailable(error),
    })
}

async fn apply(db: &mut SqliteConnection, operation: &Operation) -> Result<Done, Failure> {
    match operation {
        Operation::InsertSandbox(row) => statements::insert_sandbox(db, row).await?,
        Operation::UpdateSandbox(row) => statements::update_sandbox(db, row).await?,
        Operation::InsertExecution(row) => statements::insert_execution(db, row).await?,
        Operation::FinishExecution(id, row) => statements::finish_execution(db, *id, row).await?,
        Operation::InsertKey(key) => tenants::insert_key(db, key).await?,
        Operation::RemoveKey(id) => return Ok(Done::Removed(tenants::remove_key(db, *id).await?)),
        Operation::SaveTenant(tenant, quotas) => tenants::save(db, tenant, quotas).await?,
        Operation::KeepAnswer(row) => answers::keep(db, row).await?,
        Operation::ForgetAnswers { before_us, limit } => return Ok(Done::Removed(answers::forget(db, *before_us, *limit).await?)),
        Operation::ForgetEvents { before_us, limit } => return Ok(Done::Removed(events::forget(db, *before_us, *limit).await?)),
        Operation::Tell(tenant, sandbox, what) => events::tell(db, tenant, *sandbox, what).await?,
        Operation::InsertDocument(document) => return Ok(Done::Changed(documents::insert(db, document).await?)),
        Operation::ReplaceDocument(document) => return Ok(Done::Changed(documents::replace(db, document).await?)),
        Operation::RemoveDocument { kind, owner, id } => return Ok(Done::Removed(documents::remove(db, kind, owner, id).await?)),
        Operation::ForgetDocuments { now_us, limit } => return Ok(Done::Removed(documents::forget(db, *now_us, *limit).await?)),
        Operation::InsertWebhook(webhook) => webhooks::insert(db, webhook).await?,
        Operation::SaveDelivery(id, delivery) => webhooks::save(db, *id, delivery).await?,
        Operation::RemoveWebhook(tenant, id) => return Ok(Done::Removed(webhooks::remove(db, tenant, *id).await?)),
        Operation::Bury(tombstone, kept) => {
            let (sandboxes, executions) = statements::bury(db, tombstone, kept).await?;
            return Ok(Done::Buried { sandboxes, executions });
        }
        Operation::Purge { doomed, limit } => {
            let (sandboxes, executions) = statements::purge(db, doomed, *limit).await?;
            return Ok(Done::Purged { sandboxes, executions });
        }
        Operation::Ping => {
            sqlx::query("select 1").execute(db).await?;
        }
    }
    Ok(Done::Written)
}

impl Operation {
    /// Whether an event may tell of it.
    fn makes_events(&self) -> bool {
        matches!(
            self,
            Self::InsertSandbox(_)
                | Self::UpdateSandbox(_)
                | Self::InsertExecution(_)
                | Self::FinishExecution(..)
                | Self::Bury(..)
                | Self::Tell(..)
        )
    }

    fn is_one_statement(&self) -> bool {
        !matches!(self, Self::InsertKey(_) | Self::InsertWebhook(_) | Self::Bury(..) | Self::Purge { .. } | Self::Tell(..))
    }
}
