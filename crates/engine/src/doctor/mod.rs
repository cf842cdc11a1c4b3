//! The doctor: attacks sandboxes from inside with the backend's probe and says of each guarantee whether it held. It believes nothing that
//! was not tried.

mod guarantees;
mod kernels;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use caisson_core::{Backend, Difference, ExecutionStatus, Limits, Result, SandboxSpec};
use serde::Deserialize;

use self::guarantees::{GUARANTEES, limit_of};
use crate::{Engine, ExecRequest, InputFile, Program, RunRequest, RunResult, core::now};

/// The probe's groups of attacks; each gets a sandbox of its own.
const GROUPS: [&str; 8] = ["calls", "walls", "sight", "network", "limits", "processes", "files", "memory"];
/// Those that all of a sandbox may end by, where the limit on memory is that of all of it, and what that proves.
const ENDS_BY: [(&str, &str, &str); 3] =
    [("processes", "4.2", "processes without end"), ("files", "4.4", "files without end"), ("memory", "4.1", "memory without end")];
/// A group takes seconds; on a machine with much else to do, longer.
const GROUP_WITHIN: Duration = Duration::from_secs(180);
const PROBE_PATH: &[u8] = b"/home/user/probe";

/// What was found out about a guarantee, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Every attack failed.
    Held,
    /// This host cannot enforce it, and its operator has accepted that.
    NotEnforceable,
    /// The attacks could not be made, so nothing is known.
    Unproven,
    /// An attack succeeded.
    Broken,
}

impl State {
    /// The name in APIs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NotEnforceable => "not_enforceable",
            Self::Unproven => "unproven",
            Self::Broken => "broken",
        }
    }
}

/// An attack that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Success {
    pub attempt: String,
    pub seen: String,
}

/// One guarantee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// As in the security requirements.
    pub number: &'static str,
    pub promise: &'static str,
    pub state: State,
    /// How many attacks were made.
    pub attempts: usize,
    pub successes: Vec<Success>,
    /// What to do, unless it held.
    pub remedy: Option<String>,
}

/// What the doctor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The worst of the verdicts.
    pub state: State,
    pub backend: &'static str,
    /// The kernel's release.
    pub kernel: String,
    pub verdicts: Vec<Verdict>,
    /// What cannot be proven here and should be looked at.
    pub warnings: Vec<String>,
}

/// What is kept of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub state: State,
    /// How many guarantees held, of how many.
    pub held: usize,
    pub all: usize,
    pub attempts: usize,
    pub at: jiff::Timestamp,
}

impl From<&Report> for Proof {
    fn from(report: &Report) -> Self {
        Self {
            state: report.state,
            held: report.verdicts.iter().filter(|verdict| verdict.state == State::Held).count(),
            all: report.verdicts.len(),
            attempts: report.verdicts.iter().map(|verdict| verdict.attempts).sum(),
            at: now(),
        }
    }
}

/// One finding of the probe.
#[derive(Debug, Deserialize)]
struct Finding {
    guarantee: String,
    attempt: String,
    held: bool,
    /// What the server must have on the machine for this wall to stand. Such a wall is no part of a guarantee: where it is missing, that is
    /// a warning.
    #[serde(default)]
    rests_on: Option<String>,
    seen: String,
}

/// What the groups have found, and which of them did not come to an end.
#[derive(Debug, Default)]
struct Findings {
    by_number: BTreeMap<String, Vec<Finding>>,
    unfinished: Vec<String>,
    weaker_limits: Vec<String>,
    /// Attacks that succeeded because the server lacks something on the machine, by what that is.
    lacking: BTreeMap<String, Vec<String>>,
    /// Attacks that are none with this backend, by why that is so.
    different: BTreeMap<&'static str, Vec<String>>,
}

impl Findings {
    fn add(&mut self, finding: Finding, differences: &[Difference]) {
        let is_it = |known: &&Difference| known.guarantee == finding.guarantee && finding.attempt.starts_with(known.attempt);
        if !finding.held
            && let Some(known) = differences.iter().find(is_it)
        {
            self.different.entry(known.why).or_default().push(finding.attempt);
            return;
        }
        match finding.rests_on {
            Some(what) if !finding.held => self.lacking.entry(what).or_default().push(finding.attempt),
            _ => self.by_number.entry(finding.guarantee.clone()).or_default().push(finding),
        }
    }
}

