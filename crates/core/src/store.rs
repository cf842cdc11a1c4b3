//! The port behind which records are kept, shaped by what the engine asks.

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    Delivery, Document, EventFilter, Events, Execution, ExecutionId, ExecutionStatus, Happened, KeptAnswer, Key, KeyId, Outcome, Page,
    Quotas, Sandbox, SandboxId, Servers, State, Tenant, Tombstone, Webhook, WebhookId,
};

/// The store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A living sandbox has this name already.
    #[error("the name is taken by sandbox {0}")]
    NameTaken(SandboxId),
    /// The database is not there or did not answer. Whether it has written what it was asked to write is not known: whoever has to know asks
    /// again, as every write may be made a second time.
    #[error("the database did not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record cannot be read; it was written by another version or damaged.
    #[error("record {0} cannot be read")]
    Corrupt(String),
    /// A cursor that no list of this kind has handed out.
    #[error("the cursor is not one that a list of this kind has handed out")]
    ForeignCursor,
}

/// Which sandboxes to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    pub states: Vec<State>,
    /// Every pair must be among the sandbox's metadata.
    pub metadata: Vec<(String, String)>,
    pub name: Option<String>,
    /// At most this many.
    pub limit: u32,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Which executions to list. Newest first.
#[derive(Debug, Clone)]
pub struct ExecutionFilter {
    pub sandbox: SandboxId,
    pub statuses: Vec<ExecutionStatus>,
    pub limit: u32,
    pub cursor: Option<String>,
}

/// Records. What a call has returned `Ok` for survives a `kill -9` of the server. Whoever looks for something names a tenant, and finds
/// nothing of any other.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes a new sandbox; written again, it is the same one. Fails with [`StoreError::NameTaken`] when a living one of its tenant has its name.
    async fn insert_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError>;
    /// Writes state, time limits, metadata, last activity, starts, stop and tombstone of a known sandbox. An ended one stays as it is: the first end
    /// counts, whoever comes later.
    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError>;
    async fn sandbox(&self, tenant: &Tenant, id: SandboxId) -> Result<Option<Sandbox>, StoreError>;
    async fn sandboxes(&self, tenant: &Tenant, filter: &SandboxFilter) -> Result<Page<Sandbox>, StoreError>;

    /// Likewise.
    async fn insert_execution(&self, execution: &Execution) -> Result<(), StoreError>;
    /// Writes how it ended. One that has ended stays as it is, likewise.
    async fn finish_execution(&self, id: ExecutionId, outcome: &Outcome) -> Result<(), StoreError>;
    async fn execution(&self, tenant: &Tenant, id: ExecutionId) -> Result<Option<Execution>, StoreError>;
    async fn executions(&self, tenant: &Tenant, filter: &ExecutionFilter) -> Result<Page<Execution>, StoreError>;

    /// After a start: whoever of `kept` was running when the last run of this server went is stopped, everything else of its that was alive
    /// is ended with `tombstone`, and every running execution of theirs is `lost`. What had been stopped stays so. What other servers host
    /// on the same database is theirs. Returns how many sandboxes and executions that were.
    async fn bury_the_living(&self, tombstone: &Tombstone, kept: &[SandboxId]) -> Result<(u64, u64), StoreError>;
    /// The stopped sandboxes of all tenants that this server hosts.
    async fn stopped(&self) -> Result<Vec<Sandbox>, StoreError>;
    /// Removes ended sandboxes that ended before `before`, with their executions; returns the ids of the removed executions (their logs can go).
    /// What another server has hosted, which is there, is for that one to remove.
    async fn purge(&self, before: Timestamp) -> Result<Vec<ExecutionId>, StoreError>;
    /// Removes likewise what a tenant has of ended sandboxes beyond this many; those that ended last are kept.
    async fn purge_beyond(&self, kept: u64) -> Result<Vec<ExecutionId>, StoreError>;

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// What a server keeps beside the records; absent where there is no server.
    fn ledger(&self) -> Option<&dyn Ledger> {
        None
    }
}

