//! How executions and sandboxes ended is written until it is in: what has ended is not lost because the database was away just then.

use std::{sync::Arc, time::Duration};

use caisson_core::{ExecutionId, ExecutionStatus, Outcome, Sandbox, Store, StoreError, StreamTotals};
use tokio::time::Instant;

use crate::core::Core;

/// How long somebody is kept waiting for it.
pub(crate) const RECORDED_WITHIN: Duration = Duration::from_secs(8);
/// Between two attempts; grows up to the longest.
const REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(3);
/// Attempts once the engine closes. The next start calls lost what could not be written.
const LAST_ATTEMPTS: u32 = 3;

/// An end, of which the first that is written counts.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Execution(ExecutionId, Outcome),
    Sandbox(Box<Sandbox>),
}

impl Ending {
    /// That of an execution whose start may or may not have been recorded, and which was ended therefore.
    pub(crate) fn unrecorded(id: ExecutionId) -> Self {
        let outcome = Outcome {
            status: ExecutionStatus::Lost,
            exit_code: None,
            signal: None,
            message: Some("it was ended because its start could not be recorded".to_owned()),
            duration: Duration::ZERO,
            cpu: Duration::ZERO,
            peak_memory_bytes: 0,
            stdout: StreamTotals::default(),
            stderr: StreamTotals::default(),
        };
        Self::Execution(id, outcome)
    }

    async fn write(&self, store: &dyn Store) -> Result<(), StoreError> {
        match self {
            Self::Execution(id, outcome) => store.finish_execution(*id, outcome).await,
            Self::Sandbox(sandbox) => store.update_sandbox(sandbox).await,
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Execution(id, _) => format!("execution {id}"),
            Self::Sandbox(sandbox) => format!("sandbox {}", sandbox.id),
        }
    }
}

/// Writes it, and says whether it is in. When it is not in for so long, a task goes on until it is.
pub(crate) async fn record(core: &Arc<Core>, ending: Ending) -> bool {
    let until = Instant::now() + RECORDED_WITHIN;
    match tokio::time::timeout_at(until, ending.write(&*core.store)).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::warn!(error = %error, cause = ?error, "Cannot record the end of {} yet; trying on", ending.what()),
        Err(_) => tracing::warn!("Cannot record the end of {} yet; trying on", ending.what()),
    }
    let writing = spawn(core, ending);
    matches!(tokio::time::timeout_at(until, writing).await, Ok(Ok(true)))
}

/// Writes it some time, without anybody waiting.
pub(crate) fn spawn(core: &Arc<Core>, ending: Ending) -> tokio::task::JoinHandle<bool> {
    let task = Arc::clone(core);
    core.tasks.spawn(async move { keep_trying(&task, &ending).await })
}

async fn keep_trying(core: &Core, ending: &Ending) -> bool {
    let (mut rest, mut last) = (REST, 0);
    loop {
        let error = match ending.write(&*core.store).await {
            Ok(()) => return true,
            Err(error) => error,
        };
        tracing::debug!(error = %error, "Still cannot record the end of {}", ending.what());
        if core.closing.is_cancelled() {
            last += 1;
            if last == LAST_ATTEMPTS {
                tracing::error!(error = %error, "Cannot record the end of {}; the next start will", ending.what());
                return false;
            }
            tokio::time::sleep(REST).await;
            continue;
        }
        tokio::select! {
            // A token stays cancelled.
            () = core.closing.cancelled() => {}
            // Begins anew after each attempt.
            () = tokio::time::sleep(rest) => {}
        }
        rest = (rest * 2).min(LONGEST_REST);
    }
}
