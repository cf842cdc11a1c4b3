//! An execution as its chat sees it. What the engine does not know of it is kept from its begin on, and goes with the record of its sandbox; the
//! rest is asked when somebody wants to know, so that nothing is ever told twice and differently.

use std::time::Duration;

use caisson_core::{Document, Error, Execution, ExecutionStatus, Hosted, SandboxId, Stream, Tenant, Uuid};
use caisson_engine::{Engine, ExecutionResult, OneShotStage, SyncedIn, WorkspaceReport};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::Job,
    live::Live,
    media,
    said::{said, with_line},
    who::Who,
};
use crate::{
    dialects::program::exit_code,
    error::{ApiError, ApiResult},
    native::types::time,
    peers::Whose,
};

const KIND: &str = "boxbox.execution";
const TIMED_OUT: i32 = 124;
/// Where the engine knows of no exit code.
const NO_CODE: i32 = 1;
/// What is kept may be about something that goes on for so long beside its program.
const GRACE: Duration = Duration::from_secs(3600);
/// What became of an execution that nobody knows more of.
const LOST: &str = "the server that ran it died";

/// What is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    user: String,
    chat: String,
    language: String,
    path: String,
    code: String,
    timeout_seconds: u64,
    created_at: String,
    sandbox: Option<String>,
    began: Option<Began>,
    failed: Option<NotStarted>,
    /// Where it is carried out, among servers that share the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
}

/// What is known when its program runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Began {
    /// That of the engine.
    execution: String,
    at: String,
    /// Milliseconds from the request for a sandbox to the begin of the program.
    before_ms: u64,
    input_files: Vec<BoxboxFile>,
}

/// How it ended where no program has come to run, or nobody knows what became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NotStarted {
    exit_code: i32,
    stderr: String,
    at: String,
}

/// How far an execution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BoxboxStatus)]
pub(crate) enum Status {
    Pending,
    SyncingIn,
    Executing,
    SyncingOut,
    Completed,
    Failed,
    Timeout,
}

/// A file that was copied in or out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct BoxboxFile {
    /// Its name under the chat
    path: String,
    media_type: String,
    size: u64,
}

impl BoxboxFile {
    fn new(path: String, size: u64) -> Self {
        Self { media_type: media::of(&path).to_owned(), path, size }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct BoxboxExecuted {
    /// A UUID: that of the request (`X-Request-ID`), where it is one of version 4 that no other execution has
    execution_id: String,
    /// `completed`, `failed` or `timeout`
    status: Status,
    /// 124 after `timeout_seconds`
    exit_code: i32,
    stdout: String,
    stderr: String,
    /// Files in and the run together
    execution_time_ms: u64,
    /// What was copied out, by path
    output_files: Vec<BoxboxFile>,
}

/// An execution. What it has not come to yet is absent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxboxExecution {
    id: String,
    /// The same
    execution_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<String>,
    user_id: String,
    chat_id: String,
    language: String,
    path: String,
    code: String,
    status: Status,
    timeout_seconds: u64,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time_ms: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    input_files: Vec<BoxboxFile>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    output_files: Vec<BoxboxFile>,
}

impl Note {
    /// About an execution that has its turn.
    pub(super) fn new(engine: &Engine, who: &Who, job: &Job) -> Self {
        Self {
            user: who.user.clone(),
            chat: who.chat.clone(),
            language: job.language.clone(),
            path: job.path.clone(),
            code: job.code.clone(),
            timeout_seconds: job.timeout.as_secs(),
            created_at: time(Timestamp::now()),
            sandbox: None,
            began: None,
            failed: None,
            server: engine.own_server().map(|server| server.to_string()),
        }
    }

    /// Its program has just been started.
    pub(super) fn begins(&mut self, execution: &Execution, synced_in: &[SyncedIn], before_ms: u64) {
        self.sandbox = Some(execution.sandbox.to_string());
        self.began = Some(Began {
            execution: execution.id.to_string(),
            at: time(execution.started_at),
            before_ms,
            input_files: synced_in.iter().map(|file| BoxboxFile::new(file.path.clone(), file.size)).collect(),
        });
    }

    /// It has ended like this, and no program of it runs.
    pub(super) fn fails(&mut self, sandbox: Option<SandboxId>, exit_code: i32, stderr: String) {
        self.sandbox = sandbox.map(|sandbox| sandbox.to_string());
        self.failed = Some(NotStarted { exit_code, stderr, at: time(Timestamp::now()) });
    }

