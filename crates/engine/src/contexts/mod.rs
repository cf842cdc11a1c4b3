//! Contexts: interpreters that live in a sandbox and run one piece of code after the other, with everything that the pieces before have left.
//!
//! ```text
//! Engine ─▶ Context ── orders, one at a time ──▶ task ─▶ Run (an execution of its own) ─▶ output log, record
//!                └──── controls, at once ──────▶  │
//!                                             Interpreter ◀── channel, stdout, stderr ── driver in the sandbox
//! ```
//!
//! The driver is a program in the language, or a bridge to a Jupyter kernel of the image, which is in Python and says the same.
//!
//! To the agent a context is one execution with a channel. What the driver says there is as hostile as all that comes out of a sandbox: user
//! code can say the same.

mod clients;
mod interpreter;
mod language;
mod message;
mod run;
mod shown;
mod task;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use caisson_core::{ContextId, Error, Execution, Result, SandboxId};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

/// What drivers say, for who looks for words that break this.
pub mod driver {
    pub use super::message::{Done, Lines, MAX_NAME, MAX_TYPE, MAX_TYPES, MAX_VERSION, Message};
}

pub use self::{
    message::{Failure, Shown},
    shown::Display,
};
use crate::{activity::Use, execution, request::ExecutionResult};

/// Contexts of one sandbox at one time.
pub(crate) const MAX_CONTEXTS: usize = 16;
/// Runs of one context that wait for those before them.
const RUNS_WAITING: usize = 16;
/// Controls that wait; whoever sends more waits too.
const CONTROLS_WAITING: usize = 4;

/// A context to be made.
#[derive(Debug, Clone)]
pub struct ContextRequest {
    /// `python`, `node`, `bash` or `r`, another name of theirs, or what a Jupyter kernel of the image speaks.
    pub language: String,
    pub driver: Driver,
    /// Variables over those of the sandbox.
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
}

/// What runs the code of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// The image's Jupyter kernel for the language where there is one, our own driver otherwise.
    #[default]
    Auto,
    /// Our own.
    Builtin,
    /// A kernel.
    Jupyter,
}

impl Driver {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Builtin, Self::Jupyter];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Builtin => "builtin",
            Self::Jupyter => "jupyter",
        }
    }
}

/// Code for a context.
#[derive(Debug, Clone)]
pub struct CodeRequest {
    pub code: String,
    /// It is interrupted after this long, and what does not heed that ends with its context.
    pub timeout: Option<Duration>,
    /// Code that is only begun is no error but [`CodeStatus::Incomplete`].
    pub interactive: bool,
}

/// What a context does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextState {
    /// Its interpreter is on its way.
    Starting,
    Idle,
    Busy,
    /// Its interpreter has ended; it can be restarted.
    Ended,
}

impl ContextState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Ended => "ended",
        }
    }
}

/// A context as it is now.
#[derive(Debug, Clone)]
pub struct ContextInfo {
    pub id: ContextId,
    pub sandbox: SandboxId,
    pub language: String,
    /// What its interpreter calls itself, once it has said so.
    pub version: Option<String>,
    /// The Jupyter kernel that its interpreter is; none for our own drivers.
    pub kernel: Option<String>,
    pub state: ContextState,
    /// Why it has ended.
    pub message: Option<String>,
    pub cwd: Option<String>,
    pub created_at: Timestamp,
    /// Runs that have begun.
    pub runs: u64,
    /// Runs that wait for those before them.
    pub waiting: usize,
}

/// How a run came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeStatus {
    /// It came to its end, in `bash` with whatever exit code.
    Ok,
    /// It raised something.
    Error,
    /// It is only the beginning of something, and nothing of it has run.
    Incomplete,
    Interrupted,
    TimedOut,
    /// Its interpreter has ended under it.
    ContextEnded,
}

impl CodeStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Incomplete => "incomplete",
            Self::Interrupted => "interrupted",
            Self::TimedOut => "timed_out",
            Self::ContextEnded => "context_ended",
        }
    }
}

