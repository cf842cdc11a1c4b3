//! One execution: from its first frame to its last, in one task.
//!
//! ```text
//! request frames ──▶ Start ─▶ [ program ] ─▶ stdout, stderr ──▶ answer frames ──▶ Exit
//!        └─ Stdin, Signal, Resize ▲ ▲
//!                 time-out, output limit, stream reset: the whole tree is killed
//! ```

mod held;
mod streams;

use std::{
    collections::VecDeque,
    ffi::CString,
    io,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use caisson_sys::process::{self, DATA, Exit, Mark, OPEN_FILES, PROCESSES, Program, Step};
use caisson_wire::{
    CODE_FILE, Ended, ExecExit, ExecStart, LOGIN_SHELL, Refusal, RefusalCode, Reported, Started, WindowSize,
    frame::{Decoder, Frame, Kind},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::io::Errno;
use tokio::{
    sync::{OwnedRwLockReadGuard, mpsc, oneshot},
    time::sleep_until,
};

use self::streams::{Input, News, Output, Streams};
use crate::{
    changes::{self, Changes, Snapshot},
    code::{self, Written},
    lookup,
    refusal::{of_path, refuse},
    setup::Agent,
    terminal, tree,
};

/// The filter of user code, see `seccomp/user.toml`.
const USER_CALLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/user.bpf"));

/// Answer frames on their way; the program waits in its pipe when the server does not read.
const FRAMES: usize = 8;
/// How long the last outputs of a program may take to be read once it has ended.
const LINGER: Duration = Duration::from_secs(60);

/// Starts the task, which keeps `going_on`. Dropping the receiver kills the program.
pub(crate) fn begin(agent: Arc<Agent>, body: Incoming, going_on: OwnedRwLockReadGuard<()>) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        let _going_on = going_on;
        let mut requests = Requests { body, decoder: Decoder::default() };
        let result = match requests.start().await {
            Ok(start) => run(&agent, start, requests, &sender).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = result {
            // Nobody listens any more: then nobody has to be told.
            drop(sender.send(Frame::json(Kind::Refused, &refusal).encode()).await);
        }
    });
    receiver
}

/// The frames of the request's body.
struct Requests {
    body: Incoming,
    decoder: Decoder,
}

impl Requests {
    /// `None` at the end of the body, whether it ended in order or not. Cancel-safe: what has come stays in the decoder.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(_) => return None,
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.decoder.push(data);
                    }
                }
                _ => return None,
            }
        }
    }

    async fn start(&mut self) -> Result<ExecStart, Refusal> {
        let invalid = || refuse(RefusalCode::Invalid, "the first frame of an execution must be its start");
        match self.next().await {
            Some(frame) if frame.kind == Kind::Start => serde_json::from_slice(&frame.payload).map_err(|_| invalid()),
            _ => Err(invalid()),
        }
    }
}

