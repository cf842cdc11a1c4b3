//! What clients do with contexts.

use std::sync::Arc;

use caisson_core::{ContextId, Error, Result, SandboxId};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    CONTROLS_WAITING, CodeRequest, Context, ContextInfo, ContextRequest, ContextState, Control, Order, RUNS_WAITING, RunningCode, View,
    language, run::Between, task::Task,
};
use crate::{Engine, core::now, execution, sandbox::Living, validate};

impl Engine {
    /// Makes a context and returns when its interpreter is ready.
    pub async fn create_context(&self, sandbox: SandboxId, request: ContextRequest) -> Result<ContextInfo> {
        let language = language::find(&request.language, request.driver)?;
        validate::context(&request)?;
        self.core.accepting()?;
        let living = self.living(sandbox).await?;
        let begun = living.begin_inside().await?;
        let (orders, orders_waiting) = mpsc::channel(RUNS_WAITING);
        let (controls, controls_waiting) = mpsc::channel(CONTROLS_WAITING);
        let view = View { state: ContextState::Starting, version: None, kernel: None, message: None, runs: 0 };
        let context = Arc::new(Context {
            id: ContextId::random(),
            sandbox,
            language: language.name.clone(),
            cwd: request.cwd,
            created_at: now(),
            orders,
            controls,
            view: watch::Sender::new(view),
        });
        living.contexts.admit(Arc::clone(&context))?;
        let task = Task {
            core: Arc::clone(&self.core),
            living: Arc::clone(&living),
            context: Arc::clone(&context),
            language,
            env: request.env.into_iter().collect(),
            orders: orders_waiting,
            controls: controls_waiting,
            between: Between::default(),
        };
        let (ready, is_ready) = oneshot::channel();
        self.core.tasks.spawn(living.executions.track_future(task.live(begun, ready)));
        is_ready.await.unwrap_or_else(|_| Err(execution::task_ended()))?;
        Ok(context.info())
    }

    /// The contexts of a living sandbox, oldest first.
    pub async fn contexts(&self, sandbox: SandboxId) -> Result<Vec<ContextInfo>> {
        let living = self.living(sandbox).await?;
        living.activity.touch();
        Ok(living.contexts.all())
    }

    /// A context of a living sandbox.
    pub async fn context(&self, sandbox: SandboxId, id: ContextId) -> Result<ContextInfo> {
        let living = self.living(sandbox).await?;
        living.activity.touch();
        Ok(living.contexts.get(id)?.info())
    }

    /// Runs code in a context; returns when it runs and is recorded, which is after everything that was ordered before.
    pub async fn run_code(&self, sandbox: SandboxId, id: ContextId, request: CodeRequest) -> Result<RunningCode> {
        validate::code(&request)?;
        self.core.accepting()?;
        let living = self.living(sandbox).await?;
        let begun = living.begin_inside().await?;
        let context = living.contexts.get(id)?;
        self.core.registry.admit_execution(&living.tenant, &self.core.keys.quotas(&living.tenant))?;
        let (reply, running) = oneshot::channel();
        match context.orders.try_send(Order { request, reply, begun }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                let message = format!("{RUNS_WAITING} runs wait in context `{id}` already; wait for some to end, or make another context");
                return Err(Error::QuotaExceeded { message });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(gone(&living, &context).await),
        }
        match running.await {
            Ok(running) => running,
            Err(_) => Err(gone(&living, &context).await),
        }
    }

    /// Interrupts what runs in a context.
    pub async fn interrupt_context(&self, sandbox: SandboxId, id: ContextId) -> Result<()> {
        self.control(sandbox, id, Control::Interrupt).await
    }

    /// Ends the interpreter of a context with everything it has started, and starts another; returns when that is ready.
    pub async fn restart_context(&self, sandbox: SandboxId, id: ContextId) -> Result<ContextInfo> {
        self.control(sandbox, id, Control::Restart).await?;
        self.context(sandbox, id).await
    }

    /// Ends a context with everything that it has started.
    pub async fn delete_context(&self, sandbox: SandboxId, id: ContextId) -> Result<()> {
        self.control(sandbox, id, Control::Delete).await
    }

    async fn control(&self, sandbox: SandboxId, id: ContextId, control: impl FnOnce(oneshot::Sender<Result<()>>) -> Control) -> Result<()> {
        let living = self.living(sandbox).await?;
        let _begun = living.begin().await?;
        let context = living.contexts.get(id)?;
        let (reply, done) = oneshot::channel();
        if context.controls.send(control(reply)).await.is_err() {
            return Err(gone(&living, &context).await);
        }
        match done.await {
            Ok(done) => done,
            Err(_) => Err(gone(&living, &context).await),
        }
    }
}

/// The error for somebody whose context went while it was asked.
async fn gone(living: &Living, context: &Context) -> Error {
    if living.now().is_over() {
        return living.why_ended().await;
    }
    context.ended()
}
