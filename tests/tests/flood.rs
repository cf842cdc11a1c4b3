//! Far more at once than a sandbox and its agent can take: each request gets its answer, what is abandoned gives its place back, and nobody
//! else waits.

use std::{
    fs,
    io::Read,
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{Process, Sandbox, Server, allowed, eventually, json};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many at once.
const FLOOD: usize = 10_000;

/// Each connection is a descriptor.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("a limit may be raised to the hard one");
}

/// Reads an answer to its end; its status.
#[track_caller]
fn status_of(mut stream: TcpStream) -> u16 {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer comes and ends");
    let head = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
    head.strip_prefix("HTTP/1.1 ").and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head:?} is no answer"))
}

/// Says that something is over when it is, also when that is because it failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Uses another sandbox for as long as `work` takes. Its slowest answer, and how many there were.
fn while_another_is_used<T>(another: &Sandbox<'_>, work: impl FnOnce() -> T) -> (T, Duration, usize) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let using = scope.spawn(|| {
            let (mut slowest, mut count) = (Duration::ZERO, 0);
            while !over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                assert_eq!(another.shell("echo fine"), "fine\n");
                assert_eq!(another.read(b"/etc/hostname").expect(200).text(), "sandbox\n");
                slowest = slowest.max(begin.elapsed());
                count += 1;
            }
            (slowest, count)
        });
        let ends = Over(&over);
        let done = work();
        drop(ends);
        let (slowest, count) = using.join().expect("another sandbox goes on");
        (done, slowest, count)
    })
}

#[track_caller]
fn was_served(slowest: Duration, count: usize) {
    assert!(count > 0 && slowest < allowed(Duration::from_secs(5)), "another sandbox was used {count} times, the slowest took {slowest:?}");
}

fn descriptors(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid)).map_or(0, Iterator::count)
}

#[test]
fn r4_8_ten_thousand_executions_at_once_are_bounded_and_another_sandbox_answers() {
    raise_open_files();
    let server = Server::start();
    let (flooded, another) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let before = server.process().resident();
    let body = json!({"cmd": ["sleep", "1"]}).to_string();
    let (statuses, slowest, count) = while_another_is_used(&another, || {
        let asked: Vec<TcpStream> = (0..FLOOD).map(|_| flooded.request("POST", "/exec").begin(body.len(), body.as_bytes())).collect();
        asked.into_iter().map(status_of).collect::<Vec<u16>>()
    });
    let of = |status: u16| statuses.iter().filter(|have| **have == status).count();
    assert_eq!(of(200) + of(429), FLOOD, "{} ran, {} were refused; others: {:?}", of(200), of(429), {
        let mut others: Vec<_> = statuses.iter().filter(|status| ![200, 429].contains(*status)).collect();
        others.dedup();
        others
    });
    assert!(of(200) >= 100 && of(429) >= 100, "{} ran, {} were refused", of(200), of(429));
    was_served(slowest, count);
    assert_eq!(flooded.shell("echo fine"), "fine\n");
    flooded.is_empty_of_others();
    let grown = server.process().resident().saturating_sub(before);
    assert!(grown < 512 << 20, "the server grew by {grown} bytes");
    server.finish();
}

#[test]
fn r4_8_a_flood_of_requests_of_all_kinds_is_answered() {
    let server = Server::start();
    let (flooded, another) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let _made = flooded.shell("mkdir d; seq 200 | (cd d; xargs touch)");
    let (answers, slowest, count) = while_another_is_used(&another, || {
        let begin = Instant::now();
        thread::scope(|scope| {
            let floods: Vec<_> = (0..64usize)
                .map(|n| {
                    let flooded = flooded.clone();
                    scope.spawn(move || {
                        let mut answers = 0;
                        while begin.elapsed() < Duration::from_secs(5) {
                            let name = format!("d/{}", n % 7);
                            let answer = match (n + answers) % 7 {
                                0 => flooded.write(name.as_bytes(), &[b'x'; 50_000]),
                                1 => flooded.read(name.as_bytes()),
                                2 => flooded.request("GET", "/files/list?path=.&depth=2").send(),
                                3 => flooded.request("GET", &format!("/files/stat?path={name}")).send(),
                                4 => flooded.request("DELETE", &format!("/files?path={name}")).send(),
                                5 => flooded.try_exec(&json!({"shell": "echo $$; sleep 0.05"})),
                                _ => flooded.try_exec(&json!({"cmd": ["no-such-program"]})),
                            };
                            assert!(answer.status < 500, "{} {}", answer.status, answer.text());
                            answers += 1;
                        }
                        answers
                    })
                })
                .collect();
            floods.into_iter().map(|flood| flood.join().expect("every request is answered")).collect::<Vec<usize>>()
        })
    });
    assert!(answers.iter().all(|count| *count > 0), "some got nothing: {answers:?}");
    was_served(slowest, count);
    flooded.is_empty_of_others();
    server.finish();
}

/// Requests whose other side has stopped speaking, and answers whose other side has stopped listening.
#[test]
fn r4_8_half_closed_and_abandoned_streams_give_their_places_back() {
    raise_open_files();
    let server = Server::start();
    let (flooded, another) = (server.sandbox(&json!({})), server.sandbox(&json!({})));
    let _made = flooded.shell("head -c 20000000 /dev/zero > large");
    let agent = flooded.agent();
    eventually("the agent to be alone", Duration::from_secs(5), || flooded.others().is_empty().then_some(()));
    let before = (descriptors(&agent), descriptors(&server.process()));
    let ((), slowest, count) = while_another_is_used(&another, || {
        for round in 0..3 {
            let program = json!({"shell": "cat; echo done", "stdin": "x".repeat(10_000)}).to_string();
            let mut open: Vec<TcpStream> = Vec::new();
            for n in 0..200 {
                // Announced, begun, and never to be complete.
                open.push(flooded.request("PUT", &format!("/files?path=upload{n}")).begin(1 << 20, &[b'x'; 1000]));
                // Complete, from somebody who says no more and, half of the time, does not listen either.
                let events = flooded.request("POST", "/exec").header("accept", "text/event-stream");
                open.push(events.begin(program.len(), program.as_bytes()));
                open.push(flooded.request("GET", "/files?path=large").begin(0, b""));
            }
            for (n, stream) in open.iter().enumerate() {
                let how = if n % 2 == 0 { Shutdown::Write } else { Shutdown::Both };
                // Whoever was refused may have been hung up on already.
                drop(stream.shutdown(how));
            }
            if round == 1 {
                // Held for a while, half-closed as they are.
                thread::sleep(Duration::from_secs(2));
            }
        }
    });
    was_served(slowest, count);
    eventually("every place to be free again", Duration::from_secs(20), || {
        let quiet = flooded.try_exec(&json!({"cmd": ["true"]})).status == 200 && flooded.others().is_empty();
        let after = (descriptors(&agent), descriptors(&server.process()));
        // Threads for files stay, and so do a few connections to the database.
        (quiet && after.0 <= before.0 + 4 && after.1 <= before.1 + 16).then_some(())
    });
    assert_eq!(flooded.shell("ls -A"), "large\n", "nothing of what was not complete");
    server.finish();
}
