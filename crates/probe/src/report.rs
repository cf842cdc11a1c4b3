//! What was tried and what came of it.

use std::{fmt::Display, process::ExitCode};

use serde::Serialize;

/// One attempt.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The number of the guarantee in the security requirements: `1.4`.
    pub guarantee: &'static str,
    /// What was tried.
    pub attempt: String,
    /// Whether the wall held.
    pub held: bool,
    /// What the server must have on the machine for this wall to stand. It is no part of a guarantee, and is told where it is missing.
    pub rests_on: Option<&'static str>,
    /// What came of it, for people.
    pub seen: String,
}

/// All attempts so far.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub fn note(&mut self, guarantee: &'static str, attempt: impl Display, held: bool, seen: impl Display) {
        self.push(guarantee, &attempt, held, None, &seen);
    }

    /// The same of a wall that not every server can raise.
    pub fn note_resting_on(&mut self, what: &'static str, guarantee: &'static str, attempt: impl Display, held: bool, seen: impl Display) {
        self.push(guarantee, &attempt, held, Some(what), &seen);
    }

    fn push(&mut self, guarantee: &'static str, attempt: &dyn Display, held: bool, rests_on: Option<&'static str>, seen: &dyn Display) {
        self.findings.push(Finding { guarantee, attempt: attempt.to_string(), held, rests_on, seen: seen.to_string() });
    }

    /// Prints everything as JSON. Broken walls are no failure of the probe.
    pub fn print(&self) -> ExitCode {
        match serde_json::to_string_pretty(&self.findings) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("caisson-probe: the report cannot be written: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
