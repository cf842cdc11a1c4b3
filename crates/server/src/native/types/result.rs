//! How a program ended and what it said.

use caisson_core::{ExecutionStatus, Outcome};
use caisson_engine::{Captured, ExecutionResult, RunResult};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ChangedFileBody, WorkspaceReportBody, field::encode, milliseconds};
use crate::sse::torn_at;

/// How a program ended, and its output as far as it fits.
///
/// Output that is too long for an answer is told as head and tail around the line `[... N bytes left out ...]`; all that the log
/// keeps is at `GET /v1/executions/{id}/output` by offset.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Result)]
pub struct ResultBody {
    /// The execution.
    pub id: String,
    pub sandbox_id: String,
    /// `exited`, `signaled`, `timed_out`, `out_of_memory`, `output_limit`, `killed` or `lost`.
    pub status: String,
    /// Set when the program ended by itself.
    pub exit_code: Option<i32>,
    /// The number of the signal that ended it, if one did.
    pub signal: Option<i32>,
    /// A sentence with the figure, where the status alone does not say enough.
    pub message: Option<String>,
    /// Standard output as text. What is not UTF-8 in it is replaced, and `stdout_base64` has the bytes. Absent in event streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// The bytes of standard output (of its head, when truncated), if they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// The bytes of the tail of truncated standard output, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_tail_base64: Option<String>,
    /// Standard error, as `stdout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail_base64: Option<String>,
    /// Bytes written by the program.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub truncated: Truncated,
    pub duration_ms: f64,
    /// User and system time.
    pub cpu_ms: f64,
    pub peak_memory_bytes: u64,
    /// What became of the files of its workspace, if it used one. `GET /v1/executions/{id}` has it as it is later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceReportBody>,
}

/// Whether something of a stream is missing in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Truncated {
    pub stdout: bool,
    pub stderr: bool,
}

/// How a one-shot ended, with the files that it made or changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = RunResult)]
pub struct RunResultBody {
    #[serde(flatten)]
    pub result: ResultBody,
    pub files: Vec<ChangedFileBody>,
    /// Whether there were more changed files than are named.
    pub files_truncated: bool,
    /// Limits that this host cannot enforce in full, which its operator has accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weaker_limits: Vec<String>,
}

impl From<ExecutionResult> for ResultBody {
    fn from(result: ExecutionResult) -> Self {
        Self::without_output(&result).with_output(&result.stdout, &result.stderr)
    }
}

impl ResultBody {
    /// The same with this output.
    #[must_use]
    pub fn with_output(self, stdout: &Captured, stderr: &Captured) -> Self {
        let truncated = Truncated { stdout: stdout.truncated(), stderr: stderr.truncated() };
        let (stdout, stderr) = (Told::from(stdout), Told::from(stderr));
        Self {
            stdout: Some(stdout.text),
            stdout_base64: stdout.base64,
            stdout_tail_base64: stdout.tail_base64,
            stderr: Some(stderr.text),
            stderr_base64: stderr.base64,
            stderr_tail_base64: stderr.tail_base64,
            truncated,
            ..self
        }
    }

    /// The same for those who were told the output already.
    #[must_use]
    pub fn without_output(result: &ExecutionResult) -> Self {
        let execution = &result.execution;
        // A finished execution has its outcome; without one there is nothing to tell but that it is lost.
        let outcome = execution.outcome.clone().unwrap_or_else(lost);
        Self {
            id: execution.id.to_string(),
            sandbox_id: execution.sandbox.to_string(),
            status: outcome.status.as_str().to_owned(),
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            message: outcome.message,
            stdout: None,
            stdout_base64: None,
            stdout_tail_base64: None,
            stderr: None,
            stderr_base64: None,
            stderr_tail_base64: None,
            stdout_bytes: result.stdout.total_bytes,
            stderr_bytes: result.stderr.total_bytes,
            truncated: Truncated { stdout: result.stdout.truncated(), stderr: result.stderr.truncated() },
            duration_ms: milliseconds(outcome.duration),
            cpu_ms: milliseconds(outcome.cpu),
            peak_memory_bytes: outcome.peak_memory_bytes,
            workspace: result.workspace.as_ref().map(WorkspaceReportBody::from),
        }
    }
}

