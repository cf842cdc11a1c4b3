//! What an agent sends, through the engine: its own sandbox may end by it, and nothing else may happen. Whatever the engine says of it is
//! bounded, in time and in words.
#![no_main]

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use arbitrary::Arbitrary;
use bytes::{BufMut, Bytes, BytesMut};
use caisson_core::{ExecutionStatus, FileStat, Result, SandboxId, SandboxSpec, State, TimeLimits, TombstoneReason};
use caisson_engine::{
    ByteStream, Captured, Engine, ExecRequest, ExecutionResult, FileAttributes, GrepRequest, InputFile, Program, RunRequest,
};
use caisson_fuzz::{
    script::{Answer, End},
    world::{Play, World, create, exec_request, in_time},
};
use caisson_wire::frame::{Decoder, Frame, Kind};
use futures::{StreamExt, stream};
use libfuzzer_sys::fuzz_target;

/// A program without a time-out, whose agent says nothing more, is given up after this.
const LONG_ENOUGH: Duration = Duration::from_secs(100);
const LIMIT: u64 = 1000;

#[derive(Debug, Arbitrary)]
enum Input {
    /// In a sandbox that stays.
    Ask(Question, Answer),
    Run(Box<OneShot>),
    /// One-shot over a stream that need not even be HTTP/2.
    Garbage(Vec<Http2>, End),
}

/// First a file is put in, then the program runs, then the changed files are read.
#[derive(Debug, Arbitrary)]
struct OneShot {
    put: Answer,
    exec: Answer,
    read: Answer,
}

#[derive(Debug, Arbitrary)]
enum Question {
    Exec {
        timeout: bool,
        limit: bool,
    },
    /// Code in a language for which the agent is asked first what there is.
    Code,
    Stat,
    List {
        limit: u8,
    },
    Read {
        length: Option<u16>,
    },
    Write {
        pieces: u8,
    },
    Delete,
    Glob,
    Grep {
        max_matches: u8,
    },
    Copy,
    Watch,
}

