//! Keys and tenants. All of them are in memory: a request is admitted without asking the database.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use caisson_core::{Cursor, Error, Holdings, Key, KeyHash, KeyId, Ledger, Page, Quotas, Result, Scope, Store, Tenant};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    bounds::NOTE_LENGTH,
    core::{now, store_error},
};

/// Keys of a server at one time.
const MAX_KEYS: usize = 10_000;
/// A key is found by so much of its hash; the whole of it is for the door to compare.
const FOUND_BY: usize = 16;

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub hash: KeyHash,
    pub tenant: Tenant,
    pub scope: Scope,
    pub note: String,
    pub expires_at: Option<Timestamp>,
}

/// A key that lets somebody in, as long as it is valid.
#[derive(Debug)]
pub struct Credential {
    pub key: Key,
    revoked: CancellationToken,
}

impl Credential {
    /// Whether it lets anybody in now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.revoked.is_cancelled() && self.key.expires_at.is_none_or(|at| Timestamp::now() < at)
    }

    /// Returns when it is not valid any more.
    pub async fn invalid(&self) {
        let expired = async {
            match self.key.expires_at {
                // The clock of the host may be set meanwhile: whoever waits looks again.
                Some(at) => loop {
                    let left = Timestamp::now().duration_until(at);
                    match left.try_into() {
                        Ok(left) if left != std::time::Duration::ZERO => tokio::time::sleep(left).await,
                        _ => return,
                    }
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A token stays cancelled.
            () = self.revoked.cancelled() => {}
            // Computed anew by whoever asks again.
            () = expired => {}
        }
    }
}

/// Keys that let nobody in any more. Dropping this shuts out whoever is in.
#[derive(Debug)]
pub(crate) struct Revoked(Vec<Arc<Credential>>);

impl Drop for Revoked {
    fn drop(&mut self) {
        self.0.iter().for_each(|credential| credential.revoked.cancel());
    }
}

/// A tenant with what it may have and what it has.
#[derive(Debug, Clone)]
pub struct TenantUse {
    pub tenant: Tenant,
    pub quotas: Quotas,
    pub holdings: Holdings,
}

/// Every key and every tenant of a server.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    keys: Mutex<HashMap<[u8; FOUND_BY], Arc<Credential>>>,
    tenants: Mutex<BTreeMap<Tenant, Quotas>>,
    /// Held while they change, here or because another server has changed them.
    changing: tokio::sync::Mutex<()>,
}

impl Keys {
    pub(crate) async fn load(store: &dyn Store) -> Result<Self> {
        let all = Self::default();
        all.reload(store).await?;
        Ok(all)
    }

    /// Brings them to what is recorded. Whoever is in by a key that is gone is shut out.
    pub(crate) async fn reload(&self, store: &dyn Store) -> Result<()> {
        let Some(ledger) = store.ledger() else { return Ok(()) };
        let _changing = self.changing.lock().await;
        let recorded = ledger.keys().await.map_err(store_error)?;
        let tenants = ledger.tenants().await.map_err(store_error)?;
        *self.lock_tenants() = tenants.into_iter().collect();
        let mut keys = self.lock_keys();
        let mut before = std::mem::take(&mut *keys);
        for key in recorded {
            let place = found_by(&key.hash);
            let known = before.remove(&place).filter(|known| known.key.id == key.id);
            keys.insert(place, known.unwrap_or_else(|| admitted(key)));
        }
        drop(keys);
        drop(Revoked(before.into_values().collect()));
        Ok(())
    }

    /// The key that may have this hash.
    pub(crate) fn find(&self, hash: &KeyHash) -> Option<Arc<Credential>> {
        self.lock_keys().get(&found_by(hash)).cloned()
    }

    pub(crate) async fn add(&self, ledger: &dyn Ledger, new: NewKey) -> Result<Key> {
        let NewKey { hash, tenant, scope, note, expires_at } = new;
        let created_at = now();
        if note.chars().count() > NOTE_LENGTH || note.contains('\0') {
            return Err(Error::invalid("invalid_note", format!("field `note` is at most {NOTE_LENGTH} characters without NUL")));
        }
        if expires_at.is_some_and(|at| at <= created_at) {
            return Err(Error::invalid("invalid_expiry", "the key would have expired already; give it a time to come"));
        }
        if self.lock_keys().values().filter(|credential| credential.is_valid()).count() >= MAX_KEYS {
            let message = format!("this server holds its maximum of {MAX_KEYS} keys; remove some that are not used any more");
            return Err(Error::conflict("too_many_keys", message));
        }
        let key = Key { id: KeyId::random(), hash, tenant, scope, note, created_at, expires_at };
        let _changing = self.changing.lock().await;
        ledger.insert_key(&key).await.map_err(store_error)?;
        self.lock_tenants().entry(key.tenant.clone()).or_default();
        self.lock_keys().insert(found_by(&hash), admitted(key.clone()));
        Ok(key)
    }

