//! `caisson repl`: an interpreter in a sandbox, line by line.

mod lines;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use caisson_core::Stream;
use caisson_server::{
    ErrorBody,
    native::types::{CodeBody, CodeResultBody, ContextBody, CreateBody, Number, OutputEvent, SandboxBody, ShownBody},
};
use clap::Args;
use http::Method;
use rustix::process::Signal;
use serde::de::DeserializeOwned;

use self::lines::Lines;
use crate::{
    args::{InterpreterArgs, TimeLimit},
    client::{self, Client, Events, ServerArgs},
    output, printable,
    signals::Signals,
    status, stdin,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Lines that are only the beginning of something are gone on with; an empty one ends a block of Python. Ctrl-C interrupts what runs, Ctrl-D \
leaves. Without ID it is all in a new sandbox, which is removed at the end.

What does not come from a terminal is run as a whole.

Examples:
  caisson repl -l python
  caisson repl build -l node
  echo 'sum(range(10))' | caisson repl -l python

Exit status: 0; of code that is run as a whole 1 when it fails, in bash the exit code.";

/// Talk to an interpreter that lives in a sandbox
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ReplArgs {
    /// The sandbox, by its id or name [default: a new one]
    id: Option<String>,
    #[command(flatten)]
    interpreter: InterpreterArgs,
    /// Time until what runs is interrupted [default: none]
    #[arg(long, value_name = "TIME")]
    timeout: Option<TimeLimit>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: ReplArgs) -> Result<ExitCode> {
    let body = args.interpreter.into_body()?;
    let whole = if stdin::is_terminal() { None } else { Some(stdin::read_code("copy it in with `caisson cp` and run that")?) };
    let timeout_s = Some(TimeLimit::to_field(args.timeout).unwrap_or(None));
    client::talk(&args.server, async |client| {
        let signals = Signals::listen().context("cannot listen for signals")?;
        let sandbox = match &args.id {
            Some(id) => spinner("asking the server", client.sandbox(id)).await?,
            None => {
                let wanted = CreateBody::default();
                let made = client.json(Method::POST, "/v1/sandboxes", Some(&wanted));
                format!("/v1/sandboxes/{}", spinner("starting the sandbox", made).await.map(|made: SandboxBody| made.id)?)
            }
        };
        let result = async {
            let contexts = format!("{sandbox}/contexts");
            let made = client.json(Method::POST, &contexts, Some(&body));
            let context: ContextBody = spinner("starting the interpreter", made).await?;
            let target = format!("{sandbox}/contexts/{}", client::percent(context.id.as_bytes()));
            let mut talk = Talk { client: &client, target, timeout_s, signals };
            let result = match whole {
                Some(code) => talk.once(code).await,
                None => talk.line_by_line(&context).await,
            };
            if args.id.is_some() {
                forget(&client, &talk.target).await;
            }
            result
        }
        .await;
        if args.id.is_none() {
            forget(&client, &sandbox).await;
        }
        result
    })
}

/// Runs code as a whole in the context at `target`.
pub(super) async fn once(client: &Client, target: String, body: CodeBody) -> Result<ExitCode> {
    let signals = Signals::listen().context("cannot listen for signals")?;
    Talk { client, target, timeout_s: body.timeout_s, signals }.once(body.code).await
}

/// What is left behind ends with its idle time at the latest.
async fn forget(client: &Client, target: &str) {
    if let Err(error) = client.done(Method::DELETE, target).await {
        // What has ended by itself needs no end.
        if error.downcast_ref::<client::Refusal>().is_none_or(|refusal| !refusal.status.is_client_error()) {
            status::complain(&format!("{error:#}"));
        }
    }
}

/// How a run came out, or which signal asks us to leave.
enum Ran {
    /// With whether somebody wanted to interrupt it.
    Out(Box<CodeResultBody>, bool),
    Leave(i32),
}

struct Talk<'a> {
    client: &'a Client,
    /// The path of the context.
    target: String,
    timeout_s: Option<Option<Number>>,
    signals: Signals,
}

