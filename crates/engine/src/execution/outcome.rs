//! How an execution ended: from what the agent says, what was asked for, and what the backend counted. Pure.

use std::time::Duration;

use caisson_core::{ExecutionStatus, Limits, TombstoneReason};
use caisson_wire as wire;

use crate::{
    figures,
    sandbox::{Fate, Hits},
};

/// `SIGKILL`, which is also how the kernel ends a process for want of memory.
const SIGKILL: i32 = 9;
/// What a shell exits with when its child was ended by `SIGKILL`.
const EXIT_SIGKILL: i32 = 128 + SIGKILL;

/// Status and figures, still without the output's totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: ExecutionStatus,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) message: Option<String>,
}

/// What is known besides the agent's word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) timeout: Option<Duration>,
    pub(super) max_output_bytes: Option<u64>,
    pub(super) limits: Limits,
    /// Bit n - 1: signal n was sent on request.
    pub(super) signals_sent: u64,
}

impl Facts {
    fn sent(&self, signal: i32) -> bool {
        u32::try_from(signal).is_ok_and(|signal| (1..=64).contains(&signal) && self.signals_sent & 1 << (signal - 1) != 0)
    }
}

/// Whether a limit may be why it failed, so that it must be looked up which were met. What succeeds is not held up for that.
pub(super) fn may_have_met_a_limit(exit: &wire::ExecExit) -> bool {
    exit.exit_code != Some(0)
}

/// Whether it ended as the kernel ends what is out of memory.
fn is_killed_by_nobody(exit: &wire::ExecExit, facts: &Facts) -> bool {
    let killed = exit.signal == Some(SIGKILL) || exit.exit_code == Some(EXIT_SIGKILL);
    killed && exit.ended.is_none() && !facts.sent(SIGKILL)
}

/// The verdict on a program whose end the agent reported; an error says why the report cannot be true.
pub(super) fn of_exit(exit: &wire::ExecExit, facts: &Facts, hits: Hits) -> Result<Verdict, String> {
    let plausible = match (exit.exit_code, exit.signal) {
        (Some(code), None) => (0..=255).contains(&code),
        (None, Some(signal)) => (1..=64).contains(&signal),
        _ => false,
    };
    if !plausible {
        return Err("an exit that cannot be one".to_owned());
    }
    let out_of_memory = hits.oom_kills > 0 && is_killed_by_nobody(exit, facts);
    let hints = hints(&facts.limits, if out_of_memory { Hits { oom_kills: 0, ..hits } } else { hits });
    let verdict = |status, message: Option<String>| Verdict {
        status,
        exit_code: exit.exit_code,
        signal: exit.signal,
        message: message.into_iter().chain(hints).reduce(|all, next| format!("{all}; {next}")),
    };
    match (exit.ended, facts.timeout, facts.max_output_bytes) {
        (Some(wire::Ended::TimedOut), Some(timeout), _) => return Ok(verdict(ExecutionStatus::TimedOut, Some(timed_out(timeout)))),
        (Some(wire::Ended::OutputLimit), _, Some(limit)) => {
            let message = format!("output_limit: it wrote more than {}", figures::bytes(limit));
            return Ok(verdict(ExecutionStatus::OutputLimit, Some(message)));
        }
        (Some(_), ..) => return Err("an end by a limit that was never set".to_owned()),
        (None, ..) => {}
    }
    if out_of_memory {
        return Ok(verdict(ExecutionStatus::OutOfMemory, Some(out_of_memory_text(facts.limits.memory_bytes))));
    }
    Ok(match exit.signal {
        None => verdict(ExecutionStatus::Exited, None),
        Some(signal) if facts.sent(signal) => verdict(ExecutionStatus::Killed, Some(format!("ended by signal {signal} on request"))),
        Some(_) => verdict(ExecutionStatus::Signaled, None),
    })
}

/// What else there is to say of one that failed: it may have failed of this, and may not say so itself. Counted for its whole sandbox, so
/// programs beside it may have done their part.
fn hints(limits: &Limits, hits: Hits) -> impl Iterator<Item = String> {
    let memory = (hits.oom_kills > 0).then(|| {
        let killed = if hits.oom_kills == 1 { "1 process was".to_owned() } else { format!("{} processes were", hits.oom_kills) };
        format!("memory: limit {}, {killed} killed there", figures::bytes(limits.memory_bytes))
    });
    let pids = (hits.refused_starts > 0)
        .then(|| format!("pids: limit {}, starting more was refused {}", limits.pids, figures::times(hits.refused_starts)));
    memory.into_iter().chain(pids)
}

