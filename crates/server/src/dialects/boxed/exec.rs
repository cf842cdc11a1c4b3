//! Programs: each a process of its own, answered when it has ended.

use std::time::Duration;

use axum::response::Response;
use caisson_core::TimeLimits;
use caisson_engine::{ExecRequest, Program};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    OUTPUT,
    answer::{Named, bad_request, failed, json},
    artifacts::BoxedArtifact,
    body::Body,
    result,
};
use crate::{caller::Caller, dialects::program, error::ApiResult};

/// The kernel takes no argument of this length or more; longer code is run from a file.
const MAX_ARGUMENT: usize = 128 << 10;
const NOT_FOUND: i32 = 127;

/// What to run.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct BoxedExec {
    code: Option<String>,
    /// `python` (when absent), `javascript`, `node`, `bash` or `sh`
    language: Option<String>,
    /// Milliseconds until its process tree is killed; only the sandbox's own time when absent
    timeout_ms: Option<i64>,
}

/// How it went.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxedResult {
    stdout: String,
    stderr: String,
    /// Files in `/output` that it made or changed, sorted by path
    artifacts: Vec<BoxedArtifact>,
    exit_code: Option<i32>,
}

/// Runs a program in a sandbox.
///
/// One that fails is a success here: look at `exit_code`, which is 124 after `timeout_ms`, 127 where the image has no interpreter, and 128
/// and the number of the signal for one that was killed. When the client hangs up, the program is killed.
#[utoipa::path(post, path = "/v1/sandbox/{id}/exec", operation_id = "boxed_exec", tag = "boxed",
    params(("id" = String, Path)), request_body = BoxedExec, responses((status = 200, description = "It has ended", body = BoxedResult)))]
pub(crate) async fn exec(Caller(app): Caller, named: Named, Body(body): Body<BoxedExec>) -> ApiResult<Response> {
    let program = asked(body.language.as_deref().unwrap_or_default(), body.code.unwrap_or_default())?;
    let id = named.id()?;
    let timeout = body.timeout_ms.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
    let request = ExecRequest {
        timeout: timeout.map(|ms| Duration::from_millis(ms).min(TimeLimits::MAX)),
        report_changes: Some(OUTPUT.to_owned()),
        ..ExecRequest::new(program)
    };
    let (engine, gone) = (app.engine.clone(), CancellationToken::new());
    let client = gone.clone().drop_guard();
    let ended = app.owned(async move { program::until_ended(&engine, id, request, gone).await }).await?;
    let ended = match ended {
        Ok(result) => result,
        Err(caisson_core::Error::Invalid { code: "program_not_found" | "interpreter_missing", message }) => {
            let result =
                BoxedResult { stdout: String::new(), stderr: format!("{message}\n"), artifacts: Vec::new(), exit_code: Some(NOT_FOUND) };
            return Ok(json(StatusCode::OK, &result));
        }
        Err(error) => return Err(failed(&app.engine, id, error).await),
    };
    drop(client);
    Ok(result::answer(&app, app.engine.clone(), id, ended))
}

fn asked(language: &str, code: String) -> ApiResult<Program> {
    let (name, argv) = match language {
        "" | "python" => ("python", ["python3", "-c"]),
        "javascript" | "node" => ("node", ["node", "-e"]),
        "bash" | "sh" => ("bash", ["bash", "-c"]),
        other => return Err(bad_request(format!("unsupported language: {other}"))),
    };
    Ok(if code.len() < MAX_ARGUMENT && !code.contains('\0') {
        Program::Argv(argv.into_iter().map(str::to_owned).chain([code]).collect())
    } else {
        Program::Code { language: name.to_owned(), text: code, args: Vec::new() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_upstreams() {
        let argv = |language: &str| match asked(language, "x".to_owned()).unwrap() {
            Program::Argv(argv) => argv.join(" "),
            other => panic!("{other:?}"),
        };
        for (language, expect) in [
            ("", "python3 -c x"),
            ("python", "python3 -c x"),
            ("node", "node -e x"),
            ("javascript", "node -e x"),
            ("sh", "bash -c x"),
            ("bash", "bash -c x"),
        ] {
            assert_eq!(argv(language), expect);
        }
        for language in ["ruby", "Python", " python", "python3"] {
            let text = asked(language, String::new()).unwrap_err().parts().2.to_owned();
            assert_eq!(text, format!("unsupported language: {language}"));
        }
        for code in ["x".repeat(MAX_ARGUMENT), "a\0b".to_owned()] {
            assert!(matches!(asked("sh", code).unwrap(), Program::Code { language, .. } if language == "bash"));
        }
    }
}
