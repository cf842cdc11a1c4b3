//! One execution, from a turn to its answer.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;
use caisson_core::{Error, Image, LeftToImage, Recipe, Result, SandboxId, SandboxSpec, UserSpec, Uuid, Warmth};
use caisson_engine::{
    Engine, ExecRequest, InputFile, Missing, OneShotStage, OutputFilter, Outputs, Program, RunRequest, RunResult, Tree, WorkspaceUse,
};
use tokio::sync::watch;

use super::{
    MARK, NAME, WORK_DIR,
    answer::{failed, unclaimed},
    body::Job,
    live::Entry,
    media,
    record::{BoxboxExecuted, Note},
    settings::BoxboxSettings,
    who::Who,
};
use crate::{app::App, error::ApiResult};

/// What a shell has for a program that is not there.
const NOT_FOUND: i32 = 127;
/// Where programs are that the image lacks: behind its own, and hidden, so that they are no outputs.
const OWN_PROGRAMS: &str = "/home/daytona/.local/bin";
/// Debian has Python under one name alone, and programs call it by another.
const PYTHON_BY_NAME: (&str, &[u8]) = ("python", b"#!/bin/sh\nexec python3 \"$@\"\n");
/// What could not be started, for whatever reason.
const FAILED: i32 = 1;
/// In the metadata of its sandbox: the execution.
const OF: &str = "boxbox.execution";
const PYTHON: &str = "python";
const BASH: &str = "bash";
/// Where clients put code that they say nothing else of: there interpreters wait for it.
const PYTHON_FILE: &str = "main.py";
const BASH_FILE: &str = "script.sh";
/// Bytes of code that is given to an interpreter that waits.
const LONGEST_USUAL: usize = 1 << 20;
/// Files here come out as well, but not those in directories of it.
const ALSO: &str = "/tmp";

/// All that an execution needs.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) app: Arc<App>,
    pub(super) engine: Engine,
    pub(super) who: Who,
    pub(super) tree: Tree,
    pub(super) job: Job,
    pub(super) image: Image,
    /// The id that it gets, if nobody has had it.
    pub(super) wanted: Option<Uuid>,
}

impl Run {
    /// Returns when it has ended and its files are where they belong.
    pub(super) async fn carry_out(self) -> ApiResult<BoxboxExecuted> {
        let begin = Instant::now();
        let (stage, seen) = watch::channel(OneShotStage::default());
        let note = Note::new(&self.engine, &self.who, &self.job);
        let live = &self.app.boxbox.live;
        let entry = live.begin(&self.engine, note.clone(), seen.clone(), self.wanted).await.map_err(|error| {
            tracing::error!("An execution cannot be recorded: {error}");
            failed("internal_error", "failed to create execution")
        })?;
        let running = match self.engine.run_told(self.request(entry.id), stage).await {
            Ok(running) => running,
            Err(error) => {
                let stage = *seen.borrow();
                return self.not_started(&entry, stage, error).await;
            }
        };
        let before_ms = begin.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let sandbox = running.execution.sandbox;
        let (mut note, execution, synced_in) = (note, running.execution.clone(), running.synced_in.clone());
        note.begins(&execution, &synced_in, before_ms);
        let (kept, ended) = tokio::join!(entry.note(|kept| kept.begins(&execution, &synced_in, before_ms)), running.wait());
        if let Err(error) = kept {
            tracing::error!(sandbox.id = %sandbox, "What is known of execution {} cannot be recorded: {error}", entry.id);
        }
        let RunResult { result, .. } = match ended {
            Ok(ended) => ended,
            Err(error) => {
                self.fails(&entry, Some(sandbox), FAILED, error.to_string()).await;
                return Err(error.into());
            }
        };
        for file in result.workspace.iter().flat_map(|report| &report.failed) {
            tracing::warn!(sandbox.id = %sandbox, "File `{}` is not copied out: {}", file.path.escape_debug(), file.error);
        }
        Ok(note.ended(&self.engine, entry.id, &result, result.workspace.as_ref()).await)
    }

