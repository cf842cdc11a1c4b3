//! Programs that are answered when they have ended, with a code as a shell has it.

use std::pin::pin;

use caisson_core::{ExecutionStatus, Result, SandboxId};
use caisson_engine::{Engine, ExecRequest, ExecutionResult};
use tokio_util::sync::CancellationToken;

const TIMED_OUT: i32 = 124;
/// Added to the number of a signal.
const SIGNALLED: i32 = 128;
const SIGKILL: i32 = 9;

/// Until it has ended. It is killed when nobody waits for it any more.
pub(super) async fn until_ended(engine: &Engine, id: SandboxId, request: ExecRequest, gone: CancellationToken) -> Result<ExecutionResult> {
    let running = engine.exec(id, request).await?;
    let execution = running.execution.id;
    let mut ended = pin!(running.wait());
    tokio::select! {
        result = &mut ended => return result,
        // Nothing is lost: it is waited for once more.
        () = gone.cancelled() => {}
    }
    // It may have ended meanwhile.
    engine.kill(execution).await.ok();
    ended.await
}

/// The exit code as a shell has it.
pub(super) fn exit_code(result: &ExecutionResult) -> Option<i32> {
    let outcome = result.execution.outcome.as_ref()?;
    match outcome.status {
        ExecutionStatus::TimedOut => Some(TIMED_OUT),
        ExecutionStatus::Lost => None,
        _ => outcome.exit_code.or_else(|| Some(SIGNALLED + outcome.signal.unwrap_or(SIGKILL))),
    }
}