    /// Lets nobody in with the key any more. Those who are in are shut out when what this returns is dropped. `None` when there was none.
    pub(crate) async fn remove(&self, ledger: &dyn Ledger, id: KeyId) -> Result<Option<Revoked>> {
        let _changing = self.changing.lock().await;
        let was_there = ledger.remove_key(id).await.map_err(store_error)?;
        let removed: Vec<Arc<Credential>> =
            self.lock_keys().extract_if(|_, credential| credential.key.id == id).map(|(_, credential)| credential).collect();
        Ok((was_there || !removed.is_empty()).then_some(Revoked(removed)))
    }

    /// Removes those that expired before that.
    pub(crate) async fn forget_expired(&self, ledger: &dyn Ledger, before: Timestamp) -> Result<()> {
        let expired = |credential: &&Arc<Credential>| credential.key.expires_at.is_some_and(|at| at < before);
        let expired: Vec<KeyId> = self.lock_keys().values().filter(expired).map(|credential| credential.key.id).collect();
        for id in expired {
            // Somebody may have removed it meanwhile.
            drop(self.remove(ledger, id).await?);
        }
        Ok(())
    }

    /// Newest first.
    pub(crate) fn page(&self, tenant: Option<&Tenant>, limit: u32, cursor: Option<&str>) -> Result<Page<Key>> {
        let place = |key: &Key| (key.created_at.as_microsecond(), key.id);
        let begin = cursor.map(|text| Cursor::<KeyId>::parse(text).ok_or_else(Error::foreign_cursor)).transpose()?;
        let begin = begin.map(|cursor| (cursor.at, cursor.id));
        let wanted = |key: &Key| tenant.is_none_or(|tenant| key.tenant == *tenant) && begin.is_none_or(|begin| place(key) < begin);
        let mut keys: Vec<Key> = self.lock_keys().values().map(|credential| &credential.key).filter(|key| wanted(key)).cloned().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(place(key)));
        Ok(Page::cut(keys, limit, |key| Cursor { at: key.created_at.as_microsecond(), id: key.id }.to_text()))
    }

    /// What this tenant may have.
    pub(crate) fn quotas(&self, tenant: &Tenant) -> Quotas {
        self.lock_tenants().get(tenant).copied().unwrap_or_default()
    }

    /// In the order of their names.
    pub(crate) fn tenants(&self, limit: u32, cursor: Option<&str>) -> Result<Page<(Tenant, Quotas)>> {
        let after = cursor.map(|text| Cursor::<Tenant>::parse(text).ok_or_else(Error::foreign_cursor)).transpose()?;
        let tenants = self.lock_tenants();
        let rest = tenants.iter().filter(|(tenant, _)| after.as_ref().is_none_or(|after| **tenant > after.id));
        // One more shows whether there is a next page.
        let rest = rest.take(limit as usize + 1).map(|(tenant, quotas)| (tenant.clone(), *quotas)).collect();
        Ok(Page::cut(rest, limit, |(tenant, _)| Cursor { at: 0, id: tenant.clone() }.to_text()))
    }

    pub(crate) fn knows(&self, tenant: &Tenant) -> bool {
        self.lock_tenants().contains_key(tenant)
    }

    /// What is in use beyond new quotas stays in use.
    pub(crate) async fn set_quotas(&self, ledger: &dyn Ledger, tenant: &Tenant, quotas: Quotas) -> Result<()> {
        let _changing = self.changing.lock().await;
        ledger.save_tenant(tenant, &quotas).await.map_err(store_error)?;
        self.lock_tenants().insert(tenant.clone(), quotas);
        Ok(())
    }

    fn lock_keys(&self) -> MutexGuard<'_, HashMap<[u8; FOUND_BY], Arc<Credential>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_tenants(&self) -> MutexGuard<'_, BTreeMap<Tenant, Quotas>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found_by(hash: &KeyHash) -> [u8; FOUND_BY] {
    let mut begin = [0; FOUND_BY];
    begin.copy_from_slice(&hash.0[..FOUND_BY]);
    begin
}

fn admitted(key: Key) -> Arc<Credential> {
    Arc::new(Credential { key, revoked: CancellationToken::new() })
}