impl From<RunResult> for RunResultBody {
    fn from(run: RunResult) -> Self {
        let files = run.files.into_iter().map(ChangedFileBody::from).collect();
        let (files_truncated, weaker_limits) = (run.files_truncated, run.weaker_limits);
        Self { result: run.result.into(), files, files_truncated, weaker_limits }
    }
}

impl RunResultBody {
    /// The same for those who were told the output already.
    #[must_use]
    pub fn without_output(run: RunResult) -> Self {
        let files = run.files.into_iter().map(ChangedFileBody::from).collect();
        let (files_truncated, weaker_limits) = (run.files_truncated, run.weaker_limits);
        Self { result: ResultBody::without_output(&run.result), files, files_truncated, weaker_limits }
    }
}

fn lost() -> Outcome {
    Outcome {
        status: ExecutionStatus::Lost,
        exit_code: None,
        signal: None,
        message: None,
        duration: Default::default(),
        cpu: Default::default(),
        peak_memory_bytes: 0,
        stdout: Default::default(),
        stderr: Default::default(),
    }
}

/// One stream in words.
struct Told {
    text: String,
    base64: Option<String>,
    tail_base64: Option<String>,
}

impl From<&Captured> for Told {
    fn from(captured: &Captured) -> Self {
        if !captured.truncated() {
            // Nothing is missing: whatever is in the tail follows the head.
            let whole = [&captured.head[..], &captured.tail].concat();
            return match String::from_utf8(whole) {
                Ok(text) => Self { text, base64: None, tail_base64: None },
                Err(error) => {
                    let base64 = Some(encode(error.as_bytes()));
                    Self { text: String::from_utf8_lossy(error.as_bytes()).into_owned(), base64, tail_base64: None }
                }
            };
        }
        // The cuts may have torn a character each; what is left of those belongs to what is left out.
        let head = &captured.head[..torn_at(&captured.head).unwrap_or(captured.head.len())];
        let torn = captured.tail.iter().take(3).take_while(|b| **b & 0xC0 == 0x80).count();
        let tail = &captured.tail[torn..];
        let (head_base64, tail_base64, left_out) = match (std::str::from_utf8(head), std::str::from_utf8(tail)) {
            (Ok(_), Ok(_)) => (None, None, captured.total_bytes - (head.len() + tail.len()) as u64),
            _ => {
                let kept = (captured.head.len() + captured.tail.len()) as u64;
                (Some(encode(&captured.head)), Some(encode(&captured.tail)), captured.total_bytes - kept)
            }
        };
        let text = format!("{}\n[... {left_out} bytes left out ...]\n{}", String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
        Self { text, base64: head_base64, tail_base64 }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn told(head: &'static [u8], tail: &'static [u8], total_bytes: u64) -> (String, Option<String>, Option<String>) {
        let told = Told::from(&Captured { head: Bytes::from_static(head), tail: Bytes::from_static(tail), total_bytes });
        (told.text, told.base64, told.tail_base64)
    }

    #[test]
    fn whole_output_is_text_or_bytes() {
        assert_eq!(told("aä🦀\0".as_bytes(), b"", 8), ("aä🦀\0".into(), None, None));
        assert_eq!(told(b"a\xff", b"", 2), ("a\u{fffd}".into(), Some("Yf8=".into()), None));
        assert_eq!(told(b"\xc3", b"\xa4", 2), ("ä".into(), None, None), "a tail that follows at once");
    }

    #[test]
    fn truncated_output_says_how_much_is_missing() {
        assert_eq!(told(b"head", b"tail", 1000), ("head\n[... 992 bytes left out ...]\ntail".into(), None, None));
    }

    #[test]
    fn torn_characters_belong_to_what_is_left_out() {
        // 3 of 4 bytes of a crab at the end of the head, 1 of 2 bytes of an umlaut at the begin of the tail.
        let (text, base64, _) = told(b"head\xf0\x9f\xa6", b"\xa4tail", 1000);
        assert_eq!((text.as_str(), base64), ("head\n[... 992 bytes left out ...]\ntail", None));
    }

    #[test]
    fn truncated_bytes_are_not_lost_either() {
        let (text, head, tail) = told(b"a\xffb", b"tail", 1000);
        assert_eq!(
            (text.as_str(), head.as_deref(), tail.as_deref()),
            ("a\u{fffd}b\n[... 993 bytes left out ...]\ntail", Some("Yf9i"), Some("dGFpbA=="))
        );
    }
}
