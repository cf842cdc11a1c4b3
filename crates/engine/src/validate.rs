//! What a request may ask for. Every refusal names the field and what is allowed.

use std::{collections::BTreeMap, time::Duration};

use caisson_core::{Error, Image, Place, Recipe, Result, SandboxSpec, SetupCommand, TimeLimits};
use caisson_wire::CODE_FILE;

use crate::{
    bounds::{
        HOSTNAME_LENGTH, INTERPRETER_WORDS, METADATA_PAIRS, NAME_LENGTH, PATH_BYTES, PRELOADED, RESERVED_ENV, SETUP_STEP_WITHIN,
        SETUP_STEPS,
    },
    contexts::{CodeRequest, ContextRequest},
    figures, languages, ready,
    request::{CreateRequest, ExecRequest, Program, RunRequest, SandboxUpdate, Stdin, WindowSize},
    search::GrepRequest,
    workspaces,
};

/// The kernel takes no argument or variable of this length or more (`MAX_ARG_STRLEN`).
const MAX_ARGUMENT: usize = 128 << 10;
/// Arguments and environment together; the kernel's own limit is about 2 MiB with the default stack.
const MAX_ARGUMENTS: usize = 1 << 20;
/// Source code in a request. What is larger belongs into a file.
const MAX_CODE: usize = 8 << 20;
/// Entries of one listing.
const MAX_LIST: u32 = 100_000;
const MAX_METADATA_BYTES: usize = 64 << 10;

/// Whether a sandbox can be asked for like this.
pub fn create(request: &CreateRequest) -> Result<()> {
    if let Some(name) = &request.name {
        self::name(name)?;
    }
    spec(&request.spec)?;
    time_limit("lifetime", request.time_limits.lifetime)?;
    time_limit("idle_timeout", request.time_limits.idle_timeout)?;
    metadata(&request.metadata)
}

pub(crate) fn update(update: &SandboxUpdate) -> Result<()> {
    time_limit("lifetime", update.lifetime.flatten())?;
    time_limit("idle_timeout", update.idle_timeout.flatten())?;
    update.metadata.as_ref().map_or(Ok(()), metadata)
}

/// Whether a one-shot can be asked for like this.
pub fn run(request: &RunRequest) -> Result<()> {
    spec(&request.spec)?;
    metadata(&request.metadata)?;
    exec(&request.exec)?;
    if (&request.spec.image, &request.exec.program) == (&Image::Host, &Program::OfImage) {
        return Err(no_program());
    }
    let mut paths: Vec<Vec<u8>> = Vec::with_capacity(request.files.len());
    for file in &request.files {
        paths.push(absolute_path(&request.spec.work_dir, &file.path)?);
        if file.mode.is_some_and(|mode| mode > 0o777) {
            return Err(Error::invalid("invalid_mode", "field `mode` of a file is permission bits, 0 to 0o777"));
        }
    }
    paths.sort_unstable();
    if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        let path = String::from_utf8_lossy(&pair[0]).escape_debug().to_string();
        return Err(Error::invalid("duplicate_file", format!("file `{path}` is given twice")));
    }
    Ok(())
}

/// Neither the request nor its image says what to run.
pub(crate) fn no_program() -> Error {
    Error::invalid(
        "invalid_request",
        "give exactly one of `cmd`, `shell`, or `language` together with `code`; the image names no program itself",
    )
}