    /// Whether nobody has had that id.
    pub(super) async fn insert(&self, engine: &Engine, id: Uuid) -> caisson_core::Result<bool> {
        engine.insert_document(&self.document(engine, id)).await
    }

    /// Keeps it as it is now.
    pub(super) async fn replace(&self, engine: &Engine, id: Uuid) -> caisson_core::Result<()> {
        engine.replace_document(&self.document(engine, id)).await.map(drop)
    }

    fn document(&self, engine: &Engine, id: Uuid) -> Document {
        let body = serde_json::to_string(self).expect("what is kept has text keys and finite figures");
        // What its sandbox has not taken along by then goes by itself.
        let more = if self.failed.is_some() { Duration::ZERO } else { Duration::from_secs(self.timeout_seconds) + GRACE };
        let until = Timestamp::now().checked_add(engine.retention().saturating_add(more)).ok();
        Document {
            kind: KIND.to_owned(),
            owner: engine.tenant().to_string(),
            id: id.to_string(),
            body,
            // As stores have it.
            until: until.and_then(|until| Timestamp::from_microsecond(until.as_microsecond()).ok()),
            sandbox: self.sandbox.as_deref().and_then(|id| id.parse().ok()),
        }
    }

    /// That of an execution of this tenant's.
    async fn find(engine: &Engine, id: Uuid) -> ApiResult<Option<Self>> {
        let Some(document) = engine.document(KIND, engine.tenant().as_str(), &id.to_string()).await? else { return Ok(None) };
        serde_json::from_str(&document.body).map(Some).map_err(|error| {
            tracing::error!("What was kept of execution {id} cannot be read: {error}");
            ApiError::internal()
        })
    }

    fn is_of(&self, who: &Who) -> bool {
        (&self.user, &self.chat) == (&who.user, &who.chat)
    }

    /// Which server knows what has become of an execution, where another may.
    pub(super) async fn server(engine: &Engine, id: Uuid) -> ApiResult<Option<Whose>> {
        let Some(note) = Self::find(engine, id).await?.filter(|note| note.failed.is_none()) else { return Ok(None) };
        let began = note.began.as_ref().and_then(|began| began.execution.parse().ok());
        let whose = began.map(|execution| Whose::Hosted(Hosted::Execution(execution)));
        Ok(whose.or_else(|| Some(Whose::Server(note.server?.parse().ok()?))))
    }

    /// How it ended.
    pub(super) async fn ended(
        &self,
        engine: &Engine,
        id: Uuid,
        result: &ExecutionResult,
        report: Option<&WorkspaceReport>,
    ) -> BoxboxExecuted {
        let (stdout, stderr) =
            tokio::join!(said(engine, result, Stream::Stdout, &result.stdout), said(engine, result, Stream::Stderr, &result.stderr),);
        let outcome = result.execution.outcome.as_ref();
        let (ended, message) = (outcome.map(|outcome| outcome.status), outcome.and_then(|outcome| outcome.message.clone()));
        let exit_code = exit_code(result).unwrap_or(NO_CODE);
        let (status, exit_code, stderr) = match ended {
            Some(ExecutionStatus::TimedOut) => {
                let line = format!("execution killed after {} seconds", self.timeout_seconds);
                (Status::Timeout, TIMED_OUT, with_line(stderr, &line))
            }
            Some(ExecutionStatus::Exited | ExecutionStatus::Signaled) if exit_code == 0 => (Status::Completed, 0, stderr),
            Some(ExecutionStatus::Exited | ExecutionStatus::Signaled) => (Status::Failed, exit_code, stderr),
            other => {
                let name = other.map_or("lost", ExecutionStatus::as_str);
                let line = message.unwrap_or_else(|| format!("the execution ended as `{name}`"));
                (Status::Failed, exit_code.max(1), with_line(stderr, &line))
            }
        };
        let ran_ms = outcome.map_or(0, |outcome| u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX));
        let before_ms = self.began.as_ref().map_or(0, |began| began.before_ms);
        BoxboxExecuted {
            execution_id: id.to_string(),
            status,
            exit_code,
            stdout,
            stderr,
            execution_time_ms: before_ms.saturating_add(ran_ms),
            output_files: report.map(outputs).unwrap_or_default(),
        }
    }
}

