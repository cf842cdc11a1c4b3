//! The engine over real agents and a real database.

mod pool;
mod ports;
mod support;
mod talk;

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use caisson_core::{
    BackendError, Error, ExecutionFilter, ExecutionId, ExecutionStatus, SandboxFilter, SandboxId, State, Stream, TimeLimits,
    TombstoneReason,
};
use caisson_engine::{
    ByteStream, CreateRequest, Created, Engine, ExecRequest, ExecutionResult, FileAttributes, InputFile, Program, SandboxUpdate, Stdin,
};
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use support::{World, exec, open, shell};

fn one(content: &'static [u8]) -> ByteStream {
    Box::pin(stream::iter([Ok(Bytes::from_static(content))]))
}

async fn result(world: &World, id: SandboxId, request: ExecRequest) -> ExecutionResult {
    world.engine.exec(id, request).await.unwrap().wait().await.unwrap()
}

fn status(result: &ExecutionResult) -> ExecutionStatus {
    result.execution.status()
}

fn message(result: &ExecutionResult) -> &str {
    result.execution.outcome.as_ref().unwrap().message.as_deref().unwrap_or_default()
}

/// Follows a stream from its beginning to its end.
async fn follow(engine: &Engine, id: ExecutionId, stream: Stream) -> Vec<u8> {
    let mut progress = engine.progress(id).await.unwrap();
    let mut all = Vec::new();
    loop {
        let finished = progress.borrow_and_update().finished;
        while let Some(chunk) = engine.output(id, stream, all.len() as u64, 10_000).await.unwrap() {
            assert_eq!(chunk.offset, all.len() as u64);
            all.extend_from_slice(&chunk.data);
        }
        if finished {
            return all;
        }
        progress.changed().await.ok();
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, code: &str) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_shot_runs_and_leaves_nothing() {
    let world = World::new().await;
    let mut request = world.one_shot(exec(Program::Code {
        language: "python".to_owned(),
        text: "import sys\nprint(open('in.txt').read().upper() + sys.argv[1])\nopen('out/new.txt','w').write('made')\nprint('x', file=sys.stderr)"
            .to_owned(),
        args: vec!["arg".to_owned()],
    }));
    request.files = vec![
        InputFile { path: b"in.txt".to_vec(), content: Bytes::from_static(b"hello"), mode: None },
        InputFile { path: b"out/old.txt".to_vec(), content: Bytes::from_static(b"old"), mode: Some(0o600) },
    ];
    let started = world.engine.run(request).await.unwrap();
    let id = started.execution.id;
    let done = started.wait().await.unwrap();
    assert_eq!((status(&done.result), &done.result.stdout.head[..]), (ExecutionStatus::Exited, &b"HELLOarg\n"[..]), "{:?}", done.result);
    assert_eq!(&done.result.stderr.head[..], b"x\n");
    assert_eq!(done.files.len(), 1, "{:?}", done.files);
    assert!(done.files[0].stat.path.ends_with(b"/out/new.txt"));
    assert_eq!(done.files[0].content.as_deref(), Some(&b"made"[..]));
    let outcome = done.result.execution.outcome.clone().unwrap();
    assert_eq!((outcome.exit_code, outcome.stdout.total_bytes), (Some(0), 9));
    assert!(outcome.duration > Duration::ZERO && outcome.cpu > Duration::ZERO);
    assert_eq!(done.result.execution.argv, ["python3", "main.py", "arg"]);

    assert_eq!(world.engine.execution(id).await.unwrap(), done.result.execution);
    let again = world.engine.result(id).await.unwrap();
    assert_eq!((again.stdout, again.stderr), (done.result.stdout, done.result.stderr));
    let sandbox = done.result.execution.sandbox;
    ended(&world, sandbox, TombstoneReason::Finished).await;
    assert_eq!(world.backend.count(), 0);
    world.engine.shutdown().await;
}

/// Waits until the sandbox has ended, and checks why.
async fn ended(world: &World, id: SandboxId, reason: TombstoneReason) {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let sandbox = world.engine.sandbox(id).await.unwrap();
        if sandbox.state == State::Ended {
            assert_eq!(sandbox.tombstone.unwrap().reason, reason);
            return;
        }
        assert!(Instant::now() < limit, "{sandbox:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_one_shots_at_once() {
    let world = World::new().await;
    let runs = (0..100).map(|n| {
        let request = world.one_shot(shell(&format!("echo {n}")));
        let engine = world.engine.clone();
        async move { engine.run(request).await.unwrap().wait().await.unwrap() }
    });
    for (n, done) in join_all(runs).await.into_iter().enumerate() {
        assert_eq!(done.result.stdout.head, format!("{n}\n"));
    }
    assert!(world.engine.metrics().launches == 100);
    world.engine.shutdown().await;
    assert_eq!(world.backend.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_end_each_in_their_own_way() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let seven = result(&world, id, shell("exit 7")).await;
    assert_eq!((status(&seven), seven.execution.outcome.as_ref().unwrap().exit_code), (ExecutionStatus::Exited, Some(7)));
    let segv = result(&world, id, shell("kill -SEGV $$")).await;
    assert_eq!((status(&segv), segv.execution.outcome.as_ref().unwrap().signal), (ExecutionStatus::Signaled, Some(11)));

    let begun = Instant::now();
    let slow = ExecRequest { timeout: Some(Duration::from_millis(300)), ..shell("(setsid sleep 50 &) ; sleep 50") };
    let slow = result(&world, id, slow).await;
    assert_eq!((status(&slow), message(&slow)), (ExecutionStatus::TimedOut, "timed_out: limit 0.3 s"));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    let loud = ExecRequest { max_output_bytes: Some(100_000), ..shell("yes") };
    let loud = result(&world, id, loud).await;
    assert_eq!((status(&loud), message(&loud)), (ExecutionStatus::OutputLimit, "output_limit: it wrote more than 100000 bytes"));

    // It ends when it is told to, and then the kernel has killed one more.
    let until_told = |end: &str| shell(&format!("trap '{end}' USR1; echo ready; while :; do sleep 0.01; done"));
    for (kills, end, expect, told) in [
        (1, "kill -KILL $$", ExecutionStatus::OutOfMemory, Some("out_of_memory: limit 1 GiB")),
        (1, "kill -KILL $$", ExecutionStatus::Signaled, None),
        (2, "exit 0", ExecutionStatus::Exited, None),
        (2, "kill -KILL $$", ExecutionStatus::Signaled, None),
        (3, "exit 1", ExecutionStatus::Exited, Some("memory: limit 1 GiB, 1 process was killed there")),
    ] {
        let running = world.engine.exec(id, until_told(end)).await.unwrap();
        let execution = running.execution.id;
        world.engine.progress(execution).await.unwrap().wait_for(|p| p.stdout_bytes > 0).await.unwrap();
        world.backend.oom_kills.store(kills, Ordering::Relaxed);
        world.engine.signal(execution, 10).await.unwrap();
        let ended = running.wait().await.unwrap();
        let said = ended.execution.outcome.as_ref().unwrap().message.as_deref();
        assert_eq!((status(&ended), said), (expect, told), "{end} with {kills} in all");
    }

    let running = world.engine.exec(id, shell("sleep 50")).await.unwrap();
    let execution = running.execution.id;
    refused(world.engine.result(execution).await, "execution_running");
    world.engine.kill(execution).await.unwrap();
    assert_eq!(status(&running.wait().await.unwrap()), ExecutionStatus::Killed);
    refused(world.engine.kill(execution).await, "execution_finished");
    let listed = world.engine.executions(&ExecutionFilter { sandbox: id, statuses: Vec::new(), limit: 100, cursor: None }).await.unwrap();
    assert_eq!(listed.data.len(), 10);
    assert_eq!(listed.data[0].id, execution);

    let id = world.sandbox().await;
    let running = world.engine.exec(id, shell("trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.01; done")).await.unwrap();
    let execution = running.execution.id;
    let mut progress = world.engine.progress(execution).await.unwrap();
    if progress.wait_for(|p| p.stdout_bytes > 0).await.is_err() {
        panic!("{:?}", running.wait().await);
    }
    world.engine.signal(execution, 15).await.unwrap();
    let caught = running.wait().await.unwrap();
    assert_eq!((status(&caught), &caught.stdout.head[..]), (ExecutionStatus::Exited, &b"ready\ncaught\n"[..]));
    refused(world.engine.signal(execution, 99).await, "execution_finished");

    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_ends_nothing_that_starts_after_it() {
    let world = World::new().await;
    let id = world.sandbox().await;
    for _ in 0..20 {
        let running = world.engine.exec(id, shell("sleep 50")).await.unwrap();
        world.engine.kill(running.execution.id).await.unwrap();
        assert_eq!(status(&result(&world, id, shell("sleep 0.05; exit 0")).await), ExecutionStatus::Exited);
    }
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_is_explained() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let code = |language: &str| exec(Program::Code { language: language.to_owned(), text: "x".to_owned(), args: vec![] });
    refused(world.engine.exec(id, exec(Program::Argv(vec!["no-such-program".to_owned()]))).await, "program_not_found");
    let unknown = refused(world.engine.exec(id, code("brainfrog")).await, "unknown_language");
    assert!(unknown.to_string().contains("python") && unknown.to_string().contains("bash"), "{unknown}");
    refused(world.engine.exec(id, code("../x")).await, "unknown_language");
    refused(world.engine.exec(id, ExecRequest { cwd: Some("/no/such".to_owned()), ..shell("true") }).await, "invalid_path");
    refused(world.engine.run(world.one_shot(code("brainfrog"))).await, "unknown_language");
    refused(world.engine.exec(SandboxId::random(), shell("true")).await, "not_found");
    assert!(
        world
            .engine
            .executions(&ExecutionFilter { sandbox: id, statuses: Vec::new(), limit: 10, cursor: None })
            .await
            .unwrap()
            .data
            .is_empty()
    );
    world.engine.shutdown().await;
    refused(world.engine.run(world.one_shot(shell("true"))).await, "unavailable");
    refused(world.engine.ready().await, "unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_and_output_are_exact_to_the_byte() {
    let world = World::with(|config| {
        config.inline_output_bytes = 10_000;
        config.log_bytes = 3_000_000;
    })
    .await;
    let id = world.sandbox().await;
    let input: Vec<u8> = (0..2_500_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let request = ExecRequest { stdin: Stdin::Bytes(input.clone().into()), ..shell("cat; echo err >&2") };
    let running = world.engine.exec(id, request).await.unwrap();
    let execution = running.execution.id;
    let (followed, done) = tokio::join!(follow(&world.engine, execution, Stream::Stdout), running.wait());
    let done = done.unwrap();
    assert!(followed == input, "{} of {} bytes", followed.len(), input.len());
    assert_eq!((done.stdout.total_bytes, done.stdout.head.len(), done.stdout.tail.len()), (2_500_000, 5000, 5000));
    assert!(done.stdout.truncated() && input.starts_with(&done.stdout.head) && input.ends_with(&done.stdout.tail));
    assert!(follow(&world.engine, execution, Stream::Stdout).await == input, "from the files");
    assert_eq!(follow(&world.engine, execution, Stream::Stderr).await, b"err\n");
    assert_eq!(world.engine.result(execution).await.unwrap().stdout, done.stdout);

    let flood = result(&world, id, shell("head -c 20000000 /dev/zero; printf end")).await;
    let totals = flood.execution.outcome.as_ref().unwrap().stdout;
    assert_eq!((status(&flood), totals.total_bytes, totals.dropped_bytes), (ExecutionStatus::Exited, 20_000_003, 17_000_003));
    let hole = world.engine.output(flood.execution.id, Stream::Stdout, 5_000_000, 10).await.unwrap().unwrap();
    assert_eq!(hole.offset, 20_000_003 - 1_500_000);
    let last = world.engine.output(flood.execution.id, Stream::Stdout, 20_000_000, 100).await.unwrap().unwrap();
    assert_eq!(&last.data[..], b"end");

    let (send, receive) = tokio::sync::mpsc::channel(1);
    let running =
        world.engine.exec(id, ExecRequest { stdin: Stdin::Stream(receive), ..shell("read a; read b; echo $b $a") }).await.unwrap();
    send.send(Bytes::from_static(b"first\nsec")).await.unwrap();
    send.send(Bytes::from_static(b"ond\n")).await.unwrap();
    assert_eq!(running.wait().await.unwrap().stdout.head, &b"second first\n"[..]);
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_changes_nothing() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let execution = world.engine.exec(id, shell("sleep 0.2; echo done")).await.unwrap().execution.id;
    assert_eq!(follow(&world.engine, execution, Stream::Stdout).await, b"done\n");
    assert_eq!(world.engine.execution(execution).await.unwrap().status(), ExecutionStatus::Exited);

    let request = CreateRequest { name: Some("half".to_owned()), spec: world.spec(), ..CreateRequest::default() };
    let abandoned = tokio::time::timeout(Duration::from_micros(1), world.engine.create(request.clone())).await;
    assert!(abandoned.is_err(), "it was not abandoned");
    let Created::Existing(whole) = world.engine.create(request).await.unwrap() else { panic!("the abandoned one was not finished") };
    assert_eq!(whole.state, State::Running);
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_means_one_living_sandbox() {
    let world = World::with(|config| (config.max_sandboxes, config.queue_wait) = (2, Duration::ZERO)).await;
    let request = CreateRequest { name: Some("box".to_owned()), spec: world.spec(), ..CreateRequest::default() };
    let (a, b) = tokio::join!(world.engine.create(request.clone()), world.engine.create(request.clone()));
    let (a, b) = (a.unwrap(), b.unwrap());
    let id = |created: &Created| match created {
        Created::New(sandbox) | Created::Existing(sandbox) => sandbox.id,
    };
    assert_eq!(id(&a), id(&b));
    assert_eq!([&a, &b].iter().filter(|created| matches!(created, Created::New(_))).count(), 1);

    world.sandbox().await;
    let full = refused(world.engine.create(CreateRequest { spec: world.spec(), ..CreateRequest::default() }).await, "unavailable");
    assert!(full.to_string().contains('2'), "{full}");
    assert!(matches!(world.engine.create(request.clone()).await.unwrap(), Created::Existing(_)), "existing ones take no room");

    let (first, second) = tokio::join!(world.engine.destroy(id(&a)), world.engine.destroy(id(&a)));
    assert_eq!((first.unwrap().state, second.unwrap().state), (State::Ended, State::Ended));
    let gone = refused(world.engine.destroy(id(&a)).await, "gone");
    assert!(matches!(gone, Error::Gone { tombstone, .. } if tombstone.reason == TombstoneReason::Deleted));
    refused(world.engine.exec(id(&a), shell("true")).await, "gone");
    let Created::New(next) = world.engine.create(request).await.unwrap() else { panic!("the old one has ended") };
    assert_ne!(next.id, id(&a));

    let living = SandboxFilter { states: vec![State::Running], limit: 10, ..SandboxFilter::default() };
    assert_eq!(world.engine.sandboxes(&living).await.unwrap().data.len(), 2);
    let dead = SandboxFilter { states: vec![State::Ended], limit: 10, ..SandboxFilter::default() };
    assert_eq!(world.engine.sandboxes(&dead).await.unwrap().data.len(), 1);
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifetime_and_idle_time_are_two_things() {
    let world = World::new().await;
    let with = |lifetime: Option<u64>, idle: Option<u64>| CreateRequest {
        spec: world.spec(),
        time_limits: TimeLimits { lifetime: lifetime.map(Duration::from_millis), idle_timeout: idle.map(Duration::from_millis) },
        ..CreateRequest::default()
    };
    let make = async |request| match world.engine.create(request).await.unwrap() {
        Created::New(sandbox) | Created::Existing(sandbox) => sandbox.id,
    };
    let mortal = make(with(Some(700), None)).await;
    let lazy = make(with(None, Some(300))).await;
    let extended = make(with(Some(700), None)).await;
    let update = SandboxUpdate {
        lifetime: Some(None),
        metadata: Some(BTreeMap::from([("a".to_owned(), "b".to_owned())])),
        ..SandboxUpdate::default()
    };
    let updated = world.engine.update(extended, update).await.unwrap();
    assert_eq!((updated.time_limits.lifetime, updated.metadata.len()), (None, 1));

    // Running longer than the idle time is not being idle.
    let busy = result(&world, lazy, shell("sleep 0.8; echo awake")).await;
    assert_eq!((status(&busy), &busy.stdout.head[..]), (ExecutionStatus::Exited, &b"awake\n"[..]));
    let running = world.engine.exec(mortal, shell("sleep 50")).await;
    if let Ok(running) = running {
        let cut = running.wait().await.unwrap();
        assert_eq!(status(&cut), ExecutionStatus::Killed);
        assert!(message(&cut).contains("lifetime of 0.7 s"), "{}", message(&cut));
    }
    tokio::time::sleep(Duration::from_millis(900)).await;
    for (id, reason) in [(mortal, TombstoneReason::Lifetime), (lazy, TombstoneReason::IdleTimeout)] {
        let gone = refused(world.engine.exec(id, shell("true")).await, "gone");
        assert!(matches!(gone, Error::Gone { tombstone, .. } if tombstone.reason == reason));
    }
    assert_eq!(world.engine.sandbox(extended).await.unwrap().state, State::Running);
    world.engine.shutdown().await;
    ended(&world, extended, TombstoneReason::ServerStopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_death_has_its_reason() {
    let world = World::new().await;
    let crashing = world.sandbox().await;
    let running = world.engine.exec(crashing, shell("echo before; sleep 50")).await.unwrap();
    let mut progress = world.engine.progress(running.execution.id).await.unwrap();
    progress.wait_for(|p| p.stdout_bytes == 7).await.unwrap();
    world.backend.crash(crashing);
    let lost = running.wait().await.unwrap();
    assert_eq!((status(&lost), &lost.stdout.head[..]), (ExecutionStatus::Lost, &b"before\n"[..]), "{lost:?}");
    ended(&world, crashing, TombstoneReason::Crashed).await;

    let hungry = world.sandbox().await;
    let running = world.engine.exec(hungry, shell("sleep 50")).await.unwrap();
    world.backend.oom_kills.store(1, Ordering::Relaxed);
    world.backend.crash(hungry);
    let starved = running.wait().await.unwrap();
    assert_eq!((status(&starved), message(&starved)), (ExecutionStatus::OutOfMemory, "out_of_memory: limit 1 GiB"));
    ended(&world, hungry, TombstoneReason::OutOfMemory).await;

    let doomed = world.sandbox().await;
    let running = world.engine.exec(doomed, shell("sleep 50")).await.unwrap();
    let execution = running.execution.id;
    world.engine.destroy(doomed).await.unwrap();
    let recorded = world.engine.execution(execution).await.unwrap();
    assert_eq!(recorded.status(), ExecutionStatus::Killed, "recorded before destroy returns");
    assert_eq!(running.wait().await.unwrap().execution, recorded);

    for (error, code) in [
        (BackendError::Unsupported("no".to_owned()), "unsupported"),
        (BackendError::Exhausted("no room".to_owned()), "unavailable"),
        (BackendError::Failed("at the third step".to_owned()), "internal"),
    ] {
        *world.backend.refuse.lock().unwrap() = Some(error);
        refused(world.engine.create(CreateRequest { spec: world.spec(), ..CreateRequest::default() }).await, code);
        refused(world.engine.run(world.one_shot(shell("true"))).await, code);
    }
    assert_eq!(world.engine.metrics().launch_failures, 6);
    world.engine.shutdown().await;
    assert_eq!(world.backend.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_go_in_and_out() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let stat = world
        .engine
        .write_file(id, b"a/b c%.txt", FileAttributes { mode: Some(0o640), modified_at: Some(jiff::Timestamp::UNIX_EPOCH) }, one(b"hello"))
        .await
        .unwrap();
    assert_eq!((stat.size, stat.mode), (5, 0o640));
    assert!(stat.path.ends_with(b"/a/b c%.txt"));
    assert_eq!(world.engine.stat_file(id, b"a/b c%.txt").await.unwrap(), stat);
    let (_, content) = world.engine.read_file(id, &stat.path, 1, Some(3)).await.unwrap();
    assert_eq!(content.try_collect::<Vec<_>>().await.unwrap().concat(), b"ell");

    let large: Vec<Bytes> = (0..64u8).map(|n| Bytes::from(vec![n; 256 << 10])).collect();
    let body: ByteStream = Box::pin(stream::iter(large.clone()).map(Ok));
    world.engine.write_file(id, b"large", FileAttributes::default(), body).await.unwrap();
    let (stat, content) = world.engine.read_file(id, b"large", 0, None).await.unwrap();
    assert_eq!(stat.size, 16 << 20);
    assert!(content.try_collect::<Vec<_>>().await.unwrap().concat() == large.concat());

    let broken: ByteStream = Box::pin(stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))]));
    refused(world.engine.write_file(id, b"half", FileAttributes::default(), broken).await, "upload_failed");
    refused(world.engine.stat_file(id, b"half").await, "not_found");

    // What the broken one had begun goes when the agent hears that it broke.
    let limit = Instant::now() + Duration::from_secs(5);
    let listing = loop {
        let listing = world.engine.list_files(id, b".", 2, 100, None).await.unwrap();
        if listing.entries.len() <= 3 || Instant::now() > limit {
            break listing;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((listing.entries.len(), &listing.next), (3, &None), "{listing:?}");
    let page = world.engine.list_files(id, b".", 2, 1, None).await.unwrap();
    let rest = world.engine.list_files(id, b".", 2, 100, page.next.as_deref()).await.unwrap();
    assert_eq!([page.entries, rest.entries].concat(), listing.entries);
    refused(world.engine.delete_file(id, b"a", false).await, "directory_not_empty");
    world.engine.delete_file(id, b"a", true).await.unwrap();
    refused(world.engine.delete_file(id, b"a", true).await, "not_found");
    refused(world.engine.write_file(id, b"a\0", FileAttributes::default(), one(b"")).await, "invalid_path");
    assert!(world.engine.usage(id).await.is_ok());
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_of_the_server_the_records_tell_the_truth() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let done = result(&world, id, shell("echo kept")).await;
    let running = world.engine.exec(id, shell("echo partly; sleep 50")).await.unwrap();
    let execution = running.execution.id;
    // Output waits for the disk half a second at most.
    tokio::time::sleep(Duration::from_millis(900)).await;

    // Another server on the same records, while the first is still there: the same as after `kill -9`.
    assert!(world.database().exists());
    let config = caisson_engine::EngineConfig::new(world.dir.path().join("data"));
    let after = open(config, world.backend.clone()).await;
    let sandbox = after.sandbox(id).await.unwrap();
    assert_eq!((sandbox.state, sandbox.tombstone.unwrap().reason), (State::Ended, TombstoneReason::ServerLost));
    assert_eq!(world.backend.count(), 0, "what was left is destroyed");
    assert_eq!(after.result(done.execution.id).await.unwrap().stdout, done.stdout);
    let lost = after.result(execution).await.unwrap();
    assert_eq!((status(&lost), &lost.stdout.head[..]), (ExecutionStatus::Lost, &b"partly\n"[..]));
    assert_eq!(follow(&after, execution, Stream::Stdout).await, b"partly\n");
    drop(running);
}

/// Not only at the next start, and with all that belongs to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_go_when_their_time_is_over() {
    let world = World::with(|config| config.retention = Duration::from_millis(300)).await;
    let ran = world.engine.run(world.one_shot(shell("echo x"))).await.unwrap().wait().await.unwrap();
    let (id, logs) = (ran.result.execution.id, world.dir.path().join("data/executions"));
    let begun = Instant::now();
    while world.engine.execution(id).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(20), "its record is kept for ever");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let left = || {
        let shards = std::fs::read_dir(&logs).into_iter().flatten().flatten();
        shards.flat_map(|shard| std::fs::read_dir(shard.path()).into_iter().flatten().flatten()).count()
    };
    while left() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "its output is kept for ever");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.engine.shutdown().await;
}
