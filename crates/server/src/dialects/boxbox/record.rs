//! An execution as its chat sees it. What the engine does not know of it is kept beside the record of its sandbox, and goes with that; the
//! rest is asked when somebody wants to know, so that nothing is ever told twice and differently.

use caisson_core::{Document, Error, Execution, ExecutionStatus, SandboxId, Stream, Tenant};
use caisson_engine::{Engine, ExecutionResult, SyncedIn, WorkspaceReport};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::Job,
    media,
    said::{said, with_line},
    who::Who,
};
use crate::{
    dialects::program::exit_code,
    error::{ApiError, ApiResult},
    native::types::time,
};

const KIND: &str = "boxbox.execution";
const TIMED_OUT: i32 = 124;
/// Where the engine knows of no exit code.
const NO_CODE: i32 = 1;

/// What is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    user: String,
    chat: String,
    language: String,
    path: String,
    code: String,
    timeout_seconds: u64,
    /// That of the engine.
    execution: String,
    /// Milliseconds from the request for a sandbox to the begin of the program.
    before_ms: u64,
    input_files: Vec<BoxboxFile>,
}

/// How far an execution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Executing,
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
    /// A UUID
    pub(super) execution_id: String,
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
    sandbox_id: String,
    user_id: String,
    chat_id: String,
    language: String,
    path: String,
    code: String,
    status: Status,
    timeout_seconds: u64,
    created_at: String,
    started_at: String,
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
    /// About a program that has just been started.
    pub(super) fn new(who: &Who, job: &Job, execution: &Execution, synced_in: &[SyncedIn], before_ms: u64) -> Self {
        Self {
            user: who.user.clone(),
            chat: who.chat.clone(),
            language: job.language.clone(),
            path: job.path.clone(),
            code: job.code.clone(),
            timeout_seconds: job.timeout.as_secs(),
            execution: execution.id.to_string(),
            before_ms,
            input_files: synced_in.iter().map(|file| BoxboxFile::new(file.path.clone(), file.size)).collect(),
        }
    }

    /// Keeps it for as long as the record of its sandbox.
    pub(super) async fn keep(&self, engine: &Engine, sandbox: SandboxId) -> caisson_core::Result<()> {
        let body = serde_json::to_string(self).expect("what is kept has text keys and finite figures");
        let document = Document { kind: KIND.to_owned(), owner: sandbox.to_string(), id: sandbox.to_string(), body, ..Document::default() };
        engine.insert_document(&document).await.map(drop)
    }

    /// That of a sandbox of this tenant's.
    async fn find(engine: &Engine, sandbox: SandboxId) -> ApiResult<Option<Self>> {
        let id = sandbox.to_string();
        let Some(document) = engine.document(KIND, &id, &id).await? else { return Ok(None) };
        serde_json::from_str(&document.body).map(Some).map_err(|error| {
            tracing::error!(sandbox.id = %id, "What was kept of an execution cannot be read: {error}");
            ApiError::internal()
        })
    }

    /// How it ended.
    pub(super) async fn ended(&self, engine: &Engine, result: &ExecutionResult, report: Option<&WorkspaceReport>) -> BoxboxExecuted {
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
        BoxboxExecuted {
            execution_id: result.execution.sandbox.uuid().to_string(),
            status,
            exit_code,
            stdout,
            stderr,
            execution_time_ms: self.before_ms.saturating_add(ran_ms),
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
    /// Of what could not be started, and so is no execution that is kept.
    pub(super) fn not_started(id: String, exit_code: i32, why: String) -> Self {
        Self {
            execution_id: id,
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
    /// That of a user's chat, as it is now.
    pub(super) async fn find(engine: &Engine, id: SandboxId, who: &Who) -> ApiResult<Option<Self>> {
        // What is another tenant's is not there.
        let sandbox = match engine.sandbox(id).await {
            Ok(sandbox) => sandbox,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(note) = Note::find(engine, id).await? else { return Ok(None) };
        if (&note.user, &note.chat) != (&who.user, &who.chat) {
            return Ok(None);
        }
        let execution_id = note.execution.parse().map_err(|_| ApiError::internal())?;
        let execution = engine.execution(execution_id).await?;
        let uuid = id.uuid().to_string();
        let mut found = Self {
            id: uuid.clone(),
            execution_id: uuid.clone(),
            sandbox_id: uuid,
            status: Status::Executing,
            created_at: time(sandbox.created_at),
            started_at: time(execution.started_at),
            completed_at: None,
            exit_code: None,
            stdout: None,
            stderr: None,
            execution_time_ms: None,
            output_files: Vec::new(),
            user_id: note.user.clone(),
            chat_id: note.chat.clone(),
            language: note.language.clone(),
            path: note.path.clone(),
            code: note.code.clone(),
            timeout_seconds: note.timeout_seconds,
            input_files: note.input_files.clone(),
        };
        if execution.outcome.is_some() {
            let report = engine.workspace_report(execution_id).await?;
            let result = engine.result(execution_id).await?;
            let ended = note.ended(engine, &result, report.as_ref()).await;
            found.status = ended.status;
            found.completed_at = execution.outcome.map(|outcome| time(execution.started_at + outcome.duration));
            found.exit_code = Some(ended.exit_code);
            found.stdout = Some(ended.stdout);
            found.stderr = Some(ended.stderr);
            found.execution_time_ms = Some(ended.execution_time_ms);
            found.output_files = ended.output_files;
        }
        Ok(Some(found))
    }
}

/// Whether this tenant's chats are where the operator's are. Others have theirs among their own workspaces.
pub(super) fn is_operators(tenant: &Tenant) -> bool {
    tenant.as_str() == super::NAME || *tenant == Tenant::default()
}
