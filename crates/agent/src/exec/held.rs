//! Programs that are started before it is known what for; the wire's `hold` has the picture.

mod gate;
mod room;

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use caisson_sys::process;
use caisson_wire::{
    ExecStart, Gate, Go, Hold, Refusal, RefusalCode, Reported,
    frame::{Frame, Kind},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use self::{gate::Open, room::Room};
use super::{Begun, Place, Requests, Running, either, environment, snapshots};
use crate::{
    code::{self, not_the_user},
    refusal::refuse,
    setup::Agent,
};

/// How long a program that was killed is waited for.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks whether a program waits at its gate.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// So much is told of what a program wrote that should not have.
const LAST_WORDS: usize = 1000;
/// A working directory with more entries than this is not looked through.
const MAX_ENTRIES: usize = 10_000;

/// Starts the program, has it wait, and lets it go with what comes late. `None` when nobody listens any more. The program of a refusal has ended.
pub(super) async fn begin(
    agent: &Agent,
    start: &mut ExecStart,
    hold: &Hold,
    place: &Place<'_>,
    requests: &mut Requests,
    answers: &mpsc::Sender<Bytes>,
) -> Result<Option<Begun>, Refusal> {
    let Some(code) = &start.code else { return Err(refuse(RefusalCode::Invalid, "only a program with code can be held")) };
    let code_path = code::place(code, place.directory)?;
    // Dropped behind the program, so that nothing is put into it any more.
    let room = Room::make(agent.user(), hold, &code_path)?;
    let led = room.environment(hold, place.environment)?;
    let mut running = Running::start(agent, start, place.path, &place.argv(start, Some(&code_path)), &led, place.directory)?;
    let held = Held { agent, hold, place, code_path, open_files: agent.open_files() };
    let going = held.follow(&mut running, &room, start, requests, answers).await;
    match going {
        Ok(Some((before, code))) => Ok(Some(Begun { running, before, code: Some(code) })),
        other => {
            // Nothing of it is there any more when somebody hears of it.
            running.kill().await;
            if !running.exit.is_terminated() {
                // One that the kernel does not let go is nobody's reason to wait.
                drop(tokio::time::timeout(ENDS_WITHIN, &mut running.exit).await);
            }
            other.map(|_| None)
        }
    }
}

type Before = (Vec<(Reported, crate::changes::Snapshot)>, code::Written);

struct Held<'a> {
    agent: &'a Agent,
    hold: &'a Hold,
    place: &'a Place<'a>,
    code_path: String,
    /// The program's limit on open files.
    open_files: u64,
}

impl Held<'_> {
    async fn follow(
        &self,
        running: &mut Running,
        room: &Room,
        start: &mut ExecStart,
        requests: &mut Requests,
        answers: &mpsc::Sender<Bytes>,
    ) -> Result<Option<Before>, Refusal> {
        let Some(gate) = until_it_waits(running, room, requests, answers).await? else { return Ok(None) };
        if answers.send(Frame::new(Kind::Held, Bytes::new()).encode()).await.is_err() {
            return Ok(None);
        }
        let Some(go) = until_told(running, requests, answers).await? else { return Ok(None) };
        let after = environment(self.agent, &go.env);
        self.check(room, &go, &after)?;
        let message = self.message(&go, &after)?;
        // With this, everything that the program was led by is gone.
        room.clear();
        start.timeout_ms = go.timeout_ms;
        start.max_output_bytes = go.max_output_bytes;
        start.report_changes = go.report_changes;
        start.also_report = go.also_report;
        let before = snapshots(self.agent, start).await?;
        let code = code::write_at(self.code_path.clone(), &go.text, self.agent.user())?;
        running.cpu_before = process::cpu_time(running.pid).unwrap_or_default();
        running.begun = Instant::now();
        gate.feed(message.into())?;
        Ok(Some((before, code)))
    }

    /// Whether the program can take this late.
    fn check(&self, room: &Room, go: &Go, after: &[(String, String)]) -> Result<(), Refusal> {
        let facts = room.facts()?;
        let fixed = |name: &str| self.hold.fixed.iter().chain(&facts.fixed).any(|pattern| matches(pattern, name));
        if let Some(name) = changed(self.place.environment, after).find(|name| fixed(name)) {
            return Err(cannot(format!("the variable `{}` cannot be changed any more", name.escape_default())));
        }
        if self.open_files != self.agent.open_files() {
            return Err(cannot("it has another limit on open files"));
        }
        if !go.args.is_empty() && self.hold.gate != Gate::Message {
            return Err(cannot("it takes no arguments any more"));
        }
        let directory = self.place.directory;
        process::as_file_owner(self.agent.user(), || nothing_of(&facts.taken, directory)).map_err(not_the_user)?
    }

    /// What it reads at its gate.
    fn message(&self, go: &Go, after: &[(String, String)]) -> Result<String, Refusal> {
        match &self.hold.gate {
            Gate::Script(text) => Ok(text.clone()),
            Gate::Code => Ok(go.text.clone()),
            Gate::Message => {
                let records = message(self.place.environment, after, &go.args);
                if records.iter().any(|record| record.contains('\0')) {
                    return Err(refuse(RefusalCode::Invalid, "arguments and environment must not have NUL"));
                }
                Ok(records.join("\0") + "\0")
            }
        }
    }
}

