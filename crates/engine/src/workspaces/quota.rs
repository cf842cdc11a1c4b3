//! How much tenants have in their workspaces, against what they may have.
//!
//! Storage knows it, and says it by listing everything. So it is counted at the first write of a tenant that has a quota, kept up by what is
//! written here, and counted anew from time to time: others may write into the storage as well.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use caisson_core::{BlobError, BlobKey, Error, Exceeded, Quota, Tenant};

use super::{Workspaces, blob_error, request::Tree};

/// A count is good for so long.
const RECOUNT_AFTER: Duration = Duration::from_secs(300);
/// And for so long when it does not let something in.
const DOUBTED_AFTER: Duration = Duration::from_secs(5);
/// A count is doubted when less than this part of the quota is left.
const SCARCE: u64 = 10;
/// Files on one page of a listing.
const PAGE: usize = 1000;

/// What tenants have, as far as it was counted.
#[derive(Debug, Default)]
pub(super) struct Meter {
    accounts: Mutex<HashMap<Tenant, Arc<Account>>>,
}

#[derive(Debug, Default)]
struct Account {
    held: Mutex<Held>,
    /// One counts at a time.
    counting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    /// What is being written.
    reserved: u64,
    counted: Option<Instant>,
}

/// What one tenant may have in its workspaces.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    pub(super) tenant: Tenant,
    /// `None` is no limit.
    pub(super) limit: Option<u64>,
}

/// Why something is not in a workspace.
#[derive(Debug)]
pub(super) enum NotWritten {
    Blob(BlobError),
    /// There is no room; there may be later.
    Over(Exceeded),
}

/// Room that is taken for a file, and given back with this unless the file is there.
#[derive(Debug, Default)]
pub(super) struct Room {
    taken: Option<Taken>,
}

#[derive(Debug)]
struct Taken {
    account: Arc<Account>,
    grows: u64,
    /// What is free when the file is there.
    shrinks: u64,
}

impl NotWritten {
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Blob(error) => error.is_temporary(),
            Self::Over(_) => true,
        }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Blob(error) => blob_error(error),
            Self::Over(exceeded) => Error::OverQuota(exceeded),
        }
    }
}

impl From<BlobError> for NotWritten {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

impl Meter {
    fn account(&self, tenant: &Tenant) -> Arc<Account> {
        Arc::clone(self.accounts.lock().unwrap_or_else(PoisonError::into_inner).entry(tenant.clone()).or_default())
    }

    /// The bytes of a tenant's workspaces as last counted.
    pub(super) fn known(&self, tenant: &Tenant) -> Option<u64> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let held = accounts.get(tenant)?.held();
        held.counted.map(|_| held.bytes)
    }

    /// Something was removed: the next write counts.
    pub(super) fn doubt(&self, tenant: &Tenant) {
        self.account(tenant).held().counted = None;
    }
}

impl Account {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self, limit: u64) -> u64 {
        let held = self.held();
        limit.saturating_sub(held.bytes.saturating_add(held.reserved))
    }

    fn is_younger_than(&self, age: Duration) -> bool {
        self.held().counted.is_some_and(|at| at.elapsed() < age)
    }
}

impl Allowance {
    /// How many bytes of this tenant's may be in a tree, which may not be one of its own: those of dialects are the operator's.
    pub(super) fn limit_in(&self, tree: &Tree) -> Option<u64> {
        self.limit.filter(|_| tree.prefix().starts_with(&Tree::all(&self.tenant)))
    }
}

impl Workspaces {
    /// Takes room for a file of this size in the place of what is there.
    pub(super) async fn room(&self, allowance: &Allowance, tree: &Tree, key: &BlobKey, size: u64) -> Result<Room, NotWritten> {
        let Some(limit) = allowance.limit_in(tree) else { return Ok(Room::default()) };
        let there = self.size(key).await?;
        let (grows, shrinks) = (size.saturating_sub(there), there.saturating_sub(size));
        let account = self.meter.account(&allowance.tenant);
        // Who asks for nothing more gets it, whatever is in use.
        if grows == 0 {
            return Ok(Room { taken: Some(Taken { account, grows, shrinks }) });
        }
        self.count(&account, &allowance.tenant, RECOUNT_AFTER).await?;
        if take(&account, limit, grows).is_err() {
            self.count(&account, &allowance.tenant, DOUBTED_AFTER).await?;
            take(&account, limit, grows).map_err(NotWritten::Over)?;
        }
        Ok(Room { taken: Some(Taken { account, grows, shrinks }) })
    }

