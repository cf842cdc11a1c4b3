//! Programs that look for holes. They run inside a sandbox and, to show that they would see one, on the host as well.

use std::process::Command;

use serde_json::{Value, json};

use crate::{home::needs, sandbox::Sandbox, server::Server};

const PYTHON: &str = "/usr/bin/python3";

/// `until_refused(attempt, most)` in Python, to go before a probe's own code.
pub const UNTIL_REFUSED: &str = include_str!("../probes/until_refused.py");

/// What a probe (Python that prints one JSON value) finds in a fresh sandbox.
#[track_caller]
#[must_use]
pub fn probe(server: &Server, code: &str) -> Value {
    needs("python3", "python3");
    found(&server.python(code))
}

/// What it finds in this sandbox.
#[track_caller]
#[must_use]
pub fn probe_in(sandbox: &Sandbox<'_>, code: &str, arguments: &[&str]) -> Value {
    needs("python3", "python3");
    let result = sandbox.exec(&json!({"language": "python", "code": code, "args": arguments}));
    assert_eq!((&result["status"], &result["exit_code"]), (&"exited".into(), &0.into()), "{result:#}");
    found(result["stdout"].as_str().expect("there is output"))
}

/// What it finds on the host, without any wall.
#[track_caller]
#[must_use]
pub fn on_host(code: &str) -> Value {
    needs("python3", "python3");
    let output = Command::new(PYTHON).args(["-c", code]).output().expect("python3 can be started");
    assert!(output.status.success(), "the probe failed on the host: {}", String::from_utf8_lossy(&output.stderr));
    found(&String::from_utf8_lossy(&output.stdout))
}

#[track_caller]
fn found(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error} in what the probe says: {text:.2000}"))
}
