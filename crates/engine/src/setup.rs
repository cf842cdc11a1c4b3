//! Set-up: what a template has done in a new sandbox before anybody gets it.
//!
//! Nothing of it is recorded as an execution: whoever asked for the sandbox has not asked for these programs. Of one that fails, the end of what
//! it said is in the error.

use std::time::Duration;

use bytes::Bytes;
use caisson_core::{Recipe, SetupCommand, SetupStep};
use caisson_wire::{Ended, ExecExit, ExecStart};

use crate::{
    agent_client::{AgentClient, AgentError, ExecFrame},
    figures,
};

/// What is told of the output of a command that has failed, in bytes.
const LAST_WORDS: usize = 2000;
/// What is told of a command, in characters.
const SHOWN_COMMAND: usize = 200;
/// The agent kills a command that takes too long, and tells so within this time.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// Why it is not done.
#[derive(Debug)]
pub(crate) enum Failed {
    /// One of the commands failed: which, and how.
    Command(String),
    Agent(AgentError),
}

/// All of it, in order.
pub(crate) async fn run(recipe: &Recipe, agent: &AgentClient) -> Result<(), Failed> {
    for (index, step) in recipe.setup.iter().enumerate() {
        let failure = match tokio::time::timeout(step.within + TOLD_WITHIN, one(agent, step)).await {
            Ok(done) => done.map_err(Failed::Agent)?,
            Err(_) => Some("did not end, and could not be ended".to_owned()),
        };
        if let Some(what) = failure {
            let template = recipe.template.as_deref().unwrap_or_default();
            let (number, of) = (index + 1, recipe.setup.len());
            let message = format!("set-up command {number} of {of} of template `{template}`, `{}`, {what}", shown(&step.command));
            return Err(Failed::Command(message));
        }
    }
    Ok(())
}

/// How it failed, if it did.
async fn one(agent: &AgentClient, step: &SetupStep) -> Result<Option<String>, AgentError> {
    let (_, mut stream) = agent.exec(&start(step), Vec::new()).await?;
    let mut last_words = LastWords::default();
    loop {
        match stream.next().await {
            Ok(ExecFrame::Stdout(data) | ExecFrame::Stderr(data)) => last_words.heard(&data),
            Ok(ExecFrame::Exit { exit, .. }) => {
                stream.finish();
                return Ok(failure(step, &exit, &last_words));
            }
            Ok(ExecFrame::Refused(refusal)) => {
                stream.finish();
                return Ok(Some(format!("could not be started: {}", figures::tamed(&refusal.message, LAST_WORDS))));
            }
            Ok(ExecFrame::Started(_) | ExecFrame::InputTaken(_) | ExecFrame::InputClosed) => {}
            Ok(ExecFrame::Channel(_)) => {
                return Err(AgentError::Nonsense("a channel that nobody asked for".to_owned()));
            }
            Err(error) => return Err(error),
        }
    }
}

fn start(step: &SetupStep) -> ExecStart {
    let (argv, alternatives) = match &step.command {
        SetupCommand::Argv(argv) => (argv.clone(), Vec::new()),
        SetupCommand::Shell(line) => (vec!["bash".to_owned(), "-c".to_owned(), line.clone()], vec!["sh".to_owned()]),
    };
    ExecStart {
        argv,
        alternatives,
        env: Vec::new(),
        cwd: None,
        stdin: false,
        channel: false,
        terminal: None,
        timeout_ms: Some(u64::try_from(step.within.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)),
        max_output_bytes: None,
        code: None,
        report_changes: None,
        also_report: Vec::new(),
        hold: None,
    }
}

fn failure(step: &SetupStep, exit: &ExecExit, last_words: &LastWords) -> Option<String> {
    let how = match (exit.ended, exit.exit_code, exit.signal) {
        (Some(Ended::TimedOut), ..) => format!("was not done within {}", figures::seconds(step.within)),
        (None, Some(0), _) => return None,
        (_, Some(code), _) => format!("ended with exit code {code}"),
        (_, None, Some(signal)) => format!("was ended by signal {signal}"),
        (_, None, None) => "ended, and it is not known how".to_owned(),
    };
    Some(format!("{how}{last_words}"))
}

fn shown(command: &SetupCommand) -> String {
    let text = match command {
        SetupCommand::Shell(line) => line.clone(),
        SetupCommand::Argv(argv) => argv.join(" "),
    };
    let more = if text.chars().nth(SHOWN_COMMAND).is_some() { "…" } else { "" };
    format!("{}{more}", figures::tamed(&text, SHOWN_COMMAND))
}

/// The end of what a command says, both streams as they come.
#[derive(Debug, Default)]
struct LastWords {
    bytes: Vec<u8>,
    left_out: bool,
}

impl LastWords {
    fn heard(&mut self, data: &Bytes) {
        self.bytes.extend_from_slice(&data[data.len().saturating_sub(LAST_WORDS)..]);
        let more = self.bytes.len().saturating_sub(LAST_WORDS);
        self.bytes.drain(..more);
        self.left_out |= more > 0 || data.len() > LAST_WORDS;
    }
}

impl std::fmt::Display for LastWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<String> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).map(|l| figures::tamed(l, LAST_WORDS)).collect();
        match &lines[..] {
            [] => f.write_str(" and said nothing"),
            lines => write!(f, "; {} {}", if self.left_out { "the end of what it said:" } else { "it said:" }, lines.join(" | ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(exit_code: Option<i32>, signal: Option<i32>, ended: Option<Ended>) -> ExecExit {
        ExecExit {
            exit_code,
            signal,
            ended,
            duration_us: 0,
            cpu_us: 0,
            peak_memory_bytes: 0,
            changes: Vec::new(),
            changes_truncated: false,
        }
    }

    #[test]
    fn a_failure_says_how_and_quotes_the_end() {
        let step = SetupStep { command: SetupCommand::Shell("x".to_owned()), within: Duration::from_secs(5) };
        let mut said = LastWords::default();
        assert_eq!(failure(&step, &exit(Some(0), None, None), &said), None);
        assert_eq!(failure(&step, &exit(Some(3), None, None), &said).unwrap(), "ended with exit code 3 and said nothing");
        said.heard(&Bytes::from_static(b"one\r\n\n\x1b[31mtwo\n"));
        assert_eq!(failure(&step, &exit(None, Some(9), None), &said).unwrap(), "was ended by signal 9; it said: one | \u{fffd}[31mtwo");
        said.heard(&Bytes::from(vec![b'x'; 3 * LAST_WORDS]));
        let text = failure(&step, &exit(None, Some(9), Some(Ended::TimedOut)), &said).unwrap();
        assert!(text.starts_with("was not done within 5 s; the end of what it said: xxx") && text.len() < LAST_WORDS + 100, "{text}");
    }

    #[test]
    fn long_commands_are_shown_by_their_beginning() {
        assert_eq!(shown(&SetupCommand::Argv(vec!["pip".to_owned(), "install".to_owned()])), "pip install");
        assert_eq!(shown(&SetupCommand::Shell("a\nb".repeat(100))).chars().count(), SHOWN_COMMAND + 1);
    }
}