pub(crate) fn exec(request: &ExecRequest) -> Result<()> {
    match &request.program {
        Program::Argv(argv) => {
            if argv.first().is_none_or(String::is_empty) {
                return Err(Error::invalid("invalid_argv", "field `cmd` must begin with the name of a program"));
            }
            arguments("cmd", argv)?;
        }
        Program::Shell(line) => {
            if line.trim().is_empty() {
                return Err(Error::invalid("invalid_argv", "field `shell` is empty"));
            }
            arguments("shell", std::slice::from_ref(line))?;
        }
        Program::LoginShell | Program::OfImage => {}
        Program::Code { text, args, .. } => {
            code_text(text)?;
            arguments("args", args)?;
        }
    }
    env(&request.env)?;
    if let Some(cwd) = &request.cwd {
        path("cwd", cwd.as_bytes())?;
    }
    if let Some(directory) = &request.report_changes {
        path("report_changes", directory.as_bytes())?;
    }
    for (directory, _) in &request.also_report {
        path("also_report", directory.as_bytes())?;
    }
    request.workspace.as_ref().map_or(Ok(()), workspaces::check)?;
    time_limit("timeout", request.timeout)?;
    if request.max_output_bytes == Some(0) {
        return Err(Error::invalid("limit_out_of_range", "field `max_output_bytes` must be at least 1"));
    }
    let Some(size) = request.terminal else { return Ok(()) };
    if !matches!(request.stdin, Stdin::Empty | Stdin::Clients) {
        return Err(Error::invalid("invalid_request", "a terminal is typed into while it runs; leave standard input out of the request"));
    }
    window_size(size)
}

fn code_text(text: &str) -> Result<()> {
    if text.len() > MAX_CODE {
        let (length, most) = (text.len(), figures::bytes(MAX_CODE as u64));
        return Err(Error::TooLarge {
            message: format!("field `code` has {length} bytes, allowed are {most}; upload it as a file and run that"),
        });
    }
    Ok(())
}

pub(crate) fn context(request: &ContextRequest) -> Result<()> {
    env(&request.env)?;
    request.cwd.as_ref().map_or(Ok(()), |cwd| path("cwd", cwd.as_bytes()))
}

pub(crate) fn code(request: &CodeRequest) -> Result<()> {
    code_text(&request.code)?;
    if let Some(at) = request.code.find('\0') {
        return Err(Error::invalid("invalid_code", format!("field `code` has a NUL at byte {at}, which no language takes")));
    }
    time_limit("timeout", request.timeout)
}

pub(crate) fn window_size(size: WindowSize) -> Result<()> {
    let (low, high) = WindowSize::RANGE;
    for (field, figure) in [("cols", size.cols), ("rows", size.rows)] {
        if !(low..=high).contains(&figure) {
            return Err(Error::invalid("limit_out_of_range", format!("field `{field}` is {figure}, allowed is {low} to {high}")));
        }
    }
    Ok(())
}

/// Permission bits that a request gives.
pub(crate) fn mode(mode: Option<u32>) -> Result<()> {
    match mode {
        Some(mode) if mode > 0o777 => Err(Error::invalid("invalid_mode", "field `mode` is permission bits, 0 to 0o777")),
        _ => Ok(()),
    }
}

/// How many entries a listing may have.
pub(crate) fn entries(limit: u32) -> Result<()> {
    if (1..=MAX_LIST).contains(&limit) {
        Ok(())
    } else {
        Err(Error::invalid("limit_out_of_range", format!("field `limit` is {limit}, allowed is 1 to {MAX_LIST}")))
    }
}

/// How long a pattern for paths may be.
pub(crate) fn pattern(length: usize) -> Result<()> {
    let allowed = 1..=GrepRequest::MAX_PATTERN;
    if allowed.contains(&length) {
        Ok(())
    } else {
        Err(Error::invalid("invalid_pattern", format!("a pattern has {length} bytes, allowed are 1 to {}", allowed.end())))
    }
}