/// Attacks from within sandboxes of this backend, or of the one that is taken where nobody says, one group after the other. An error when no
/// sandbox can be made at all.
pub async fn examine(engine: &Engine, backend: Option<&str>) -> Result<Report> {
    let backends = engine.backend();
    let backend = backends.named(backend.unwrap_or(backends.default_name()))?;
    let mut findings = Findings::default();
    for group in GROUPS {
        let result = engine.run(attack(backend, group)).await?.wait().await?;
        findings.weaker_limits.clone_from(&result.weaker_limits);
        match read(group, &result) {
            Ok(found) => found.into_iter().for_each(|finding| findings.add(finding, backend.differences())),
            Err(why) => findings.unfinished.push(format!("the attacks of the group `{group}` came to no end: {why}")),
        }
    }
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let report = report(backend.name(), kernel, &findings);
    backends.proven(backend.name(), Proof::from(&report));
    Ok(report)
}

fn attack(backend: &dyn Backend, group: &str) -> RunRequest {
    let program = String::from_utf8_lossy(PROBE_PATH).into_owned();
    RunRequest {
        // Enough processors for races to be races.
        spec: SandboxSpec {
            backend: backend.name().to_owned(),
            limits: Limits { cpu_millis: 2000, ..Limits::default() },
            ..SandboxSpec::default()
        },
        metadata: BTreeMap::from([("caisson.doctor".to_owned(), group.to_owned())]),
        files: vec![InputFile { path: PROBE_PATH.to_vec(), content: Bytes::from_static(backend.probe()), mode: Some(0o755) }],
        exec: ExecRequest { timeout: Some(GROUP_WITHIN), ..ExecRequest::new(Program::Argv(vec![program, group.to_owned()])) },
        max_file_bytes: 0,
    }
}

/// The probe's own words. They come from a sandbox, so they are read like everything from there.
fn read(group: &str, result: &RunResult) -> std::result::Result<Vec<Finding>, String> {
    let output = &result.result;
    let outcome = output.execution.outcome.as_ref();
    // Where the limit on memory is that of all of the sandbox, all of it ends there.
    if outcome.is_some_and(|outcome| outcome.status == ExecutionStatus::OutOfMemory)
        && let Some((_, guarantee, attempt)) = ENDS_BY.iter().find(|(name, ..)| *name == group)
    {
        let seen = "the sandbox ended at its limit on memory".to_owned();
        return Ok(vec![Finding { guarantee: (*guarantee).to_owned(), attempt: (*attempt).to_owned(), held: true, rests_on: None, seen }]);
    }
    match outcome {
        Some(outcome) if outcome.status == ExecutionStatus::Exited && outcome.exit_code == Some(0) => {}
        Some(outcome) => {
            let said = String::from_utf8_lossy(&output.stderr.head);
            let code = outcome.exit_code.map(|code| format!(" with {code}")).unwrap_or_default();
            return Err(format!("the probe ended as `{}`{code} {}", outcome.status.as_str(), said.trim().escape_debug()));
        }
        None => return Err("the probe was lost".to_owned()),
    }
    if output.stdout.truncated() {
        return Err("the probe said more than there is room for".to_owned());
    }
    serde_json::from_slice(&output.stdout.head).map_err(|error| format!("the probe's words make no sense: {error}"))
}

fn report(backend: &'static str, kernel: String, findings: &Findings) -> Report {
    let verdicts: Vec<Verdict> = GUARANTEES.iter().map(|(number, promise)| verdict(number, promise, findings)).collect();
    let mut warnings = findings.unfinished.clone();
    warnings.extend(kernels::warnings(&kernel));
    if !findings.weaker_limits.is_empty() {
        warnings.push(format!("limits that are not enforced in full here: {}", findings.weaker_limits.join(", ")));
    }
    for (why, attempts) in &findings.different {
        warnings.push(format!("otherwise than on Linux, and no weakness: {why}: {}", attempts.join("; ")));
    }
    for (what, attempts) in &findings.lacking {
        warnings.push(format!("not enforced, because Caisson lacks {what} on this machine: {}", attempts.join("; ")));
    }
    let state = verdicts.iter().map(|verdict| verdict.state).max().unwrap_or(State::Unproven);
    let state = if findings.unfinished.is_empty() { state } else { state.max(State::Unproven) };
    Report { state, backend, kernel, verdicts, warnings }
}

