//! Large directories become lower layers before their first checkpoint, so that what it and the next ones cost follows what has changed.

use std::sync::Arc;

use caisson_core::{BackendError, Error, Files};
use caisson_wire::LayeringStep;

use crate::{
    agent_client::{AgentClient, AgentError},
    core::Core,
    execution::task_ended,
    sandbox::Living,
};

/// Does it, where it can be done: where it cannot, checkpoints look at everything. An error is that of a sandbox that has failed.
pub(crate) async fn prepare(core: &Arc<Core>, living: &Arc<Living>, agent: &AgentClient, path: &[u8]) -> Result<(), Error> {
    // One that was started again has those that it had.
    if living.files == Files::Again {
        return Ok(());
    }
    // What is read for an image must not change its place meanwhile.
    let Ok(alone) = Arc::clone(&living.committing).try_lock_owned() else { return Ok(()) };
    let (task, living, agent, path) = (Arc::clone(core), Arc::clone(living), agent.clone(), path.to_vec());
    // Whoever asked may go away. What has begun goes on to its end, as all else in the sandbox waits for that.
    let done = core.tasks.spawn(async move {
        let _alone = alone;
        match lay(&task, &living, &agent, &path).await {
            // Whatever is wrong with the path, the checkpoint says it.
            Ok(()) | Err(AgentError::Refused(_)) => Ok(()),
            Err(error) => Err(living.failed_at(&path, error).await),
        }
    });
    done.await.unwrap_or_else(|_| Err(task_ended()))
}

async fn lay(core: &Core, living: &Living, agent: &AgentClient, path: &[u8]) -> Result<(), AgentError> {
    let again = living.files != Files::Passing;
    let found = match agent.layer(path, LayeringStep::Begin, again).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(()),
        Err(error) => {
            // Perhaps its answer alone was lost, and all wait for the end.
            agent.layer(path, LayeringStep::End, again).await.ok();
            return Err(error);
        }
    };
    let seen = {
        let (agent, path) = (agent.clone(), path.to_vec());
        Box::pin(async move { agent.layer(&path, LayeringStep::Upper, again).await.is_ok_and(|seen| seen.is_some()) })
    };
    let laid = core.backend.layer(living.id, &found, seen).await;
    if let Err(BackendError::Unsupported(why) | BackendError::Exhausted(why) | BackendError::Broken(why) | BackendError::Failed(why)) = laid
    {
        tracing::debug!(sandbox.id = %living.id, why, "A directory of sandbox {} gets no layers: {why}", living.id);
    }
    match agent.layer(path, LayeringStep::End, again).await {
        // Whoever went on would take what is seen for what there is.
        Err(AgentError::Refused(refusal)) => Err(AgentError::Nonsense(refusal.message)),
        ended => ended.map(drop),
    }
}