async fn run(agent: &Agent, mut start: ExecStart, mut requests: Requests, answers: &mpsc::Sender<Bytes>) -> Result<(), Refusal> {
    if let Some(unfit) = &agent.unfit {
        return Err(unfit.clone());
    }
    let config = &agent.config;
    let directory = match &start.cwd {
        Some(cwd) if cwd.starts_with('/') => cwd.clone(),
        Some(cwd) => format!("{}/{cwd}", config.work_dir),
        None => config.work_dir.clone(),
    };
    let mut environment = environment(agent, &start.env);
    if start.terminal.is_some() && lookup::variable(&environment, "TERM").is_none() {
        environment.push(("TERM".to_owned(), terminal::TERM.to_owned()));
    }

    let name = match start.argv.first().map(String::as_str) {
        Some(LOGIN_SHELL) => lookup::variable(&environment, "SHELL").unwrap_or_default().to_owned(),
        Some(name) => name.to_owned(),
        None => return Err(refuse(RefusalCode::Invalid, "argv is empty")),
    };
    let names: Vec<String> = std::iter::once(name).chain(start.alternatives.iter().cloned()).filter(|name| !name.is_empty()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let path = lookup::find(&names, &environment, &directory, agent.user())
        .ok_or_else(|| refuse(RefusalCode::ProgramNotFound, format!("no program {} in this sandbox", quoted(&names))))?;

    let place = Place { names: &names, path: &path, environment: &environment, directory: &directory };
    let begun = match start.hold.take() {
        Some(hold) => held::begin(agent, &mut start, &hold, &place, &mut requests, answers).await?,
        None => Some(begin_now(agent, &start, &place).await?),
    };
    let Some(Begun { mut running, before, code }) = begun else { return Ok(()) };
    let code_path = code.as_ref().map(|written| written.path.as_str());
    running.tell(Frame::json(Kind::Started, &Started { pid: running.pid.unsigned_abs(), program: path }));
    let Some((exit, ended)) = running.watch(&start, requests, answers).await else {
        return Ok(());
    };
    let duration = running.begun.elapsed();
    // Before the answer, so that it is neither seen nor named.
    let excepted = code_path.map(str::to_owned);
    drop(code);
    let mut changes = Changes::default();
    for (watched, before) in before {
        changes.add(compare(agent, &watched, before, excepted.clone()).await?);
    }
    changes.bound();
    let report = ExecExit {
        exit_code: exit.exit_code,
        signal: exit.signal,
        ended,
        duration_us: micros(duration),
        cpu_us: micros(exit.cpu.saturating_sub(running.cpu_before)),
        peak_memory_bytes: exit.peak_memory,
        changes: changes.files,
        changes_truncated: changes.truncated,
    };
    running.finish(answers, &report).await;
    Ok(())
}

/// Where and as what a program is started.
struct Place<'a> {
    names: &'a [&'a str],
    path: &'a str,
    environment: &'a [(String, String)],
    directory: &'a str,
}

impl Place<'_> {
    /// The arguments with the code's path in them. The program sees the name it was found by.
    fn argv(&self, start: &ExecStart, code_path: Option<&str>) -> Vec<String> {
        let file = code_path.map(|path| start.code.as_ref().map_or(path, |code| code::told(code, path)));
        let mut argv: Vec<String> =
            start.argv.iter().map(|arg| if arg == CODE_FILE { file.unwrap_or(arg).to_owned() } else { arg.clone() }).collect();
        if let Some(found) = self.names.iter().find(|name| self.path.ends_with(**name)) {
            argv[0] = (*found).to_owned();
        }
        argv
    }
}

/// A program on its way, and what was before it.
struct Begun {
    running: Running,
    before: Vec<(Reported, Snapshot)>,
    code: Option<Written>,
}

async fn begin_now(agent: &Agent, start: &ExecStart, place: &Place<'_>) -> Result<Begun, Refusal> {
    let before = snapshots(agent, start).await?;
    let code = start.code.as_ref().map(|code| code::write(code, place.directory, agent.user())).transpose()?;
    let argv = place.argv(start, code.as_ref().map(|written| written.path.as_str()));
    let running = Running::start(agent, start, place.path, &argv, place.environment, place.directory)?;
    Ok(Begun { running, before, code })
}