async fn until_it_waits(
    running: &mut Running,
    room: &Room,
    requests: &mut Requests,
    answers: &mpsc::Sender<Bytes>,
) -> Result<Option<Open>, Refusal> {
    let mut words = Vec::new();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            // All as in `Running::watch`.
            () = answers.closed() => return Ok(None),
            exit = &mut running.exit => {
                let how = exit.map_or_else(|_| "an unknown end".to_owned(), |exit| match (exit.exit_code, exit.signal) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, signal) => format!("signal {}", signal.unwrap_or_default()),
                });
                return Err(cannot(format!("it ended with {how} instead of waiting{}", last_words(running, words))));
            }
            _ = requests.next() => return Err(cannot("it was given up")),
            (_, bytes) = either(&mut running.stdout, &mut running.stderr) => keep(&mut words, &bytes),
            // A tick that loses comes again.
            _ = look.tick() => if let Some(gate) = room.look()? {
                let said = last_words(running, words);
                return if said.is_empty() { Ok(Some(gate)) } else { Err(cannot(format!("it wrote something before it waited{said}"))) };
            },
        }
    }
}

async fn until_told(running: &mut Running, requests: &mut Requests, answers: &mpsc::Sender<Bytes>) -> Result<Option<Go>, Refusal> {
    tokio::select! {
        biased;
        // All as in `Running::watch`.
        () = answers.closed() => Ok(None),
        _ = &mut running.exit => Err(cannot("it ended while it waited")),
        (_, bytes) = either(&mut running.stdout, &mut running.stderr) => {
            Err(cannot(format!("it wrote something while it waited{}", last_words(running, bytes.to_vec()))))
        }
        frame = requests.next() => match frame {
            Some(frame) if frame.kind == Kind::Go => match serde_json::from_slice(&frame.payload) {
                Ok(go) => Ok(Some(go)),
                Err(_) => Err(refuse(RefusalCode::Invalid, "what comes late cannot be read")),
            },
            _ => Err(cannot("it was given up")),
        },
    }
}

fn cannot(why: impl std::fmt::Display) -> Refusal {
    refuse(RefusalCode::Failed, format!("the program that was held cannot be used: {why}"))
}

fn keep(words: &mut Vec<u8>, bytes: &[u8]) {
    words.extend_from_slice(bytes);
    let more = words.len().saturating_sub(LAST_WORDS);
    words.drain(..more);
}

/// `: …` with what has come and what still waits; empty for nothing.
fn last_words(running: &mut Running, mut words: Vec<u8>) -> String {
    for output in [&mut running.stdout, &mut running.stderr] {
        let mut left = output.left();
        while left > 0 {
            let Some(bytes) = output.read_now(left) else { break };
            left -= bytes.len();
            keep(&mut words, &bytes);
        }
    }
    let text = String::from_utf8_lossy(&words);
    if text.is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

/// Whether a name is meant by a pattern of [`Hold::fixed`].
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |begin| name.starts_with(begin))
}

