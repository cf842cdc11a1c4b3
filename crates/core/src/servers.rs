//! What several servers on one database know of each other.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{ExecutionId, SandboxId, ServerId, StoreError, Tenant, Tombstone};

/// Another server on the same database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub id: ServerId,
    /// Where it is reached, such as `http://10.0.0.2:8080`.
    pub url: String,
}

/// What one server hosts, from its record on and for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hosted {
    Sandbox(SandboxId),
    Execution(ExecutionId),
}

/// How things are among the servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// All others that nobody has declared dead.
    pub peers: Vec<Peer>,
    /// Grows with every change of keys, quotas and webhooks, by whomever.
    pub changes: u64,
    /// Whether what one server does for all is this one's to do.
    pub leads: bool,
}

/// A server that was declared dead, and what it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buried {
    pub server: ServerId,
    pub sandboxes: u64,
    pub executions: u64,
}

/// Which of those that are stopped on servers that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    One(SandboxId),
    /// All that were stopped before.
    Before(Timestamp),
}

/// The servers that share a database. Each has a lease there, by the clock of the database. Whoever has lost it is declared dead by another,
/// which ends what it hosted in the same transaction. From then on nothing new can be recorded under the old lease, and what has ended stays
/// as it ended: whatever the dead one still writes changes nothing.
#[async_trait]
pub trait Servers: Send + Sync {
    /// This one.
    fn own(&self) -> ServerId;
    /// How long a server is believed to be there that says nothing.
    fn lease(&self) -> Duration;
    /// How things are; `None` for a server that was declared dead.
    async fn look(&self) -> Result<Option<Seen>, StoreError>;
    /// Whether the lease goes on. It does not for a server that was declared dead.
    async fn renew(&self) -> Result<bool, StoreError>;
    /// Declares those dead whose lease is over: one of those that do so at once succeeds. Theirs ends with `tombstone`, executions are `lost`.
    async fn bury_the_dead(&self, tombstone: &Tombstone) -> Result<Vec<Buried>, StoreError>;
    /// Ends sandboxes that are stopped on servers that are not there, and returns how many. Their files stay until their server is back, which then
    /// knows nothing of them.
    async fn end_abandoned(&self, which: Abandoned, tombstone: &Tombstone) -> Result<u64, StoreError>;
    /// Takes a new lease after the death of the old one, for a server that hosts nothing.
    async fn rejoin(&self) -> Result<(), StoreError>;
    /// Gives the lease up, when nothing is hosted any more.
    async fn leave(&self) -> Result<(), StoreError>;
    /// Who hosts it; `None` when it was never recorded, or its record is gone.
    async fn host(&self, what: Hosted) -> Result<Option<ServerId>, StoreError>;
    /// The secret that all have in common: that of the first who asked.
    async fn secret(&self, candidate: [u8; 32]) -> Result<[u8; 32], StoreError>;
    /// Whether no other server has a request with this key of its tenant's under way. It is this one's then, until it is released or this
    /// server is declared dead.
    async fn claim_answer(&self, tenant: &Tenant, key: &str) -> Result<bool, StoreError>;
    async fn release_answer(&self, tenant: &Tenant, key: &str) -> Result<(), StoreError>;
}
