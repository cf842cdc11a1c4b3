//! One execution: from its first frame to its last, in one task.
//!
//! ```text
//! request frames ──▶ Start ─▶ [ program ] ─▶ stdout, stderr ──▶ answer frames ──▶ Exit
//!        └─ Stdin, Signal ──────▲   ▲
//!                 time-out, output limit, stream reset: the whole tree is killed
//! ```

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use caisson_sys::process::{self, DATA, Exit, Mark, OPEN_FILES, PROCESSES, Program, Step, waiting_bytes};
use caisson_wire::{
    CODE_FILE, Ended, ExecExit, ExecStart, Refusal, RefusalCode, Started,
    frame::{Decoder, Frame, Kind},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    time::sleep_until,
};

use crate::{
    changes::{self, Changes, Snapshot},
    code, lookup,
    refusal::{of_path, refuse},
    setup::Agent,
    tree,
    watched::watch,
};

/// The filter of user code, see `seccomp/user.toml`.
const USER_CALLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/user.bpf"));

/// Answer frames on their way; the program waits in its pipe when the server does not read.
const FRAMES: usize = 8;
/// Standard input that waits for the program. While this much waits, no further frame is read, signals included.
const MAX_PENDING_STDIN: usize = 1 << 20;
const READ_CHUNK: usize = 64 << 10;
/// How long the last outputs of a program may take to be read once it has ended.
const LINGER: Duration = Duration::from_secs(60);

