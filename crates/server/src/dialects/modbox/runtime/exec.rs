//! A command: a new Bash each time.

use std::{collections::BTreeMap, time::Duration};

use axum::response::Response;
use caisson_core::{Error, Stream, TimeLimits};
use caisson_engine::{Engine, ExecRequest, ExecutionResult, Program};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{Named, failed};
use crate::{
    caller::Caller,
    dialects::{
        few,
        modbox::{answer::invalid_field, body::BodyWithin, check::Problems},
        output::{self, Out, said},
        program,
    },
    error::{ApiError, ApiResult},
};

/// Bytes of a body.
const MOST: usize = 10 << 20;
/// The kernel takes no argument of this length or more; longer commands are run from a file.
const MAX_ARGUMENT: usize = 128 << 10;
/// The exit code of what was killed with its sandbox, and of what could not be started.
const KILLED: i32 = 137;
const NOT_STARTED: i32 = 127;

/// A command to run.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxExec {
    /// For `bash -c`
    command: Option<String>,
    /// Seconds until its process tree is killed; only the sandbox's own time when absent
    timeout: Option<f64>,
    /// `/workspace` when absent
    cwd: Option<String>,
    /// Over the sandbox's own
    #[serde(deserialize_with = "few::map")]
    env: Option<BTreeMap<String, Option<String>>>,
}

/// How it went.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "it is written piece by piece")]
pub(crate) struct ModboxExecuted {
    exit_code: i32,
    stdout: String,
    stderr: String,
    duration_ms: u64,
}

/// Runs a command.
///
/// One that fails is a success here: look at `exitCode`, which is 124 after `timeout` and 128 and the number of the signal for one that was
/// killed. When the client hangs up, the command is killed.
#[utoipa::path(post, path = "/modbox/{id}/modbox/api/exec", operation_id = "modbox_exec", tag = "modbox", params(("id" = String, Path)),
    request_body = ModboxExec, responses((status = 200, description = "It has ended", body = ModboxExecuted)))]
pub(crate) async fn exec(Caller(app): Caller, named: Named, BodyWithin(body): BodyWithin<ModboxExec, MOST>) -> ApiResult<Response> {
    let request = asked(body)?;
    let sandbox = named.running(&app.engine).await?;
    let (engine, gone, id) = (app.engine.clone(), CancellationToken::new(), sandbox.id);
    let client = gone.clone().drop_guard();
    let ended = app.owned(async move { program::until_ended(&engine, id, request, gone).await }).await?;
    drop(client);
    let told: Told = match ended {
        Ok(result) => Told::Ended(Box::new(result)),
        Err(Error::Invalid { code: "program_not_found" | "interpreter_missing", message }) => Told::NotStarted(message),
        Err(error) => return Err(refused(&app.engine, &sandbox, error).await),
    };
    let engine = app.engine.clone();
    let mut response = output::answer(&app, move |out| async move { tell(&engine, &told, &out).await });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What is to be told.
enum Told {
    Ended(Box<ExecutionResult>),
    NotStarted(String),
}

fn asked(body: ModboxExec) -> ApiResult<ExecRequest> {
    let mut problems = Problems::default();
    let command = problems.required("command", body.command, 1..=MOST);
    let timeout = match body.timeout {
        Some(seconds) if !(seconds.is_finite() && seconds > 0.0) => {
            problems.add("timeout", "is no time; write seconds, more than 0");
            None
        }
        // Longer than any sandbox lives is as long as it lives.
        Some(seconds) => {
            Some(Duration::try_from_secs_f64(seconds).unwrap_or(TimeLimits::MAX).clamp(Duration::from_millis(1), TimeLimits::MAX))
        }
        None => None,
    };
    problems.done()?;
    let program = if command.len() < MAX_ARGUMENT {
        Program::Argv(["bash", "-c", &command].map(str::to_owned).into())
    } else {
        Program::Code { language: "bash".to_owned(), text: command, args: Vec::new() }
    };
    let env = body.env.unwrap_or_default().into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Ok(ExecRequest { timeout, cwd: body.cwd.filter(|cwd| !cwd.is_empty()), env, ..ExecRequest::new(program) })
}

async fn refused(engine: &Engine, sandbox: &caisson_core::Sandbox, error: Error) -> ApiError {
    match &error {
        Error::Invalid { code: "invalid_env" | "reserved_env", message } => invalid_field("body.env", message.clone()),
        Error::Invalid { message, .. } => invalid_field("body.cwd", message.clone()),
        Error::Conflict { code: "not_a_directory", message } => invalid_field("body.cwd", message.clone()),
        _ => failed(engine, sandbox, error).await,
    }
}

async fn tell(engine: &Engine, told: &Told, out: &Out) -> std::io::Result<()> {
    let result = match told {
        Told::NotStarted(message) => {
            out.put(format!("{{\"exitCode\":{NOT_STARTED},\"stdout\":\"\",\"stderr\":\"")).await?;
            out.text(&format!("{message}\n")).await?;
            return out.put("\",\"durationMs\":0}").await;
        }
        Told::Ended(result) => result,
    };
    let duration = result.execution.outcome.as_ref().map_or(0, |outcome| outcome.duration.as_millis());
    let mut notes = Vec::new();
    out.put(format!("{{\"exitCode\":{},\"stdout\":\"", program::exit_code(result).unwrap_or(KILLED))).await?;
    said(engine, result, Stream::Stdout, &result.stdout, &mut notes, out).await?;
    out.put("\",\"stderr\":\"").await?;
    let within_a_line = said(engine, result, Stream::Stderr, &result.stderr, &mut notes, out).await?;
    if within_a_line && !notes.is_empty() {
        out.text("\n").await?;
    }
    for note in notes {
        out.text(&format!("modbox: {note}\n")).await?;
    }
    out.put(format!("\",\"durationMs\":{duration}}}")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> ApiResult<ExecRequest> {
        asked(serde_json::from_str(body).unwrap())
    }

    #[test]
    fn commands_go_to_bash_as_they_are() {
        match of(r#"{"command": "python3 -c \"print(1)\"", "timeout": 0.5, "env": {"A": "1", "B": null}}"#).unwrap() {
            ExecRequest { program: Program::Argv(argv), timeout, env, cwd: None, .. } => {
                assert_eq!(argv, ["bash", "-c", "python3 -c \"print(1)\""]);
                assert_eq!((timeout, env.len()), (Some(Duration::from_millis(500)), 1));
            }
            other => panic!("{other:?}"),
        }
        let long = format!("{{\"command\": \"{}\"}}", "x".repeat(MAX_ARGUMENT));
        assert!(matches!(of(&long).unwrap().program, Program::Code { language, .. } if language == "bash"));
        assert_eq!(of(r#"{"command": "x", "timeout": 1e300}"#).unwrap().timeout, Some(TimeLimits::MAX));
        for bad in [
            "{}",
            r#"{"command": ""}"#,
            r#"{"command": "a\u0000b"}"#,
            r#"{"command": "x", "timeout": 0}"#,
            r#"{"command": "x", "timeout": -1}"#,
        ] {
            assert_eq!(of(bad).unwrap_err().parts().0, 422, "{bad}");
        }
    }
}
