//! Contexts, and what comes of the code that they run.

use std::collections::BTreeMap;

use caisson_core::{Error, Result};
use caisson_engine::{CodeRequest, CodeResult, ContextInfo, ContextRequest, Driver, Failure, RunningCode, Shown};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Number, ResultBody, Truncated,
    field::{given, unique},
    program::timeout,
    time,
};

/// A context to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateContext)]
pub struct CreateContextBody {
    /// `python`, `node`, `bash`, `r`, or the language of a Jupyter kernel that the image has.
    #[schema(example = "python")]
    pub language: String,
    /// `auto`: the image's Jupyter kernel for the language where there is one, otherwise our own driver. `builtin`: our own. `jupyter`: a kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "auto")]
    pub driver: Option<String>,
    /// Variables over those of the sandbox.
    #[serde(default, deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Directory to start in; the work dir when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

impl CreateContextBody {
    /// What the engine is to make.
    pub fn into_request(self) -> Result<ContextRequest> {
        let driver = match self.driver {
            None => Driver::Auto,
            Some(name) => Driver::ALL.into_iter().find(|driver| driver.as_str() == name).ok_or_else(|| {
                let message = format!("field `driver` is `{}`, allowed are `auto`, `builtin` and `jupyter`", name.escape_debug());
                Error::invalid("invalid_driver", message)
            })?,
        };
        Ok(ContextRequest { language: self.language, driver, env: self.env, cwd: self.cwd })
    }
}

/// An interpreter that lives in a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Context)]
pub struct ContextBody {
    pub id: String,
    pub sandbox_id: String,
    pub language: String,
    /// What the interpreter calls itself.
    pub version: Option<String>,
    /// The Jupyter kernel that runs the code; null for our own drivers.
    pub kernel: Option<String>,
    /// `starting`, `idle`, `busy`, or `ended`, after which it can be restarted.
    pub state: String,
    /// Why it has ended.
    pub message: Option<String>,
    /// Directory that it was started in; null for the work dir.
    pub cwd: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// Runs that have begun.
    pub runs: u64,
    /// Runs that wait for those before them; there may be 16.
    pub waiting: u64,
}

impl From<&ContextInfo> for ContextBody {
    fn from(context: &ContextInfo) -> Self {
        Self {
            id: context.id.to_string(),
            sandbox_id: context.sandbox.to_string(),
            language: context.language.clone(),
            version: context.version.clone(),
            kernel: context.kernel.clone(),
            state: context.state.as_str().to_owned(),
            message: context.message.clone(),
            cwd: context.cwd.clone(),
            created_at: time(context.created_at),
            runs: context.runs,
            waiting: context.waiting as u64,
        }
    }
}

/// The contexts of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Contexts)]
pub struct ContextsBody {
    /// Oldest first.
    pub data: Vec<ContextBody>,
}

/// Code for a context.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CodeRequest)]
pub struct CodeBody {
    #[schema(example = "x = 6\nx * 7")]
    pub code: String,
    /// Seconds until it is interrupted; 60 when absent, null for no limit. Code that does not heed that within 3 s ends with its context.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub timeout_s: Option<Option<Number>>,
    /// Code that is only begun, such as a block without its end, has the status `incomplete` and is not run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interactive: bool,
}

impl CodeBody {
    /// What the engine is to run.
    pub fn into_request(self) -> Result<CodeRequest> {
        Ok(CodeRequest { code: self.code, timeout: timeout(self.timeout_s)?, interactive: self.interactive })
    }
}

/// Something that a run shows, by media type: text, and base64 for images and PDF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Shown)]
pub struct ShownBody {
    /// `value`: the last expression's. `display`: shown on the way.
    #[serde(rename = "type")]
    pub kind: String,
    #[schema(example = json!({"text/plain": "42"}))]
    pub data: BTreeMap<String, String>,
    /// What was too large to be told, with its size.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub omitted: BTreeMap<String, u64>,
}

impl From<&Shown> for ShownBody {
    fn from(shown: &Shown) -> Self {
        let kind = if shown.is_value { "value" } else { "display" };
        Self { kind: kind.to_owned(), data: shown.data.clone(), omitted: shown.omitted.clone() }
    }
}

/// What code raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CodeError)]
pub struct CodeErrorBody {
    #[schema(example = "ZeroDivisionError")]
    pub name: String,
    pub message: String,
    pub traceback: String,
}

impl From<Failure> for CodeErrorBody {
    fn from(Failure { name, message, traceback }: Failure) -> Self {
        Self { name, message, traceback }
    }
}

/// The first event of a run's stream.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CodeStartEvent {
    /// The execution.
    pub id: String,
    pub context_id: String,
    pub sandbox_id: String,
}

impl From<&RunningCode> for CodeStartEvent {
    fn from(running: &RunningCode) -> Self {
        let (id, sandbox_id) = (running.execution.id.to_string(), running.execution.sandbox.to_string());
        Self { id, context_id: running.context.to_string(), sandbox_id }
    }
}

/// How code in a context came out, with its output as far as it fits; see `Result`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = CodeResult)]
pub struct CodeResultBody {
    /// The execution, with whose id all that was written can be read.
    pub id: String,
    pub context_id: String,
    pub sandbox_id: String,
    /// `ok`, `error`, `interrupted`, `timed_out`, `incomplete`, or `context_ended`, when its interpreter ended under it.
    pub status: String,
    /// A sentence where the status alone does not say enough.
    pub message: Option<String>,
    /// What it raised.
    pub error: Option<CodeErrorBody>,
    /// What it showed, in order. Absent in event streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<ShownBody>>,
    /// How much it showed beyond what is told.
    pub results_dropped: u64,
    /// In `bash` that of the last command; of an interpreter that has exited its own; otherwise 1 for an error and 0 without one.
    pub exit_code: Option<i32>,
    /// The signal that ended the interpreter or interrupted the run.
    pub signal: Option<i32>,
    /// Standard output as text. What is not UTF-8 in it is replaced, and `stdout_base64` has the bytes. Absent in event streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_tail_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail_base64: Option<String>,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub truncated: Truncated,
    pub duration_ms: f64,
}

impl From<CodeResult> for CodeResultBody {
    fn from(code: CodeResult) -> Self {
        let (stdout, stderr) = (code.result.stdout.clone(), code.result.stderr.clone());
        let results = code.shown.iter().map(|shown| ShownBody::from(&**shown)).collect();
        let output = ResultBody::without_output(&code.result).with_output(&stdout, &stderr);
        Self { results: Some(results), ..Self::of(code, output) }
    }
}

impl CodeResultBody {
    /// The same for those who were told output and results already.
    #[must_use]
    pub fn without_output(code: CodeResult) -> Self {
        let output = ResultBody::without_output(&code.result);
        Self::of(code, output)
    }

    fn of(code: CodeResult, output: ResultBody) -> Self {
        Self {
            id: output.id,
            context_id: code.context.to_string(),
            sandbox_id: output.sandbox_id,
            status: code.status.as_str().to_owned(),
            message: code.message,
            error: code.error.map(CodeErrorBody::from),
            results: None,
            results_dropped: code.shown_dropped,
            exit_code: output.exit_code,
            signal: output.signal,
            stdout: output.stdout,
            stdout_base64: output.stdout_base64,
            stdout_tail_base64: output.stdout_tail_base64,
            stderr: output.stderr,
            stderr_base64: output.stderr_base64,
            stderr_tail_base64: output.stderr_tail_base64,
            stdout_bytes: output.stdout_bytes,
            stderr_bytes: output.stderr_bytes,
            truncated: output.truncated,
            duration_ms: output.duration_ms,
        }
    }
}
