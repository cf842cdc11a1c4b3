//! Ready interpreters: started in a sandbox that nobody has yet, up to the moment before they open the code, and used once.
//!
//! ```text
//! warm_up ─▶ Ready ─▶ take ─▶ Held::go ─▶ an execution like every other
//!              └─ end          └─ refused: a cold start
//! ```
//!
//! A ready interpreter is the very command that would be started for the code. What it cannot take late is told by `hold`, and checked by the
//! agent, which knows what it was started with. Each is a process of its own from its first instruction on, so it shares neither the places of
//! its memory nor seeds with any other.

mod hold;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use caisson_core::{Recipe, SandboxSpec};
use caisson_wire::{
    ExecStart, Go,
    frame::{Frame, Kind},
};
use futures::future::join_all;

use crate::{
    agent_client::{AgentClient, AgentError, ExecFrame, ExecStream, FrameSender},
    execution, figures,
    languages::{self, Found, Language},
    request::InputFile,
    validate,
};

pub(crate) use self::hold::{can_be_ready, is_module};

/// How long an interpreter may take until it waits, what it loads included.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long one may take to end that is not needed.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// So much is told of why one is not ready.
const SHOWN: usize = 1000;
/// Where a user's own programs are, below the home.
const OWN_PROGRAMS: &[u8] = b".local/bin/";
/// Templates that are told about once, and then no more.
const MOST_TOLD: usize = 1000;

/// The interpreters that wait in one sandbox. Dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Ready {
    held: Vec<Held>,
}

/// One interpreter that waits.
#[derive(Debug)]
pub(crate) struct Held {
    start: ExecStart,
    takes_arguments: bool,
    frames: FrameSender,
    stream: ExecStream,
}

/// Why an interpreter is not ready.
#[derive(Debug, thiserror::Error)]
enum Unready {
    #[error("{}", figures::tamed(.0, SHOWN))]
    Refused(String),
    #[error("{0}")]
    Agent(#[from] AgentError),
    #[error("it did not wait for code within {} s", READY_WITHIN.as_secs())]
    Late,
}

/// Starts what the sandbox's template wants ready, and returns when all of it waits. What cannot be ready is left out and told in the log, once
/// for each template and language. `None` when nothing waits.
pub(crate) async fn warm_up(agent: &AgentClient, spec: &SandboxSpec) -> Option<Ready> {
    let mut held = Vec::new();
    for name in &spec.recipe.ready {
        // Checked when the template was.
        let Ok(Found::Known(language)) = languages::find(name) else { continue };
        match tokio::time::timeout(READY_WITHIN, Held::begin(agent, &spec.recipe, language)).await.unwrap_or(Err(Unready::Late)) {
            Ok(one) => held.extend(one),
            Err(why) => {
                let dialect = spec.recipe.warm.as_ref().and_then(|warm| warm.dialect);
                tell(spec.recipe.template.as_deref().or(dialect).unwrap_or_default(), language.name, &why);
            }
        }
    }
    (!held.is_empty()).then_some(Ready { held })
}

fn tell(template: &str, language: &str, why: &Unready) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < MOST_TOLD && told.insert(format!("{language} {template}")) {
        tracing::warn!(template, language, %why, "No {language} is kept ready for template `{template}`; its code is started as it comes");
    }
}

impl Ready {
    /// The one that can take the program, as far as can be said here; all others have ended then. `work_dir` is the sandbox's.
    pub(crate) async fn take(self, program: &ExecStart, work_dir: &str) -> Option<Held> {
        let mut taken = None;
        let mut others = Vec::new();
        for held in self.held {
            if taken.is_none() && held.fits(program, work_dir) { taken = Some(held) } else { others.push(held.end()) }
        }
        join_all(others).await;
        taken
    }

    /// Whether files may be brought while these wait.
    pub(crate) fn waits_for(&self, files: &[InputFile], work_dir: &str) -> bool {
        let stems: Vec<&str> = self.held.iter().filter_map(|held| Some(held.start.code.as_ref()?.stem.as_str())).collect();
        let interpreters = self.held.iter().flat_map(|held| held.start.argv.first().into_iter().chain(&held.start.alternatives));
        may_come_late(files, work_dir, &stems, &interpreters.map(String::as_str).collect::<Vec<_>>())
    }

    /// Ends all of them, before the sandbox is given to somebody who runs no code in it at once.
    pub(crate) async fn end(self) {
        join_all(self.held.into_iter().map(Held::end)).await;
    }
}

