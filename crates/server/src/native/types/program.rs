//! What to run.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use caisson_core::{Error, LeftToImage, Result, SandboxSpec};
use caisson_engine::{ExecRequest, Program, RunRequest, Stdin};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    InputFileBody, LimitsBody, NetworkBody, Number, TerminalBody, Whole, WorkspaceUseBody,
    field::{decode, given, object, objects, unique},
    workspace::without_workspace,
};

/// How long a program may run when the request says nothing.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of the changed files a one-shot brings back when the request says nothing.
pub(crate) const DEFAULT_FILE_BYTES: u64 = 10 << 20;
/// The largest sum of changed files that fits into an answer.
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;
/// What a limit on output may be.
pub(crate) const MIN_OUTPUT_BYTES: u64 = 1;
pub(crate) const MAX_OUTPUT_BYTES: u64 = i64::MAX.cast_unsigned();

/// A program to be run in a living sandbox: exactly one of `cmd`, `shell`, or `language` with `code`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ExecRequest)]
pub struct ExecBody {
    /// A program and its arguments, no shell involved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// A command line for the sandbox's shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// What `code` is written in: `python`, `node`, `bash`, `go`, …, or the name of any interpreter of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Source code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Arguments for `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Standard input as text. Without it and `stdin_base64` there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Standard input as bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_base64: Option<String>,
    /// Variables over those of the sandbox.
    #[serde(deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Directory to start in; the work dir when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Seconds until its whole process tree is killed; null for no limit. When absent, 60, and no limit in the background and for a terminal.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub timeout_s: Option<Option<Number>>,
    /// End it with `output_limit` after this many bytes on both streams together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub max_output_bytes: Option<Whole>,
    /// Answer as soon as it has started. It ends with its sandbox at the latest, and keeps that from being idle.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// Standard input comes later, by `POST /v1/executions/{id}/stdin` or over a WebSocket, until one of them ends it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stdin_stream: bool,
    /// Give it a terminal: all its output is standard output then, and what is typed comes by `POST /v1/executions/{id}/stdin` or over a
    /// WebSocket. Without a program it is the user's shell. A terminal that nobody
    /// follows or types into, and that says nothing, keeps no sandbox from being idle.
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalBody>,
    /// While everybody who follows its output is more than 128 KiB behind, it waits for them. Otherwise, and while nobody follows, it never
    /// waits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wait_for_readers: bool,
    /// A workspace whose files are put in before it starts, and into which new and changed ones are written behind its end. What other
    /// programs change meanwhile counts as well.
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceUseBody>,
}

/// A one-shot: exactly one of `cmd`, `shell`, or `language` with `code`, in a fresh sandbox that is destroyed afterwards.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = RunRequest)]
pub struct RunBody {
    /// A program and its arguments, no shell involved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// A command line for the sandbox's shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// What `code` is written in: `python`, `node`, `bash`, `go`, …, or the name of any interpreter of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "python")]
    pub language: Option<String>,
    /// Source code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "print('hello')")]
    pub code: Option<String>,
    /// Arguments for `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Standard input as text. Without it and `stdin_base64` there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Standard input as bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_base64: Option<String>,
    /// Variables for the program.
    #[serde(deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Directory to start in; the work dir when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Seconds until its whole process tree is killed; 60 when absent, null for no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub timeout_s: Option<Option<Number>>,
    /// End it with `output_limit` after this many bytes on both streams together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub max_output_bytes: Option<Whole>,
    /// Files to put in before it starts.
    #[serde(deserialize_with = "objects", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<InputFileBody>,
    /// A workspace whose files are put in before those of `files`, and into which new and changed ones are written afterwards.
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceUseBody>,
    /// Bring back the contents of changed files up to this many bytes in all; 10 MiB when absent, 0 names them only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub max_file_bytes: Option<Whole>,
    /// A template by its name: what it says holds where the request says nothing; of `env` and `metadata` both are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// `host`, or an image by its name, such as `alpine:3.20`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Whether the image is got from its registry first: `never`, when absent; `missing`, where it is not here; or `always`. Anything but
    /// `never` needs an admin's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<String>,
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsBody>,
    /// What it may reach; nothing but itself when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkBody>,
    /// What makes the sandbox: `native`, or another that `GET /v1/backends` names; the server's choice when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `memory`, counted as memory and fast; or `disk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Who programs are: `user`, an ordinary one, when absent; or `root`, root of the sandbox alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Labels of the client's own.
    #[serde(deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl ExecBody {
    /// What the engine is to run. A workspace is that of a tenant, who is not known here.
    pub fn into_request(self) -> Result<ExecRequest> {
        without_workspace(self.workspace.as_ref())?;
        let stdin = match (stdin(self.stdin, self.stdin_base64)?, self.stdin_stream) {
            (Stdin::Empty, true) => Stdin::Clients,
            (stdin, false) => stdin,
            _ => return Err(Error::invalid("invalid_request", "give standard input with the request or later (`stdin_stream`), not both")),
        };
        let nothing = self.cmd.is_none() && self.shell.is_none() && self.language.is_none() && self.code.is_none() && self.args.is_none();
        let program = match &self.terminal {
            Some(_) if nothing => Program::LoginShell,
            None if nothing => Program::OfImage,
            _ => program(self.cmd, self.shell, self.language, self.code, self.args)?,
        };
        let timeout = match self.timeout_s {
            None if self.background || self.terminal.is_some() => None,
            given => timeout(given)?,
        };
        Ok(ExecRequest {
            stdin,
            env: self.env,
            cwd: self.cwd,
            timeout,
            max_output_bytes: max_output_bytes(self.max_output_bytes)?,
            terminal: self.terminal.map(|terminal| terminal.size()).transpose()?,
            wait_for_readers: self.wait_for_readers,
            ..ExecRequest::new(program)
        })
    }
}

