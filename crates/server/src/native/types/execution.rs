//! Executions as recorded, and what is told while they run.

use caisson_core::{Error, Execution, Result};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Whole, WorkspaceReportBody, milliseconds, time};

/// An execution as recorded. Figures of its end are null while it runs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Execution)]
pub struct ExecutionBody {
    pub id: String,
    pub sandbox_id: String,
    /// `running`, `exited`, `signaled`, `timed_out`, `out_of_memory`, `output_limit`, `killed` or `lost`.
    pub status: String,
    /// Set when the program ended by itself.
    pub exit_code: Option<i32>,
    /// The number of the signal that ended it, if one did.
    pub signal: Option<i32>,
    /// A sentence with the figure, where the status alone does not say enough.
    pub message: Option<String>,
    /// What was run.
    pub cmd: Vec<String>,
    /// RFC 3339.
    pub started_at: String,
    pub duration_ms: Option<f64>,
    /// User and system time.
    pub cpu_ms: Option<f64>,
    pub peak_memory_bytes: Option<u64>,
    /// Bytes written by the program.
    pub stdout_bytes: Option<u64>,
    pub stderr_bytes: Option<u64>,
    /// Bytes left out of the log between its head and its tail.
    pub stdout_dropped_bytes: Option<u64>,
    pub stderr_dropped_bytes: Option<u64>,
    /// What became of the files of its workspace, as it is now, if it used one. Lists do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceReportBody>,
}

impl From<&Execution> for ExecutionBody {
    fn from(execution: &Execution) -> Self {
        let outcome = execution.outcome.as_ref();
        Self {
            id: execution.id.to_string(),
            sandbox_id: execution.sandbox.to_string(),
            status: execution.status().as_str().to_owned(),
            exit_code: outcome.and_then(|o| o.exit_code),
            signal: outcome.and_then(|o| o.signal),
            message: outcome.and_then(|o| o.message.clone()),
            cmd: execution.argv.clone(),
            started_at: time(execution.started_at),
            duration_ms: outcome.map(|o| milliseconds(o.duration)),
            cpu_ms: outcome.map(|o| milliseconds(o.cpu)),
            peak_memory_bytes: outcome.map(|o| o.peak_memory_bytes),
            stdout_bytes: outcome.map(|o| o.stdout.total_bytes),
            stderr_bytes: outcome.map(|o| o.stderr.total_bytes),
            stdout_dropped_bytes: outcome.map(|o| o.stdout.dropped_bytes),
            stderr_dropped_bytes: outcome.map(|o| o.stderr.dropped_bytes),
            workspace: None,
        }
    }
}

/// The first event of a stream.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StartEvent {
    /// The execution.
    pub id: String,
    pub sandbox_id: String,
}

impl From<&Execution> for StartEvent {
    fn from(execution: &Execution) -> Self {
        Self { id: execution.id.to_string(), sandbox_id: execution.sandbox.to_string() }
    }
}

/// A piece of output: `text`, or `base64` when it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputEvent {
    /// Where it begins in what the program wrote to this stream.
    pub offset: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl OutputEvent {
    /// The bytes.
    pub fn bytes(self) -> Result<Vec<u8>> {
        match (self.text, self.base64) {
            (Some(text), _) => Ok(text.into_bytes()),
            (None, Some(base64)) => super::field::decode("base64", &base64),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// How many bytes it stands for.
    pub(crate) fn length(&self) -> u64 {
        let base64 = self.base64.as_deref().unwrap_or_default();
        let padding = base64.bytes().rev().take_while(|b| *b == b'=').count();
        (self.text.as_ref().map_or(0, String::len) + base64.len() / 4 * 3 - padding) as u64
    }
}

/// A terminal's new size.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResizeRequest)]
pub struct ResizeBody {
    /// 1 to 4096.
    #[schema(value_type = u16)]
    pub cols: Whole,
    /// 1 to 4096.
    #[schema(value_type = u16)]
    pub rows: Whole,
}

/// A signal for the program.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SignalRequest)]
pub struct SignalBody {
    #[schema(value_type = String, example = "SIGTERM")]
    pub signal: SignalName,
}

/// A signal as a name or as a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a signal is a name such as `SIGTERM`, or a number")]
pub enum SignalName {
    Name(String),
    Number(Whole),
}

/// Signals that have a name; numbers as on x86 and ARM.
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl SignalName {
    pub(crate) const MAX: i32 = 64;

    /// All names, in full.
    pub(crate) fn all() -> impl Iterator<Item = String> {
        SIGNALS.iter().map(|(name, _)| format!("SIG{name}"))
    }

    /// The number.
    pub fn number(&self) -> Result<i32> {
        let found = match self {
            Self::Number(number) => i32::try_from(number.0).ok().filter(|n| (1..=Self::MAX).contains(n)),
            Self::Name(text) => {
                let upper = text.to_ascii_uppercase();
                let name = upper.strip_prefix("SIG").unwrap_or(&upper);
                SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
            }
        };
        let max = Self::MAX;
        found
            .ok_or_else(|| Error::invalid("unknown_signal", format!("field `signal` is a name like `SIGTERM` or a number from 1 to {max}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |text: &str| serde_json::from_str::<SignalBody>(&format!("{{\"signal\": {text}}}")).unwrap().signal.number().ok();
        for (text, expect) in [
            ("\"SIGTERM\"", Some(15)),
            ("\"kill\"", Some(9)),
            ("\"SIGSYS\"", Some(31)),
            ("2", Some(2)),
            ("64", Some(64)),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("4294967297", None),
            ("\"SIGNOPE\"", None),
            ("\"\"", None),
        ] {
            assert_eq!(number(text), expect, "{text}");
        }
        assert!(SIGNALS.iter().enumerate().all(|(i, (_, number))| *number as usize == i + 1));
    }

    #[test]
    fn the_length_of_an_event_is_that_of_its_bytes() {
        for bytes in [&b""[..], b"\xff", b"\xff\xfe", b"\xff\xfe\xfd", b"text", "ä".as_bytes()] {
            let (text, base64) = match std::str::from_utf8(bytes) {
                Ok(text) => (Some(text.to_owned()), None),
                Err(_) => (None, Some(super::super::field::encode(bytes))),
            };
            let event = OutputEvent { offset: 0, text, base64 };
            assert_eq!(event.length(), bytes.len() as u64);
            assert_eq!(event.bytes().unwrap(), bytes);
        }
    }
}
