//! Programs that are talked to while they run: standard input that comes later, terminals, readers that are waited for.

use std::time::{Duration, Instant};

use crate::support::{World, exec, shell};
use bytes::Bytes;
use caisson_core::{Error, ExecutionId, ExecutionStatus, SandboxId, State, Stream, TimeLimits, TombstoneReason};
use caisson_engine::{CreateRequest, ExecRequest, Program, Running, Stdin, WindowSize};

const SIZE: WindowSize = WindowSize { cols: 90, rows: 30 };
const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    result.unwrap_err().code()
}

/// A program that runs, with what it has said.
struct Talk<'a> {
    world: &'a World,
    running: Running,
    seen: Vec<u8>,
    /// Up to where that was listened to.
    heard: usize,
}

impl<'a> Talk<'a> {
    async fn begin(world: &'a World, sandbox: SandboxId, request: ExecRequest) -> Self {
        Self { world, running: world.engine.exec(sandbox, request).await.unwrap(), seen: Vec::new(), heard: 0 }
    }

    async fn terminal(world: &'a World, sandbox: SandboxId, program: Program) -> Self {
        Self::begin(world, sandbox, ExecRequest { terminal: Some(SIZE), timeout: None, ..exec(program) }).await
    }

    fn id(&self) -> ExecutionId {
        self.running.execution.id
    }

