//! What has happened to a tenant's sandboxes and executions.

use std::time::Duration;

use caisson_core::{EventFilter, Events, Result};

use crate::{Engine, core::store_error, engine::MAX_PAGE};

/// How long events are kept, or as long as records where that is shorter.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// After something has been written, so long until somebody who follows looks again: what comes in a burst is read at once.
const REST: Duration = Duration::from_millis(20);

impl Engine {
    /// What has happened, the oldest first.
    pub async fn events(&self, filter: &EventFilter) -> Result<Events> {
        let ask = EventFilter { limit: filter.limit.clamp(1, MAX_PAGE), ..filter.clone() };
        self.core.ledger()?.events(&self.tenant, &ask).await.map_err(store_error)
    }

    /// The number of the last event there was; 0 when there was none.
    pub async fn last_event(&self) -> Result<u64> {
        let nothing = EventFilter::default();
        Ok(self.core.ledger()?.events(&self.tenant, &nothing).await.map_err(store_error)?.until)
    }

    /// The same, as soon as there is anything. Without what was asked for there may still be an answer: `until` has grown. Returns
    /// `Unavailable` when the engine is being shut down.
    pub async fn next_events(&self, filter: &EventFilter) -> Result<Events> {
        let ledger = self.core.ledger()?;
        let mut written = ledger.written();
        let mut first = true;
        loop {
            if !std::mem::take(&mut first) {
                tokio::time::sleep(REST).await;
            }
            // Whatever is written from here on is seen in the next round.
            written.borrow_and_update();
            let events = self.events(filter).await?;
            if !events.data.is_empty() || events.until > filter.after {
                return Ok(events);
            }
            self.core.accepting()?;
            tokio::select! {
                // The store has gone, and says so when it is asked again.
                _ = written.changed() => {}
                () = self.core.closing.cancelled() => {}
            }
        }
    }
}