pub(crate) fn grep(request: &GrepRequest) -> Result<()> {
    let out_of_range = |field: &str, value: &dyn std::fmt::Display, max: &dyn std::fmt::Display| {
        Err(Error::invalid("limit_out_of_range", format!("field `{field}` is {value}, allowed is at most {max}, and not 0")))
    };
    pattern(request.pattern.len())?;
    if request.include.len() + request.exclude.len() > GrepRequest::MAX_GLOBS {
        let message = format!("fields `include` and `exclude` have more than {} patterns together", GrepRequest::MAX_GLOBS);
        return Err(Error::invalid("invalid_pattern", message));
    }
    request.include.iter().chain(&request.exclude).try_for_each(|glob| pattern(glob.len()))?;
    if request.context > GrepRequest::MAX_CONTEXT {
        let message = format!("field `context` is {}, allowed is 0 to {}", request.context, GrepRequest::MAX_CONTEXT);
        return Err(Error::invalid("limit_out_of_range", message));
    }
    if !(1..=GrepRequest::MAX_MATCHES).contains(&request.max_matches) {
        return out_of_range("max_matches", &request.max_matches, &GrepRequest::MAX_MATCHES);
    }
    if !(1..=GrepRequest::MAX_BYTES).contains(&request.max_bytes) {
        return out_of_range("max_bytes", &request.max_bytes, &GrepRequest::MAX_BYTES);
    }
    if request.max_time.is_zero() || request.max_time > GrepRequest::MAX_TIME {
        return out_of_range("max_seconds", &figures::seconds(request.max_time), &figures::seconds(GrepRequest::MAX_TIME));
    }
    Ok(())
}

/// The path as the agent gets it: absolute, relative ones starting at the work dir.
pub(crate) fn absolute_path(work_dir: &str, given: &[u8]) -> Result<Vec<u8>> {
    path("path", given)?;
    if given.starts_with(b"/") {
        return Ok(given.to_vec());
    }
    let mut whole = work_dir.as_bytes().to_vec();
    if !whole.ends_with(b"/") {
        whole.push(b'/');
    }
    whole.extend_from_slice(given);
    path("path", &whole)?;
    Ok(whole)
}

fn spec(spec: &SandboxSpec) -> Result<()> {
    spec.limits.validate()?;
    env(&spec.env)?;
    let host = spec.hostname.as_bytes();
    let fine = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.');
    if host.is_empty() || host.len() > HOSTNAME_LENGTH || !host.iter().all(fine) || !host[0].is_ascii_alphanumeric() {
        let message = format!(
            "field `hostname` is 1 to {HOSTNAME_LENGTH} characters of a-z, A-Z, 0-9, `-` and `.`, beginning with a letter or digit"
        );
        return Err(Error::invalid("invalid_hostname", message));
    }
    for (field, text) in [("work_dir", &spec.work_dir), ("user.home", &spec.user.home)] {
        directory(field, text)?;
    }
    recipe(&spec.recipe)?;
    let user = &spec.user;
    if user.uid > 65_535 || user.gid > 65_535 {
        return Err(Error::invalid("invalid_user", "fields `user.uid` and `user.gid` are 0 to 65535"));
    }
    let letter = |c: &u8| c.is_ascii_lowercase() || *c == b'_';
    let name = user.name.as_bytes();
    if name.len() > 32 || !name.first().is_some_and(letter) || !name.iter().all(|c| letter(c) || c.is_ascii_digit() || *c == b'-') {
        return Err(Error::invalid(
            "invalid_user",
            "field `user.name` is 1 to 32 characters of a-z, 0-9, `_` and `-`, beginning with a letter",
        ));
    }
    Ok(())
}

fn recipe(recipe: &Recipe) -> Result<()> {
    for place in &recipe.places {
        let (Place::Directory(path) | Place::Link { path, .. }) = place;
        directory("places", path)?;
    }
    let invalid = |message: String| Err(Error::invalid("invalid_setup", message));
    if recipe.setup.len() > SETUP_STEPS {
        return invalid(format!("field `setup` has {} commands, allowed are {SETUP_STEPS}", recipe.setup.len()));
    }
    for (index, step) in recipe.setup.iter().enumerate() {
        let field = format!("setup[{index}]");
        let argv = match &step.command {
            SetupCommand::Shell(line) => std::slice::from_ref(line),
            SetupCommand::Argv(argv) => argv,
        };
        if argv.first().is_none_or(String::is_empty) {
            return invalid(format!("field `{field}` is empty; it is a command line for the shell, or a program with its arguments"));
        }
        arguments(&field, argv)?;
        if step.within.is_zero() || step.within > SETUP_STEP_WITHIN {
            let (given, most) = (figures::seconds(step.within), figures::seconds(SETUP_STEP_WITHIN));
            let message = format!("field `{field}.timeout_s` is {given}, allowed is more than 0 and at most {most}");
            return Err(Error::invalid("limit_out_of_range", message));
        }
    }
    for (name, words) in &recipe.interpreters {
        let shown = figures::tamed(name, 64);
        if languages::known_language(name) != Some(name) {
            let message = format!("field `interpreters` names `{shown}`, which is no language here; there are {}", languages::names());
            return Err(Error::invalid("unknown_language", message));
        }
        let field = format!("interpreters.{shown}");
        if !(1..=INTERPRETER_WORDS).contains(&words.len()) || words[0].is_empty() || words[0] == CODE_FILE {
            let message = format!("field `{field}` is a program and what it is called with, 1 to {INTERPRETER_WORDS} words");
            return Err(Error::invalid("invalid_argv", message));
        }
        arguments(&field, words)?;
    }
    what_waits(recipe)
}

