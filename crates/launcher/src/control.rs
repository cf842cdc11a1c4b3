//! The launcher's loop: one `epoll`, one thread, a table of slots.
//!
//! ```text
//!            park()          Parked            plan              end of file           pidfd readable
//!   (none) ─────────▶ Parking ──────▶ Parked ───────▶ Launching ─────────────▶ Running ───────────────▶ removed
//!                                                         └── Failed message ─▶ Failed ────────────────▶ removed
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use caisson_launcher::{
    plan::{MOST_FILE_LOCKS, Setup},
    protocol::{self, CommitOrder, Ended, Failure, Launched, LayerOrder, Stage, Tag},
};
use caisson_sys::kernel::{Cloned, SingleThreaded, clone_process, unshare_user};
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

use crate::{
    cgroup::{Cgroup, Entering},
    commit::{self, Commit, Stand},
    layer, locks,
    message::{has_something, receive, send},
    processors::Processors,
    slot::{Phase, Slot},
};

/// Empty cgroups of launchers that are gone are removed after this long, so that nobody waits for it at the start.
const SWEEP_AFTER: Duration = Duration::from_secs(3);
/// A cgroup that is still busy after its last process has gone is tried again this often.
const RETRY_REMOVAL: Duration = Duration::from_millis(10);
/// How many processes may be on their way to being parked at once.
const MAX_PARKING: usize = 32;
/// How long after a launch a parked process is replaced while others are left, so that the sandbox being made has the processors.
const REFILL_AFTER: Duration = Duration::from_millis(4);
/// When everything is to end, processes that the kernel does not let go (`D` state) are waited for no longer than this.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// `epoll` data: the control socket is 0, a slot's socket is twice its key, its pidfd one more. What is read for an image has keys as slots do.
const CONTROL: u64 = 0;

/// Waits for the first message: the set-up, and the agent's program as a descriptor.
pub(crate) fn receive_setup(control: BorrowedFd<'_>) -> io::Result<(Setup, OwnedFd)> {
    let mut buffer = Vec::new();
    let fds = receive(control, &mut buffer, Tag::descriptors_of)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the first message was not the set-up");
    let agent = fds.and_then(|fds| fds.into_iter().next()).ok_or_else(invalid)?;
    match protocol::split(&buffer) {
        Ok((Tag::Setup, _, body)) => Ok((protocol::decode(body).map_err(|_| invalid())?, agent)),
        _ => Err(invalid()),
    }
}

/// For an ordinary user: becomes root of a user namespace in which the server, with `newuidmap(1)`, maps the ids that are the user's.
/// A failure is told to the server before it is returned.
pub(crate) fn enter_user_namespace(control: BorrowedFd<'_>) -> io::Result<()> {
    let tell = |error: io::Error| {
        let failure = failure_of(Stage::UserNamespace, &error);
        // The server may have gone; then nobody has to hear it.
        drop(send(control, &protocol::encode(Tag::Failed, 0, &failure), &[]));
        error
    };
    unshare_user().map_err(tell)?;
    send(control, &protocol::encode(Tag::MapIds, 0, &()), &[])?;
    let mut buffer = Vec::new();
    receive(control, &mut buffer, Tag::descriptors_of)?;
    match protocol::split(&buffer) {
        Ok((Tag::IdsMapped, _, _)) => {}
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the server did not map ids")),
    }
    let root = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(root.1, root.1, root.1).map_err(|error| tell(error.into()))?;
    rustix::thread::set_thread_res_uid(root.0, root.0, root.0).map_err(|error| tell(error.into()))
}

/// A plan that waits for a parked process.
struct Waiting {
    seq: u64,
    message: Vec<u8>,
    /// The agent's stream, and the image of a root on disk.
    fds: Vec<OwnedFd>,
}

/// A process that lays something over a directory of a sandbox.
struct Laying {
    /// The key of its slot.
    sandbox: u64,
    pidfd: OwnedFd,
}

impl Laying {
    fn give_up(&self) {
        // The only failure is that it has ended already.
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL) {
            debug_assert_eq!(error, rustix::io::Errno::SRCH);
        }
    }
}