/// What a server keeps beside the records: who may ask, and what they were told. Survives likewise.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Writes a new key; written again, it is the same one. Its tenant comes into being with its first key.
    async fn insert_key(&self, key: &Key) -> Result<(), StoreError>;
    /// Whether there was one.
    async fn remove_key(&self, id: KeyId) -> Result<bool, StoreError>;
    /// All of them.
    async fn keys(&self) -> Result<Vec<Key>, StoreError>;
    /// Writes what a tenant may have. It comes into being when it was not there.
    async fn save_tenant(&self, tenant: &Tenant, quotas: &Quotas) -> Result<(), StoreError>;
    /// All of them.
    async fn tenants(&self) -> Result<Vec<(Tenant, Quotas)>, StoreError>;

    /// Writes an answer under a key of its tenant's. The first one stays.
    async fn keep_answer(&self, tenant: &Tenant, key: &str, answer: &KeptAnswer, at: Timestamp) -> Result<(), StoreError>;
    async fn kept_answer(&self, tenant: &Tenant, key: &str) -> Result<Option<KeptAnswer>, StoreError>;
    /// Removes those that are older.
    async fn forget_answers(&self, before: Timestamp) -> Result<(), StoreError>;

    /// What has happened to this tenant's, as of one moment. A change and its event are written together.
    async fn events(&self, tenant: &Tenant, filter: &EventFilter) -> Result<Events, StoreError>;
    /// Tells of something that changes no record: [`Happened::Refused`], once for each destination of a sandbox, and [`Happened::Summary`], once for
    /// each of its lives.
    async fn tell(&self, tenant: &Tenant, sandbox: SandboxId, what: &Happened) -> Result<(), StoreError>;
    /// Removes those that are older.
    async fn forget_events(&self, before: Timestamp) -> Result<(), StoreError>;
    /// Changes whenever something has been written that an event may tell of, by whomever.
    fn written(&self) -> watch::Receiver<()>;

    /// Writes a new document. Whether there was none of that name.
    async fn insert_document(&self, document: &Document) -> Result<bool, StoreError>;
    /// Writes a known document anew. Whether there was one.
    async fn replace_document(&self, document: &Document) -> Result<bool, StoreError>;
    /// Whether there was one.
    async fn remove_document(&self, kind: &str, owner: &str, id: &str) -> Result<bool, StoreError>;
    async fn document(&self, kind: &str, owner: &str, id: &str) -> Result<Option<Document>, StoreError>;
    /// All of a kind and owner, the oldest first.
    async fn documents(&self, kind: &str, owner: &str) -> Result<Vec<Document>, StoreError>;
    /// Removes those whose time has come.
    async fn forget_documents(&self, now: Timestamp) -> Result<(), StoreError>;
    /// Whose a sandbox is, living or ended, for whoever was let in to it by other means than a key.
    async fn owner(&self, id: SandboxId) -> Result<Option<Tenant>, StoreError>;

    /// Writes a new webhook; written again, it is the same one, as far as it has come. Its tenant comes into being when it was not there.
    async fn insert_webhook(&self, webhook: &Webhook) -> Result<(), StoreError>;
    /// Writes how far a known webhook has come.
    async fn save_delivery(&self, id: WebhookId, delivery: &Delivery) -> Result<(), StoreError>;
    /// Whether there was one.
    async fn remove_webhook(&self, tenant: &Tenant, id: WebhookId) -> Result<bool, StoreError>;
    /// This tenant's, the oldest first.
    async fn webhooks(&self, tenant: &Tenant) -> Result<Vec<Webhook>, StoreError>;
    /// Those of all tenants, for a server that starts.
    async fn every_webhook(&self) -> Result<Vec<Webhook>, StoreError>;

    /// The other servers on this database; absent where there can be none.
    fn servers(&self) -> Option<&dyn Servers> {
        None
    }
}
