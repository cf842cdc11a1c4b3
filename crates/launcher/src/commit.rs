//! Reading what a sandbox has written over its image, for one who makes an image of it.
//!
//! ```text
//! order ──▶ its programs stand still ──▶ a process reads (see `walker`) ──▶ it has ended, or half a minute is over ──▶ they go on
//! ```
//! What the process says goes to whoever asked, through pipes of theirs. The launcher itself opens none of these files.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use caisson_launcher::{plan::Setup, protocol::CommitOrder};
use caisson_sys::kernel::{Cloned, SingleThreaded, clone_process};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::{slot::Slot, standstill::Standstill, walker};

/// How long programs that do not stop are waited for: a call of theirs may take its time in the kernel.
const STOPS_WITHIN: Duration = Duration::from_secs(1);
/// How long they stand still at most.
const STANDS_FOR: Duration = Duration::from_secs(30);
/// How long the reading may take.
const READ_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Between two looks at whether they have stopped, and at what was started meanwhile.
const UNTIL_STOPPED: Duration = Duration::from_millis(1);
const WHILE_READING: Duration = Duration::from_millis(10);
/// A sandbox with many processes must not keep the launcher from others: after a look of some time, so many times as long goes to them.
const FOR_OTHERS: u32 = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Commit {
    /// The key of its slot.
    pub(crate) sandbox: u64,
    begun: Instant,
    next_look: Instant,
    /// Ended when they have gone on.
    standstill: Option<Standstill>,
    state: State,
}

#[derive(Debug)]
enum State {
    Stopping { order: CommitOrder, pipes: [OwnedFd; 2] },
    Reading { pidfd: OwnedFd },
    Over,
}

/// What a look has led to.
pub(crate) enum Stand<'a> {
    Waits,
    /// The process is there; its end is to be watched for.
    Begun(BorrowedFd<'a>),
    Failed,
}

impl Commit {
    pub(crate) fn begin(sandbox: u64, order: CommitOrder, pipes: [OwnedFd; 2]) -> Self {
        let now = Instant::now();
        Self { sandbox, begun: now, next_look: now, standstill: Some(Standstill::default()), state: State::Stopping { order, pipes } }
    }

    pub(crate) fn next_look(&self) -> Instant {
        self.next_look
    }

    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Reading { pidfd } => Some(pidfd.as_fd()),
            _ => None,
        }
    }

    /// Does what is to be done now.
    pub(crate) fn look(&mut self, alone: SingleThreaded, slot: &Slot, setup: &Setup) -> Stand<'_> {
        let now = Instant::now();
        let Some(members) = members(slot, setup) else { return Stand::Failed };
        if self.begun + STANDS_FOR <= now {
            self.go_on(Some(slot), setup);
        }
        let is_still = match &mut self.standstill {
            // One that has just ended has no list any more, and its end is told in another way.
            Some(standstill) => standstill.stop(&members, slot.pid).unwrap_or(true),
            None => true,
        };
        let pause = if matches!(self.state, State::Stopping { .. }) { UNTIL_STOPPED } else { WHILE_READING };
        self.next_look = Instant::now() + pause.max(now.elapsed() * FOR_OTHERS);
        match std::mem::replace(&mut self.state, State::Over) {
            State::Stopping { order, pipes } if is_still || self.begun + STOPS_WITHIN <= now => {
                let Some(pidfd) = start(alone, slot, setup, order, pipes) else {
                    self.go_on(Some(slot), setup);
                    return Stand::Failed;
                };
                self.state = State::Reading { pidfd };
                self.pidfd().map_or(Stand::Failed, Stand::Begun)
            }
            State::Reading { pidfd } => {
                if self.begun + READ_WITHIN <= now {
                    kill(&pidfd);
                }
                if self.standstill.is_none() {
                    self.next_look = (self.begun + READ_WITHIN).max(now + STOPS_WITHIN);
                }
                self.state = State::Reading { pidfd };
                Stand::Waits
            }
            state => {
                self.state = state;
                Stand::Waits
            }
        }
    }

    /// Ends the reading, because the sandbox has ended or nobody listens any more. Says whether its end is still to be waited for.
    pub(crate) fn give_up(&mut self) -> bool {
        self.next_look = Instant::now() + STOPS_WITHIN;
        self.pidfd().map(|pidfd| kill(&pidfd)).is_some()
    }

    /// The same at once.
    pub(crate) fn abandon(&mut self, slot: &Slot, setup: &Setup) {
        self.give_up();
        self.end(Some(slot), setup);
    }

    /// Takes leave of the process, which has ended or is about to, and lets the sandbox's programs go on.
    pub(crate) fn end(&mut self, slot: Option<&Slot>, setup: &Setup) {
        if let Some(pidfd) = self.pidfd() {
            // How it ended was said through its pipe.
            waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).ok();
        }
        self.state = State::Over;
        self.go_on(slot, setup);
    }

    fn go_on(&mut self, slot: Option<&Slot>, setup: &Setup) {
        let (Some(mut standstill), Some(members)) = (self.standstill.take(), slot.and_then(|slot| members(slot, setup))) else { return };
        // A list that cannot be read is that of a sandbox that has ended.
        drop(standstill.end(&members));
    }
}

/// The list of a sandbox's processes.
pub(crate) fn members(slot: &Slot, setup: &Setup) -> Option<PathBuf> {
    Some(slot.cgroup.directory(setup.hierarchies.first()?).join("cgroup.procs"))
}

fn start(alone: SingleThreaded, slot: &Slot, setup: &Setup, order: CommitOrder, [tar, end]: [OwnedFd; 2]) -> Option<OwnedFd> {
    let views = slot.views.as_ref()?;
    match clone_process(alone, walker::NAMESPACES, None) {
        Ok(Cloned::Child) => walker::read_out(slot, views, order, tar, end, slot.cgroup.ids(setup)),
        Ok(Cloned::Parent { pidfd, .. }) => Some(pidfd),
        // Both pipes are closed, and that is the answer.
        Err(_) => None,
    }
}

fn kill(pidfd: &impl AsFd) {
    // The only failure is that it has ended already.
    if let Err(error) = pidfd_send_signal(pidfd, Signal::KILL) {
        debug_assert_eq!(error, rustix::io::Errno::SRCH);
    }
}