/// See the module.
pub(crate) struct Launcher {
    alone: SingleThreaded,
    control: OwnedFd,
    epoll: OwnedFd,
    setup: Setup,
    agent: OwnedFd,
    slots: BTreeMap<u64, Slot>,
    commits: BTreeMap<u64, Commit>,
    layers: BTreeMap<u64, Laying>,
    next_key: u64,
    waiting: VecDeque<Waiting>,
    processors: Processors,
    /// Cgroups that were still busy when their last process had gone.
    unremoved: Vec<Cgroup>,
    entering: Entering,
    sweep_at: Option<Instant>,
    /// Processes were handed out and are to be replaced at this time.
    refill_at: Option<Instant>,
    /// Whether the server has been told that sandboxes can be made here: one process was parked.
    ready: bool,
    /// The next look at file locks, while there are sandboxes.
    count_locks_at: Option<Instant>,
    /// Parking failed; try again at this time.
    park_again_at: Option<Instant>,
    seed: u32,
    buffer: Vec<u8>,
}

impl Launcher {
    pub(crate) fn new(alone: SingleThreaded, control: OwnedFd, setup: Setup, agent: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &control, EventData::new_u64(CONTROL), EventFlags::IN)?;
        let entering = Entering::new(&setup)?;
        Ok(Self {
            alone,
            control,
            epoll,
            setup,
            agent,
            slots: BTreeMap::new(),
            commits: BTreeMap::new(),
            layers: BTreeMap::new(),
            next_key: 1,
            waiting: VecDeque::new(),
            processors: Processors::find()?,
            unremoved: Vec::new(),
            entering,
            sweep_at: Some(Instant::now() + SWEEP_AFTER),
            refill_at: None,
            ready: false,
            count_locks_at: None,
            park_again_at: None,
            seed: std::process::id().wrapping_mul(2_654_435_761),
            buffer: Vec::new(),
        })
    }

    /// Runs until the server closes its end, then ends everything and waits for it.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        self.refill();
        let mut open = true;
        let mut give_up_at = None;
        let mut events: Vec<Event> = Vec::with_capacity(64);
        while open || !self.slots.is_empty() || !self.commits.is_empty() || !self.layers.is_empty() {
            if give_up_at.is_some_and(|at| at <= Instant::now()) {
                return Err(io::Error::other(format!("{} sandboxes do not end; the kernel holds them", self.slots.len())));
            }
            let timeout = self.next_timer().into_iter().chain(give_up_at).min().map(|at| {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) }
            });
            events.clear();
            rustix::io::retry_on_intr(|| epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()))?;
            for event in &events {
                let data = event.data.u64();
                let key = data / 2;
                if data == CONTROL {
                    if !self.on_control() && open {
                        open = false;
                        give_up_at = Some(Instant::now() + LAST_WAIT);
                        self.end_everything()?;
                    }
                } else if data.is_multiple_of(2) {
                    self.on_slot(key);
                } else {
                    self.on_death(key);
                }
            }
            if !self.slots.values().any(|slot| matches!(slot.phase, Phase::Parking)) {
                self.entering.end()?;
            }
            self.on_timers()?;
            if open && self.refill_at.is_none() {
                self.refill();
            }
        }
        self.leave_nothing()
    }

    /// Nothing will be told to anybody any more, so what is left of time goes into leaving nothing behind: of this launcher's own, and of
    /// others before it, unless it has looked for that already.
    fn leave_nothing(&mut self) -> io::Result<()> {
        self.entering.end()?;
        for _ in 0..200 {
            self.remove_cgroups();
            if self.sweep_at.is_some() && self.entering.sweep(&self.setup)? {
                self.sweep_at = None;
            }
            if self.unremoved.is_empty() && self.sweep_at.is_none() {
                break;
            }
            std::thread::sleep(RETRY_REMOVAL);
        }
        Ok(())
    }

    fn end_everything(&mut self) -> io::Result<()> {
        epoll::delete(&self.epoll, &self.control)?;
        self.waiting.clear();
        for slot in self.slots.values() {
            slot.kill();
        }
        self.commits.retain(|_, commit| commit.give_up());
        self.layers.values().for_each(Laying::give_up);
        Ok(())
    }

    /// Takes one message from the server. `false` when there will be no more.
    fn on_control(&mut self) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = receive(self.control.as_fd(), &mut buffer, Tag::descriptors_of);
        let going_on = match (received, protocol::split(&buffer)) {
            (Ok(Some(fds)), Ok((Tag::Launch | Tag::LaunchOnDisk, seq, _))) => {
                self.waiting.push_back(Waiting { seq, message: buffer.clone(), fds });
                self.hand_out();
                true
            }
            (Ok(Some(_)), Ok((Tag::Destroy, seq, _))) => {
                self.destroy(seq);
                true
            }
            (Ok(Some(fds)), Ok((Tag::Commit, seq, body))) => {
                // Otherwise both pipes are closed, and that is the answer.
                if let (Ok(pipes), Ok(order)) = (<[OwnedFd; 2]>::try_from(fds), protocol::decode(body)) {
                    self.commit(seq, order, pipes);
                }
                true
            }
            (Ok(Some(fds)), Ok((Tag::Layer, seq, body))) => {
                // Otherwise the socket is closed, and that is the answer.
                if let (Ok([socket]), Ok(order)) = (<[OwnedFd; 1]>::try_from(fds), protocol::decode(body)) {
                    self.layer(seq, &order, socket);
                }
                true
            }
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => true,
            // The server has gone, or talks nonsense, which is as good as gone.
            _ => false,
        };
        self.buffer = buffer;
        going_on
    }

    fn destroy(&mut self, seq: u64) {
        if let Some(slot) = self.slots.values().find(|slot| slot.phase.seq() == Some(seq)) {
            slot.kill();
            return;
        }
        self.waiting.retain(|waiting| waiting.seq != seq);
        self.tell(Tag::Ended, seq, &Ended { exit: None, signal: None, oom_kills: 0, file_locks: None });
    }

    /// Begins to read what a sandbox has written over its image.
    fn commit(&mut self, seq: u64, order: CommitOrder, pipes: [OwnedFd; 2]) {
        let Some(sandbox) = self.slots.iter().find(|(_, slot)| slot.phase.seq() == Some(seq)).map(|(key, _)| *key) else { return };
        // Its agent may have been heard of by the server before we have heard that it runs.
        self.drain(sandbox);
        let is_running = self.slots.get(&sandbox).is_some_and(|slot| matches!(slot.phase, Phase::Running { .. }) && slot.views.is_some());
        if !is_running || self.commits.values().any(|commit| commit.sandbox == sandbox) {
            return;
        }
        let key = self.next_key;
        self.next_key += 1;
        self.commits.insert(key, Commit::begin(sandbox, order, pipes));
        self.go_on_with(key);
    }

    /// Begins to lay something over a directory of a sandbox.
    fn layer(&mut self, seq: u64, order: &LayerOrder, socket: OwnedFd) {
        let Some(sandbox) = self.slots.iter().find(|(_, slot)| slot.phase.seq() == Some(seq)).map(|(key, _)| *key) else { return };
        // As with a commit.
        self.drain(sandbox);
        let Some(slot) = self.slots.get(&sandbox).filter(|slot| matches!(slot.phase, Phase::Running { .. })) else { return };
        let is_looked_at = self.commits.values().any(|commit| commit.sandbox == sandbox);
        let is_laid = self.layers.values().any(|laying| laying.sandbox == sandbox);
        let Some(members) = commit::members(slot, &self.setup).filter(|_| !is_looked_at && !is_laid) else { return };
        // An ordinary user's launcher may not go into a namespace that it has given away.
        if self.setup.subordinate_ids.is_some() {
            return;
        }
        let pidfd = match clone_process(self.alone, 0, None) {
            Ok(Cloned::Child) => layer::lay(slot, &members, slot.cgroup.ids(&self.setup), order, socket),
            Ok(Cloned::Parent { pidfd, .. }) => pidfd,
            Err(_) => return,
        };
        let key = self.next_key;
        self.next_key += 1;
        let laying = Laying { sandbox, pidfd };
        if epoll::add(&self.epoll, &laying.pidfd, EventData::new_u64(key * 2 + 1), EventFlags::IN).is_err() {
            // Without a watch it could never be reaped later.
            laying.give_up();
            waitid(WaitId::PidFd(laying.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
            return;
        }
        self.layers.insert(key, laying);
    }

    fn go_on_with(&mut self, key: u64) {
        let Some(commit) = self.commits.get_mut(&key) else { return };
        let Some(slot) = self.slots.get(&commit.sandbox) else {
            if !commit.give_up() {
                self.commits.remove(&key);
            }
            return;
        };
        match commit.look(self.alone, slot, &self.setup) {
            Stand::Waits => {}
            Stand::Begun(pidfd) => {
                if epoll::add(&self.epoll, pidfd, EventData::new_u64(key * 2 + 1), EventFlags::IN).is_err() {
                    // Without a watch it could never be reaped later.
                    commit.abandon(slot, &self.setup);
                    self.commits.remove(&key);
                }
            }
            Stand::Failed => {
                self.commits.remove(&key);
            }
        }
    }

    /// The process that has read it has ended.
    fn read_out(&mut self, key: u64) {
        let Some(mut commit) = self.commits.remove(&key) else { return };
        if let Some(pidfd) = commit.pidfd()
            && let Err(error) = epoll::delete(&self.epoll, pidfd)
        {
            debug_assert_eq!(error, rustix::io::Errno::NOENT);
        }
        commit.end(self.slots.get(&commit.sandbox), &self.setup);
    }

    /// Gives waiting plans to parked processes, and sees to it that enough are on their way for the rest.
    fn hand_out(&mut self) {
        while !self.waiting.is_empty() {
            let Some(slot) = self.slots.values_mut().find(|slot| matches!(slot.phase, Phase::Parked)) else {
                // Nobody is left to hand out, so new ones are needed now.
                self.refill_at = None;
                break;
            };
            let Some(waiting) = self.waiting.pop_front() else { break };
            let assigned = protocol::split(&waiting.message)
                .and_then(|(_, _, body)| protocol::processors(body))
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
                .and_then(|count| self.processors.assign(slot.pid, count));
            let sent = assigned.and_then(|taken| {
                slot.processors = taken;
                let fds: Vec<BorrowedFd<'_>> = waiting.fds.iter().map(AsFd::as_fd).collect();
                send(slot.socket(), &waiting.message, &fds)
            });
            match sent {
                Ok(()) => {
                    slot.phase = Phase::Launching { seq: waiting.seq };
                    self.refill_at.get_or_insert_with(|| Instant::now() + REFILL_AFTER);
                }
                // It died while it was parked; its pidfd will tell. The plan goes to another.
                Err(error) => {
                    slot.phase = Phase::Failed { seq: None, failure: failure_of(Stage::Plan, &error) };
                    self.waiting.push_front(waiting);
                }
            }
        }
    }

    /// Keeps the agreed number of processes parked or on their way, and more when plans wait.
    fn refill(&mut self) {
        if self.park_again_at.is_some() {
            return;
        }
        loop {
            let ready = self.slots.values().filter(|slot| matches!(slot.phase, Phase::Parked | Phase::Parking)).count();
            let parking = self.slots.values().filter(|slot| matches!(slot.phase, Phase::Parking)).count();
            let wanted = self.setup.parked as usize + self.waiting.len();
            if ready >= wanted || parking >= MAX_PARKING {
                return;
            }
            if let Err(error) = self.entering.begin() {
                self.parking_failed(&failure_of(Stage::Cgroup, &error));
                return;
            }
            match Slot::park(self.alone, &self.setup, self.agent.as_fd(), &mut self.seed) {
                Ok(slot) => self.insert(slot),
                Err(failure) => {
                    self.parking_failed(&failure);
                    return;
                }
            }
        }
    }

    fn insert(&mut self, slot: Slot) {
        let key = self.next_key;
        self.next_key += 1;
        let watched = epoll::add(&self.epoll, slot.socket(), EventData::new_u64(key * 2), EventFlags::IN)
            .and_then(|()| epoll::add(&self.epoll, slot.pidfd(), EventData::new_u64(key * 2 + 1), EventFlags::IN));
        if let Err(error) = watched {
            // Without a watch it could never be reaped later, so it goes now.
            slot.kill();
            slot.wait(&self.setup);
            self.bury(slot.cgroup);
            self.parking_failed(&failure_of(Stage::Clone, &io::Error::from(error)));
            return;
        }
        self.slots.insert(key, slot);
    }

    /// No process can be parked now: whoever waits is told, and it is tried again a little later.
    fn parking_failed(&mut self, failure: &Failure) {
        self.park_again_at = Some(Instant::now() + Duration::from_millis(100));
        if !self.ready {
            // Once is enough: the server gives up, and its end of the socket with it.
            self.ready = true;
            self.tell(Tag::Failed, 0, failure);
        }
        // Those who can be served by processes on their way still wait for them.
        let coming = self.slots.values().filter(|slot| matches!(slot.phase, Phase::Parked | Phase::Parking)).count();
        while self.waiting.len() > coming {
            if let Some(waiting) = self.waiting.pop_back() {
                self.tell(Tag::Failed, waiting.seq, failure);
            }
        }
    }

    /// A parked process has said something, or has closed its socket by executing the agent or by dying.
    fn on_slot(&mut self, key: u64) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(slot) = self.slots.get_mut(&key) {
            let message = receive(slot.socket(), &mut buffer, Tag::descriptors_of);
            let (message, fds) = match message {
                Ok(Some(fds)) => (protocol::split(&buffer).ok(), fds),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.buffer = buffer,
                _ => (None, Vec::new()),
            };
            let (mut launched, mut parked) = (None, false);
            match (message, &slot.phase) {
                (Some((Tag::Parked, _, _)), Phase::Parking) => {
                    slot.phase = Phase::Parked;
                    parked = true;
                }
                (Some((Tag::Views, _, _)), Phase::Launching { .. }) => slot.views = fds.try_into().ok(),
                (Some((Tag::Failed, _, body)), phase) => {
                    let failure = protocol::decode(body).unwrap_or(Failure { stage: Stage::Plan, errno: 0, subject: String::new() });
                    slot.phase = Phase::Failed { seq: phase.seq(), failure };
                }
                (message, phase) => {
                    // The end of the conversation; anything else would be nonsense, and then nothing it says counts any more.
                    if let Err(error) = epoll::delete(&self.epoll, slot.socket()) {
                        debug_assert_eq!(error, rustix::io::Errno::NOENT);
                    }
                    if message.is_some() {
                        slot.kill();
                    } else if let Phase::Launching { seq } = *phase {
                        launched = Some((seq, slot.cgroup.name()));
                        slot.phase = Phase::Running { seq };
                        self.count_locks_at.get_or_insert_with(|| Instant::now() + locks::EVERY);
                    }
                }
            }
            if parked && !self.ready {
                self.ready = true;
                self.tell(Tag::Ready, 0, &());
            }
            if let Some((seq, cgroup)) = launched {
                self.tell(Tag::Launched, seq, &Launched { cgroup });
            }
        }
        self.buffer = buffer;
        self.hand_out();
    }

    fn on_death(&mut self, key: u64) {
        if self.commits.contains_key(&key) {
            return self.read_out(key);
        }
        if let Some(laying) = self.layers.remove(&key) {
            if let Err(error) = epoll::delete(&self.epoll, &laying.pidfd) {
                debug_assert_eq!(error, rustix::io::Errno::NOENT);
            }
            // How it ended was said through its socket.
            waitid(WaitId::PidFd(laying.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
            return;
        }
        // What it said before it died comes first.
        self.drain(key);
        let Some(mut slot) = self.slots.remove(&key) else { return };
        // What it wrote goes with it, before anybody hears of its end.
        slot.views = None;
        self.commits.retain(|_, commit| commit.sandbox != key || commit.give_up());
        self.layers.values().filter(|laying| laying.sandbox == key).for_each(Laying::give_up);
        // A process that is just being made still holds copies of these descriptors, so closing ours would not end the watch.
        for fd in [slot.socket(), slot.pidfd()] {
            if let Err(error) = epoll::delete(&self.epoll, fd) {
                debug_assert_eq!(error, rustix::io::Errno::NOENT);
            }
        }
        let ended = slot.wait(&self.setup);
        let phase = slot.phase;
        self.bury(slot.cgroup);
        self.processors.release(&slot.processors);
        match phase {
            Phase::Running { seq } => self.tell(Tag::Ended, seq, &ended),
            Phase::Launching { seq } => {
                let how = ended.signal.map_or_else(|| format!("exit status {}", ended.exit.unwrap_or(-1)), |s| format!("signal {s}"));
                self.tell(Tag::Failed, seq, &Failure { stage: Stage::Execute, errno: 0, subject: how });
            }
            Phase::Failed { seq: Some(seq), failure } => self.tell(Tag::Failed, seq, &failure),
            // Its directory was taken away before it was entered, by somebody who does not know our lock: the next takes another.
            Phase::Failed { seq: None, failure: Failure { stage: Stage::EnterCgroup, errno: libc::ENOENT, .. } } => {}
            Phase::Failed { seq: None, failure } => self.parking_failed(&failure),
            Phase::Parking => {
                self.parking_failed(&Failure { stage: Stage::EnterCgroup, errno: 0, subject: "ended by a signal".to_owned() });
            }
            Phase::Parked => {}
        }
    }

    /// Hears what it has said already.
    fn drain(&mut self, key: u64) {
        for _ in 0..2 {
            let unheard = self.slots.get(&key).is_some_and(|slot| {
                matches!(slot.phase, Phase::Parking | Phase::Launching { .. }) && has_something(slot.socket()).unwrap_or(false)
            });
            if unheard {
                self.on_slot(key);
            }
        }
    }

    fn bury(&mut self, cgroup: Cgroup) {
        if !cgroup.remove(&self.setup) {
            self.unremoved.push(cgroup);
        }
    }

    fn remove_cgroups(&mut self) {
        let setup = &self.setup;
        self.unremoved.retain(|cgroup| !cgroup.remove(setup));
    }

    fn next_timer(&self) -> Option<Instant> {
        let removal = (!self.unremoved.is_empty()).then(|| Instant::now() + RETRY_REMOVAL);
        let commits = self.commits.values().map(Commit::next_look).min();
        [removal, self.sweep_at, self.park_again_at, self.refill_at, self.count_locks_at, commits].into_iter().flatten().min()
    }

    fn on_timers(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.remove_cgroups();
        if self.park_again_at.is_some_and(|at| at <= now) {
            self.park_again_at = None;
        }
        if self.refill_at.is_some_and(|at| at <= now) {
            self.refill_at = None;
        }
        if self.count_locks_at.is_some_and(|at| at <= now) {
            self.end_who_has_too_many_locks();
            let running = self.slots.values().any(|slot| matches!(slot.phase, Phase::Running { .. }));
            self.count_locks_at = running.then(|| Instant::now() + locks::EVERY);
        }
        let due: Vec<u64> = self.commits.iter().filter(|(_, commit)| commit.next_look() <= now).map(|(key, _)| *key).collect();
        for key in due {
            self.go_on_with(key);
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            let swept = self.entering.sweep(&self.setup)?;
            self.sweep_at = (!swept).then(|| now + SWEEP_AFTER);
        }
        Ok(())
    }

    fn end_who_has_too_many_locks(&mut self) {
        // A kernel that does not say has none, or is one of a container that may not see them.
        let Ok(by_user) = locks::by_user() else { return };
        if by_user.is_empty() {
            return;
        }
        for slot in self.slots.values_mut().filter(|slot| matches!(slot.phase, Phase::Running { .. })) {
            let ids = slot.cgroup.ids(&self.setup);
            let count: usize = by_user.iter().filter(|(user, _)| ids.contain(**user)).map(|(_, count)| count).sum();
            if count > MOST_FILE_LOCKS {
                slot.file_locks = Some(count as u64);
                slot.kill();
            }
        }
    }

    fn tell(&self, tag: Tag, seq: u64, body: &impl serde::Serialize) {
        // A server that does not listen any more closes its end, and that ends everything.
        if let Err(error) = send(self.control.as_fd(), &protocol::encode(tag, seq, body), &[]) {
            debug_assert_ne!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}

fn failure_of(stage: Stage, error: &io::Error) -> Failure {
    Failure { stage, errno: error.raw_os_error().unwrap_or(0), subject: String::new() }
}
