//! `caisson exec`: a program in a sandbox that stays.

mod capture;
pub(super) mod input;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_core::Stream;
use caisson_engine::Captured;
use caisson_server::{
    ErrorBody,
    native::types::{ExecBody, ExecutionBody, NotSyncedBody, OutputEvent, ResultBody, StartEvent, WorkspaceUseBody},
};
use clap::Args;
use futures::FutureExt;
use http::Method;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use self::capture::Capture;
use crate::{
    args::{ProgramArgs, TimeLimit, text, unique},
    client::{self, Client, Events, ServerArgs},
    commands::sh,
    output, printable,
    signals::Signals,
    status, stdin, terminal,
    waiting::spinner,
};

/// What of standard input fits into one request.
pub(super) const MAX_STDIN: usize = 20 << 20;
/// How long the server may take to kill the program when we are asked to end.
const KILL_WITHIN: Duration = Duration::from_secs(5);

const AFTER_HELP: &str = "\
Standard input goes with the request: it is read to its end first (at most 20 MiB), and a terminal is not read. With --interactive it \
is passed on as it comes, however much it is and from a terminal as well. With --tty the program has a terminal, which is yours: every key \
is the program's; `caisson sh --help` says how to leave.

With --workspace, files of the work directory that are new or changed are written into that workspace when the program has ended, also with \
--detach. What could not be written is told; of a detached program, GET /v1/executions/{id} tells.

Examples:
  caisson exec build -- make test
  caisson exec build -l python -c 'print(6 * 7)'
  caisson exec build -- sort < words.txt
  tail -f log | caisson exec -i build -- grep --line-buffered error
  caisson exec -t build -- vim src/main.c
  id=$(caisson exec -d build -- make test)
  id=$(caisson exec -d -i build -- sort)
  caisson exec --workspace notes --in sales.csv build -- python3 report.py

Exit status: as of `caisson run`; with --detach 0 once it has started. Ctrl-C, SIGTERM and SIGHUP kill the program with everything it started; the sandbox stays.";

/// Run a program in a sandbox that stays
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_HELP,
    override_usage = "caisson exec [OPTIONS] ID [--] PROGRAM [ARG]...\n       caisson exec [OPTIONS] ID -l LANG -c CODE [-- ARG...]\n       \
                      caisson exec [OPTIONS] ID -l LANG - [ARG]..."
)]
pub(crate) struct ExecArgs {
    /// The sandbox, by its id or name
    id: String,
    #[command(flatten)]
    program: ProgramArgs,
    /// Return when it has started, and print the id of the execution; no time limit unless --timeout says so
    #[arg(short, long, conflicts_with = "tty")]
    detach: bool,
    /// Pass standard input on as it comes; with --detach leave that to `caisson stdin`
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal, which is this one; no time limit unless --timeout says so
    #[arg(short, long, conflicts_with = "json")]
    tty: bool,
    /// Write new and changed files into this workspace of the server
    #[arg(long, value_name = "NAME", conflicts_with = "tty")]
    workspace: Option<String>,
    /// Put a file of the workspace in, under its name there; may repeat
    #[arg(long = "in", value_name = "FILE", requires = "workspace")]
    inputs: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print the result as a JSON object instead of the program's output
    #[arg(long)]
    json: bool,
    /// A program of the image with its arguments; with --lang, `-` for code on standard input
    #[arg(value_name = "PROGRAM", trailing_var_arg = true)]
    words: Vec<OsString>,
}

pub(crate) fn run(args: ExecArgs) -> Result<ExitCode> {
    let files = args.inputs;
    let workspace = args.workspace.map(|name| WorkspaceUseBody { name, files, directory: None, sync_out: true });
    if args.tty {
        let terminal = terminal::wanted()?;
        let body = ExecBody { terminal: Some(terminal), ..body(args.program, args.words, Input::None)? };
        return client::talk(&args.server, async |client| {
            let execution = sh::start(&client, &args.id, body).await?;
            terminal::attend(&client, execution).await
        });
    }
    let body = ExecBody { workspace, ..body(args.program, args.words, if args.interactive { Input::Later } else { Input::Now })? };
    if args.detach {
        return client::talk(&args.server, async |client| detach(&client, &args.id, body, args.json).await);
    }
    client::talk(&args.server, async |client| {
        let follow = async |progress: &mut Progress<'_>| progress.follow(&client, &args.id, &body).await;
        attend(&client, args.json, follow).await
    })
}