impl Talk<'_> {
    async fn once(&mut self, code: String) -> Result<ExitCode> {
        Ok(match self.run(code, false).await? {
            Ran::Leave(signal) => status::of_signal(signal),
            Ran::Out(result, _) => {
                if let Some(message) = &result.message {
                    status::complain(message);
                }
                match (result.status.as_str(), result.exit_code) {
                    ("ok" | "error" | "context_ended", Some(code)) => ExitCode::from(u8::try_from(code).unwrap_or(status::FAILURE)),
                    _ => ExitCode::from(status::FAILURE),
                }
            }
        })
    }

    async fn line_by_line(&mut self, context: &ContextBody) -> Result<ExitCode> {
        let Some(pieces) = stdin::stream()? else { bail!("standard input is a terminal on which another job is in the foreground") };
        let mut lines = Lines::new(pieces);
        let version = context.version.as_deref().unwrap_or(&context.language);
        prompt(&format!("{}; Ctrl-D leaves\n", printable::text(version)))?;
        let mut code = String::new();
        loop {
            prompt(if code.is_empty() { ">>> " } else { "... " })?;
            let line = tokio::select! {
                // Both keep what is not taken for the next round.
                line = lines.next() => line?,
                signal = self.signals.next() => {
                    if signal != Signal::INT.as_raw() {
                        return Ok(status::of_signal(signal));
                    }
                    code.clear();
                    prompt("\n")?;
                    continue;
                }
            };
            let Some(line) = line else {
                prompt("\n")?;
                return Ok(ExitCode::SUCCESS);
            };
            code.push_str(&line);
            if code.trim().is_empty() {
                code.clear();
                continue;
            }
            // The line break that ended the last line is not part of it: only behind an empty one does code end with one.
            let typed = code.strip_suffix('\n').unwrap_or(&code).to_owned();
            let (result, given_up) = match self.run(typed, true).await? {
                Ran::Leave(signal) => return Ok(status::of_signal(signal)),
                Ran::Out(result, given_up) => (result, given_up),
            };
            if result.status == "incomplete" {
                if given_up {
                    code.clear();
                }
                continue;
            }
            code.clear();
            let leaves = result.error.as_ref().is_some_and(|error| error.name == "SystemExit");
            if leaves || result.status == "context_ended" && result.exit_code == Some(0) {
                return Ok(ExitCode::SUCCESS);
            }
            if let Some(message) = &result.message {
                status::complain(message);
            }
            if result.status == "context_ended" {
                return Ok(ExitCode::from(status::FAILURE));
            }
        }
    }

    /// Runs code and passes on what comes of it.
    async fn run(&mut self, code: String, interactive: bool) -> Result<Ran> {
        let body = CodeBody { code, timeout_s: self.timeout_s, interactive };
        let target = format!("{}/run", self.target);
        let mut events = self.client.events(Method::POST, &target, &body).await?;
        let mut gaps = output::Gaps::default();
        let mut interrupted = false;
        loop {
            tokio::select! {
                // Cancel-safe, see there.
                event = told(&mut events, &mut gaps) => if let Some(result) = event? {
                    if let Some(error) = &result.error && error.name != "SystemExit" {
                        output::write(Stream::Stderr, with_line_break(&error.traceback)).await?;
                    }
                    return Ok(Ran::Out(Box::new(result), interrupted));
                },
                // Cancel-safe as well.
                signal = self.signals.next() => {
                    if signal != Signal::INT.as_raw() {
                        return Ok(Ran::Leave(signal));
                    }
                    interrupted = true;
                    // What has just ended needs no interrupt.
                    let told = self.client.done(Method::POST, &format!("{}/interrupt", self.target)).await;
                    if let Err(error) = told && !error.is::<client::Refusal>() {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// The next event, passed on; the result when it is the last. Cancel-safe up to the passing on, which has to be waited for.
async fn told(events: &mut Events, gaps: &mut output::Gaps) -> Result<Option<CodeResultBody>> {
    let Some(event) = events.next().await? else { bail!("the server closed the connection before the code had ended") };
    match event.name.as_str() {
        "stdout" => pass(Stream::Stdout, read(&event.data)?, gaps)?,
        "stderr" => pass(Stream::Stderr, read(&event.data)?, gaps)?,
        "display" | "value" => output::print(&shown(&read(&event.data)?))?,
        "result" => return Ok(Some(read(&event.data)?)),
        "error" => bail!(read::<ErrorBody>(&event.data)?.error.message),
        // The start, and what later servers may have to tell.
        _ => {}
    }
    Ok(None)
}

fn pass(stream: Stream, piece: OutputEvent, gaps: &mut output::Gaps) -> Result<()> {
    let offset = piece.offset;
    let data = piece.bytes().context("the server sent output that makes no sense")?;
    gaps.passed(stream, offset, data.len())?;
    output::write_here(stream, &data)
}

/// As text, and what else there is to see by name.
fn shown(shown: &ShownBody) -> String {
    let plain = shown.data.get("text/plain").map(|text| with_line_break(text)).unwrap_or_default();
    let is_all = plain.is_empty();
    let images = shown.data.iter().filter(|(name, _)| name.starts_with("image/") || is_all && *name != "text/plain");
    let images = images.map(|(name, content)| (name, content.len() as u64));
    let others = images.chain(shown.omitted.iter().map(|(name, length)| (name, *length)));
    others.fold(plain, |all, (name, length)| format!("{all}[{}, {length} characters]\n", printable::text(name)))
}

fn with_line_break(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

/// What only people at a terminal want to see.
fn prompt(text: &str) -> Result<()> {
    if io::stdout().is_terminal() { output::print(text) } else { Ok(()) }
}

fn read<T: DeserializeOwned>(data: &str) -> Result<T> {
    serde_json::from_str(data).context("the server sent an event that makes no sense; is it of this version?")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_cannot_be_shown_here_is_named() {
        let of = |pairs: &[(&str, &str)]| {
            let data = pairs.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect();
            shown(&ShownBody { kind: "value".to_owned(), data, omitted: BTreeMap::new() })
        };
        assert_eq!(of(&[("text/plain", "42")]), "42\n");
        assert_eq!(of(&[("text/plain", "a\n"), ("text/html", "<b>")]), "a\n");
        assert_eq!(of(&[("text/plain", "<Figure>"), ("image/png", "iVBO")]), "<Figure>\n[image/png, 4 characters]\n");
        assert_eq!(of(&[("text/html", "<b>")]), "[text/html, 3 characters]\n");
    }
}