impl RunBody {
    /// What the engine is to run. A template is looked up before, and a workspace is that of a tenant, who is not known here.
    pub fn into_request(self) -> Result<RunRequest> {
        without_template(self.template.as_deref())?;
        without_workspace(self.workspace.as_ref())?;
        let nothing = self.cmd.is_none() && self.shell.is_none() && self.language.is_none() && self.code.is_none() && self.args.is_none();
        let program = match nothing && self.image.is_some() {
            true => Program::OfImage,
            false => program(self.cmd, self.shell, self.language, self.code, self.args)?,
        };
        let exec = ExecRequest {
            stdin: stdin(self.stdin, self.stdin_base64)?,
            env: self.env,
            cwd: self.cwd,
            timeout: timeout(self.timeout_s)?,
            max_output_bytes: max_output_bytes(self.max_output_bytes)?,
            ..ExecRequest::new(program)
        };
        Ok(RunRequest {
            spec: spec(self.backend, self.image, self.limits, self.network, self.storage, self.user)?,
            metadata: self.metadata,
            files: self.files.into_iter().enumerate().map(|(index, file)| file.into_core(index)).collect::<Result<_>>()?,
            exec,
            max_file_bytes: self.max_file_bytes.map_or(Ok(DEFAULT_FILE_BYTES), |n| n.within("max_file_bytes", 0, MAX_FILE_BYTES))?,
        })
    }
}

/// What a template says must not be left out.
pub(super) fn without_template(name: Option<&str>) -> Result<()> {
    match name {
        None => Ok(()),
        Some(name) => Err(Error::invalid("unsupported", format!("template `{}` is not looked up here", name.escape_debug()))),
    }
}

/// What requests of all kinds say about a sandbox.
pub(super) fn spec(
    backend: Option<String>,
    image: Option<String>,
    limits: Option<LimitsBody>,
    network: Option<NetworkBody>,
    storage: Option<String>,
    user: Option<String>,
) -> Result<SandboxSpec> {
    let left_to_image = LeftToImage { user: user.is_none(), ..LeftToImage::default() };
    Ok(SandboxSpec {
        backend: backend.map_or(Ok(String::new()), named_backend)?,
        left_to_image,
        image: image.map_or(Ok(Default::default()), |text| text.parse())?,
        limits: limits.unwrap_or_default().to_core()?,
        network: network.map_or(Ok(Default::default()), |network| network.to_core())?,
        storage: storage.map_or(Ok(Default::default()), |text| text.parse())?,
        user: user.map_or(Ok(Default::default()), |text| text.parse())?,
        ..SandboxSpec::default()
    })
}

/// A backend that somebody names. Which there are, the engine knows.
pub(super) fn named_backend(name: String) -> Result<String> {
    if name.is_empty() {
        return Err(Error::invalid("invalid_request", "field `backend` is empty; leave it out for the server's choice"));
    }
    Ok(name)
}

fn program(
    cmd: Option<Vec<String>>,
    shell: Option<String>,
    language: Option<String>,
    code: Option<String>,
    args: Option<Vec<String>>,
) -> Result<Program> {
    let program = match (cmd, shell, language, code) {
        (Some(argv), None, None, None) => Program::Argv(argv),
        (None, Some(line), None, None) => Program::Shell(line),
        (None, None, Some(language), Some(text)) => return Ok(Program::Code { language, text, args: args.unwrap_or_default() }),
        _ => return Err(Error::invalid("invalid_request", "give exactly one of `cmd`, `shell`, or `language` together with `code`")),
    };
    match args {
        None => Ok(program),
        Some(_) => Err(Error::invalid("invalid_request", "`args` goes with `code`; arguments of `cmd` belong into `cmd` itself")),
    }
}