    /// What the client is told when no program has come to run, and what is kept of that.
    async fn not_started(&self, entry: &Entry, stage: OneShotStage, error: Error) -> ApiResult<BoxboxExecuted> {
        let result = |code, why: String| (code, why.clone(), Ok(BoxboxExecuted::not_started(entry.id, code, why)));
        let (code, stderr, answer) = match error {
            Error::Invalid { code: "program_not_found", message } => result(NOT_FOUND, message),
            Error::Invalid { code: "interpreter_missing", .. } => {
                result(NOT_FOUND, format!("program `{}` is not in this image", argv(&self.job, &self.image)[0]))
            }
            Error::BlobUnavailable { .. } => {
                let why = format!("sync_in: failed to copy the chat's files: {error}");
                (FAILED, why.clone(), Err(failed("execution_error", why)))
            }
            // The code cannot be written, most of the time: where a directory is, or below a file.
            Error::Invalid { code, .. } if code != "unknown_image" => result(FAILED, error.to_string()),
            Error::Conflict { .. } | Error::TooLarge { .. } => result(FAILED, error.to_string()),
            _ => {
                let (why, answer) = unclaimed(&error);
                (FAILED, why.to_owned(), Err(answer))
            }
        };
        let sandbox = match stage {
            OneShotStage::Asked => None,
            OneShotStage::Prepares(sandbox) | OneShotStage::Runs(sandbox) | OneShotStage::Ended(sandbox) => Some(sandbox),
        };
        self.fails(entry, sandbox, code, stderr).await;
        answer
    }

    async fn fails(&self, entry: &Entry, sandbox: Option<SandboxId>, code: i32, stderr: String) {
        if let Err(error) = entry.note(|note| note.fails(sandbox, code, stderr)).await {
            tracing::error!("How execution {} failed cannot be recorded: {error}", entry.id);
        }
    }

    fn request(&self, id: Uuid) -> RunRequest {
        let settings = &self.app.config.boxbox;
        let mut files = Vec::new();
        let program = if is_usual(&self.job) {
            let language = if self.job.language == PYTHON { PYTHON } else { BASH };
            Program::Code { language: language.to_owned(), text: self.job.code.clone(), args: Vec::new() }
        } else {
            let (path, content) = (self.job.path.clone().into_bytes(), Bytes::from(self.job.code.clone()));
            files.push(InputFile { path, content, mode: None });
            Program::Argv(argv(&self.job, &self.image))
        };
        if self.image == Image::Host {
            let (name, content) = PYTHON_BY_NAME;
            let path = format!("{OWN_PROGRAMS}/{name}").into_bytes();
            files.push(InputFile { path, content: Bytes::from_static(content), mode: Some(0o755) });
        }
        RunRequest {
            spec: spec(settings, self.image.clone()),
            metadata: BTreeMap::from([(MARK.0.to_owned(), MARK.1.to_owned()), (OF.to_owned(), id.to_string())]),
            files,
            exec: ExecRequest {
                timeout: Some(self.job.timeout),
                workspace: Some(workspace(settings, self.tree.clone(), &self.job)),
                ..ExecRequest::new(program)
            },
            max_file_bytes: 0,
        }
    }
}

/// What is kept ready for executions, as it is now.
pub(super) fn kept_warm(settings: &BoxboxSettings) -> SandboxSpec {
    spec(settings, settings.image.borrow().clone())
}

/// Whether the code is where an interpreter may wait for it, with nothing beside it.
fn is_usual(job: &Job) -> bool {
    let file = if job.language == PYTHON { PYTHON_FILE } else { BASH_FILE };
    job.path == file && job.files.is_empty() && job.code.len() <= LONGEST_USUAL
}

