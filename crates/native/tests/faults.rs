//! Whoever dies or whatever fails at whichever stage of a launch: nothing is left of it, it is told, and afterwards sandboxes can be made
//! and the records tell the truth. The program that is made to suffer is `examples/faulty.rs`.
//!
//! Needs root. The checks look at the whole host, so the tests take turns.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use caisson_native::Stage;
use caisson_tests::{Host, Process, Value, allowed, eventually, kill_nine};
use tempfile::TempDir;

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Roots of images need a disk: before Linux 6.3 a tmpfs, which `/tmp` may be, shows no owners mapped.
fn on_disk() -> TempDir {
    TempDir::new_in("/var/tmp").unwrap()
}

/// Those that run before there is a plan, and so before the server has started.
const PARKING: [Stage; 6] =
    [Stage::Cgroup, Stage::Clone, Stage::EnterCgroup, Stage::Propagation, Stage::Surroundings, Stage::UserNamespace];

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let places = test.ancestors().skip(1).take(3).map(|directory| directory.join("examples/faulty"));
    places.into_iter().find(|path| path.is_file()).expect("cargo builds examples before tests")
}

/// A running `faulty`.
struct Faulty {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Faulty {
    fn start(data: &TempDir, fault: &[&str]) -> Self {
        let mut child = Command::new(program())
            .arg(data.path())
            .args(fault)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, stdin, lines: BufReader::new(stdout) }
    }

    /// One whose launches stand still at this stage, on data of its own, and the host before it.
    fn held(stage: Stage) -> (Self, TempDir, Host) {
        let (data, before) = (on_disk(), Host::now());
        (Self::start(&data, &[&format!("{stage:?}"), "hold"]), data, before)
    }

    /// Ends it with `kill -9`.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The next thing that it says.
    #[track_caller]
    fn says(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.parse().unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    /// The process that stands still at the stage.
    #[track_caller]
    fn standing_at(&self, stage: Stage) -> Process {
        eventually(&format!("somebody at {stage:?}"), Duration::from_secs(20), || {
            self.below().into_iter().find(|process| process.name == stage.mark())
        })
    }

    fn below(&self) -> Vec<Process> {
        Process::below(self.child.id())
    }

    /// Lets it end in order.
    #[track_caller]
    fn finish(mut self) {
        drop(self.stdin.take());
        let begin = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < allowed(Duration::from_secs(20)), "it does not end: {:#?}", self.below());
            thread::sleep(Duration::from_millis(5));
        }
        assert!(self.child.wait().unwrap().success());
    }
}

#[track_caller]
fn host_is_as(before: &Host, what: &str) {
    Host::is_as_before(before).unwrap_or_else(|left| panic!("{what}: left behind:\n  {}", left.join("\n  ")));
}

/// A start without a fault on what the one before has left: the records are all of sandboxes that have ended, and new ones can be made.
#[track_caller]
fn truth_afterwards(data: &TempDir, what: &str) -> Vec<Value> {
    let mut whole = Faulty::start(data, &[]);
    let started = whole.says();
    assert_eq!(started["start"], "done", "{what}: {started}");
    for record in started["records"].as_array().unwrap() {
        assert_eq!(record[0], "ended", "{what}: {started}");
    }
    for _ in 0..2 {
        assert_eq!(whole.says()["sandbox"], "running", "{what}");
    }
    whole.finish();
    started["records"].as_array().unwrap().iter().map(|record| record[1].clone()).collect()
}

#[test]
fn r7_1_kill_nine_of_the_server_at_every_stage_of_a_launch_leaves_nothing() {
    let _turn = turn();
    for stage in Stage::ALL {
        let what = format!("server killed at {stage:?}");
        let (mut faulty, data, before) = Faulty::held(stage);
        faulty.standing_at(stage);
        let below = faulty.below();
        faulty.kill();
        Process::all_end(&what, &below);
        host_is_as(&before, &what);
        // The record is written while the launch goes on, and nobody was told of it yet: it may be missing.
        let reasons = truth_afterwards(&data, &what);
        assert!(reasons.iter().all(|reason| reason == "server_lost"), "{what}: {reasons:?}");
        assert!(reasons.len() <= usize::from(!PARKING.contains(&stage)), "{what}: {reasons:?}");
        host_is_as(&before, &what);
    }
}