/// What has been copied out, and what is safe here and will be.
fn outputs(report: &WorkspaceReport) -> Vec<BoxboxFile> {
    let there = report.synced_out.iter().map(|file| BoxboxFile::new(file.path.clone(), file.size));
    let coming = report.pending.iter().filter_map(|file| Some(BoxboxFile::new(file.path.clone(), file.size?)));
    let mut all: Vec<BoxboxFile> = there.chain(coming).collect();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

impl BoxboxExecuted {
    /// Of what could not be started.
    pub(super) fn not_started(id: Uuid, exit_code: i32, why: String) -> Self {
        Self {
            execution_id: id.to_string(),
            status: Status::Failed,
            exit_code,
            stdout: String::new(),
            stderr: why,
            execution_time_ms: 0,
            output_files: Vec::new(),
        }
    }
}

impl BoxboxExecution {
    /// That of a user's chat, as it is now. What is another tenant's is not there.
    pub(super) async fn find(engine: &Engine, live: &Live, id: Uuid, who: &Who) -> ApiResult<Option<Self>> {
        if let Some(seen) = live.find(engine.tenant(), id).filter(|seen| seen.note.is_of(who)) {
            return Ok(Some(Self::live(id, seen.note.clone(), seen.stage())));
        }
        let Some(note) = Note::find(engine, id).await?.filter(|note| note.is_of(who)) else { return Ok(None) };
        let lost = || NotStarted { exit_code: NO_CODE, stderr: LOST.to_owned(), at: note.created_at.clone() };
        let (None, Some(began)) = (&note.failed, &note.began) else {
            let NotStarted { exit_code, stderr, at } = note.failed.clone().unwrap_or_else(lost);
            let executed = BoxboxExecuted::not_started(id, exit_code, stderr);
            return Ok(Some(Self { completed_at: Some(at), ..Self::new(id, note, Status::Failed) }.with(executed)));
        };
        let execution_id = began.execution.parse().map_err(|_| ApiError::internal())?;
        let execution = match engine.execution(execution_id).await {
            Ok(execution) => execution,
            // The record of its sandbox has just gone.
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(outcome) = execution.outcome else { return Ok(Some(Self::new(id, note, Status::Executing))) };
        let report = engine.workspace_report(execution_id).await?;
        let result = engine.result(execution_id).await?;
        let executed = note.ended(engine, id, &result, report.as_ref()).await;
        let completed_at = Some(time(execution.started_at + outcome.duration));
        Ok(Some(Self { completed_at, ..Self::new(id, note, executed.status) }.with(executed)))
    }

    /// One that has not been answered yet.
    fn live(id: Uuid, note: Note, stage: OneShotStage) -> Self {
        let (status, sandbox) = match stage {
            OneShotStage::Asked => (Status::Pending, None),
            OneShotStage::Prepares(sandbox) => (Status::SyncingIn, Some(sandbox)),
            // It is said to run when all is known that is said of what runs.
            OneShotStage::Runs(sandbox) | OneShotStage::Ended(sandbox) if note.began.is_none() => (Status::SyncingIn, Some(sandbox)),
            OneShotStage::Runs(sandbox) => (Status::Executing, Some(sandbox)),
            OneShotStage::Ended(sandbox) => (Status::SyncingOut, Some(sandbox)),
        };
        Self { sandbox_id: sandbox.map(|sandbox| sandbox.uuid().to_string()), ..Self::new(id, note, status) }
    }

    fn new(id: Uuid, note: Note, status: Status) -> Self {
        let sandbox = note.sandbox.as_deref().and_then(|id| id.parse::<SandboxId>().ok());
        let (started_at, input_files) = note.began.map(|began| (began.at, began.input_files)).unzip();
        Self {
            id: id.to_string(),
            execution_id: id.to_string(),
            sandbox_id: sandbox.map(|sandbox| sandbox.uuid().to_string()),
            user_id: note.user,
            chat_id: note.chat,
            language: note.language,
            path: note.path,
            code: note.code,
            status,
            timeout_seconds: note.timeout_seconds,
            created_at: note.created_at,
            started_at,
            completed_at: None,
            exit_code: None,
            stdout: None,
            stderr: None,
            execution_time_ms: None,
            input_files: input_files.unwrap_or_default(),
            output_files: Vec::new(),
        }
    }

    fn with(self, executed: BoxboxExecuted) -> Self {
        Self {
            status: executed.status,
            exit_code: Some(executed.exit_code),
            stdout: Some(executed.stdout),
            stderr: Some(executed.stderr),
            execution_time_ms: Some(executed.execution_time_ms),
            output_files: executed.output_files,
            ..self
        }
    }
}

/// Whether this tenant's chats are where the operator's are. Others have theirs among their own workspaces.
pub(super) fn is_operators(tenant: &Tenant) -> bool {
    tenant.as_str() == super::NAME || *tenant == Tenant::default()
}