/// Follows a program to its end. When we are to end before, or nobody reads the output any more, it is killed.
pub(super) async fn attend(
    client: &Client,
    json: bool,
    follow: impl AsyncFnOnce(&mut Progress<'_>) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let mut execution = None;
    let interrupted = {
        let mut progress = Progress { execution: &mut execution, capture: json.then(Capture::default) };
        tokio::select! {
            result = follow(&mut progress) => match result {
                // Whoever read the output has gone: the program goes as well.
                Err(error) if error.is::<output::Closed>() => Err(error),
                other => return other,
            },
            // The program is killed below.
            signal = signals.next() => Ok(status::of_signal(signal)),
        }
    };
    if let Some(id) = execution {
        kill(client, &id).await;
    }
    interrupted
}

async fn detach(client: &Client, sandbox: &str, body: ExecBody, json: bool) -> Result<ExitCode> {
    let body = ExecBody { background: true, wait_for_readers: false, ..body };
    let target = format!("{}/exec", spinner("asking the server", client.sandbox(sandbox)).await?);
    let started: ExecutionBody = spinner("starting the program", client.json(Method::POST, &target, Some(&body))).await?;
    if json {
        output::print_json(&started)?;
    } else {
        output::print(&format!("{}\n", printable::text(&started.id)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// When the program gets its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    None,
    Now,
    Later,
}

/// What the server is asked for.
fn body(program: ProgramArgs, words: Vec<OsString>, stdin: Input) -> Result<ExecBody> {
    let mut words = words.into_iter().map(text).collect::<Result<Vec<String>>>()?;
    let mut stdin_is_code = false;
    let (cmd, code) = match (program.code, &program.lang) {
        (Some(code), _) => (None, Some(code)),
        (None, Some(_)) if words.first().is_some_and(|word| word == "-") => {
            words.remove(0);
            stdin_is_code = true;
            (None, Some(stdin::read_code("copy it in with `caisson cp` and run that")?))
        }
        (None, Some(_)) => bail!("--lang goes with code: give -c CODE, or `-` for code on standard input"),
        (None, None) if words.is_empty() => bail!("there is nothing to run; give a program, or -l LANG -c CODE"),
        (None, None) => (Some(std::mem::take(&mut words)), None),
    };
    if stdin_is_code && stdin != Input::Now {
        bail!("standard input cannot be the code and the program's input; give -c CODE");
    }
    let input = if stdin_is_code || stdin != Input::Now || stdin::is_terminal() {
        Vec::new()
    } else {
        stdin::read_all(MAX_STDIN, "copy it in with `caisson cp` and let the program read that")?
    };
    Ok(ExecBody {
        args: code.is_some().then_some(words),
        cmd,
        code,
        language: program.lang,
        stdin_base64: (!input.is_empty()).then(|| STANDARD.encode(input)),
        stdin_stream: stdin == Input::Later,
        env: unique("--env", program.env)?,
        cwd: program.cwd,
        timeout_s: TimeLimit::to_field(program.timeout),
        // Nothing that we pass on gets lost, however fast the program is.
        wait_for_readers: true,
        ..ExecBody::default()
    })
}

/// What did not get into the workspace.
pub(super) fn unsynced(result: &ResultBody) -> impl Iterator<Item = String> {
    let told = |files: &[NotSyncedBody], what: &str| {
        let named = |file: &NotSyncedBody| if file.path.is_empty() { "some files".to_owned() } else { file.path.clone() };
        files.iter().map(|file| format!("{} {what}: {}", named(file), file.error)).collect::<Vec<_>>()
    };
    result.workspace.iter().flat_map(move |report| {
        let pending = told(&report.pending, "is not in the workspace yet, and the server goes on trying");
        pending.into_iter().chain(told(&report.failed, "is not in the workspace and will not be"))
    })
}

/// How far it has come.
pub(super) struct Progress<'a> {
    /// Known from the start of the program on.
    execution: &'a mut Option<String>,
    /// Collects the output instead of passing it on.
    capture: Option<Capture>,
}

impl Progress<'_> {
    async fn follow(&mut self, client: &Client, sandbox: &str, body: &ExecBody) -> Result<ExitCode> {
        let target = format!("{}/exec", spinner("asking the server", client.sandbox(sandbox)).await?);
        let mut events = spinner("starting the program", client.events(Method::POST, &target, body)).await?;
        let (started, id) = oneshot::channel();
        let keyboard = if body.stdin_stream { stdin::stream()? } else { None };
        let listened = {
            let feeding = async {
                match keyboard {
                    Some(pieces) => input::feed(client, id, pieces).await,
                    None => Ok(()),
                }
            };
            let mut feeding = std::pin::pin!(feeding.fuse());
            let mut listening = std::pin::pin!(self.listen::<ResultBody>(&mut events, started));
            loop {
                tokio::select! {
                    // Both are polled by reference until they are done.
                    result = &mut listening => break result,
                    fed = &mut feeding => if let Err(error) = fed {
                        status::complain(&format!("{error:#}"));
                    }
                }
            }
        };
        let result = self.heard(listened)?;
        let result = match self.captured() {
            Some((stdout, stderr)) => {
                let result = result.with_output(&stdout, &stderr);
                output::print_json(&result)?;
                result
            }
            None => result,
        };
        let (code, message) = status::of_result(&result);
        message.into_iter().chain(unsynced(&result)).for_each(|message| status::complain(&message));
        Ok(ExitCode::from(code))
    }

    /// What there is to be said when the server has said its last word, or none.
    pub(super) fn heard<T>(&self, listened: Result<Result<T>>) -> Result<T> {
        match listened {
            // What went wrong in the sandbox is an answer, not a broken line.
            Ok(result) => result,
            Err(error) if error.is::<output::Closed>() => Err(error),
            Err(error) => Err(match &self.execution {
                Some(id) => anyhow!("{error:#}; the program may go on: `caisson logs {id} --follow` tells"),
                None => error,
            }),
        }
    }

    /// The output, where it was collected.
    pub(super) fn captured(&mut self) -> Option<(Captured, Captured)> {
        self.capture.take().map(Capture::finish)
    }

    /// To the end of the program. The inner error is the server's last word, the outer one that there was none.
    pub(super) async fn listen<T: DeserializeOwned>(&mut self, events: &mut Events, started: oneshot::Sender<String>) -> Result<Result<T>> {
        let mut started = Some(started);
        let mut gaps = output::Gaps::default();
        while let Some(event) = events.next().await? {
            match event.name.as_str() {
                "start" => {
                    let id = read::<StartEvent>(&event.data)?.id;
                    if let Some(started) = started.take() {
                        // Nobody waits for it where there is nothing to send.
                        started.send(id.clone()).ok();
                    }
                    *self.execution = Some(id);
                }
                "stdout" => self.tell(Stream::Stdout, read(&event.data)?, &mut gaps).await?,
                "stderr" => self.tell(Stream::Stderr, read(&event.data)?, &mut gaps).await?,
                "result" => return Ok(Ok(read(&event.data)?)),
                "error" => return Ok(Err(anyhow::Error::msg(read::<ErrorBody>(&event.data)?.error.message))),
                // Later servers may have more to tell.
                _ => {}
            }
        }
        bail!("the server closed the connection before the program had ended")
    }

    async fn tell(&mut self, stream: Stream, piece: OutputEvent, gaps: &mut output::Gaps) -> Result<()> {
        let offset = piece.offset;
        let data = piece.bytes().context("the server sent output that makes no sense")?;
        match &mut self.capture {
            // The result says itself what it leaves out.
            Some(capture) => capture.append(stream, offset, &data),
            None => {
                gaps.passed(stream, offset, data.len())?;
                output::write(stream, data).await?;
            }
        }
        Ok(())
    }
}

fn read<T: DeserializeOwned>(data: &str) -> Result<T> {
    serde_json::from_str(data).context("the server sent an event that makes no sense; is it of this version?")
}

async fn kill(client: &Client, execution: &str) {
    let target = format!("/v1/executions/{}/kill", client::percent(execution.as_bytes()));
    let killed = tokio::time::timeout(KILL_WITHIN, client.done(Method::POST, &target)).await;
    let why = match killed {
        Ok(Ok(())) => return,
        // It has ended meanwhile.
        Ok(Err(error)) if error.downcast_ref::<client::Refusal>().is_some_and(|refusal| refusal.status.is_client_error()) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "the server does not answer".to_owned(),
    };
    status::complain(&format!("execution {execution} may still run: {why}"));
}