/// Starts the task. Dropping the receiver kills the program.
pub(crate) fn begin(agent: Arc<Agent>, body: Incoming) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        let mut requests = Requests { body, decoder: Decoder::default() };
        let result = match requests.start().await {
            Ok(start) => run(&agent, &start, requests, &sender).await,
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

async fn run(agent: &Agent, start: &ExecStart, requests: Requests, answers: &mpsc::Sender<Bytes>) -> Result<(), Refusal> {
    let config = &agent.config;
    let directory = match &start.cwd {
        Some(cwd) if cwd.starts_with('/') => cwd.clone(),
        Some(cwd) => format!("{}/{cwd}", config.work_dir),
        None => config.work_dir.clone(),
    };
    let mut environment = config.env.clone();
    environment.retain(|(key, _)| start.env.iter().all(|(other, _)| other != key));
    environment.extend(start.env.iter().cloned());

    let name = start.argv.first().ok_or_else(|| refuse(RefusalCode::Invalid, "argv is empty"))?;
    let names: Vec<&str> = std::iter::once(name).chain(&start.alternatives).map(String::as_str).collect();
    let path = lookup::find(&names, &environment, &directory, agent.user())
        .ok_or_else(|| refuse(RefusalCode::ProgramNotFound, format!("no program {} in this sandbox", quoted(&names))))?;

    let before = match &start.report_changes {
        Some(watched) => Some(snapshot(agent, watched).await?),
        None => None,
    };
    let code = start.code.as_ref().map(|code| code::write(code, &directory, agent.user())).transpose()?;
    let code_path = code.as_ref().map(|written| written.path.as_str());
    let mut argv: Vec<String> =
        start.argv.iter().map(|arg| if arg == CODE_FILE { code_path.unwrap_or(arg).to_owned() } else { arg.clone() }).collect();
    // The program sees the name it was found by.
    if let Some(found) = names.iter().find(|name| path.ends_with(**name)) {
        argv[0] = (*found).to_owned();
    }

    let mut running = Running::start(agent, start, &path, &argv, &environment, &directory)?;
    let told = Frame::json(Kind::Started, &Started { pid: running.pid.unsigned_abs(), program: path }).encode();
    let Some((exit, ended)) = running.watch(start, requests, answers, told).await else {
        return Ok(());
    };
    let duration = running.begun.elapsed();
    // Before the answer, so that it is neither seen nor named.
    let excepted = code_path.map(str::to_owned);
    drop(code);
    let changes = match (&start.report_changes, before) {
        (Some(watched), Some(before)) => compare(agent, watched, before, excepted).await?,
        _ => Changes::default(),
    };
    let report = ExecExit {
        exit_code: exit.exit_code,
        signal: exit.signal,
        ended,
        duration_us: micros(duration),
        cpu_us: micros(exit.cpu),
        peak_memory_bytes: exit.peak_memory,
        changes: changes.files,
        changes_truncated: changes.truncated,
    };
    running.finish(answers, &report).await;
    Ok(())
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{}`", name.escape_default())).collect::<Vec<_>>().join(" or ")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The directory as it is now. An empty one, the usual case, costs no walk and no thread.
async fn snapshot(agent: &Agent, directory: &str) -> Result<Snapshot, Refusal> {
    if process::as_file_owner(agent.user(), || changes::is_empty(directory)).unwrap_or(false) {
        return Ok(Snapshot::default());
    }
    let directory = directory.to_owned();
    agent.workers.run(move || Ok(Snapshot::take(&directory))).await
}

async fn compare(agent: &Agent, directory: &str, before: Snapshot, except: Option<String>) -> Result<Changes, Refusal> {
    if process::as_file_owner(agent.user(), || changes::is_empty(directory)).unwrap_or(false) {
        return Ok(Changes::default());
    }
    let directory = directory.to_owned();
    agent.workers.run(move || Ok(before.compare(&directory, except.as_deref()))).await
}

/// One of the two outputs.
struct Output {
    kind: Kind,
    /// Absent once it has ended.
    pipe: Option<AsyncFd<OwnedFd>>,
}

impl Output {
    fn new(kind: Kind, pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { kind, pipe: Some(watch(pipe)?) })
    }

    /// The next bytes. Never ready again after the end. Cancel-safe: bytes are taken only when they are returned.
    async fn read(&mut self) -> Bytes {
        loop {
            let Some(pipe) = &self.pipe else { return std::future::pending().await };
            let Ok(mut ready) = pipe.readable().await else { return std::future::pending().await };
            // No larger than what waits, so that many small outputs do not cost much memory.
            let waiting = waiting_bytes(pipe.get_ref().as_fd());
            let mut chunk = vec![0; waiting.clamp(1, READ_CHUNK)];
            match rustix::io::read(pipe.get_ref(), &mut *chunk) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    chunk.truncate(count);
                    return chunk.into();
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => self.pipe = None,
            }
        }
    }

    /// What waits in the pipe now, at most `limit` bytes of it.
    fn read_now(&mut self, limit: usize) -> Option<Bytes> {
        let pipe = self.pipe.as_ref()?;
        let mut chunk = vec![0; limit.min(READ_CHUNK)];
        match rustix::io::read(pipe.get_ref(), &mut *chunk) {
            Ok(count) if count > 0 => {
                chunk.truncate(count);
                Some(chunk.into())
            }
            _ => None,
        }
    }
}

struct Running {
    pid: i32,
    mark: Option<Mark>,
    begun: Instant,
    stdout: Output,
    stderr: Output,
    stdin: Option<AsyncFd<OwnedFd>>,
    exit: oneshot::Receiver<Exit>,
    written: u64,
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

        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| exhausted(error.into()));
        let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?);
        let (stdin_end, stdin) = if start.stdin {
            let (theirs, ours) = pipe()?;
            rustix::io::ioctl_fionbio(&ours, true).map_err(|error| exhausted(error.into()))?;
            (theirs, Some(watch(ours).map_err(exhausted)?))
        } else {
            (open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| exhausted(error.into()))?, None)
        };
        let (stdout, stderr) =
            (Output::new(Kind::Stdout, stdout).map_err(exhausted)?, Output::new(Kind::Stderr, stderr).map_err(exhausted)?);

        let mut limits = vec![(OPEN_FILES, agent.config.open_files)];
        if let Some(instead) = agent.config.instead_of_cgroup {
            limits.extend([(PROCESSES, instead.processes), (DATA, instead.data_bytes)]);
        }
        let mut plan = Program {
            path: &program,
            argv: &argv,
            environment: &environment,
            directory: &working,
            stdio: [stdin_end.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()],
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
        Ok(Self { pid: started.pid, mark, begun, stdout, stderr, stdin, exit, written: 0 })
    }

    /// Until the program has ended. `None` when nobody listens any more, and then it is killed.
    async fn watch(
        &mut self,
        start: &ExecStart,
        mut requests: Requests,
        answers: &mpsc::Sender<Bytes>,
        told: Bytes,
    ) -> Option<(Exit, Option<Ended>)> {
        if answers.send(told).await.is_err() {
            return self.abandon().await;
        }
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
        let mut pending = BytesMut::new();
        let mut stdin_ends = false;
        loop {
            let more = tokio::select! {
                biased;
                // A reset of the stream; `closed` can be asked again at any time.
                () = answers.closed() => return self.abandon().await,
                // Polled by reference, so nothing is lost when another arm wins.
                exit = &mut self.exit => return Some((exit.ok()?, ended)),
                () = &mut deadline_passed, if ended.is_none() => {
                    ended = Some(Ended::TimedOut);
                    self.kill().await;
                    continue;
                }
                // Cancel-safe, see `Output::read`.
                bytes = self.stdout.read() => Some((Kind::Stdout, bytes)),
                bytes = self.stderr.read() => Some((Kind::Stderr, bytes)),
                // Writes only what it takes from `pending`.
                () = feed(&mut self.stdin, &mut pending), if !pending.is_empty() => None,
                // Cancel-safe, see `Requests::next`.
                frame = requests.next(), if listening && pending.len() < MAX_PENDING_STDIN => {
                    match frame {
                        Some(frame) if frame.kind == Kind::Stdin => {
                            if self.stdin.is_some() {
                                pending.extend_from_slice(&frame.payload);
                            }
                        }
                        Some(frame) if frame.kind == Kind::StdinEof => stdin_ends = true,
                        Some(frame) if frame.kind == Kind::Signal => self.signal(&frame.payload),
                        // The end of what the server has to say is no end of the program; a frame out of place ends only the listening.
                        _ => {
                            listening = false;
                            stdin_ends = true;
                        }
                    }
                    None
                }
            };
            if stdin_ends && pending.is_empty() {
                self.stdin = None;
            }
            if self.stdin.is_none() {
                pending.clear();
            }
            if let Some((kind, bytes)) = more {
                if !self.pass_on(kind, bytes, start, answers, &mut deadline_passed, &mut ended).await {
                    return self.abandon().await;
                }
                if ended.is_none() && start.max_output_bytes.is_some_and(|limit| self.written > limit) {
                    ended = Some(Ended::OutputLimit);
                    self.kill().await;
                }
            }
        }
    }

    /// Sends output on. A server that does not read holds the program up, but not its deadline. `false` when nobody listens.
    async fn pass_on(
        &mut self,
        kind: Kind,
        bytes: Bytes,
        start: &ExecStart,
        answers: &mpsc::Sender<Bytes>,
        deadline_passed: &mut std::pin::Pin<&mut impl Future<Output = ()>>,
        ended: &mut Option<Ended>,
    ) -> bool {
        self.written += bytes.len() as u64;
        let bytes = clip(bytes, self.written, start.max_output_bytes);
        if bytes.is_empty() {
            return true;
        }
        let sending = answers.send(Frame::new(kind, bytes).encode());
        tokio::pin!(sending);
        loop {
            tokio::select! {
                // Polled by reference until it is done.
                sent = &mut sending => return sent.is_ok(),
                () = deadline_passed.as_mut(), if ended.is_none() => {
                    *ended = Some(Ended::TimedOut);
                    if let Some(mark) = &self.mark { tree::kill(mark.name(), self.pid).await; } else { kill_group(self.pid); }
                }
            }
        }
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
            for output in [&mut self.stdout, &mut self.stderr] {
                // Not more than was there when the program ended: a daemon could write for ever.
                let mut left = output.pipe.as_ref().map_or(0, |pipe| waiting_bytes(pipe.get_ref().as_fd()));
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
            if output.pipe.is_some() {
                tokio::spawn(discard(output));
            }
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

/// Writes once to standard input. Cancel-safe: what was written has left `pending`. Closes it when the program does not read any more.
async fn feed(stdin: &mut Option<AsyncFd<OwnedFd>>, pending: &mut BytesMut) {
    let Some(pipe) = stdin else { return };
    let Ok(mut ready) = pipe.writable().await else { return };
    match rustix::io::write(pipe.get_ref(), pending) {
        Ok(count) => drop(pending.split_to(count)),
        Err(Errno::AGAIN) => ready.clear_ready(),
        Err(Errno::INTR) => {}
        Err(_) => {
            drop(ready);
            *stdin = None;
        }
    }
}

/// Reads and forgets until the last holder of the pipe has closed it, so that a daemon does not die of its output.
async fn discard(mut output: Output) {
    while output.pipe.is_some() {
        tokio::select! {
            // Never ready after the end, which the other arm finds.
            _ = output.read() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
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