fn verdict(number: &'static str, promise: &'static str, findings: &Findings) -> Verdict {
    let found = findings.by_number.get(number).map_or(&[][..], Vec::as_slice);
    let successes: Vec<Success> = found
        .iter()
        .filter(|finding| !finding.held)
        .map(|finding| Success { attempt: finding.attempt.clone(), seen: finding.seen.clone() })
        .collect();
    let weaker = limit_of(number).is_some_and(|limit| findings.weaker_limits.iter().any(|weaker| weaker == limit));
    let (state, remedy) = if weaker {
        let remedy = "run as root, or give Caisson a cgroup v2 of its own (`systemd-run --user --scope -p Delegate=yes`)";
        (State::NotEnforceable, Some(remedy))
    } else if !successes.is_empty() {
        (State::Broken, Some("run nobody's code on this machine until this is mended; report it as SECURITY.md says"))
    } else if found.is_empty() {
        (State::Unproven, Some("see the warnings; then ask again"))
    } else {
        (State::Held, None)
    };
    Verdict { number, promise, state, attempts: found.len(), successes, remedy: remedy.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(number: &str, held: bool) -> Finding {
        Finding { guarantee: number.to_owned(), attempt: "an attempt".to_owned(), held, rests_on: None, seen: "what it saw".to_owned() }
    }

    fn all_held() -> Findings {
        let by_number = GUARANTEES.iter().map(|(number, _)| ((*number).to_owned(), vec![found(number, true)])).collect();
        Findings { by_number, ..Findings::default() }
    }

    fn of(findings: &Findings) -> Report {
        report("native", "7.1.0".to_owned(), findings)
    }

    #[test]
    fn everything_held_is_held() {
        let report = of(&all_held());
        assert_eq!(report.state, State::Held);
        assert!(report.warnings.is_empty() && report.verdicts.iter().all(|verdict| verdict.remedy.is_none()));
    }

    #[test]
    fn one_success_breaks_it() {
        let mut findings = all_held();
        findings.by_number.get_mut("2.4").unwrap().push(found("2.4", false));
        let report = of(&findings);
        assert_eq!(report.state, State::Broken);
        let broken: Vec<_> = report.verdicts.iter().filter(|verdict| verdict.state == State::Broken).collect();
        assert_eq!((broken.len(), broken[0].number, broken[0].successes.len(), broken[0].attempts), (1, "2.4", 1, 2));
        assert!(broken[0].remedy.is_some());
    }

    #[test]
    fn what_was_not_tried_did_not_hold() {
        let mut findings = all_held();
        findings.by_number.remove("3.1");
        findings.unfinished.push("the attacks of the group `network` came to no end".to_owned());
        let report = of(&findings);
        assert_eq!(report.state, State::Unproven);
        assert_eq!(report.verdicts.iter().find(|verdict| verdict.number == "3.1").unwrap().state, State::Unproven);
    }

    #[test]
    fn what_the_server_cannot_enforce_is_told_and_hides_nothing() {
        let resting = |held| Finding { rests_on: Some("CAP_OF_SOMEBODY".to_owned()), ..found("4.1", held) };
        let mut findings = all_held();
        findings.add(resting(true), &[]);
        assert!(of(&findings).warnings.is_empty());
        findings.add(resting(false), &[]);
        let report = of(&findings);
        assert_eq!(report.state, State::Held);
        assert!(report.warnings[0].contains("CAP_OF_SOMEBODY") && report.warnings[0].contains("an attempt"), "{:?}", report.warnings);
        findings.add(found("4.1", false), &[]);
        assert_eq!(of(&findings).state, State::Broken);
    }

    #[test]
    fn what_is_another_kernel_s_is_told_and_no_weakness() {
        let known = [Difference { guarantee: "2.3", attempt: "an att", why: "it is its own" }];
        let mut findings = all_held();
        findings.add(found("2.3", false), &known);
        let report = of(&findings);
        assert_eq!(report.state, State::Held);
        assert!(report.warnings[0].contains("it is its own: an attempt"), "{:?}", report.warnings);
        findings.add(found("2.4", false), &known);
        assert_eq!(of(&findings).state, State::Broken, "of another guarantee nothing is known");
    }

    #[test]
    fn what_was_accepted_is_not_called_broken() {
        let mut findings = all_held();
        findings.by_number.get_mut("4.1").unwrap().push(found("4.1", false));
        findings.weaker_limits = vec!["memory_bytes".to_owned()];
        let report = of(&findings);
        assert_eq!(report.state, State::NotEnforceable);
        assert!(report.warnings.iter().any(|warning| warning.contains("memory_bytes")), "{:?}", report.warnings);
    }
}