/// The environment of user code with a request's variables over it.
fn environment(agent: &Agent, over: &[(String, String)]) -> Vec<(String, String)> {
    let mut environment = agent.environment().to_vec();
    environment.retain(|(key, _)| over.iter().all(|(other, _)| other != key));
    environment.extend(over.iter().cloned());
    environment
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{}`", name.escape_default())).collect::<Vec<_>>().join(" or ")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The directories that are looked at, before and after, as they are before.
async fn snapshots(agent: &Agent, start: &ExecStart) -> Result<Vec<(Reported, Snapshot)>, Refusal> {
    let first = start.report_changes.iter().map(|path| Reported { path: path.clone(), deep: true });
    let mut snapshots = Vec::new();
    for watched in first.chain(start.also_report.iter().cloned()) {
        let snapshot = snapshot(agent, &watched).await?;
        snapshots.push((watched, snapshot));
    }
    Ok(snapshots)
}

/// The directory as it is now. An empty one, the usual case, costs no walk and no thread.
async fn snapshot(agent: &Agent, watched: &Reported) -> Result<Snapshot, Refusal> {
    if process::as_file_owner(agent.user(), || changes::is_empty(&watched.path)).unwrap_or(false) {
        return Ok(Snapshot::default());
    }
    let watched = watched.clone();
    agent.workers.run(move || Ok(Snapshot::take(&watched))).await
}

async fn compare(agent: &Agent, watched: &Reported, before: Snapshot, except: Option<String>) -> Result<Changes, Refusal> {
    if process::as_file_owner(agent.user(), || changes::is_empty(&watched.path)).unwrap_or(false) {
        return Ok(Changes::default());
    }
    let watched = watched.clone();
    agent.workers.run(move || Ok(before.compare(&watched, except.as_deref()))).await
}

struct Running {
    pid: i32,
    mark: Option<Mark>,
    begun: Instant,
    input: Input,
    stdout: Output,
    stderr: Output,
    channel: Option<Output>,
    /// Frames for the server, as far as it has not taken them. No output is read before they are gone, so there are few.
    outgoing: VecDeque<Bytes>,
    exit: oneshot::Receiver<Exit>,
    written: u64,
    /// What it used before it was known what for.
    cpu_before: Duration,
}

impl Running {
    fn start(
        agent: &Agent,
        start: &ExecStart,
        path: &str,
        argv: &[String],
        environment: &[(String, String)],
        directory: &str,
    ) -> Result<Self, Refusal> {
        let text =
            |text: &str| CString::new(text).map_err(|_| refuse(RefusalCode::Invalid, "arguments, environment and paths must not have NUL"));
        let exhausted =
            |error: io::Error| refuse(RefusalCode::Exhausted, format!("the sandbox has no room for another execution: {error}"));
        let argv = argv.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
        let environment = environment.iter().map(|(key, value)| text(&format!("{key}={value}"))).collect::<Result<Vec<_>, _>>()?;
        let (program, working) = (text(path)?, text(directory)?);

        let streams = match start.terminal {
            Some(size) => Streams::terminal(size, agent.user()),
            None if start.channel => Streams::with_channel(),
            None => Streams::pipes(start.stdin),
        };
        let Streams { input, stdout, stderr, channel, theirs } = streams.map_err(exhausted)?;

        let mut limits = vec![(OPEN_FILES, agent.open_files())];
        if let Some(instead) = agent.config.instead_of_cgroup {
            limits.extend([(PROCESSES, instead.processes), (DATA, instead.data_bytes)]);
        }
        let mut plan = Program {
            path: &program,
            argv: &argv,
            environment: &environment,
            directory: &working,
            stdio: theirs.each_ref().map(AsFd::as_fd),
            terminal: start.terminal.is_some(),
            identity: (!agent.unchanged).then(|| agent.user()),
            namespace: agent.namespace.as_ref().map(AsFd::as_fd),
            limits: &limits,
            filter: (!agent.unfiltered).then_some(USER_CALLS),
        };
        agent.guardian.watch().map_err(exhausted)?;
        let mark = agent.first.then(Mark::begin).transpose().map_err(exhausted)?;
        let begun = Instant::now();
        let started = match process::start(&plan) {
            // A script without a first line that names its interpreter is the shell's (execvp(3)).
            Err(error) if error.step == Step::Execute && error.error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
                let mut shell_argv = vec![text("sh")?, program.clone()];
                shell_argv.extend(argv.iter().skip(1).cloned());
                plan.argv = &shell_argv;
                plan.path = c"/bin/sh";
                process::start(&plan)
            }
            result => result,
        };
        let started = started.map_err(|failure| match failure.step {
            Step::Execute => refuse(RefusalCode::NotExecutable, format!("`{path}` cannot be executed: {}", failure.error)),
            Step::Directory => of_path(&failure.error, directory.as_bytes()),
            Step::Clone => exhausted(failure.error),
            step => refuse(
                RefusalCode::Failed,
                format!("the program was not started, because a wall could not be raised ({step:?}: {})", failure.error),
            ),
        })?;
        let exit = agent.reaper.wait_for(started.pid);
        Ok(Self {
            pid: started.pid,
            mark,
            begun,
            input,
            stdout,
            stderr,
            channel,
            outgoing: VecDeque::new(),
            exit,
            written: 0,
            cpu_before: Duration::ZERO,
        })
    }

    fn tell(&mut self, frame: Frame) {
        self.outgoing.push_back(frame.encode());
    }

    /// Until the program has ended. `None` when nobody listens any more, and then it is killed. A server that does not read holds the
    /// program up, but neither its deadline nor what it is told.
    async fn watch(&mut self, start: &ExecStart, mut requests: Requests, answers: &mpsc::Sender<Bytes>) -> Option<(Exit, Option<Ended>)> {
        let deadline = start.timeout_ms.map(|timeout| self.begun + Duration::from_millis(timeout));
        let deadline_passed = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline_passed);
        let mut ended = None;
        let mut listening = true;
        loop {
            tokio::select! {
                biased;
                // A reset of the stream; `closed` can be asked again at any time.
                () = answers.closed() => return self.abandon().await,
                // Polled by reference, so nothing is lost when another arm wins.
                exit = &mut self.exit => return Some((exit.ok()?, ended)),
                () = &mut deadline_passed, if ended.is_none() => {
                    ended = Some(Ended::TimedOut);
                    self.kill().await;
                }
                // Cancel-safe, see `Requests::next`. In front of the output, so that a flood of it keeps no signal waiting.
                frame = requests.next(), if listening => {
                    listening = frame.is_some_and(|frame| self.obey(&frame));
                    if !listening {
                        self.input.finish();
                    }
                }
                // Cancel-safe, see there.
                () = self.input.feed(), if self.input.is_waiting() => match self.input.news() {
                    Some(News::Taken(count)) => self.tell(Frame::new(Kind::InputTaken, count.to_be_bytes().to_vec())),
                    Some(News::Closed) => self.tell(Frame::new(Kind::InputClosed, Bytes::new())),
                    None => {}
                },
                // Nobody else waits for room, so no place is lost.
                room = answers.reserve(), if !self.outgoing.is_empty() => match (room, self.outgoing.pop_front()) {
                    (Ok(room), Some(frame)) => room.send(frame),
                    _ => return self.abandon().await,
                },
                // Cancel-safe, see `Output::read`. In front of what it writes, so that no flood keeps it unheard: what was written before is
                // told before, here.
                bytes = said(&mut self.channel), if self.outgoing.is_empty() => {
                    self.tell_what_was_written_before();
                    self.tell(Frame::new(Kind::Channel, bytes));
                }
                // Likewise.
                (kind, bytes) = either(&mut self.stdout, &mut self.stderr), if self.outgoing.is_empty() => {
                    self.written += bytes.len() as u64;
                    let bytes = clip(bytes, self.written, start.max_output_bytes);
                    if !bytes.is_empty() {
                        self.tell(Frame::new(kind, bytes));
                    }
                    if ended.is_none() && start.max_output_bytes.is_some_and(|limit| self.written > limit) {
                        ended = Some(Ended::OutputLimit);
                        self.kill().await;
                    }
                }
            }
        }
    }

    /// What the program had written when it said something on its channel, which is not more than its pipes hold: whoever hears that it has
    /// finished something has the output of it already.
    fn tell_what_was_written_before(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr] {
            let mut left = output.left();
            while left > 0 {
                let Some(bytes) = output.read_now(left) else { break };
                left -= bytes.len();
                self.written += bytes.len() as u64;
                self.outgoing.push_back(Frame::new(output.kind, bytes).encode());
            }
        }
    }

    /// Does what a frame says; `false` when nothing after it is listened to. That is no end of the program.
    fn obey(&mut self, frame: &Frame) -> bool {
        match frame.kind {
            Kind::Stdin => return self.input.push(&frame.payload),
            Kind::StdinEof => self.input.finish(),
            Kind::Signal => self.signal(&frame.payload),
            Kind::Resize => match WindowSize::from_bytes(&frame.payload) {
                Some(size) => self.input.resize(size),
                None => return false,
            },
            _ => return false,
        }
        true
    }

    fn signal(&self, payload: &[u8]) {
        if let Ok(number) = payload.try_into().map(u32::from_be_bytes)
            && let Ok(number @ 1..=64) = i32::try_from(number)
        {
            // It fails when the group has ended, which the exit will tell.
            drop(process::signal_group(self.pid, number));
        }
    }

    async fn kill(&self) {
        match &self.mark {
            Some(mark) => tree::kill(mark.name(), self.pid).await,
            None => kill_group(self.pid),
        }
    }

    async fn abandon(&mut self) -> Option<(Exit, Option<Ended>)> {
        self.kill().await;
        None
    }

    /// Sends what is left in the pipes and the report. A daemon that holds them goes on, and its output is thrown away.
    async fn finish(mut self, answers: &mpsc::Sender<Bytes>, report: &ExecExit) {
        let send_all = async {
            for frame in self.outgoing.drain(..) {
                if answers.send(frame).await.is_err() {
                    return;
                }
            }
            for output in [&mut self.stdout, &mut self.stderr].into_iter().chain(&mut self.channel) {
                // Not more than was there when the program ended: a daemon could write for ever.
                let mut left = output.left();
                if report.ended == Some(Ended::OutputLimit) {
                    left = 0;
                }
                while left > 0 {
                    let Some(bytes) = output.read_now(left) else { break };
                    left -= bytes.len();
                    if answers.send(Frame::new(output.kind, bytes).encode()).await.is_err() {
                        return;
                    }
                }
            }
            // Nobody to hear it: then nobody has to.
            drop(answers.send(Frame::json(Kind::Exit, report).encode()).await);
        };
        if tokio::time::timeout(LINGER, send_all).await.is_err() {
            return;
        }
        for output in [self.stdout, self.stderr] {
            tokio::spawn(output.discard());
        }
    }
}

/// The part of a chunk that stays within the limit on output, `written` bytes with it.
fn clip(mut bytes: Bytes, written: u64, limit: Option<u64>) -> Bytes {
    if let Some(limit) = limit {
        let over = usize::try_from(written.saturating_sub(limit)).unwrap_or(usize::MAX);
        bytes.truncate(bytes.len().saturating_sub(over));
    }
    bytes
}

fn kill_group(pid: i32) {
    // It fails when the group has ended.
    drop(process::signal_group(pid, 9));
}

/// The next bytes of whichever has some, both alike. Cancel-safe, as [`Output::read`] is.
async fn either(stdout: &mut Output, stderr: &mut Output) -> (Kind, Bytes) {
    let (out, err) = (stdout.kind, stderr.kind);
    tokio::select! {
        bytes = stdout.read() => (out, bytes),
        bytes = stderr.read() => (err, bytes),
    }
}

/// The next bytes of a channel, where there is one. Cancel-safe as well.
async fn said(channel: &mut Option<Output>) -> Bytes {
    match channel {
        Some(channel) => channel.read().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_over_the_limit_is_cut_at_the_byte() {
        let clipped = |written, limit| clip(Bytes::from_static(b"12345"), written, limit);
        assert_eq!(clipped(5, None), "12345");
        assert_eq!(clipped(5, Some(5)), "12345");
        assert_eq!(clipped(5, Some(4)), "1234");
        assert_eq!(clipped(105, Some(102)), "12");
        assert_eq!(clipped(105, Some(100)), "");
        assert_eq!(clipped(105, Some(0)), "");
    }
}
