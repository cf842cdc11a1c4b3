//! Old records and logs go.

use std::{sync::Arc, time::Duration};

use caisson_core::{ExecutionId, Result};
use jiff::Timestamp;

use crate::{
    answers,
    core::{Core, store_error},
    events, output_log, workspaces,
};

/// Between two purges, at most. A shorter retention asks for more: records outlive it by half of it.
const EVERY: Duration = Duration::from_secs(3600);
/// Where they are counted as well: so long may there be more.
const COUNTED_EVERY: Duration = Duration::from_secs(60);
/// And at least.
const REST: Duration = Duration::from_millis(100);

/// Purges now and then again and again until the engine closes.
pub(crate) async fn keep_tidy(core: Arc<Core>) {
    let most = if core.config.retention_sandboxes.is_some() { COUNTED_EVERY } else { EVERY };
    let every = (core.config.retention / 2).clamp(REST, most);
    loop {
        if let Err(error) = purge(&core).await {
            tracing::warn!(error = %error, "Cannot purge old records; trying again later");
        }
        tokio::select! {
            // A token stays cancelled.
            () = core.closing.cancelled() => return,
            // Begins anew after each purge.
            () = tokio::time::sleep(every) => {}
        }
    }
}

async fn purge(core: &Core) -> Result<()> {
    let before = Timestamp::now().checked_sub(core.config.retention).unwrap_or(Timestamp::MIN);
    if let Some(ledger) = core.store.ledger() {
        core.keys.forget_expired(ledger, before).await?;
        let old = Timestamp::now().checked_sub(answers::KEPT_FOR.min(core.config.retention)).unwrap_or(Timestamp::MIN);
        ledger.forget_answers(old).await.map_err(store_error)?;
        let old = Timestamp::now().checked_sub(events::KEPT_FOR.min(core.config.retention)).unwrap_or(Timestamp::MIN);
        ledger.forget_events(old).await.map_err(store_error)?;
        ledger.forget_documents(Timestamp::now()).await.map_err(store_error)?;
    }
    let old = core.store.purge(before).await.map_err(store_error)?;
    forget_logs(core, old).await?;
    if let Some(kept) = core.config.retention_sandboxes {
        let surplus = core.store.purge_beyond(kept).await.map_err(store_error)?;
        forget_logs(core, surplus).await?;
    }
    Ok(())
}

async fn forget_logs(core: &Core, removed: Vec<ExecutionId>) -> Result<()> {
    if removed.is_empty() {
        return Ok(());
    }
    let count = removed.len();
    workspaces::forget(core, &removed).await?;
    let failed = output_log::remove(&core.logs.logs, removed).await;
    tracing::info!(executions = count, failed, "Purged {count} executions beyond their retention");
    Ok(())
}
