//! From what a client asks for to what the agent is told.

use bytes::Bytes;
use caisson_core::{Error, Image, Recipe, Result};
use caisson_wire::{
    self as wire, CODE_FILE, CodeFile, ExecStart, LOGIN_SHELL, Refusal, RefusalCode,
    frame::{Frame, Kind},
};

use crate::{
    agent_client::AgentClient,
    figures,
    languages::{self, Found, Language, Runner},
    request::{ExecRequest, Program, Stdin},
    sandbox::Living,
    validate,
};

/// Standard input up to this size travels with the start.
const INLINE_STDIN: usize = 64 << 10;

/// So much of an argv goes into the record, which stands in lists of a thousand.
const SHOWN_ARGV: usize = 4 << 10;

/// Ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) start: ExecStart,
    /// Frames that travel right behind the start.
    pub(crate) first: Vec<Bytes>,
    /// How much of standard input is among them.
    pub(crate) inline_stdin: usize,
    pub(crate) stdin: Stdin,
    pub(crate) timeout: Option<std::time::Duration>,
    pub(crate) wait_for_readers: bool,
    wanted: Wanted,
}

/// What to say when there is no such program.
#[derive(Debug)]
enum Wanted {
    Program(String),
    Shell,
    Language(&'static Language),
    /// What a template says that a language is run by.
    OfTemplate {
        language: &'static str,
        program: String,
    },
    /// A name that is not in the table of languages.
    Interpreter(String),
}

pub(crate) async fn prepare(living: &Living, agent: &AgentClient, request: ExecRequest) -> Result<Prepared> {
    let mut code = None;
    let mut alternatives = Vec::new();
    let (argv, wanted) = match request.program {
        Program::Argv(argv) => {
            let name = argv.first().cloned().unwrap_or_default();
            (argv, Wanted::Program(name))
        }
        Program::Shell(line) => {
            alternatives.push("sh".to_owned());
            (vec!["bash".to_owned(), "-c".to_owned(), line], Wanted::Shell)
        }
        Program::OfImage => {
            let argv = match &living.image {
                Image::Stored(image) => image.config.entrypoint.iter().chain(&image.config.cmd).cloned().collect(),
                _ => Vec::new(),
            };
            validate::exec(&ExecRequest::new(Program::Argv(argv.clone()))).map_err(|_| validate::no_program())?;
            let name = argv[0].clone();
            (argv, Wanted::Program(name))
        }
        Program::LoginShell => {
            alternatives.extend(["bash".to_owned(), "sh".to_owned()]);
            (vec![LOGIN_SHELL.to_owned(), "-l".to_owned()], Wanted::Shell)
        }
        Program::Code { language, text, args } => {
            let (mut argv, file, wanted) = match languages::find(&language)? {
                Found::Known(language) => {
                    let wanted = match living.recipe.interpreters.get(language.name) {
                        Some(words) => Wanted::OfTemplate { language: language.name, program: words[0].clone() },
                        None => Wanted::Language(language),
                    };
                    let argv = match words(&living.recipe, language) {
                        Some((argv, others)) => {
                            alternatives = others;
                            argv
                        }
                        None => called(runner(living, agent, language).await?),
                    };
                    (argv, code_file(&living.recipe, language, text), wanted)
                }
                Found::Interpreter(name) => {
                    let extension = if name.bytes().all(|c| c.is_ascii_alphanumeric()) { name.clone() } else { "txt".to_owned() };
                    let file = CodeFile { stem: languages::STEM.to_owned(), extension, text, exact: false };
                    (vec![name.clone(), CODE_FILE.to_owned()], file, Wanted::Interpreter(name))
                }
            };
            argv.extend(args);
            code = Some(file);
            (argv, wanted)
        }
    };
    let mut inline_stdin = 0;
    let (first, stdin) = match request.stdin {
        Stdin::Bytes(bytes) if bytes.len() <= INLINE_STDIN => {
            inline_stdin = bytes.len();
            let end = Frame::new(Kind::StdinEof, Bytes::new()).encode();
            let data = (!bytes.is_empty()).then(|| Frame::new(Kind::Stdin, bytes).encode());
            (data.into_iter().chain([end]).collect(), None)
        }
        Stdin::Empty => (Vec::new(), None),
        other => (Vec::new(), Some(other)),
    };
    let start = ExecStart {
        argv,
        alternatives,
        env: request.env.into_iter().collect(),
        cwd: request.cwd,
        stdin: stdin.is_some() || !first.is_empty(),
        channel: false,
        terminal: request.terminal.map(|size| wire::WindowSize { cols: size.cols, rows: size.rows }),
        timeout_ms: request.timeout.map(|timeout| u64::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)),
        max_output_bytes: request.max_output_bytes,
        code,
        report_changes: request.report_changes,
        also_report: request.also_report.into_iter().map(|(path, deep)| wire::Reported { path, deep }).collect(),
        hold: None,
    };
    let (stdin, timeout, wait_for_readers) = (stdin.unwrap_or_default(), request.timeout, request.wait_for_readers);
    Ok(Prepared { start, first, inline_stdin, stdin, timeout, wait_for_readers, wanted })
}

