//! One warm sandbox: launched, set up, and nobody's.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use caisson_core::{BackendError, ImageLease, SandboxId, SandboxSpec};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    agent_client::{self, AgentClient, AgentError},
    core::Core,
    ready::{self, Ready},
    sandbox::{self, LAUNCH_WITHIN},
    setup,
};

/// How long an agent that waits may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// See the module. Dropping it destroys the sandbox; so nobody has to remember.
#[derive(Debug)]
pub(crate) struct Warm {
    pub(crate) id: SandboxId,
    /// As it was launched.
    pub(crate) spec: SandboxSpec,
    pub(crate) agent: AgentClient,
    /// Hears how the stream to the agent ended.
    pub(crate) ended: oneshot::Receiver<String>,
    pub(crate) born: Instant,
    /// Interpreters that wait for code in it.
    pub(crate) ready: Option<Ready>,
    place: Place,
}

/// Why a warm sandbox was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    #[error("{0}")]
    Launch(#[from] BackendError),
    #[error("{0}")]
    Agent(#[from] AgentError),
    #[error("{0}")]
    Setup(String),
    #[error("its image is another by now")]
    Image,
    #[error("the server is shutting down")]
    Closing,
}

/// Why a warm sandbox is not handed out.
#[derive(Debug)]
pub(crate) enum NotSuited {
    /// The sandbox is as it was: the backend cannot change what would have to be changed.
    Cannot,
    /// It has ended, or does not answer.
    Dead,
}

/// What there is of a sandbox that nobody owns; without an owner, it is destroyed.
#[derive(Debug)]
pub(crate) struct Place {
    core: Weak<Core>,
    id: SandboxId,
    is_counted: bool,
    is_ours: bool,
    /// Keeps the layers of its image until it is destroyed. Whoever gets the sandbox has a lease of its own.
    lease: Option<ImageLease>,
}

impl Place {
    /// For one that is counted as pooled already, whatever comes of it.
    pub(crate) fn counted(core: &Arc<Core>) -> Self {
        Self { core: Arc::downgrade(core), id: SandboxId::random(), is_counted: true, is_ours: true, lease: None }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(core) = self.core.upgrade().filter(|_| self.is_ours) else { return };
        let (id, is_counted, lease) = (self.id, self.is_counted, self.lease.take());
        let tasks = core.tasks.clone();
        tasks.spawn(async move {
            sandbox::destroy(&core, id).await;
            drop(lease);
            if is_counted {
                core.registry.forget_pooled();
                if let Some(pool) = &core.pool {
                    pool.gone.notify_waiters();
                }
            }
        });
    }
}

impl Warm {
    /// Launches it, waits for its agent, and does what its template says.
    pub(crate) async fn make(core: &Arc<Core>, mut place: Place, spec: SandboxSpec, lease: Option<ImageLease>) -> Result<Self, NotMade> {
        place.lease = lease;
        let id = place.id;
        let made = async {
            let stream = core.backend.launch(id, &spec, core.files(&spec)).await?;
            let (agent, ended) = agent_client::connect(stream, &core.tasks).await?;
            if let Err(error) = agent.health(LAUNCH_WITHIN).await {
                // The backend knows more of a launch that failed.
                let death = core.backend.death(id).await.and_then(|death| death.launch_error);
                return Err(death.map_or(NotMade::Agent(error), NotMade::Launch));
            }
            match setup::run(&spec.recipe, &agent).await {
                Ok(()) => {
                    let ready = ready::warm_up(&agent, &spec).await;
                    Ok((agent, ended, ready))
                }
                Err(setup::Failed::Agent(error)) => Err(error.into()),
                Err(setup::Failed::Command(message)) => Err(NotMade::Setup(message)),
            }
        };
        let (agent, ended, ready) = tokio::select! {
            made = made => made?,
            // What has come of it goes with its place.
            () = core.closing.cancelled() => return Err(NotMade::Closing),
        };
        Ok(Self { id, spec, agent, ended, born: Instant::now(), ready, place })
    }

    /// Whether it is still there, as far as is known without asking.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    /// Whether it answers.
    pub(crate) async fn answers(&mut self) -> bool {
        !self.has_ended() && self.agent.health(ANSWERS_WITHIN).await.is_ok()
    }

    /// Makes it what somebody asks for: the limits and variables that can come late. That is done once in its life.
    pub(crate) async fn suit(&mut self, core: &Core, spec: &SandboxSpec) -> Result<(), NotSuited> {
        if self.has_ended() {
            return Err(NotSuited::Dead);
        }
        let (before, after) = (&self.spec.limits, &spec.limits);
        if (before.pids, before.cpu_millis) != (after.pids, after.cpu_millis) {
            match core.backend.adjust(self.id, after).await {
                Ok(()) => {}
                Err(BackendError::Unsupported(_)) => return Err(NotSuited::Cannot),
                Err(error) => {
                    tracing::warn!(sandbox.id = %self.id, %error, "Cannot change the limits of a warm sandbox");
                    return Err(NotSuited::Dead);
                }
            }
        }
        self.agent.bind(&spec.env, after.open_files, ANSWERS_WITHIN).await.map_err(|error| {
            tracing::debug!(sandbox.id = %self.id, %error, "A warm sandbox cannot be handed out");
            NotSuited::Dead
        })
    }

    /// It is registered as somebody's, and counts there. It is destroyed all the same, unless it is [`Self::hand_out`].
    pub(crate) fn admitted(&mut self) {
        self.place.is_counted = false;
    }

    /// To whoever destroys it from now on.
    pub(crate) fn hand_out(mut self) -> (AgentClient, oneshot::Receiver<String>) {
        self.place.is_ours = false;
        (self.agent.clone(), std::mem::replace(&mut self.ended, oneshot::channel().1))
    }
}