fn stdin(text: Option<String>, base64: Option<String>) -> Result<Stdin> {
    match (text, base64) {
        (None, None) => Ok(Stdin::Empty),
        (Some(text), None) => Ok(Stdin::Bytes(Bytes::from(text))),
        (None, Some(base64)) => Ok(Stdin::Bytes(Bytes::from(decode("stdin_base64", &base64)?))),
        (Some(_), Some(_)) => Err(Error::invalid("invalid_request", "give `stdin` or `stdin_base64`, not both")),
    }
}

pub(super) fn timeout(given: Option<Option<Number>>) -> Result<Option<Duration>> {
    match given {
        None => Ok(Some(DEFAULT_TIMEOUT)),
        Some(None) => Ok(None),
        Some(Some(seconds)) => seconds.seconds("timeout_s").map(Some),
    }
}

fn max_output_bytes(given: Option<Whole>) -> Result<Option<u64>> {
    given.map(|bytes| bytes.within("max_output_bytes", MIN_OUTPUT_BYTES, MAX_OUTPUT_BYTES)).transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn request(body: Value) -> Result<RunRequest> {
        serde_json::from_value::<RunBody>(body).expect("the body is well formed").into_request()
    }

    #[test]
    fn exactly_one_program_is_taken() {
        assert_eq!(request(json!({"cmd": ["a", "b"]})).unwrap().exec.program, Program::Argv(vec!["a".into(), "b".into()]));
        assert_eq!(request(json!({"shell": "a | b"})).unwrap().exec.program, Program::Shell("a | b".into()));
        let code = Program::Code { language: "python".into(), text: "1".into(), args: vec!["x".into()] };
        assert_eq!(request(json!({"language": "python", "code": "1", "args": ["x"]})).unwrap().exec.program, code);
        for bad in [
            json!({}),
            json!({"cmd": ["a"], "shell": "a"}),
            json!({"code": "1"}),
            json!({"language": "python"}),
            json!({"shell": "a", "language": "bash"}),
            json!({"cmd": ["a"], "args": ["b"]}),
            json!({"shell": "a", "stdin": "", "stdin_base64": ""}),
            json!({"shell": "a", "stdin_base64": "%"}),
            json!({"shell": "a", "image": "de bian"}),
            json!({"shell": "a", "network": "all"}),
            json!({"shell": "a", "storage": "tape"}),
            json!({"shell": "a", "user": "nobody"}),
            json!({"shell": "a", "max_output_bytes": 0}),
            json!({"shell": "a", "files": [{"path": "a"}]}),
            json!({"shell": "a", "files": [{"path": "a", "content": "", "content_base64": ""}]}),
        ] {
            assert!(request(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn terminals_and_later_input_are_asked_for() {
        let request = |body: Value| serde_json::from_value::<ExecBody>(body).expect("the body is well formed").into_request();
        let shell = request(json!({"terminal": {}})).unwrap();
        assert_eq!((&shell.program, shell.timeout, shell.terminal.map(|size| size.cols)), (&Program::LoginShell, None, Some(80)));
        let given = request(json!({"terminal": {"cols": 10, "rows": 5}, "cmd": ["top"], "timeout_s": 5})).unwrap();
        assert_eq!((given.program, given.timeout), (Program::Argv(vec!["top".into()]), Some(Duration::from_secs(5))));
        assert_eq!(request(json!({"stdin_stream": true})).unwrap().program, Program::OfImage);
        let later = request(json!({"shell": "cat", "stdin_stream": true})).unwrap();
        assert!(matches!(later.stdin, Stdin::Clients) && later.timeout == Some(DEFAULT_TIMEOUT));
        for bad in [
            json!({"shell": "cat", "stdin_stream": true, "stdin": ""}),
            json!({"terminal": {"cols": 0}}),
            json!({"terminal": {}, "args": ["x"]}),
            json!({"terminal": {}, "cmd": ["a"], "shell": "b"}),
        ] {
            assert!(request(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn absent_and_null_time_limits_differ() {
        let timeout = |body| request(body).unwrap().exec.timeout;
        assert_eq!(timeout(json!({"shell": "a"})), Some(DEFAULT_TIMEOUT));
        assert_eq!(timeout(json!({"shell": "a", "timeout_s": null})), None);
        assert_eq!(timeout(json!({"shell": "a", "timeout_s": 0.25})), Some(Duration::from_millis(250)));
        let timeout = |body| serde_json::from_value::<ExecBody>(body).unwrap().into_request().unwrap().timeout;
        assert_eq!(timeout(json!({"shell": "a"})), Some(DEFAULT_TIMEOUT));
        assert_eq!(timeout(json!({"shell": "a", "background": true})), None);
        assert_eq!(timeout(json!({"shell": "a", "background": true, "timeout_s": 5})), Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_a_client_writes_is_what_the_server_reads() {
        let body = RunBody { shell: Some("a".into()), timeout_s: Some(None), ..RunBody::default() };
        assert_eq!(serde_json::to_value(&body).unwrap(), json!({"shell": "a", "timeout_s": null}));
    }
}