/// The verdict on a program whose sandbox ended under it.
pub(super) fn of_fate(fate: Option<&Fate>, memory_bytes: u64) -> Verdict {
    use TombstoneReason as Reason;
    let (status, message) = match fate {
        Some(Fate::Stopped(stop)) => (ExecutionStatus::Killed, format!("its sandbox was stopped ({})", stop.reason.as_str())),
        None => (ExecutionStatus::Lost, "the agent broke off the execution".to_owned()),
        Some(Fate::Ended(t)) => match t.reason {
            Reason::OutOfMemory => (ExecutionStatus::OutOfMemory, out_of_memory_text(memory_bytes)),
            Reason::Crashed | Reason::LaunchFailed | Reason::ServerLost => (ExecutionStatus::Lost, format!("its sandbox ended ({t})")),
            Reason::Deleted
            | Reason::Finished
            | Reason::Lifetime
            | Reason::IdleTimeout
            | Reason::SetupFailed
            | Reason::ServerStopped
            | Reason::StoppedTooLong
            | Reason::FilesLost => (ExecutionStatus::Killed, format!("its sandbox was ended ({t})")),
        },
    };
    Verdict { status, exit_code: None, signal: None, message: Some(message) }
}

/// The verdict on a program that was to be killed, tree and all.
pub(super) fn killed() -> Verdict {
    Verdict { status: ExecutionStatus::Killed, exit_code: None, signal: Some(SIGKILL), message: Some("killed on request".to_owned()) }
}

/// The verdict on a program whose end the agent could not report.
pub(super) fn unreported(why: &str) -> Verdict {
    let message = format!("its end could not be reported: {}", figures::tamed(why, 1000));
    Verdict { status: ExecutionStatus::Lost, exit_code: None, signal: None, message: Some(message) }
}

/// The verdict on a program that outlived its time although the agent should have ended it.
pub(super) fn overdue(timeout: Duration) -> Verdict {
    Verdict { status: ExecutionStatus::TimedOut, exit_code: None, signal: None, message: Some(timed_out(timeout)) }
}

fn timed_out(timeout: Duration) -> String {
    format!("timed_out: limit {}", figures::seconds(timeout))
}

fn out_of_memory_text(memory_bytes: u64) -> String {
    format!("out_of_memory: limit {}", figures::bytes(memory_bytes))
}

#[cfg(test)]
mod tests {
    use caisson_core::{Stop, StopReason, Tombstone};
    use jiff::Timestamp;

    use super::*;

    const FACTS: Facts = Facts {
        timeout: Some(Duration::from_secs(2)),
        max_output_bytes: Some(1000),
        limits: Limits { memory_bytes: 256 << 20, pids: 64, ..Limits::MIN },
        signals_sent: 1 << 14,
    };
    const NONE: Hits = Hits { oom_kills: 0, refused_starts: 0 };
    const KILLED: Hits = Hits { oom_kills: 2, refused_starts: 0 };
    const REFUSED: Hits = Hits { oom_kills: 0, refused_starts: 1 };
    const BOTH: Hits = Hits { oom_kills: 1, refused_starts: 7 };

    fn exit(exit_code: Option<i32>, signal: Option<i32>, ended: Option<wire::Ended>) -> wire::ExecExit {
        wire::ExecExit {
            exit_code,
            signal,
            ended,
            duration_us: 1,
            cpu_us: 1,
            peak_memory_bytes: 1,
            changes: Vec::new(),
            changes_truncated: false,
        }
    }

    #[track_caller]
    fn check(exit: &wire::ExecExit, hits: Hits, status: ExecutionStatus, message: Option<&str>) {
        let verdict = of_exit(exit, &FACTS, hits).unwrap();
        assert_eq!((verdict.status, verdict.message.as_deref()), (status, message));
        assert_eq!((verdict.exit_code, verdict.signal), (exit.exit_code, exit.signal));
    }