#[test]
fn r7_1_kill_nine_of_the_launcher_at_every_stage_of_a_launch_leaves_nothing() {
    let _turn = turn();
    for stage in Stage::ALL {
        let what = format!("launcher killed at {stage:?}");
        let (mut faulty, data, before) = Faulty::held(stage);
        faulty.standing_at(stage);
        let launcher = Process::launcher_of(faulty.child.id());
        let below = faulty.below();
        kill_nine(launcher.pid);
        Process::all_end(&what, &below);
        let told = faulty.says();
        if PARKING.contains(&stage) {
            assert_eq!(told["start"], "failed", "{what}: {told}");
        } else {
            let told = faulty.says();
            assert_eq!(told["sandbox"], "failed", "{what}: {told}");
            assert!(told["message"].as_str().unwrap().contains("launcher"), "{what}: {told}");
        }
        faulty.kill();
        truth_afterwards(&data, &what);
        // The control group of the one that was on its way is swept by the next launcher.
        host_is_as(&before, &what);
    }
}

#[test]
fn r7_1_kill_nine_of_what_is_to_be_the_agent_at_every_stage_of_a_launch_is_told() {
    let _turn = turn();
    for stage in Stage::ALL.into_iter().filter(|stage| !stage.is_the_launchers()) {
        let what = format!("agent killed at {stage:?}");
        let (mut faulty, data, before) = Faulty::held(stage);
        kill_nine(faulty.standing_at(stage).pid);
        let told = faulty.says();
        if PARKING.contains(&stage) {
            assert_eq!(told["start"], "failed", "{what}: {told}");
        } else {
            let told = faulty.says();
            assert_eq!(told["sandbox"], "failed", "{what}: {told}");
            assert!(told["message"].as_str().unwrap().contains("signal 9"), "{what}: {told}");
            // The next is on its way, to the same stage; it ends with the server.
            faulty.standing_at(stage);
            let below = faulty.below();
            faulty.child.kill().unwrap();
            Process::all_end(&what, &below);
        }
        faulty.child.wait().unwrap();
        host_is_as(&before, &what);
        truth_afterwards(&data, &what);
        host_is_as(&before, &what);
    }
}

#[test]
fn a_stage_that_fails_is_told_and_leaves_nothing() {
    let _turn = turn();
    // No memory, no space, something unforeseen.
    for errno in [12, 28, 5] {
        let cause = std::io::Error::from_raw_os_error(errno).to_string();
        for stage in Stage::ALL {
            let what = format!("{cause} at {stage:?}");
            let (data, before) = (on_disk(), Host::now());
            let mut faulty = Faulty::start(&data, &[&format!("{stage:?}"), &errno.to_string()]);
            let told = faulty.says();
            let says_so = |told: &Value| {
                let message = told["message"].as_str().unwrap_or_default();
                assert!(message.contains(stage.describe()) && message.contains(&cause), "{what}: {told}");
            };
            if PARKING.contains(&stage) {
                assert_eq!(told["start"], "failed", "{what}: {told}");
                says_so(&told);
            } else {
                for _ in 0..2 {
                    let told = faulty.says();
                    assert_eq!(told["sandbox"], "failed", "{what}: {told}");
                    says_so(&told);
                }
            }
            faulty.finish();
            host_is_as(&before, &what);
            let reasons = truth_afterwards(&data, &what);
            let failed = Value::from("launch_failed");
            assert_eq!(reasons, if PARKING.contains(&stage) { vec![] } else { vec![failed.clone(), failed] }, "{what}");
        }
    }
}