fn what_waits(recipe: &Recipe) -> Result<()> {
    let invalid = |message: String| Err(Error::invalid("invalid_ready", message));
    for (index, name) in recipe.ready.iter().enumerate() {
        let shown = figures::tamed(name, 64);
        if !ready::can_be_ready(name) {
            return invalid(format!(
                "field `ready` names `{shown}`; interpreters that can wait for code are those of python, node and bash"
            ));
        }
        if recipe.ready[..index].contains(name) {
            return invalid(format!("field `ready` names {shown} twice"));
        }
    }
    if recipe.preload.len() > PRELOADED {
        return invalid(format!("field `preload` has {} modules, allowed are {PRELOADED}", recipe.preload.len()));
    }
    if let Some(name) = recipe.preload.iter().find(|name| !ready::is_module(name)) {
        return invalid(format!("field `preload` names `{}`, which is no name of a Python module", figures::tamed(name, 200)));
    }
    if !recipe.preload.is_empty() && !recipe.ready.iter().any(|name| name == "python") {
        return invalid(
            "field `preload` is what a Python that waits has imported; name `python` in field `ready`, or leave that out".to_owned(),
        );
    }
    Ok(())
}

/// A directory of a sandbox that is made where it is not there.
pub(crate) fn directory(field: &str, text: &str) -> Result<()> {
    path(field, text.as_bytes())?;
    if !text.starts_with('/') {
        return Err(Error::invalid("invalid_path", format!("field `{field}` must be an absolute path")));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(Error::invalid("invalid_path", format!("field `{field}` must not contain `..`")));
    }
    Ok(())
}

fn name(name: &str) -> Result<()> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_LENGTH || !name.bytes().all(fine) || !name.as_bytes()[0].is_ascii_alphanumeric() {
        let message =
            format!("field `name` is 1 to {NAME_LENGTH} characters of a-z, A-Z, 0-9, `-`, `_` and `.`, beginning with a letter or digit");
        return Err(Error::invalid("invalid_name", message));
    }
    Ok(())
}

pub(crate) fn env(env: &BTreeMap<String, String>) -> Result<()> {
    let mut total = 0;
    for (name, value) in env {
        let shown = figures::tamed(name, 64);
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid("invalid_env", format!("the name `{shown}` in field `env` is empty or contains `=` or NUL")));
        }
        if name.starts_with(RESERVED_ENV) {
            let message =
                format!("the name `{shown}` in field `env` is reserved: names that begin with `{RESERVED_ENV}` are; choose another");
            return Err(Error::invalid("reserved_env", message));
        }
        if value.contains('\0') {
            return Err(Error::invalid("invalid_env", format!("the value of `{shown}` in field `env` contains NUL")));
        }
        let length = name.len() + value.len() + 2;
        if length > MAX_ARGUMENT {
            return Err(Error::invalid("invalid_env", format!("`{shown}` in field `env` has {length} bytes, allowed are {MAX_ARGUMENT}")));
        }
        total += length;
    }
    if total > MAX_ARGUMENTS {
        return Err(Error::invalid("invalid_env", format!("field `env` has {total} bytes in all, allowed are {MAX_ARGUMENTS}")));
    }
    Ok(())
}

