//! The directories of a sandbox in the cgroup hierarchies (`cgroups(7)`).

use std::{fs, io, os::fd::OwnedFd, path::PathBuf};

use caisson_launcher::plan::{FEW, Setup};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
};

use crate::ids::Ids;

/// How many sandboxes can exist at once on a host: every one takes a name and with it a range of host ids.
/// The last range ends below 2³¹, beyond which older kernels cannot read the `gid` of a devpts.
const RANGES: u32 = 8_191;
/// Host ids start here, far from those that accounts and `subuid(5)` use.
const FIRST_ID: u32 = 0x4000_0000;
/// Distance between two ranges.
const STRIDE: u32 = 0x2_0000;

/// The ids of a sandbox that has no directory of ours. Another one may have the same; what is counted for each user of the host is all that they
/// share then.
pub(crate) fn some_ids(random: u32) -> Ids {
    Ids::Range(FIRST_ID + random % RANGES * STRIDE)
}

/// A sandbox's directory in every hierarchy. Its name, unique on the host, stands for a range of host ids too.
#[derive(Debug)]
pub(crate) struct Cgroup {
    index: u32,
    /// What keeps the name from other launchers of an ordinary user, who have other directories or none: an abstract address (`unix(7)`),
    /// which the kernel frees.
    _claim: Option<OwnedFd>,
}

/// Ranges of ids that one launcher of an ordinary user has to give away.
fn ranges_of(subordinate_ids: u32) -> u32 {
    subordinate_ids / FEW
}

impl Cgroup {
    /// Takes a free name.
    pub(crate) fn create(setup: &Setup, seed: &mut u32) -> io::Result<Self> {
        let ranges = setup.subordinate_ids.map_or(RANGES, ranges_of);
        for _ in 0..ranges {
            *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let index = (*seed >> 16) % ranges;
            let made = match setup.subordinate_ids {
                None => Self::take_directories(setup, index),
                Some(_) => Self::take_address(setup, index),
            };
            match made {
                Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::AddrInUse) => {}
                made => return made,
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Making the directory in the first hierarchy decides between all launchers of the host.
    fn take_directories(setup: &Setup, index: u32) -> io::Result<Self> {
        let [first, others @ ..] = setup.hierarchies.as_slice() else { return Err(io::Error::other("no cgroup hierarchy")) };
        let cgroup = Self { index, _claim: None };
        fs::create_dir(cgroup.directory(first))?;
        cgroup.make_directories(setup, others)?;
        Ok(cgroup)
    }

    /// The address decides between all launchers of the user.
    fn take_address(setup: &Setup, index: u32) -> io::Result<Self> {
        // Namespaces of others, such as containers with host networking, may know this user by another number.
        let user = fs::read_to_string("/proc/self/uid_map")?.split_ascii_whitespace().nth(1).unwrap_or("").to_owned();
        let address = SocketAddrUnix::new_abstract_name(format!("caisson-ids-{user}-{index}").as_bytes())?;
        let claim = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        bind(&claim, &address)?;
        let cgroup = Self { index, _claim: Some(claim) };
        cgroup.make_directories(setup, &setup.hierarchies)?;
        Ok(cgroup)
    }

    fn make_directories(&self, setup: &Setup, hierarchies: &[String]) -> io::Result<()> {
        for hierarchy in hierarchies {
            // One that was left by a crash is empty and serves as well.
            if let Err(error) = fs::create_dir(self.directory(hierarchy))
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                self.remove(setup);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> String {
        self.index.to_string()
    }

    /// The sandbox's ids, which no other living sandbox has.
    pub(crate) fn ids(&self, setup: &Setup) -> Ids {
        match setup.subordinate_ids {
            None => Ids::Range(FIRST_ID + self.index * STRIDE),
            // 0 is the user.
            Some(_) => Ids::Few(1 + self.index * FEW),
        }
    }

    pub(crate) fn directory(&self, hierarchy: &str) -> PathBuf {
        PathBuf::from(format!("{hierarchy}/{}", self.index))
    }

    /// How often the kernel killed at the memory limit.
    pub(crate) fn oom_kills(&self, setup: &Setup) -> u64 {
        let Some(first) = setup.hierarchies.first() else { return 0 };
        let text = fs::read_to_string(self.directory(first).join(&setup.oom_file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the directories; the first, which holds the name, last. Says whether all are gone.
    pub(crate) fn remove(&self, setup: &Setup) -> bool {
        setup.hierarchies.iter().rev().all(|hierarchy| gone(fs::remove_dir(self.directory(hierarchy))))
    }
}

/// Keeps other launchers from taking directories for leftovers that are made and not yet entered (`flock(2)` on the parent directory).
#[derive(Debug)]
pub(crate) struct Entering {
    /// Absent where there are no cgroups.
    parent: Option<OwnedFd>,
    held: bool,
}

impl Entering {
    pub(crate) fn new(setup: &Setup) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = setup.hierarchies.first().map(|first| open(first, flags, Mode::empty())).transpose()?;
        Ok(Self { parent, held: false })
    }

    /// From before a directory is made; waits for one who sweeps, which is short.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        if let Some(parent) = self.parent.as_ref().filter(|_| !self.held) {
            rustix::io::retry_on_intr(|| flock(parent, FlockOperation::LockShared))?;
            self.held = true;
        }
        Ok(())
    }

    /// Once every directory that was made is entered.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if let Some(parent) = self.parent.as_ref().filter(|_| self.held) {
            flock(parent, FlockOperation::Unlock)?;
            self.held = false;
        }
        Ok(())
    }

    /// Sweeps unless somebody, this launcher included, is entering. Says whether it did.
    pub(crate) fn sweep(&self, setup: &Setup) -> io::Result<bool> {
        if self.held {
            return Ok(false);
        }
        let Some(parent) = &self.parent else { return Ok(true) };
        match flock(parent, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(false),
            result => result?,
        }
        sweep(setup);
        flock(parent, FlockOperation::Unlock)?;
        Ok(true)
    }
}

/// Removes what launchers that are gone have left: every directory without a process.
fn sweep(setup: &Setup) {
    for hierarchy in setup.hierarchies.iter().rev() {
        let Ok(entries) = fs::read_dir(hierarchy) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
                // Fails for one that is in use, which is the point.
                gone(fs::remove_dir(entry.path()));
            }
        }
    }
}

fn gone(result: io::Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
