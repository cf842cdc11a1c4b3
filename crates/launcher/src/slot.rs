//! One place for a sandbox: a cgroup, and the process that waits in it, then becomes the sandbox's agent.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use caisson_launcher::{
    plan::Setup,
    protocol::{Ended, Failure, Stage},
};
use caisson_sys::kernel::{Cloned, SingleThreaded, clone_process};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

use crate::{cgroup::Cgroup, fault, stages};

/// Where a slot is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Entering cgroup and namespaces.
    Parking,
    /// Waiting for a plan.
    Parked,
    /// Executing the plan of this sandbox.
    Launching { seq: u64 },
    /// Was told to the server as launched.
    Running { seq: u64 },
    /// Reported why it could not go on; about to exit. Without a number it failed before it had a plan.
    Failed { seq: Option<u64>, failure: Failure },
}

impl Phase {
    pub(crate) fn seq(&self) -> Option<u64> {
        match self {
            Self::Parking | Self::Parked => None,
            Self::Launching { seq } | Self::Running { seq } => Some(*seq),
            Self::Failed { seq, .. } => *seq,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) phase: Phase,
    pub(crate) cgroup: Cgroup,
    /// The processors it was given; empty when it may use all.
    pub(crate) processors: Vec<usize>,
    pub(crate) pid: Pid,
    /// How many file locks it had when it was ended for that.
    pub(crate) file_locks: Option<u64>,
    /// Of a root that is made of an image: its upper directory, the root without what is mounted there, and the storage.
    pub(crate) views: Option<[OwnedFd; 3]>,
    pidfd: OwnedFd,
    socket: OwnedFd,
}

impl Slot {
    /// Makes the cgroup and the process. In the new process this never returns.
    pub(crate) fn park(alone: SingleThreaded, setup: &Setup, agent: BorrowedFd<'_>, seed: &mut u32) -> Result<Self, Failure> {
        let failure = |stage, error: &io::Error, subject: &str| Failure {
            stage,
            errno: error.raw_os_error().unwrap_or(0),
            subject: if subject.is_empty() && error.raw_os_error().is_none() { error.to_string() } else { subject.to_owned() },
        };
        let flags = SocketFlags::CLOEXEC;
        let (socket, child_socket) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(|e| failure(Stage::Clone, &e.into(), "socket"))?;
        let cgroup = fault::reach(setup, Stage::Cgroup)
            .and_then(|()| Cgroup::create(setup, seed))
            .map_err(|e| failure(Stage::Cgroup, &e, &setup.hierarchies.join(", ")))?;
        let cloned = fault::reach(setup, Stage::Clone)
            .and_then(|()| open_unified(setup, &cgroup))
            .and_then(|directory| clone_process(alone, stages::namespaces(setup), directory.as_ref().map(AsFd::as_fd)));
        match cloned {
            Ok(Cloned::Child) => stages::sandbox_process(child_socket, agent, setup, &cgroup),
            Ok(Cloned::Parent { pid, pidfd }) => {
                Ok(Self { phase: Phase::Parking, cgroup, processors: Vec::new(), pid, file_locks: None, views: None, pidfd, socket })
            }
            Err(error) => {
                cgroup.remove(setup);
                Err(failure(Stage::Clone, &error, ""))
            }
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Ends everything in it: the process is the first of its pid namespace (`pid_namespaces(7)`). `wait` tells when it is done.
    pub(crate) fn kill(&self) {
        // The only failure is that it has ended already.
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL) {
            debug_assert_eq!(error, rustix::io::Errno::SRCH);
        }
    }

    /// How the process ended, once its pidfd is readable.
    pub(crate) fn wait(&self, setup: &Setup) -> Ended {
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
        Ended {
            exit: status.as_ref().and_then(rustix::process::WaitIdStatus::exit_status),
            signal: status.as_ref().and_then(rustix::process::WaitIdStatus::terminating_signal),
            oom_kills: self.cgroup.oom_kills(setup),
            file_locks: self.file_locks,
        }
    }
}

/// On cgroup v2 processes are born into their cgroup.
fn open_unified(setup: &Setup, cgroup: &Cgroup) -> io::Result<Option<OwnedFd>> {
    use rustix::fs::{Mode, OFlags, open};
    if !setup.unified {
        return Ok(None);
    }
    let [hierarchy, ..] = setup.hierarchies.as_slice() else { return Ok(None) };
    Ok(Some(open(cgroup.directory(hierarchy), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
}