fn arguments(field: &str, arguments: &[String]) -> Result<()> {
    let mut total = 0;
    for (index, argument) in arguments.iter().enumerate() {
        if argument.contains('\0') {
            return Err(Error::invalid("invalid_argv", format!("element {index} of field `{field}` contains NUL")));
        }
        if argument.len() >= MAX_ARGUMENT {
            let length = argument.len();
            let message = format!("element {index} of field `{field}` has {length} bytes, allowed are {}", MAX_ARGUMENT - 1);
            return Err(Error::invalid("invalid_argv", message));
        }
        total += argument.len() + 1;
    }
    if total > MAX_ARGUMENTS {
        return Err(Error::invalid("invalid_argv", format!("field `{field}` has {total} bytes in all, allowed are {MAX_ARGUMENTS}")));
    }
    Ok(())
}

/// What the kernel would take for a path.
pub(crate) fn path(field: &str, path: &[u8]) -> Result<()> {
    let problem = if path.is_empty() {
        "is empty".to_owned()
    } else if path.contains(&0) {
        "contains NUL".to_owned()
    } else if path.len() > PATH_BYTES {
        format!("has {} bytes, allowed are {PATH_BYTES}", path.len())
    } else {
        return Ok(());
    };
    Err(Error::invalid("invalid_path", format!("field `{field}` {problem}")))
}

fn time_limit(field: &str, limit: Option<Duration>) -> Result<()> {
    match limit {
        Some(limit) if limit.is_zero() || limit > TimeLimits::MAX => {
            let message = format!(
                "field `{field}` is {}, allowed is more than 0 and at most {}",
                figures::seconds(limit),
                figures::seconds(TimeLimits::MAX)
            );
            Err(Error::invalid("limit_out_of_range", message))
        }
        _ => Ok(()),
    }
}