fn spec(settings: &BoxboxSettings, image: Image) -> SandboxSpec {
    let mut env = BTreeMap::new();
    if image == Image::Host {
        env.insert("PATH".to_owned(), format!("{}:{OWN_PROGRAMS}", Image::HOST_PATH));
    }
    let named = |names: [(&str, &str); 2]| names.map(|(of, name)| (of.to_owned(), name.to_owned())).into();
    let recipe = Recipe {
        interpreters: [(PYTHON, python(&image)), (BASH, vec![BASH.to_owned()])].map(|(of, words)| (of.to_owned(), words)).into(),
        file_names: named([(PYTHON, PYTHON_FILE), (BASH, BASH_FILE)]),
        ready: vec![PYTHON.to_owned(), BASH.to_owned()],
        warm: Some(Warmth {
            min: *settings.warm.start(),
            max: *settings.warm.end(),
            env: env.clone(),
            dialect: Some(NAME),
            stay: settings.warm_stay,
            max_age: Some(settings.warm_age),
            ..Warmth::default()
        }),
        ..Recipe::default()
    };
    SandboxSpec {
        image,
        storage: settings.storage,
        limits: settings.limits,
        user: UserSpec { uid: 1000, gid: 1000, name: "daytona".to_owned(), home: WORK_DIR.to_owned() },
        work_dir: WORK_DIR.to_owned(),
        left_to_image: LeftToImage { user: false, work_dir: false },
        env,
        recipe,
        ..SandboxSpec::default()
    }
}

fn workspace(settings: &BoxboxSettings, tree: Tree, job: &Job) -> WorkspaceUse {
    let filter = OutputFilter {
        extensions: Some(media::OUTPUT.iter().map(|extension| (*extension).to_owned()).collect()),
        without_hidden: true,
        without_directories: vec!["__pycache__".to_owned()],
        max_file_bytes: Some(settings.max_file_bytes),
    };
    let outputs = Outputs { also: vec![ALSO.to_owned()], always: vec![format!("{WORK_DIR}/{}", clean(&job.path))], filter };
    let at_once = Some(settings.files_at_once);
    WorkspaceUse { tree, files: job.files.clone(), missing: Missing::Skip, directory: None, outputs: Some(outputs), at_once }
}

/// The path as others write it.
fn clean(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

/// Where a chat's files are.
pub(super) fn tree(engine: &Engine, who: &Who) -> Result<Tree> {
    let Who { user, chat } = who;
    match engine.tenant() {
        tenant if super::record::is_operators(tenant) => Tree::at(&format!("{user}/{chat}/")),
        tenant => Tree::named(tenant, &format!("{user}/{chat}")),
    }
}

/// How Python is called. The host has it under one name alone.
fn python(image: &Image) -> Vec<String> {
    let name = if *image == Image::Host { "python3" } else { "python" };
    vec![name.to_owned(), "-u".to_owned()]
}

/// The interpreter with its file, whatever the file is called.
fn argv(job: &Job, image: &Image) -> Vec<String> {
    let file = if job.path.starts_with('-') { format!("./{}", job.path) } else { job.path.clone() };
    let mut words = if job.language == PYTHON { python(image) } else { vec![BASH.to_owned()] };
    words.push(file);
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_a_file_whatever_it_is_called() {
        let job = |language: &str, path: &str| Job {
            language: language.to_owned(),
            path: path.to_owned(),
            code: "x".to_owned(),
            files: Vec::new(),
            timeout: Duration::from_secs(1),
        };
        let named = Image::Named { name: "x".to_owned(), id: None };
        assert_eq!(argv(&job("python", "a b.py"), &named), ["python", "-u", "a b.py"]);
        assert_eq!(argv(&job("python", "a b.py"), &Image::Host), ["python3", "-u", "a b.py"]);
        assert_eq!(argv(&job("shell", "-c"), &named), ["bash", "./-c"]);
        assert_eq!(argv(&job("bash", "./x"), &named), ["bash", "./x"]);
        assert_eq!(clean("./a//b/./c.html"), "a/b/c.html");
    }
}
