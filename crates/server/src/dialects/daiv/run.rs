//! Commands: each a process of its own, one after the other.
//!
//! ```text
//! {"results":[{"command":"…","output":"…","exit_code":0}],"patch":null}
//! ```

use std::{io, sync::Arc, time::Duration};

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use caisson_core::{Error, ExecutionStatus, Stream, TimeLimits};
use caisson_engine::{Captured, Engine, ExecRequest, ExecutionResult, Program};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    answer::bad_request,
    body::Fields,
    check::{self, Check},
    layout::variables,
    patch,
    record::{Named, Session},
};
use crate::{
    caller::Caller,
    dialects::{
        output::{self, Out},
        program,
    },
    error::{ApiError, ApiResult},
};

/// The kernel takes no argument of this length or more; longer commands are run from a file.
const MAX_ARGUMENT: usize = 128 << 10;
/// Output and errors in the order in which they come, which two pipes would not have.
const SHELL: &str = "if [ -x /bin/bash ]; then exec /bin/bash -o pipefail -c \"$1\" 2>&1; else exec /bin/sh -o pipefail -c \"$1\" 2>&1; fi";
/// Bytes of output that are kept until all commands have ended. Beyond them it is read from the log again.
const KEPT: usize = 16 << 20;
/// What a shell has for what it cannot start, and for what it cannot find.
const CANNOT_START: i32 = 126;
const NOT_FOUND: i32 = 127;
/// For what ended in a way that has no code.
const NO_CODE: i32 = 1;
const TIMED_OUT: i32 = 124;

/// Commands to be run.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivRun {
    /// Each for a shell of its own with `pipefail`, in `/repo`
    commands: Vec<String>,
    /// Whether the first that fails is the last
    fail_fast: Option<bool>,
    /// Seconds for each; 0 is no limit
    timeout: Option<u64>,
}

/// How they went.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "it is written piece by piece")]
pub(crate) struct DaivRan {
    /// Of those that were started
    results: Vec<DaivResult>,
    /// What they have changed, as base64 of what `git apply` takes; `null` where nothing has, or nobody asked for patches
    #[schema(required)]
    patch: Option<String>,
}

/// How one went.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "it is written piece by piece")]
pub(crate) struct DaivResult {
    command: String,
    /// Errors included
    output: String,
    /// 124 after `timeout`
    exit_code: i32,
}

struct Run {
    commands: Vec<String>,
    fail_fast: bool,
    timeout: Option<Duration>,
}

impl Run {
    fn take(Fields(fields): Fields, default: Option<Duration>) -> ApiResult<Self> {
        let mut faults = Vec::new();
        let mut check = Check::new(&fields, &mut faults);
        let commands = check.texts("commands");
        let fail_fast = check.may("fail_fast", check::truth).unwrap_or(false);
        let timeout = match check.may("timeout", check::integer_in(0, None)) {
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds.unsigned_abs()).min(TimeLimits::MAX)),
            None => default,
        };
        let run = check::done(commands.map(|commands| Self { commands, fail_fast, timeout }), faults)?;
        match run.commands.iter().position(|command| command.contains('\0')) {
            Some(index) => Err(bad_request(format!("commands[{index}] has a NUL character, which no shell takes; leave it out"))),
            None => Ok(run),
        }
    }
}

/// How a command ended.
enum Ended {
    Ran(Box<ExecutionResult>),
    /// It did not come to run.
    NotStarted {
        why: String,
        exit_code: i32,
    },
}

struct Ran {
    results: Vec<(String, Ended)>,
    patch: Option<Bytes>,
    timeout: Option<Duration>,
}

/// Runs commands, one after the other.
///
/// One that fails is a success here: look at `exit_code`. Behind one that was killed after `timeout` no other runs. Files and processes in the
/// background stay for the next request, variables and the directory do not. When the client hangs up, what runs is killed.
#[utoipa::path(post, path = "/session/{id}", operation_id = "daiv_run", tag = "daiv", params(("id" = String, Path)), request_body = DaivRun,
    responses((status = 200, description = "They have ended", body = DaivRan)))]