/// A piece of the stream itself (RFC 9113 §4.1).
#[derive(Debug, Arbitrary)]
enum Http2 {
    Raw(Vec<u8>),
    Frame {
        kind: u8,
        flags: u8,
        stream: u8,
        payload: Vec<u8>,
    },
    Settings,
    /// Status 200 on this stream.
    Good {
        stream: u8,
    },
    Data {
        stream: u8,
        answer: Answer,
    },
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fuzz_target!(|input: Input| match input {
    Input::Ask(question, answer) => ask(&question, answer),
    Input::Run(one_shot) => {
        let OneShot { put, exec, read } = *one_shot;
        let answers = move |uri: &http::Uri| {
            let is_put = uri.query().is_some_and(|query| query.starts_with("path=/workspace/put"));
            Some(if uri.path() == "/exec" {
                exec.clone()
            } else if is_put {
                put.clone()
            } else {
                read.clone()
            })
        };
        run(Play::Answers(Arc::new(answers)));
    }
    Input::Garbage(pieces, end) => {
        let mut stream = BytesMut::new();
        for piece in &pieces {
            piece.put(&mut stream);
        }
        run(Play::Bytes(stream.freeze(), end));
    }
});

fn ask(question: &Question, answer: Answer) {
    let told = said(&answer);
    let play = Play::Answers(Arc::new(move |_| Some(answer.clone())));
    WORLD.play(play, async |engine: &Engine| {
        let id = create(engine, TimeLimits::default()).await.expect("its health is good");
        let result = put_question(engine, id, question, &told).await;
        let sandbox = engine.sandbox(id).await;
        match (result, sandbox.as_ref().map(|sandbox| sandbox.state)) {
            (Ok(()), Ok(State::Running | State::Stopping | State::Ended)) => {}
            (Err(error), Ok(state)) => {
                tame(&error.to_string());
                // An agent has no way to make us look broken.
                assert_ne!(error.code(), "internal", "{error}");
                assert_eq!(error.code() == "gone", state != State::Running, "{state:?}: {error}");
            }
            (result, state) => panic!("{result:?} of a sandbox that is {state:?}"),
        }
        if let Some(tombstone) = sandbox.ok().and_then(|sandbox| sandbox.tombstone) {
            // By what its agent did, or by us, when it did nothing for too long.
            assert!(matches!(tombstone.reason, TombstoneReason::Crashed | TombstoneReason::Deleted), "{tombstone}");
            tame(&tombstone.message);
        }
    });
}

async fn put_question(engine: &Engine, id: SandboxId, question: &Question, told: &Told) -> Result<()> {
    match *question {
        Question::Exec { timeout, limit } => {
            let request = exec_request(timeout.then_some(Duration::from_secs(1)), limit.then_some(LIMIT));
            executed(engine, id, request, told).await?;
        }
        Question::Code => {
            let program = Program::Code { language: "typescript".to_owned(), text: String::new(), args: Vec::new() };
            executed(engine, id, ExecRequest { program, ..exec_request(None, None) }, told).await?;
        }
        Question::Stat => possible(&engine.stat_file(id, b"file").await?),
        Question::List { limit } => {
            let limit = u32::from(limit).max(1);
            let listing = engine.list_files(id, b"/", 3, limit, None).await?;
            assert!(listing.entries.len() <= limit as usize);
            listing.entries.iter().for_each(possible);
        }
        Question::Read { length } => {
            let length = length.map(u64::from);
            let (stat, content) = engine.read_file(id, b"file", 5, length).await?;
            possible(&stat);
            let read = async {
                let pieces: Vec<_> = content.take(10_000).collect().await;
                let errors = pieces.iter().filter(|piece| piece.is_err()).count();
                assert!(
                    errors == 0 || errors == 1 && pieces.last().is_some_and(std::result::Result::is_err),
                    "after an error there is nothing"
                );
                pieces.into_iter().flatten().map(|piece| piece.len() as u64).sum::<u64>()
            };
            let count = in_time("a file", read).await;
            assert!(length.is_none_or(|length| count <= length));
        }
        Question::Write { pieces } => {
            let content: ByteStream = Box::pin(stream::iter((0..pieces).map(|byte| Ok(Bytes::from(vec![byte; 1000])))));
            possible(&engine.write_file(id, b"file", FileAttributes { mode: Some(0o600), modified_at: None }, content).await?);
        }
        Question::Delete => engine.delete_file(id, b"file", true).await?,
        Question::Glob => {
            let listing = engine.glob_files(id, b"/workspace", b"**", 5, None).await?;
            assert!(listing.entries.len() <= 5 && listing.entries.iter().all(|entry| entry.path.starts_with(b"/workspace")));
        }
        Question::Grep { max_matches } => {
            let request = GrepRequest {
                pattern: "a".to_owned(),
                literal: false,
                ignore_case: false,
                include: Vec::new(),
                exclude: Vec::new(),
                context: 1,
                max_matches: u32::from(max_matches).max(1),
                max_bytes: 1,
                max_time: Duration::from_secs(1),
            };
            let found = engine.grep_files(id, b"/", &request).await?;
            assert!(found.matches.len() <= request.max_matches as usize);
            for hit in found.matches {
                assert!(hit.spans.iter().all(|(first, last)| hit.line.text.get(*first as usize..*last as usize).is_some()));
            }
        }
        Question::Copy => {
            let (stat, made) = engine.copy_file(id, b"file", b"copy", false).await?;
            possible(&stat);
            made.left_out.iter().for_each(|left| tame(&left.why));
        }
        Question::Watch => {
            let mut events = engine.watch_files(id, b"/workspace", true).await?;
            let watched = async {
                for _ in 0..1000 {
                    match tokio::time::timeout(LONG_ENOUGH, events.next()).await {
                        Ok(Some(Ok(event))) => assert!(event.path.starts_with(b"/workspace")),
                        Ok(Some(Err(error))) => {
                            assert!(events.next().await.is_none(), "after an error there is nothing");
                            return Err(error);
                        }
                        // Nothing happens, or nobody says anything more.
                        Ok(None) | Err(_) => break,
                    }
                }
                Ok(())
            };
            watched.await?;
        }
    }
    Ok(())
}

async fn executed(engine: &Engine, id: SandboxId, request: ExecRequest, told: &Told) -> Result<()> {
    let running = engine.exec(id, request).await?;
    let waiting = running.wait();
    let mut waiting = std::pin::pin!(waiting);
    let result = match tokio::time::timeout(LONG_ENOUGH, &mut waiting).await {
        Ok(result) => result?,
        Err(_) => {
            engine.destroy(id).await?;
            in_time("the end of a program whose sandbox has ended", waiting).await?
        }
    };
    plausible(&result);
    let outcome = result.execution.outcome.as_ref().expect("it has ended");
    let written = (outcome.stdout.total_bytes, outcome.stderr.total_bytes);
    match outcome.status {
        // All that came before a good end, to the byte.
        ExecutionStatus::Exited | ExecutionStatus::Signaled => assert_eq!(written, told.written),
        _ => assert!(written.0 <= told.written.0 && written.1 <= told.written.1),
    }
    Ok(())
}

fn run(play: Play) {
    WORLD.play(play, async |engine: &Engine| {
        let request = RunRequest {
            spec: SandboxSpec::default(),
            metadata: BTreeMap::new(),
            files: vec![InputFile { path: b"put".to_vec(), content: Bytes::from_static(b"content"), mode: None }],
            exec: exec_request(Some(Duration::from_secs(1)), Some(LIMIT)),
            max_file_bytes: 1 << 20,
        };
        let result = async { engine.run(request).await?.wait().await };
        match result.await {
            Ok(done) => {
                plausible(&done.result);
                for file in &done.files {
                    possible(&file.stat);
                    assert!(file.content.as_ref().is_none_or(|content| content.len() as u64 == file.stat.size));
                }
                let contents: usize = done.files.iter().filter_map(|file| file.content.as_ref()).map(Bytes::len).sum();
                assert!(contents <= 1 << 20);
            }
            Err(error) => tame(&error.to_string()),
        }
    });
}

/// What the answer says, up to the first thing that cannot be understood.
struct Told {
    written: (u64, u64),
}

fn said(answer: &Answer) -> Told {
    let (mut decoder, mut written) = (Decoder::default(), (0, 0));
    answer.parts().iter().for_each(|part| decoder.push(part));
    while let Ok(Some(Frame { kind, payload })) = decoder.next_frame() {
        match kind {
            Kind::Stdout => written.0 += payload.len() as u64,
            Kind::Stderr => written.1 += payload.len() as u64,
            Kind::Started | Kind::InputClosed => {}
            // Nothing was sent to it, so nothing else can have been taken.
            Kind::InputTaken if payload[..] == [0; 4] => {}
            _ => break,
        }
    }
    Told { written }
}

fn plausible(result: &ExecutionResult) {
    let outcome = result.execution.outcome.as_ref().expect("it has ended");
    assert_ne!(outcome.status, ExecutionStatus::Running);
    if let Some(message) = &outcome.message {
        tame(message);
    }
    assert!(outcome.exit_code.is_none_or(|code| (0..=255).contains(&code)));
    assert!(outcome.signal.is_none_or(|signal| (1..=64).contains(&signal)));
    let kept = |captured: &Captured| (captured.head.len() + captured.tail.len()) as u64;
    for (captured, totals) in [(&result.stdout, outcome.stdout), (&result.stderr, outcome.stderr)] {
        assert_eq!(captured.total_bytes, totals.total_bytes);
        assert!(kept(captured) <= totals.total_bytes && kept(captured) <= 1 << 20);
    }
    result.execution.argv.iter().for_each(|argument| tame(argument));
}

fn possible(stat: &FileStat) {
    let path = |path: &[u8]| !path.is_empty() && path.len() <= 4096 && !path.contains(&0);
    assert!(path(&stat.path) && stat.path.starts_with(b"/") && stat.target.as_deref().is_none_or(path), "{stat:?}");
    assert!(stat.mode <= 0o7777);
}

/// Words that end up on terminals and in logs.
fn tame(text: &str) {
    assert!(text.len() < 20_000 && !text.chars().any(char::is_control), "{text:?}");
}

impl Http2 {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Frame { kind, flags, stream, payload } => frame(*kind, *flags, *stream, payload, out),
            Self::Settings => frame(4, 0, 0, &[], out),
            // Indexed field 8 of HPACK's static table.
            Self::Good { stream } => frame(1, 4, *stream, &[0x88], out),
            Self::Data { stream, answer } => {
                for part in answer.parts() {
                    for piece in part.chunks(16 << 10) {
                        frame(0, 0, *stream, piece, out);
                    }
                }
                if answer.end == End::InOrder {
                    frame(0, 1, *stream, &[], out);
                }
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8], out: &mut BytesMut) {
    let length = u32::try_from(payload.len()).expect("inputs are short");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(u32::from(stream));
    out.extend_from_slice(payload);
}
