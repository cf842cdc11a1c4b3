//! Executions that have not been answered yet: how far each is, which only this server knows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use caisson_core::{Tenant, Uuid};
use caisson_engine::{Engine, OneShotStage};
use tokio::sync::watch;

use super::record::Note;

/// See the module; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Live(Arc<Mutex<HashMap<Uuid, Seen>>>);

/// What there is to see of one.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    tenant: Tenant,
    pub(super) note: Note,
    stage: watch::Receiver<OneShotStage>,
}

impl Seen {
    pub(super) fn stage(&self) -> OneShotStage {
        *self.stage.borrow()
    }
}

/// An execution on its way. Dropped when there is no more to it than what is kept.
#[derive(Debug)]
pub(super) struct Entry {
    live: Live,
    engine: Engine,
    pub(super) id: Uuid,
}

impl Live {
    fn all(&self) -> MutexGuard<'_, HashMap<Uuid, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, tenant: &Tenant, id: Uuid) -> Option<Seen> {
        self.all().get(&id).filter(|seen| seen.tenant == *tenant).cloned()
    }

    /// Puts an execution among them and keeps what is known of it. It gets the id that is wanted, where nobody has had that.
    pub(super) async fn begin(
        &self,
        engine: &Engine,
        note: Note,
        stage: watch::Receiver<OneShotStage>,
        wanted: Option<Uuid>,
    ) -> caisson_core::Result<Entry> {
        let mut next = wanted;
        loop {
            let id = next.take().unwrap_or_else(Uuid::random);
            let seen = Seen { tenant: engine.tenant().clone(), note: note.clone(), stage: stage.clone() };
            {
                let mut all = self.all();
                if all.contains_key(&id) {
                    continue;
                }
                all.insert(id, seen);
            }
            let entry = Entry { live: self.clone(), engine: engine.clone(), id };
            if note.insert(engine, id).await? {
                return Ok(entry);
            }
        }
    }
}

impl Entry {
    /// Notes what has become known, and keeps it.
    pub(super) async fn note(&self, change: impl FnOnce(&mut Note)) -> caisson_core::Result<()> {
        let note = {
            let mut all = self.live.all();
            let Some(seen) = all.get_mut(&self.id) else { return Ok(()) };
            change(&mut seen.note);
            seen.note.clone()
        };
        note.replace(&self.engine, self.id).await
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.live.all().remove(&self.id);
    }
}
