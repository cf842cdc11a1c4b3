//! Exit statuses, and the last words of a command that failed.

use std::process::ExitCode;

use caisson_server::native::types::{ExecutionBody, ResultBody};

use crate::{output::Closed, printable};

/// A command that talks about sandboxes failed.
pub(crate) const FAILURE: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// The program was ended at its time limit.
const TIMED_OUT: u8 = 124;
/// Caisson itself failed, where the exit status is otherwise the program's.
pub(crate) const CAISSON_FAILED: u8 = 125;
/// Added to the number of a signal.
const SIGNALLED: i32 = 128;
const SIGKILL: i32 = 9;
const SIGPIPE: i32 = 13;

/// The status for what ended by a signal, as shells have it.
pub(crate) fn of_signal(signal: i32) -> ExitCode {
    ExitCode::from(signal_code(signal))
}

fn signal_code(signal: i32) -> u8 {
    u8::try_from(SIGNALLED + signal).unwrap_or(u8::MAX)
}

/// The status for how a program ended, and what to say about it beside its own output.
pub(crate) fn of_result(result: &ResultBody) -> (u8, Option<String>) {
    of_end(&result.status, result.exit_code, result.signal, result.message.as_deref())
}

/// The same from the record.
pub(crate) fn of_execution(execution: &ExecutionBody) -> (u8, Option<String>) {
    of_end(&execution.status, execution.exit_code, execution.signal, execution.message.as_deref())
}

fn of_end(status: &str, exit_code: Option<i32>, signal: Option<i32>, message: Option<&str>) -> (u8, Option<String>) {
    let told = |what: &str| Some(message.map_or_else(|| what.to_owned(), |figure| format!("{what} ({figure})")));
    match status {
        // Statuses have eight bits; a server that says otherwise is not believed.
        "exited" => match exit_code.map(u8::try_from) {
            Some(Ok(code)) => (code, message.map(str::to_owned)),
            _ => (CAISSON_FAILED, Some("the server did not say how the program ended".to_owned())),
        },
        "signaled" => (signal_code(signal.unwrap_or(SIGKILL)), message.map(str::to_owned)),
        "timed_out" => (TIMED_OUT, told("the program was ended at its time limit")),
        "out_of_memory" => (signal_code(SIGKILL), told("the program was ended at the sandbox's memory limit")),
        "killed" => (signal_code(SIGKILL), told("the program was killed")),
        "output_limit" => (CAISSON_FAILED, told("the program was ended because it wrote too much")),
        "lost" => (CAISSON_FAILED, told("the sandbox ended before the program did")),
        other => (CAISSON_FAILED, Some(format!("the program ended in a way that this version does not know: {other}"))),
    }
}

/// Says why a command failed. Whoever closed our output wants to hear nothing more.
pub(crate) fn failed(error: &anyhow::Error, code: u8) -> ExitCode {
    if error.is::<Closed>() {
        return of_signal(SIGPIPE);
    }
    complain(&format!("{error:#}"));
    ExitCode::from(code)
}

/// A message of ours on standard error.
pub(crate) fn complain(message: &str) {
    use std::io::Write;
    let mut stderr = std::io::stderr().lock();
    for (index, line) in message.lines().enumerate() {
        // Further lines are set in, so that none can pass for another message.
        let begin = match index {
            0 => "caisson: ",
            _ if line.starts_with("  ") => "",
            _ => "  ",
        };
        // There is nobody else to tell.
        writeln!(stderr, "{begin}{}", printable::text(line)).ok();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(status: &str, exit_code: Option<i32>, signal: Option<i32>, expect: u8, says_something: bool) {
        let body = json!({
            "id": "exe", "sandbox_id": "sbx", "status": status, "exit_code": exit_code, "signal": signal, "message": null,
            "stdout_bytes": 0, "stderr_bytes": 0, "truncated": {"stdout": false, "stderr": false},
            "duration_ms": 1.0, "cpu_ms": 1.0, "peak_memory_bytes": 1,
        });
        let (code, message) = of_result(&serde_json::from_value(body).unwrap());
        assert_eq!((code, message.is_some()), (expect, says_something), "{status}");
    }

    #[test]
    fn every_end_has_its_status() {
        check("exited", Some(0), None, 0, false);
        check("exited", Some(7), None, 7, false);
        check("exited", Some(124), None, 124, false);
        check("exited", None, None, 125, true);
        check("exited", Some(256), None, 125, true);
        check("signaled", None, Some(11), 139, false);
        check("timed_out", None, Some(9), 124, true);
        check("out_of_memory", None, Some(9), 137, true);
        check("killed", None, Some(9), 137, true);
        check("lost", None, None, 125, true);
        check("something new", None, None, 125, true);
    }
}