/// Names whose values differ, or which are in one only.
fn changed<'a>(before: &'a [(String, String)], after: &'a [(String, String)]) -> impl Iterator<Item = &'a str> {
    let differs = |one: &[(String, String)], name: &str, value: &str| crate::lookup::variable(one, name) != Some(value);
    let gone = before.iter().filter(move |(name, value)| differs(after, name, value));
    let new = after.iter().filter(move |(name, value)| differs(before, name, value));
    gone.chain(new).map(|(name, _)| name.as_str())
}

/// The records of [`Gate::Message`]. What stays at the beginning stays untouched, so that all comes in the order of a new start.
fn message(before: &[(String, String)], after: &[(String, String)], args: &[String]) -> Vec<String> {
    let same = before.iter().zip(after).take_while(|(one, other)| one == other).count();
    let gone = before[same..].iter().map(|(name, _)| format!("d{name}"));
    let new = after[same..].iter().map(|(name, value)| format!("s{name}={value}"));
    args.iter().map(|arg| format!("a{arg}")).chain(gone).chain(new).chain([".".to_owned()]).collect()
}

/// Refuses a directory with something of one of these names in it, whatever its extension.
fn nothing_of(names: &BTreeSet<String>, directory: &str) -> Result<(), Refusal> {
    if names.is_empty() {
        return Ok(());
    }
    let entries = std::fs::read_dir(Path::new(directory)).map_err(cannot)?;
    for (index, entry) in entries.flatten().enumerate() {
        let name = entry.file_name();
        let stem = name.to_str().and_then(|name| name.split('.').next()).unwrap_or_default();
        if names.contains(stem) {
            return Err(cannot(format!("its working directory has `{}` in it", name.display().to_string().escape_default())));
        }
        if index >= MAX_ENTRIES {
            return Err(cannot("its working directory has too much in it to look"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[&str]) -> Vec<(String, String)> {
        pairs.iter().map(|pair| pair.split_once('=').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn variables_come_in_the_order_of_a_new_start() {
        let before = list(&["A=1", "B=2", "C=3"]);
        for (after, expect) in [
            (list(&["A=1", "B=2", "C=3"]), "."),
            (list(&["A=1", "B=2", "C=3", "D=4"]), "sD=4 ."),
            (list(&["A=1", "C=3", "B=0"]), "dB dC sC=3 sB=0 ."),
            (list(&["A=1"]), "dB dC ."),
        ] {
            assert_eq!(message(&before, &after, &[]).join(" "), expect);
        }
        assert_eq!(message(&before, &before, &["x y".to_owned(), String::new()]), ["ax y", "a", "."]);
    }

    #[test]
    fn a_changed_variable_is_one_that_is_new_gone_or_different() {
        let names = |after: &[&str]| changed(&list(&["A=1", "B=2"]), &list(after)).map(str::to_owned).collect::<Vec<_>>();
        assert!(names(&["B=2", "A=1"]).is_empty());
        assert_eq!(names(&["A=1"]), ["B"]);
        assert_eq!(names(&["A=1", "B=2", "C="]), ["C"]);
        assert_eq!(names(&["A=1", "B=3"]), ["B", "B"]);
    }

    #[test]
    fn patterns_end_with_a_star_or_are_names() {
        for (pattern, name, is) in
            [("TZ", "TZ", true), ("TZ", "TZX", false), ("LC_*", "LC_ALL", true), ("LC_*", "XLC_", false), ("*", "X", true)]
        {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn what_a_new_start_would_find_first_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_str().unwrap();
        let taken = BTreeSet::from(["numpy".to_owned(), "random".to_owned()]);
        std::fs::write(directory.path().join("data.csv"), "").unwrap();
        std::fs::write(directory.path().join("numpyx.py"), "").unwrap();
        assert!(nothing_of(&taken, root).is_ok());
        std::fs::write(directory.path().join("random.cpython-311-x86_64-linux-gnu.so"), "").unwrap();
        assert!(nothing_of(&taken, root).is_err() && nothing_of(&BTreeSet::new(), root).is_ok());
    }
}