pub(crate) async fn run(Caller(app): Caller, named: Named, fields: Fields) -> ApiResult<Response> {
    let run = Run::take(fields, app.config.daiv.command_timeout)?;
    let session = named.open(&app).await?;
    let (engine, gone) = (session.engine.clone(), session.lost.child_token());
    let client = gone.clone().drop_guard();
    let ran = session.work(&app, |session| async move { all(&session, run, gone).await }).await?;
    drop(client);
    let mut response = output::answer(app.app(), move |out| async move { tell(&engine, &ran, &out).await });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

const NO_PATCH: &str = "Failed to extract patch with the changes made by the commands. Check logs.";

async fn all(session: &Arc<Session>, run: Run, gone: CancellationToken) -> ApiResult<Ran> {
    // What was there before the first request counts as seeded, for patches, and what a session that was stopped comes back with.
    if session.record.wants_patches() && !session.has_base() {
        if let Err(error) = patch::advance(session).await {
            return Err(patch::failed(session, error, NO_PATCH).await);
        }
        session.keep(&session.with_base()).await?;
    }
    let (mut results, mut kept) = (Vec::new(), 0);
    for command in run.commands {
        if gone.is_cancelled() {
            break;
        }
        let mut ended = match one(session, &command, run.timeout, gone.clone()).await {
            Ok(ended) => ended,
            // What ran is told; that the rest did not shows.
            Err(error) if !results.is_empty() => {
                tracing::warn!("Commands of session {} are not run: {}", session.id, error.parts().2);
                break;
            }
            Err(error) => return Err(error),
        };
        if let Ended::Ran(result) = &mut ended {
            kept += forget(result, KEPT.saturating_sub(kept));
        }
        let (timed_out, failed) = match &ended {
            Ended::Ran(result) => (has_timed_out(result), program::exit_code(result) != Some(0)),
            Ended::NotStarted { .. } => (false, true),
        };
        results.push((command, ended));
        if timed_out || (failed && run.fail_fast) {
            break;
        }
    }
    // What changed for somebody who has gone is in the next patch.
    let patch = if session.record.wants_patches() && !gone.is_cancelled() {
        match patch::take(session).await {
            Ok(patch) => patch,
            Err(error) => return Err(patch::failed(session, error, NO_PATCH).await),
        }
    } else {
        None
    };
    Ok(Ran { results, patch, timeout: run.timeout })
}

/// Leaves of an output what fits into `room`, or else nothing, as the log has it as well. Returns how many bytes are left.
fn forget(result: &mut ExecutionResult, room: usize) -> usize {
    let outputs = [&mut result.stdout, &mut result.stderr];
    let bytes = outputs.iter().map(|output| output.head.len() + output.tail.len()).sum();
    if bytes <= room {
        return bytes;
    }
    for output in outputs {
        *output = Captured { head: Bytes::new(), tail: Bytes::new(), total_bytes: output.total_bytes };
    }
    0
}

fn has_timed_out(result: &ExecutionResult) -> bool {
    result.execution.outcome.as_ref().is_some_and(|outcome| outcome.status == ExecutionStatus::TimedOut)
}

async fn one(session: &Session, command: &str, timeout: Option<Duration>, gone: CancellationToken) -> ApiResult<Ended> {
    let program = if command.len() < MAX_ARGUMENT {
        Program::Argv(["/bin/sh", "-c", SHELL, "sh", command].map(str::to_owned).to_vec())
    } else {
        // What such a program says to its standard error comes by itself.
        code("bash", command)
    };
    let request = |program| {
        let cwd = Some(session.layout().repo().to_owned());
        ExecRequest { env: variables(), cwd, timeout, ..ExecRequest::new(program) }
    };
    let is_code = matches!(program, Program::Code { .. });
    let not_started = |message: String, exit_code| Ok(Ended::NotStarted { why: message, exit_code });
    let mut ended = program::until_ended(&session.engine, session.id, request(program), gone.clone()).await;
    if is_code && matches!(ended, Err(Error::Invalid { code: "interpreter_missing", .. })) {
        ended = program::until_ended(&session.engine, session.id, request(code("sh", command)), gone).await;
    }
    match ended {
        Ok(result) => Ok(Ended::Ran(Box::new(result))),
        Err(Error::Invalid { code: "program_not_found" | "interpreter_missing", message }) => not_started(message, NOT_FOUND),
        // Its directory has gone, or there is no room for one more process.
        Err(Error::Invalid { message, .. } | Error::QuotaExceeded { message }) => not_started(message, CANNOT_START),
        Err(error) => Err(failed(session, error).await),
    }
}

/// A command that is too long for an argument.
fn code(language: &str, command: &str) -> Program {
    Program::Code { language: language.to_owned(), text: format!("set -o pipefail\nexec 2>&1\n{command}"), args: Vec::new() }
}

async fn failed(session: &Session, error: Error) -> ApiError {
    session.failed(error).await
}

async fn tell(engine: &Engine, ran: &Ran, out: &Out) -> io::Result<()> {
    out.put("{\"results\":[").await?;
    for (index, (command, ended)) in ran.results.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        out.put(format!("{comma}{{\"command\":{},\"output\":\"", serde_json::to_string(command)?)).await?;
        let exit_code = match ended {
            Ended::NotStarted { why, exit_code } => {
                out.text(why).await?;
                *exit_code
            }
            Ended::Ran(result) => {
                tell_output(engine, result, ran.timeout, out).await?;
                if has_timed_out(result) { TIMED_OUT } else { program::exit_code(result).unwrap_or(NO_CODE) }
            }
        };
        out.put(format!("\",\"exit_code\":{exit_code}}}")).await?;
    }
    let patch = ran.patch.as_ref().map_or_else(|| "null".to_owned(), |patch| format!("\"{}\"", STANDARD.encode(patch)));
    out.put(format!("],\"patch\":{patch}}}")).await
}

