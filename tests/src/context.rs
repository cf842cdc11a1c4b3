//! Contexts, as the suites talk to them.

use std::time::Duration;

use crate::{Answer, Events, Sandbox, Value, eventually, json};

/// A context of a sandbox.
#[derive(Debug)]
pub struct Context<'a> {
    sandbox: &'a Sandbox<'a>,
    id: String,
}

impl<'a> Context<'a> {
    /// One with our own driver.
    #[track_caller]
    pub fn new(sandbox: &'a Sandbox<'a>, language: &str) -> Self {
        Self::with(sandbox, language, "builtin")
    }

    /// `driver` is that of the request.
    #[track_caller]
    pub fn with(sandbox: &'a Sandbox<'a>, language: &str, driver: &str) -> Self {
        let made = sandbox.request("POST", "/contexts").json(&json!({"language": language, "driver": driver})).send().expect(201).json();
        assert_eq!((&made["state"], &made["language"], &made["message"]), (&json!("idle"), &json!(language), &Value::Null), "{made:#}");
        Self { sandbox, id: text(&made["id"]) }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The path of something of it.
    pub fn target(&self, rest: &str) -> String {
        format!("/contexts/{}{rest}", self.id)
    }

    /// Asks for a run in the words of the API.
    #[track_caller]
    pub fn try_run(&self, body: &Value) -> Answer {
        self.sandbox.request("POST", &self.target("/run")).json(body).send()
    }

    /// A run that is carried out, however it ends.
    #[track_caller]
    pub fn run(&self, code: &str) -> Value {
        self.try_run(&json!({"code": code})).expect(200).json()
    }

    /// What code prints and has as its value; it must end well.
    #[track_caller]
    pub fn says(&self, code: &str) -> (String, Option<String>) {
        let result = self.run(code);
        assert_eq!((&result["status"], &result["error"]), (&json!("ok"), &Value::Null), "{result:#}");
        let value = result["results"].as_array().unwrap().iter().find(|shown| shown["type"] == "value");
        (text(&result["stdout"]), value.map(|value| text(&value["data"]["text/plain"])))
    }

    /// The value of code, which must have one.
    #[track_caller]
    pub fn value(&self, code: &str) -> String {
        self.says(code).1.unwrap_or_else(|| panic!("`{code}` has no value"))
    }

    /// What it is told to be.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.sandbox.request("GET", &self.target("")).send().expect(200).json()
    }

    /// Interrupts what runs.
    #[track_caller]
    pub fn interrupt(&self) {
        // Interrupting is for what runs, which it may do only in a moment.
        eventually("something to interrupt", Duration::from_secs(5), || {
            (self.sandbox.request("POST", &self.target("/interrupt")).send().status == 204).then_some(())
        });
    }

    /// Restarts it, which must go well.
    #[track_caller]
    pub fn restart(&self) {
        let restarted = self.sandbox.request("POST", &self.target("/restart")).send().expect(200).json();
        assert_eq!(restarted["state"], "idle", "{restarted:#}");
    }

    /// Begins to run code and returns when it has printed `ready`.
    #[track_caller]
    pub fn begin(&self, code: &str) -> Events {
        let mut events = self.sandbox.request("POST", &self.target("/run")).json(&json!({"code": code, "timeout_s": null})).events();
        // A kernel may send a line in pieces.
        let mut said = Vec::new();
        while !said.ends_with(b"\n") {
            said.extend(events.until("stdout").bytes());
        }
        assert_eq!(said, b"ready\n");
        events
    }
}

/// The text that a value is.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// The error of this name that a run must have ended with.
#[track_caller]
pub fn error<'a>(result: &'a Value, name: &str) -> &'a Value {
    assert_eq!((&result["status"], &result["error"]["name"]), (&json!("error"), &json!(name)), "{result:#}");
    &result["error"]
}