/// A finished run.
#[derive(Debug, Clone)]
pub struct CodeResult {
    pub context: ContextId,
    pub status: CodeStatus,
    /// What it has shown, in order.
    pub shown: Vec<Arc<Shown>>,
    /// How much more it has shown that was more than a run may.
    pub shown_dropped: u64,
    pub error: Option<Failure>,
    /// A sentence where the status alone does not say enough.
    pub message: Option<String>,
    /// The run as an execution, with its output.
    pub result: ExecutionResult,
}

/// A run that has begun. Dropping this changes nothing: it goes on and is recorded.
#[derive(Debug)]
pub struct RunningCode {
    pub context: ContextId,
    /// As recorded at its start.
    pub execution: Execution,
    /// What it shows, as it shows it.
    pub display: Display,
    result: oneshot::Receiver<Result<CodeResult>>,
}

impl RunningCode {
    /// Returns when it has ended and is recorded.
    pub async fn wait(self) -> Result<CodeResult> {
        self.result.await.unwrap_or_else(|_| Err(execution::task_ended()))
    }
}

/// Code that waits to be run. The sandbox is in use for as long.
#[derive(Debug)]
struct Order {
    request: CodeRequest,
    reply: oneshot::Sender<Result<RunningCode>>,
    begun: Use,
}

/// What is done at once, whatever runs.
#[derive(Debug)]
enum Control {
    Interrupt(oneshot::Sender<Result<()>>),
    Restart(oneshot::Sender<Result<()>>),
    Delete(oneshot::Sender<Result<()>>),
}

/// What changes about a context.
#[derive(Debug, Clone)]
struct View {
    state: ContextState,
    version: Option<String>,
    kernel: Option<String>,
    message: Option<String>,
    runs: u64,
}

/// Everybody's view of a context. One task owns it and is the only writer of its state.
#[derive(Debug)]
pub(crate) struct Context {
    id: ContextId,
    sandbox: SandboxId,
    language: String,
    cwd: Option<String>,
    created_at: Timestamp,
    orders: mpsc::Sender<Order>,
    controls: mpsc::Sender<Control>,
    view: watch::Sender<View>,
}

impl Context {
    fn info(&self) -> ContextInfo {
        let view = self.view.borrow().clone();
        ContextInfo {
            id: self.id,
            sandbox: self.sandbox,
            language: self.language.clone(),
            version: view.version,
            kernel: view.kernel,
            state: view.state,
            message: view.message,
            cwd: self.cwd.clone(),
            created_at: self.created_at,
            runs: view.runs,
            waiting: self.orders.max_capacity() - self.orders.capacity(),
        }
    }

    fn is(&self, state: ContextState) {
        self.view.send_modify(|view| {
            view.state = state;
            view.message = None;
        });
    }

    fn has_ended(&self, why: String) {
        self.view.send_modify(|view| (view.state, view.message) = (ContextState::Ended, Some(why)));
    }

    /// The error for somebody who wants something of an interpreter that has ended.
    fn ended(&self) -> Error {
        let why = self.view.borrow().message.clone().unwrap_or_else(|| "it was deleted".to_owned());
        Error::conflict(
            "context_ended",
            format!("context `{}` has ended: {why}; make another, or restart it if it is still listed", self.id),
        )
    }
}

/// The contexts of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Contexts(Mutex<BTreeMap<ContextId, Arc<Context>>>);

impl Contexts {
    fn admit(&self, context: Arc<Context>) -> Result<()> {
        let mut contexts = self.lock();
        if contexts.len() >= MAX_CONTEXTS {
            let message = format!("sandbox `{}` has its maximum of {MAX_CONTEXTS} contexts; delete some", context.sandbox);
            return Err(Error::QuotaExceeded { message });
        }
        contexts.insert(context.id, context);
        Ok(())
    }

    fn get(&self, id: ContextId) -> Result<Arc<Context>> {
        self.lock().get(&id).cloned().ok_or_else(|| Error::not_found("context", id.to_string()))
    }

    fn forget(&self, id: ContextId) {
        self.lock().remove(&id);
    }

    fn all(&self) -> Vec<ContextInfo> {
        let mut all: Vec<ContextInfo> = self.lock().values().map(|context| context.info()).collect();
        all.sort_by_key(|context| (context.created_at, context.id));
        all
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContextId, Arc<Context>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