fn metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    if metadata.len() > METADATA_PAIRS {
        let message = format!("field `metadata` has {} pairs, allowed are {METADATA_PAIRS}", metadata.len());
        return Err(Error::invalid("invalid_metadata", message));
    }
    if metadata.iter().any(|(key, value)| key.is_empty() || key.contains('\0') || value.contains('\0')) {
        return Err(Error::invalid("invalid_metadata", "field `metadata` has an empty key or contains NUL"));
    }
    let total: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > MAX_METADATA_BYTES {
        return Err(Error::invalid("invalid_metadata", format!("field `metadata` has {total} bytes, allowed are {MAX_METADATA_BYTES}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::request::InputFile;

    fn request(program: Program) -> ExecRequest {
        ExecRequest::new(program)
    }

    fn argv(argv: &[&str]) -> Program {
        Program::Argv(argv.iter().map(|a| (*a).to_owned()).collect())
    }

    #[track_caller]
    fn refused(result: Result<()>, code: &str, word: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(word), "{error}");
    }

    #[test]
    fn ordinary_requests_pass() {
        exec(&request(argv(&["true"]))).unwrap();
        exec(&request(Program::Shell("echo".to_owned()))).unwrap();
        let named = CreateRequest { name: Some("box-1.a_b".to_owned()), ..CreateRequest::default() };
        create(&named).unwrap();
    }

    #[test]
    fn programs_are_checked() {
        refused(exec(&request(argv(&[]))), "invalid_argv", "`cmd`");
        refused(exec(&request(argv(&[""]))), "invalid_argv", "`cmd`");
        refused(exec(&request(argv(&["a", "b\0"]))), "invalid_argv", "element 1");
        refused(exec(&request(argv(&["a", &"x".repeat(MAX_ARGUMENT)]))), "invalid_argv", "131071");
        refused(exec(&request(argv(&vec!["xxxxxxxxxxxxxxxx"; 70_000]))), "invalid_argv", "in all");
        refused(exec(&request(Program::Shell(" ".to_owned()))), "invalid_argv", "`shell`");
        let code = Program::Code { language: "python".to_owned(), text: "x".repeat(MAX_CODE + 1), args: vec![] };
        refused(exec(&request(code)), "too_large", "8 MiB");
    }

    #[test]
    fn environment_time_and_paths_are_checked() {
        for (name, value) in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "\0")] {
            let bad = ExecRequest { env: BTreeMap::from([(name.to_owned(), value.to_owned())]), ..request(argv(&["true"])) };
            refused(exec(&bad), "invalid_env", "`env`");
        }
        for (name, reserved) in
            [("CAISSON_", true), ("CAISSON_API_KEY", true), ("CAISSON", false), ("caisson_x", false), ("X_CAISSON_", false)]
        {
            let named = ExecRequest { env: BTreeMap::from([(name.to_owned(), "x".to_owned())]), ..request(argv(&["true"])) };
            assert_eq!(exec(&named).is_err_and(|error| error.code() == "reserved_env"), reserved, "{name}");
        }
        for timeout in [Duration::ZERO, TimeLimits::MAX + Duration::from_secs(1)] {
            refused(exec(&ExecRequest { timeout: Some(timeout), ..request(argv(&["true"])) }), "limit_out_of_range", "`timeout`");
        }
        refused(exec(&ExecRequest { max_output_bytes: Some(0), ..request(argv(&["true"])) }), "limit_out_of_range", "max_output_bytes");
        let terminal = |cols, rows| ExecRequest { terminal: Some(WindowSize { cols, rows }), ..request(Program::LoginShell) };
        exec(&terminal(1, 4096)).unwrap();
        for (cols, rows, field) in [(0, 24, "`cols`"), (80, 0, "`rows`"), (4097, 24, "`cols`"), (80, u16::MAX, "`rows`")] {
            refused(exec(&terminal(cols, rows)), "limit_out_of_range", field);
        }
        let typed = ExecRequest { stdin: Stdin::Bytes(Bytes::from_static(b"x")), ..terminal(80, 24) };
        refused(exec(&typed), "invalid_request", "terminal");
        refused(exec(&ExecRequest { cwd: Some("a\0".to_owned()), ..request(argv(&["true"])) }), "invalid_path", "`cwd`");
        assert_eq!(absolute_path("/workspace", b"a/b").unwrap(), b"/workspace/a/b");
        assert_eq!(absolute_path("/", b"a").unwrap(), b"/a");
        assert_eq!(absolute_path("/workspace", b"/etc/x").unwrap(), b"/etc/x");
        assert!(absolute_path("/workspace", b"").is_err());
    }

    #[test]
    fn sandboxes_are_checked() {
        let with = |change: fn(&mut CreateRequest)| {
            let mut request = CreateRequest::default();
            change(&mut request);
            create(&request)
        };
        refused(with(|r| r.name = Some("../x".to_owned())), "invalid_name", "`name`");
        refused(with(|r| r.spec.hostname = "-x".to_owned()), "invalid_hostname", "`hostname`");
        refused(with(|r| r.spec.work_dir = "work".to_owned()), "invalid_path", "`work_dir`");
        refused(with(|r| r.spec.work_dir = "/a/../../b".to_owned()), "invalid_path", "`work_dir`");
        refused(with(|r| r.spec.user.name = "a:b".to_owned()), "invalid_user", "user.name");
        refused(with(|r| r.spec.limits.pids = 1), "limit_out_of_range", "`pids`");
        refused(with(|r| r.time_limits.lifetime = Some(Duration::ZERO)), "limit_out_of_range", "`lifetime`");
        refused(with(|r| r.metadata = BTreeMap::from([("k".to_owned(), "v".repeat(70_000))])), "invalid_metadata", "70001");
    }

    #[test]
    fn one_shots_name_each_file_once() {
        let file = |path: &str| InputFile { path: path.as_bytes().to_vec(), content: bytes::Bytes::new(), mode: None };
        let request = |files| RunRequest {
            spec: SandboxSpec::default(),
            metadata: BTreeMap::new(),
            files,
            exec: request(argv(&["true"])),
            max_file_bytes: 0,
        };
        run(&request(vec![file("a"), file("b")])).unwrap();
        refused(run(&request(vec![file("a"), file("/workspace/a")])), "duplicate_file", "/workspace/a");
    }
}