async fn tell_output(engine: &Engine, result: &ExecutionResult, timeout: Option<Duration>, out: &Out) -> io::Result<()> {
    let mut notes = Vec::new();
    let mut within_a_line = output::all_said(engine, result, Stream::Stdout, &result.stdout, &mut notes, out).await?;
    if result.stderr.total_bytes > 0 {
        within_a_line |= output::all_said(engine, result, Stream::Stderr, &result.stderr, &mut notes, out).await?;
    }
    match result.execution.outcome.as_ref().map(|outcome| (outcome.status, outcome.message.clone())) {
        Some((ExecutionStatus::TimedOut, _)) => {
            notes.push(format!("Command timed out after {}s", timeout.unwrap_or_default().as_secs()));
        }
        Some((ExecutionStatus::Exited | ExecutionStatus::Signaled, _)) | None => {}
        Some((_, message)) => notes.extend(message),
    }
    if within_a_line && !notes.is_empty() {
        out.text("\n").await?;
    }
    out.text(&notes.join("\n")).await
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn taken(body: Value) -> ApiResult<Run> {
        let Value::Object(fields) = body else { unreachable!() };
        Run::take(Fields(fields), Some(Duration::from_secs(9)))
    }

    #[test]
    fn times_are_of_each_command() {
        for (timeout, expect) in [(json!(null), Some(9)), (json!(0), None), (json!("5"), Some(5)), (json!(7.0), Some(7))] {
            let run = taken(json!({"commands": [], "timeout": timeout})).ok().unwrap();
            assert_eq!(run.timeout, expect.map(Duration::from_secs));
        }
        assert_eq!(taken(json!({"commands": []})).ok().unwrap().timeout, Some(Duration::from_secs(9)));
        let negative = taken(json!({"commands": [], "timeout": -1})).err().unwrap();
        assert_eq!(negative.details().unwrap()[0]["type"], "greater_than_equal");
    }

    #[test]
    fn commands_are_texts_that_a_shell_takes() {
        let run = taken(json!({"commands": ["a", ""], "fail_fast": "yes"})).ok().unwrap();
        assert_eq!((run.commands, run.fail_fast), (vec!["a".to_owned(), String::new()], true));
        assert_eq!(taken(json!({})).err().unwrap().details().unwrap()[0]["type"], "missing");
        assert_eq!(taken(json!({"commands": ["a", "b\0"]})).err().unwrap().parts().0, 400);
    }
}