/// Whether files are none that an interpreter looks at when it starts: those it would look at are hidden, outside of the work
/// directory, `package.json`, or called as the code is. Of what is hidden, programs that are none of the interpreters are looked at
/// by whoever calls them.
fn may_come_late(files: &[InputFile], work_dir: &str, stems: &[&str], interpreters: &[&str]) -> bool {
    files.iter().all(|file| {
        let Ok(path) = validate::absolute_path(work_dir, &file.path) else { return false };
        let Some(below) = path.strip_prefix(work_dir.trim_end_matches('/').as_bytes()).and_then(|below| below.strip_prefix(b"/")) else {
            return false;
        };
        let is_code = stems.iter().any(|stem| below.strip_prefix(stem.as_bytes()).is_some_and(|rest| rest.starts_with(b".")));
        if let Some(program) = below.strip_prefix(OWN_PROGRAMS) {
            return !program.contains(&b'/') && interpreters.iter().all(|name| name.as_bytes() != program);
        }
        !is_code && below.split(|byte| *byte == b'/').all(|part| !part.starts_with(b".") && part != b"package.json")
    })
}

impl Held {
    /// `None` for a language that cannot be ready.
    async fn begin(agent: &AgentClient, recipe: &Recipe, language: &'static Language) -> Result<Option<Self>, Unready> {
        let Some(hold) = hold::of(language.name, &recipe.preload) else { return Ok(None) };
        let Some((argv, alternatives)) = execution::words(recipe, language) else { return Ok(None) };
        let takes_arguments = hold.gate == caisson_wire::Gate::Message;
        let start = ExecStart {
            argv,
            alternatives,
            env: Vec::new(),
            cwd: None,
            stdin: false,
            channel: false,
            terminal: None,
            timeout_ms: None,
            max_output_bytes: None,
            code: Some(execution::code_file(recipe, language, String::new())),
            report_changes: None,
            also_report: Vec::new(),
            hold: Some(hold),
        };
        let (frames, mut stream) = agent.exec(&start, Vec::new()).await?;
        match stream.held().await? {
            Ok(()) => Ok(Some(Self { start, takes_arguments, frames, stream })),
            Err(refusal) => {
                stream.finish();
                Err(Unready::Refused(refusal.message))
            }
        }
    }

    /// Whether this is the command that would be started, with nothing that can only be had from the start.
    fn fits(&self, program: &ExecStart, work_dir: &str) -> bool {
        let ours = &self.start;
        let same_file = match (&ours.code, &program.code) {
            (Some(ours), Some(theirs)) => (&ours.stem, &ours.extension, ours.exact) == (&theirs.stem, &theirs.extension, theirs.exact),
            _ => false,
        };
        let arguments = program.argv.strip_prefix(&ours.argv[..]);
        same_file
            && program.alternatives == ours.alternatives
            && arguments.is_some_and(|arguments| arguments.is_empty() || self.takes_arguments)
            && program.cwd.as_ref().is_none_or(|cwd| cwd == work_dir)
            && !program.stdin
            && !program.channel
            && program.terminal.is_none()
    }

    /// Lets it run the program, which [`Self::fits`].
    pub(crate) async fn go(mut self, program: &ExecStart) -> Result<(FrameSender, ExecStream, ExecFrame), AgentError> {
        let go = Go {
            env: program.env.clone(),
            args: program.argv[self.start.argv.len()..].to_vec(),
            text: program.code.as_ref().map(|code| code.text.clone()).unwrap_or_default(),
            timeout_ms: program.timeout_ms,
            max_output_bytes: program.max_output_bytes,
            report_changes: program.report_changes.clone(),
            also_report: program.also_report.clone(),
        };
        let lost = |_| AgentError::Lost("a ready interpreter has gone".to_owned());
        self.frames.send(Frame::json(Kind::Go, &go).encode()).await.map_err(lost)?;
        let frame = self.stream.next().await?;
        Ok((self.frames, self.stream, frame))
    }

    /// Ends it and returns when it is not there any more, or its agent does not say so.
    async fn end(mut self) {
        self.stream.say_all_is_said();
        // Its refusal is the answer. Dropping the stream is the order to kill it, whatever came.
        tokio::time::timeout(ENDS_WITHIN, self.stream.held()).await.ok();
    }
}
