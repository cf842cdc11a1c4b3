//! Interpreters that are started before it is known what for: [`crate::ExecStart::hold`].
//!
//! ```text
//! Start with `hold` ─▶ private directory, gate, program ─▶ the program waits at the gate: Held … Go ─▶ directory removed, code written: Started
//! ```
//!
//! The gate is a FIFO that the program opens and reads to its end, so it waits in the kernel with no descriptor of ours. What it writes before
//! it waits, or while it does, ends it: nobody would get to see that.

use serde::{Deserialize, Serialize};

use crate::Reported;

/// The file of the private directory in which a hook names variables that it has looked at, one a line: they cannot be changed any more.
pub const FIXED_FILE: &str = "fixed";
/// The one in which it names what must not be in the working directory, one name without its extension a line: a program that
/// begins now would find that there instead of what the hook has loaded.
pub const TAKEN_FILE: &str = "taken";
/// Where the gate is in the private directory.
pub const GATE_FILE: &str = "gate";
/// Stands in [`HoldVariable::value`] for the private directory.
pub const HOLD_DIR: &str = "{dir}";
/// The most that a hook may write into one of its files.
pub const MAX_FACTS: usize = 1 << 20;

/// How a program is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Files of the private directory: names and texts.
    pub files: Vec<(String, String)>,
    /// What leads the program to them.
    pub variable: Option<HoldVariable>,
    pub gate: Gate,
    /// Names of variables that cannot come late. One that ends with `*` means all that begin like it.
    pub fixed: Vec<String>,
}

/// A variable that the program has until it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldVariable {
    pub name: String,
    pub value: String,
    /// A value that is there stays, behind a colon. Otherwise a program that has one cannot be held.
    pub before_others: bool,
}

/// Where a program waits, and what it reads there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// [`GATE_FILE`], and this text.
    Script(String),
    /// [`GATE_FILE`], and records that end with NUL: `a` and an argument; `d` and the name of a variable that is not there any more; `s` and
    /// `name=value`; `.` as the last.
    Message,
    /// The code's own file, and the code. When the program has it, the file is a regular one.
    Code,
}

/// What comes late: payload of [`crate::frame::Kind::Go`]. Each is what [`crate::ExecStart`] calls the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Go {
    pub env: Vec<(String, String)>,
    /// What follows on [`crate::ExecStart::argv`]; only where the gate takes a [`Gate::Message`].
    pub args: Vec<String>,
    /// The text of the code file.
    pub text: String,
    pub timeout_ms: Option<u64>,
    pub max_output_bytes: Option<u64>,
    pub report_changes: Option<String>,
    pub also_report: Vec<Reported>,
}