    async fn say(&self, text: &str) {
        self.world.engine.write_stdin(self.id(), None, Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
    }

    /// Reads on until it has said this after what was heard before.
    async fn hear(&mut self, what: &str) {
        let mut progress = self.world.engine.progress(self.id()).await.unwrap();
        let heard = async {
            loop {
                let finished = progress.borrow_and_update().finished;
                while let Some(chunk) = self.world.engine.output(self.id(), Stream::Stdout, self.seen.len() as u64, 4096).await.unwrap() {
                    self.seen.extend_from_slice(&chunk.data);
                }
                let new = &self.seen[self.heard..];
                if let Some(at) = new.windows(what.len()).position(|window| window == what.as_bytes()) {
                    self.heard += at + what.len();
                    return;
                }
                assert!(!finished, "it ended without `{what}`: {}", String::from_utf8_lossy(&self.seen));
                progress.changed().await.ok();
            }
        };
        if tokio::time::timeout(PATIENCE, heard).await.is_err() {
            panic!("it did not say `{what}`: {}", String::from_utf8_lossy(&self.seen));
        }
    }

    async fn end(self) -> (ExecutionStatus, Option<i32>, u64) {
        let ended = tokio::time::timeout(PATIENCE, self.running.wait()).await.expect("it ends").unwrap();
        let outcome = ended.execution.outcome.unwrap();
        (outcome.status, outcome.exit_code, outcome.stdout.total_bytes)
    }
}

fn open(line: &str) -> ExecRequest {
    ExecRequest { stdin: Stdin::Clients, ..shell(line) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_comes_later_and_arrives_once() {
    let world = World::new().await;
    let sandbox = world.sandbox().await;
    let all: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(world.dir.path().join("all"), &all).unwrap();
    let mut talk = Talk::begin(&world, sandbox, open(&format!("cmp - {}/all && echo same", world.dir.path().display()))).await;
    let write = |from: usize, to: usize| world.engine.write_stdin(talk.id(), Some(from as u64), Bytes::copy_from_slice(&all[from..to]));
    // Each piece overlaps the one before, as that of a client does which does not know how much of its last one was accepted.
    let mut at = 0;
    while at < all.len() {
        let to = all.len().min(at + 300_000);
        assert_eq!(write(at.saturating_sub(50_000), to).await.unwrap(), to as u64);
        at = to;
    }
    assert_eq!(code(world.engine.write_stdin(talk.id(), Some(all.len() as u64 + 1), Bytes::from_static(b"x")).await), "stdin_gap");
    world.engine.end_stdin(talk.id()).await.unwrap();
    talk.hear("same").await;
    let id = talk.id();
    assert_eq!(talk.end().await, (ExecutionStatus::Exited, Some(0), 5));
    assert_eq!(code(world.engine.write_stdin(id, None, Bytes::from_static(b"x")).await), "execution_finished");
    assert_eq!(code(world.engine.write_stdin(ExecutionId::random(), None, Bytes::new()).await), "not_found");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_read_still_hears_signals() {
    let world = World::new().await;
    let sandbox = world.sandbox().await;
    let mut talk = Talk::begin(&world, sandbox, open("trap 'echo told; exit 4' USR1; echo on; while :; do sleep 0.01; done")).await;
    talk.hear("on").await;
    let id = talk.id();
    let much = Bytes::from(vec![b'x'; 2 << 20]);
    let writing = tokio::time::timeout(Duration::from_millis(300), world.engine.write_stdin(id, None, much)).await;
    assert!(writing.is_err(), "it waits for the program");
    world.engine.signal(id, 10).await.unwrap();
    talk.hear("told").await;
    assert_eq!(talk.end().await.1, Some(4));

    // One that closes its input says so to those who write.
    let mut talk = Talk::begin(&world, sandbox, open("exec 0<&-; echo closed; sleep 50")).await;
    talk.hear("closed").await;
    let (id, limit) = (talk.id(), Instant::now() + PATIENCE);
    while let Ok(accepted) = world.engine.write_stdin(id, None, Bytes::from_static(&[0; 1000])).await {
        assert!(Instant::now() < limit, "{accepted} bytes were accepted");
    }
    assert_eq!(code(world.engine.write_stdin(id, None, Bytes::from_static(b"x")).await), "stdin_closed");
    assert_eq!(code(world.engine.end_stdin(id).await), "stdin_closed");
    assert_eq!(code(world.engine.resize(id, SIZE).await), "not_a_terminal");
    world.engine.kill(id).await.unwrap();

    let talk = Talk::begin(&world, sandbox, shell("sleep 50")).await;
    assert_eq!(code(world.engine.write_stdin(talk.id(), None, Bytes::from_static(b"x")).await), "stdin_not_open");
    world.engine.shutdown().await;
}

/// Says when it is continued. One process and no children: a shell that is just starting one with `vfork` cannot be stopped.
const STOPS: &str = "python3 -c \"import os, signal, time; signal.signal(signal.SIGCONT, lambda *_: os.write(1, b'ba' + b'ck')); \
                     os.write(1, b'in fr' + b'ont'); [time.sleep(1) for _ in iter(int, 1)]\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_on_a_terminal_behaves_as_on_one() {
    let world = World::new().await;
    let sandbox = world.sandbox().await;
    let mut talk = Talk::terminal(&world, sandbox, Program::LoginShell).await;
    // What is typed comes back as well, so what is waited for is not in it.
    talk.say("stty size; tty | cut -c1-9; echo \"<$TERM>\"; ls -l /proc/self/fd | grep -c dev/pts\n").await;
    talk.hear("30 90\r\n/dev/pts/\r\n<xterm-256color>\r\n").await;
    talk.say("trap 'echo now $(stty size)' WINCH; echo re''ady\n").await;
    talk.hear("ready").await;
    world.engine.resize(talk.id(), WindowSize { cols: 132, rows: 43 }).await.unwrap();
    talk.say("\n").await;
    talk.hear("now 43 132").await;
    // Ctrl-C reaches the program in the foreground and not the shell.
    talk.say("PS1='rea''dy> '\n").await;
    talk.hear("ready> ").await;
    talk.say("sh -c 'echo in fr''ont; exec sleep 1000'\n").await;
    talk.hear("in front").await;
    talk.say("\u{3}").await;
    talk.hear("ready> ").await;
    talk.say("echo ended with $?\n").await;
    talk.hear("ended with 130").await;
    // Job control: stopped, listed, brought back, ended.
    talk.say(&format!("{STOPS}\n")).await;
    talk.hear("in front").await;
    talk.say("\u{1a}").await;
    talk.hear("Stopped").await;
    talk.say("fg\n").await;
    talk.hear("back").await;
    talk.say("\u{1a}").await;
    talk.hear("Stopped").await;
    talk.say("jobs; bg; kill %1; wait; echo none left: $(jobs -p | wc -l)\n").await;
    talk.hear("none left: 0").await;
    assert_eq!(code(world.engine.end_stdin(talk.id()).await), "is_a_terminal");
    assert_eq!(code(world.engine.resize(talk.id(), WindowSize { cols: 0, rows: 1 }).await), "limit_out_of_range");
    assert_eq!(talk.running.execution.argv, ["bash", "-l"]);
    talk.say("exit 3\n").await;
    let (status, exit, _) = talk.end().await;
    assert_eq!((status, exit), (ExecutionStatus::Exited, Some(3)));
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_written_to_a_terminal_is_lost() {
    let world = World::new().await;
    let sandbox = world.sandbox().await;
    for round in 0..20 {
        let program = Program::Argv(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x"].map(str::to_owned).to_vec());
        let talk = Talk::terminal(&world, sandbox, program).await;
        assert_eq!(talk.end().await, (ExecutionStatus::Exited, Some(0), 300_000), "round {round}");
    }
    // The end of the program is the end of its terminal, whoever else has it open.
    let begun = Instant::now();
    let program = Program::Argv(["sh", "-c", "(trap '' HUP; while :; do echo noise; done) & echo main"].map(str::to_owned).to_vec());
    let talk = Talk::terminal(&world, sandbox, program).await;
    assert_eq!(talk.end().await.0, ExecutionStatus::Exited);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Raw bytes go both ways untouched once the line discipline is told so.
    let program =
        Program::Argv(["sh", "-c", "stty raw -echo; echo go; head -c 256 | od -An -v -tu1 | tr -d ' \\n'"].map(str::to_owned).to_vec());
    let mut talk = Talk::terminal(&world, sandbox, program).await;
    talk.hear("go").await;
    let every: Vec<u8> = (0..=255).collect();
    world.engine.write_stdin(talk.id(), None, every.clone().into()).await.unwrap();
    talk.hear(&every.iter().map(u8::to_string).collect::<String>()).await;
    assert_eq!(talk.end().await.0, ExecutionStatus::Exited);
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_nobody_uses_keeps_no_sandbox_alive() {
    let world = World::new().await;
    let idle_timeout = Some(Duration::from_millis(700));
    let request = || CreateRequest {
        spec: world.spec(),
        time_limits: TimeLimits { idle_timeout, ..TimeLimits::default() },
        ..CreateRequest::default()
    };
    let sandbox = match world.engine.create(request()).await.unwrap() {
        caisson_engine::Created::New(sandbox) => sandbox.id,
        caisson_engine::Created::Existing(_) => unreachable!("it has no name"),
    };
    let mut talk = Talk::terminal(&world, sandbox, Program::LoginShell).await;
    let attached = world.engine.attach(talk.id(), &[(Stream::Stdout, 0)]).await.unwrap();
    assert!(attached.is_terminal());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    talk.say("for i in 1 2 3 4 5 6; do sleep 0.3; echo tick; done; echo at''last\n").await;
    drop(attached);
    // What it says is use as well.
    talk.hear("atlast").await;
    let limit = Instant::now() + PATIENCE;
    let (id, ended) = (talk.id(), talk.end().await);
    assert_eq!(ended.0, ExecutionStatus::Killed);
    while world.backend.count() > 0 {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let record = world.engine.execution(id).await.unwrap().outcome.unwrap();
    assert!(record.message.unwrap().contains("idle_timeout"));
    world.engine.shutdown().await;
    // A program without a terminal is use for as long as it runs.
    let world = World::new().await;
    let request = CreateRequest { spec: world.spec(), ..request() };
    let caisson_engine::Created::New(sandbox) = world.engine.create(request).await.unwrap() else { unreachable!("it has no name") };
    let talk = Talk::begin(&world, sandbox.id, open("sleep 1.5; echo done")).await;
    assert_eq!(talk.end().await, (ExecutionStatus::Exited, Some(0), 5));
    assert_ne!(world.engine.sandbox(sandbox.id).await.unwrap().tombstone.map(|t| t.reason), Some(TombstoneReason::Crashed));
    assert!(matches!(world.engine.sandbox(sandbox.id).await.unwrap().state, State::Running | State::Stopping | State::Ended));
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_waits_for_those_who_are_attached_and_for_nobody_else() {
    let world = World::new().await;
    let sandbox = world.sandbox().await;
    let request = ExecRequest { wait_for_readers: true, timeout: None, terminal: Some(SIZE), ..shell("echo on; read line; yes") };
    let mut talk = Talk::begin(&world, sandbox, request).await;
    talk.hear("on").await;
    let attached = world.engine.attach(talk.id(), &[(Stream::Stdout, 0)]).await.unwrap();
    talk.say("\n").await;
    let mut progress = world.engine.progress(talk.id()).await.unwrap();
    progress.wait_for(|progress| progress.stdout_bytes > 128 << 10).await.unwrap();
    // It comes to rest: as far ahead as it may be.
    let stands = loop {
        let before = progress.borrow_and_update().stdout_bytes;
        if tokio::time::timeout(Duration::from_millis(500), progress.changed()).await.is_err() {
            break before;
        }
    };
    assert!(stands < 512 << 10, "{stands}");
    // Told to stop, it stops, although its last words wait.
    talk.say("\u{3}").await;
    drop(attached);
    let (status, _, written) = talk.end().await;
    assert!(matches!(status, ExecutionStatus::Signaled) && written < 8 << 20, "{status:?} after {written} bytes");

    let request = ExecRequest { wait_for_readers: true, ..shell("head -c 20000000 /dev/zero; echo done >&2") };
    let talk = Talk::begin(&world, sandbox, request).await;
    assert_eq!(talk.end().await, (ExecutionStatus::Exited, Some(0), 20_000_000));
    world.engine.shutdown().await;
}
