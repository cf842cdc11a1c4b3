//! One execution, from a turn to its answer.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;
use caisson_core::{Error, Image, LeftToImage, Result, SandboxSpec, UserSpec, Uuid};
use caisson_engine::{Engine, ExecRequest, InputFile, Missing, OutputFilter, Outputs, Program, RunRequest, RunResult, Tree, WorkspaceUse};

use super::{
    MARK, WORK_DIR,
    answer::{failed, unclaimed},
    body::Job,
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
/// Debian has Python under one name alone.
const PYTHON: (&str, &[u8]) = ("python", b"#!/bin/sh\nexec python3 \"$@\"\n");
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
}

impl Run {
    /// Returns when it has ended and its files are where they belong.
    pub(super) async fn carry_out(self) -> ApiResult<BoxboxExecuted> {
        let begin = Instant::now();
        let running = match self.engine.run(self.request()).await {
            Ok(running) => running,
            Err(error) => return self.not_started(error),
        };
        let before_ms = begin.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let sandbox = running.execution.sandbox;
        let note = Note::new(&self.who, &self.job, &running.execution, &running.synced_in, before_ms);
        note.keep(&self.engine, sandbox).await.map_err(|error| {
            tracing::error!(sandbox.id = %sandbox, "An execution cannot be recorded: {error}");
            failed("internal_error", "failed to create execution")
        })?;
        let RunResult { result, workspace, .. } = running.wait().await?;
        for file in workspace.iter().flat_map(|report| &report.failed) {
            tracing::warn!(sandbox.id = %sandbox, "File `{}` is not copied out: {}", file.path.escape_debug(), file.error);
        }
        Ok(note.ended(&self.engine, &result, workspace.as_ref()).await)
    }

    /// What the client is told when no program has come to run.
    fn not_started(&self, error: Error) -> ApiResult<BoxboxExecuted> {
        let result = |code, why| Ok(BoxboxExecuted::not_started(Uuid::random().to_string(), code, why));
        match error {
            Error::Invalid { code: "unknown_image", .. } => Err(unclaimed(&error)),
            Error::Invalid { code: "program_not_found", message } => result(NOT_FOUND, message),
            // The code cannot be written, most of the time: where a directory is, or below a file.
            Error::Invalid { .. } | Error::Conflict { .. } | Error::TooLarge { .. } => result(1, error.to_string()),
            Error::BlobUnavailable { .. } => Err(failed("execution_error", format!("sync_in: failed to copy the chat's files: {error}"))),
            _ => Err(unclaimed(&error)),
        }
    }

    fn request(&self) -> RunRequest {
        let settings = &self.app.config.boxbox;
        let mut files =
            vec![InputFile { path: self.job.path.clone().into_bytes(), content: Bytes::from(self.job.code.clone()), mode: None }];
        if self.image == Image::Host {
            let (name, content) = PYTHON;
            let path = format!("{OWN_PROGRAMS}/{name}").into_bytes();
            files.push(InputFile { path, content: Bytes::from_static(content), mode: Some(0o755) });
        }
        RunRequest {
            spec: spec(settings, self.image.clone()),
            metadata: BTreeMap::from([(MARK.0.to_owned(), MARK.1.to_owned())]),
            files,
            exec: ExecRequest { timeout: Some(self.job.timeout), ..ExecRequest::new(Program::Argv(argv(&self.job))) },
            max_file_bytes: 0,
            workspace: Some(workspace(settings, self.tree.clone(), &self.job)),
        }
    }
}

fn spec(settings: &BoxboxSettings, image: Image) -> SandboxSpec {
    let mut env = BTreeMap::new();
    if image == Image::Host {
        env.insert("PATH".to_owned(), format!("{}:{OWN_PROGRAMS}", Image::HOST_PATH));
    }
    SandboxSpec {
        image,
        storage: settings.storage,
        limits: settings.limits,
        user: UserSpec { uid: 1000, gid: 1000, name: "daytona".to_owned(), home: WORK_DIR.to_owned() },
        work_dir: WORK_DIR.to_owned(),
        left_to_image: LeftToImage { user: false, work_dir: false },
        env,
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
    WorkspaceUse { tree, files: job.files.clone(), missing: Missing::Skip, directory: None, outputs: Some(outputs), at_once: None }
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

/// The interpreter with its file, whatever the file is called.
fn argv(job: &Job) -> Vec<String> {
    let file = if job.path.starts_with('-') { format!("./{}", job.path) } else { job.path.clone() };
    let interpreter: &[&str] = if job.language == "python" { &["python", "-u"] } else { &["bash"] };
    interpreter.iter().map(|word| (*word).to_owned()).chain([file]).collect()
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
        assert_eq!(argv(&job("python", "a b.py")), ["python", "-u", "a b.py"]);
        assert_eq!(argv(&job("shell", "-c")), ["bash", "./-c"]);
        assert_eq!(argv(&job("bash", "./x")), ["bash", "./x"]);
        assert_eq!(clean("./a//b/./c.html"), "a/b/c.html");
    }
}