    #[test]
    fn each_end_has_its_own_status() {
        use ExecutionStatus as S;
        use wire::Ended;
        check(&exit(Some(0), None, None), NONE, S::Exited, None);
        check(&exit(Some(137), None, None), NONE, S::Exited, None);
        check(&exit(Some(137), None, None), KILLED, S::OutOfMemory, Some("out_of_memory: limit 256 MiB"));
        check(&exit(None, Some(9), None), KILLED, S::OutOfMemory, Some("out_of_memory: limit 256 MiB"));
        check(&exit(None, Some(9), None), NONE, S::Signaled, None);
        check(&exit(None, Some(11), None), NONE, S::Signaled, None);
        check(&exit(None, Some(15), None), NONE, S::Killed, Some("ended by signal 15 on request"));
        check(&exit(None, Some(9), Some(Ended::TimedOut)), NONE, S::TimedOut, Some("timed_out: limit 2 s"));
        check(&exit(None, Some(9), Some(Ended::OutputLimit)), NONE, S::OutputLimit, Some("output_limit: it wrote more than 1000 bytes"));
    }

    #[test]
    fn a_failure_is_told_which_limits_were_met() {
        use ExecutionStatus as S;
        use wire::Ended;
        let (memory, pids) = ("memory: limit 256 MiB, 2 processes were killed there", "pids: limit 64, starting more was refused once");
        check(&exit(Some(1), None, None), KILLED, S::Exited, Some(memory));
        check(&exit(Some(1), None, None), REFUSED, S::Exited, Some(pids));
        check(&exit(None, Some(6), None), REFUSED, S::Signaled, Some(pids));
        check(&exit(None, Some(9), Some(Ended::TimedOut)), KILLED, S::TimedOut, Some(&format!("timed_out: limit 2 s; {memory}")));
        let both = "memory: limit 256 MiB, 1 process was killed there; pids: limit 64, starting more was refused 7 times";
        check(&exit(Some(2), None, None), BOTH, S::Exited, Some(both));
        let out = "out_of_memory: limit 256 MiB; pids: limit 64, starting more was refused 7 times";
        check(&exit(None, Some(9), None), BOTH, S::OutOfMemory, Some(out));
    }

    #[test]
    fn memory_is_the_cause_only_where_the_kernel_killed_and_nobody_else() {
        let sent = Facts { signals_sent: 1 << 8, ..FACTS };
        assert_eq!(of_exit(&exit(None, Some(9), None), &sent, KILLED).unwrap().status, ExecutionStatus::Killed);
        assert!(may_have_met_a_limit(&exit(Some(1), None, None)) && may_have_met_a_limit(&exit(None, Some(9), None)));
        assert!(!may_have_met_a_limit(&exit(Some(0), None, None)));
    }

    #[test]
    fn impossible_reports_are_refused() {
        let never = Facts { timeout: None, max_output_bytes: None, ..FACTS };
        for (code, signal) in [(None, None), (Some(1), Some(9)), (Some(256), None), (Some(-1), None), (None, Some(0)), (None, Some(65))] {
            assert!(of_exit(&exit(code, signal, None), &FACTS, NONE).is_err());
        }
        for ended in [wire::Ended::TimedOut, wire::Ended::OutputLimit] {
            assert!(of_exit(&exit(None, Some(9), Some(ended)), &never, NONE).is_err());
        }
    }

    #[test]
    fn every_tombstone_decides() {
        for reason in TombstoneReason::ALL {
            let tombstone = Tombstone { reason, message: "because".to_owned(), at: Timestamp::UNIX_EPOCH };
            let verdict = of_fate(Some(&Fate::Ended(tombstone)), 256 << 20);
            let expect = match reason {
                TombstoneReason::OutOfMemory => ExecutionStatus::OutOfMemory,
                TombstoneReason::Crashed | TombstoneReason::LaunchFailed | TombstoneReason::ServerLost => ExecutionStatus::Lost,
                _ => ExecutionStatus::Killed,
            };
            assert_eq!(verdict.status, expect, "{reason:?}");
            assert!(verdict.message.is_some());
        }
        let stop = Stop { reason: StopReason::Requested, at: Timestamp::UNIX_EPOCH };
        let stopped = of_fate(Some(&Fate::Stopped(stop)), 0);
        assert_eq!((stopped.status, stopped.message.as_deref()), (ExecutionStatus::Killed, Some("its sandbox was stopped (requested)")));
        assert_eq!(of_fate(None, 0).status, ExecutionStatus::Lost);
    }
}