/// Where code in a language is, with what it says.
pub(crate) fn code_file(recipe: &Recipe, language: &Language, text: String) -> CodeFile {
    match recipe.file_names.get(language.name).and_then(|name| name.rsplit_once('.')) {
        Some((stem, extension)) => CodeFile { stem: stem.to_owned(), extension: extension.to_owned(), text, exact: true },
        None => CodeFile { stem: languages::STEM.to_owned(), extension: language.extension.to_owned(), text, exact: false },
    }
}

/// How code in a language is run, and by which other programs where the first is not there; `None` where the image decides.
pub(crate) fn words(recipe: &Recipe, language: &Language) -> Option<(Vec<String>, Vec<String>)> {
    if let Some(words) = recipe.interpreters.get(language.name) {
        return Some((with_file(words), Vec::new()));
    }
    let others = || language.runners.iter().skip(1).map(|other| other.program.to_owned()).collect();
    (!language.must_be_looked_for()).then(|| (called(language.runners[0]), others()))
}

fn called(runner: Runner) -> Vec<String> {
    [runner.program].iter().chain(runner.arguments).map(|word| (*word).to_owned()).collect()
}

/// The words of a template with the code's file behind them, unless they say where it stands.
fn with_file(words: &[String]) -> Vec<String> {
    let file = (!words.iter().any(|word| word == CODE_FILE)).then(|| CODE_FILE.to_owned());
    words.iter().cloned().chain(file).collect()
}

/// The first runner that the image has, where it matters which.
async fn runner(living: &Living, agent: &AgentClient, language: &'static Language) -> Result<Runner> {
    let names = language.runners.iter().map(|runner| runner.program.to_owned()).collect();
    let found = match agent.which(names).await {
        Ok(found) => found,
        Err(error) => return Err(living.failed(error).await),
    };
    match language.runners.iter().find(|runner| found.iter().any(|name| name == runner.program)) {
        Some(runner) => Ok(*runner),
        None => Err(missing(agent, &Wanted::Language(language)).await),
    }
}

impl Prepared {
    /// What an agent's refusal to start this means for the caller.
    pub(crate) async fn refused(&self, agent: &AgentClient, refusal: Refusal) -> Option<Error> {
        match refusal.code {
            RefusalCode::ProgramNotFound => Some(missing(agent, &self.wanted).await),
            // A directory to start in that is not there is the request's mistake, not a missing resource.
            RefusalCode::NotFound | RefusalCode::NotADirectory => {
                Some(Error::invalid("invalid_path", figures::tamed(&refusal.message, 1000)))
            }
            _ => None,
        }
    }

    /// The argv for the record: the program that was found, and the code file's name.
    pub(crate) fn shown(&self, found: &str) -> Vec<String> {
        let mut argv = self.start.argv.clone();
        let found = found.rsplit('/').next().unwrap_or_default();
        if let Some(name) = self.start.alternatives.iter().find(|name| *name == found)
            && let Some(program) = argv.first_mut()
        {
            program.clone_from(name);
        }
        if let Some(program) = argv.first_mut().filter(|program| *program == LOGIN_SHELL) {
            found.clone_into(program);
        }
        if let Some(code) = &self.start.code {
            for argument in argv.iter_mut().filter(|argument| *argument == CODE_FILE) {
                *argument = format!("{}.{}", code.stem, code.extension);
            }
        }
        figures::shortened(argv, SHOWN_ARGV)
    }
}

async fn missing(agent: &AgentClient, wanted: &Wanted) -> Error {
    let (code, what) = match wanted {
        Wanted::Program(name) => {
            let message = format!("program `{}` is not in this image; give its path, or another program", figures::tamed(name, 200));
            return Error::invalid("program_not_found", message);
        }
        Wanted::OfTemplate { language, program } => {
            let program = figures::tamed(program, 200);
            let message = format!("its template has {language} run by `{program}`, and there is no such program in the sandbox");
            return Error::invalid("interpreter_missing", message);
        }
        Wanted::Shell => return Error::invalid("program_not_found", "this image has neither `bash` nor `sh`; use `cmd`"),
        Wanted::Language(language) => {
            let programs: Vec<&str> = language.runners.iter().map(|runner| runner.program).collect();
            ("interpreter_missing", format!("this image has no interpreter for {} (looked for {})", language.name, programs.join(", ")))
        }
        Wanted::Interpreter(name) => {
            ("unknown_language", format!("language `{name}` is not known, and this image has no program of that name"))
        }
    };
    // The list is a courtesy; without it the answer is still right.
    let found = agent.which(languages::programs()).await.unwrap_or_default();
    let there = match &languages::available(&found)[..] {
        [] => "no known language".to_owned(),
        names => names.join(", "),
    };
    Error::invalid(code, format!("{what}; it has {there}"))
}