    /// How large a file may be in the place of what is there; `None` is no limit.
    pub(super) async fn room_left(&self, allowance: &Allowance, tree: &Tree, key: &BlobKey) -> Result<Option<u64>, NotWritten> {
        let Some(limit) = allowance.limit_in(tree) else { return Ok(None) };
        let there = self.size(key).await?;
        let account = self.meter.account(&allowance.tenant);
        self.count(&account, &allowance.tenant, RECOUNT_AFTER).await?;
        if account.left(limit) < limit / SCARCE {
            self.count(&account, &allowance.tenant, DOUBTED_AFTER).await?;
        }
        Ok(Some(account.left(limit).saturating_add(there)))
    }

    /// Bytes of what is there; none of what is not.
    async fn size(&self, key: &BlobKey) -> Result<u64, BlobError> {
        match self.blobs.head(key).await {
            Ok(there) => Ok(there.size),
            Err(BlobError::NotFound) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Counts what a tenant has, unless that was done within this time.
    async fn count(&self, account: &Account, tenant: &Tenant, age: Duration) -> Result<(), BlobError> {
        if account.is_younger_than(age) {
            return Ok(());
        }
        let _counting = account.counting.lock().await;
        // Somebody may have done it meanwhile.
        if account.is_younger_than(age) {
            return Ok(());
        }
        let begun = Instant::now();
        let (all, mut bytes, mut after) = (Tree::all(tenant), 0_u64, None::<String>);
        loop {
            let page = self.blobs.list(&all, after.as_deref(), PAGE, false).await?;
            bytes = page.blobs.iter().fold(bytes, |bytes, blob| bytes.saturating_add(blob.size));
            after = page.blobs.last().map(|blob| blob.key.to_string());
            if page.next.is_none() || after.is_none() {
                break;
            }
        }
        let mut held = account.held();
        (held.bytes, held.counted) = (bytes, Some(begun));
        Ok(())
    }

    /// What of a tenant's outputs waits on this server's disk.
    pub(super) fn waiting(&self, tenant: &Tenant) -> u64 {
        let jobs = self.jobs();
        jobs.values().filter(|job| job.belongs_to(tenant)).map(|job| job.pending_bytes()).fold(0, u64::saturating_add)
    }
}

fn take(account: &Account, limit: u64, grows: u64) -> Result<(), Exceeded> {
    let mut held = account.held();
    let used = held.bytes.saturating_add(held.reserved);
    if used.saturating_add(grows) > limit {
        return Err(over(limit, used, grows));
    }
    held.reserved += grows;
    Ok(())
}

pub(super) fn over(limit: u64, used: u64, asked: u64) -> Exceeded {
    Exceeded { quota: Quota::WorkspaceBytes, limit, used, asked, retry_after: None }
}

impl Room {
    /// The file is there.
    pub(super) fn use_up(mut self) {
        if let Some(Taken { account, grows, shrinks }) = self.taken.take() {
            let mut held = account.held();
            held.reserved = held.reserved.saturating_sub(grows);
            held.bytes = held.bytes.saturating_add(grows).saturating_sub(shrinks);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(Taken { account, grows, .. }) = self.taken.take() {
            let mut held = account.held();
            held.reserved = held.reserved.saturating_sub(grows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_shared_by_nobody_and_given_back() {
        let account = Arc::new(Account::default());
        account.held().bytes = 5;
        take(&account, 10, 4).unwrap();
        let taken = |grows, shrinks| Room { taken: Some(Taken { account: Arc::clone(&account), grows, shrinks }) };
        let room = taken(4, 0);
        assert_eq!(take(&account, 10, 2).unwrap_err(), over(10, 9, 2));
        drop(room);
        take(&account, 10, 5).unwrap();
        taken(5, 0).use_up();
        let (bytes, reserved) = {
            let held = account.held();
            (held.bytes, held.reserved)
        };
        assert_eq!((bytes, reserved, account.left(10)), (10, 0, 0));
        assert_eq!(take(&account, 10, u64::MAX).unwrap_err().used, 10);
        taken(0, 3).use_up();
        assert_eq!(account.left(10), 3);
    }
}
