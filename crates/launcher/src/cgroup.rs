//! The directories of a sandbox in the cgroup hierarchies (`cgroups(7)`).

use std::{fs, io, os::fd::OwnedFd, path::PathBuf};

use caisson_launcher::plan::Setup;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};

/// How many sandboxes can exist at once on a host: every one takes a name and with it a range of host ids.
/// The last range ends below 2³¹, beyond which older kernels cannot read the `gid` of a devpts.
const RANGES: u32 = 8_191;
/// Host ids start here, far from those that accounts and `subuid(5)` use.
const FIRST_ID: u32 = 0x4000_0000;
/// Distance between two ranges.
const STRIDE: u32 = 0x2_0000;

/// A sandbox's directory in every hierarchy. Its name, unique on the host, stands for a range of host ids too.
#[derive(Debug)]
pub(crate) struct Cgroup {
    index: u32,
}

impl Cgroup {
    /// Takes a free name: making the directory in the first hierarchy decides between all launchers of the host.
    pub(crate) fn create(setup: &Setup, seed: &mut u32) -> io::Result<Self> {
        let [first, others @ ..] = setup.hierarchies.as_slice() else { return Err(io::Error::other("no cgroup hierarchy")) };
        for _ in 0..RANGES {
            *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let cgroup = Self { index: (*seed >> 16) % RANGES };
            match fs::create_dir(cgroup.directory(first)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            for other in others {
                // One that was left by a crash is empty and serves as well.
                if let Err(error) = fs::create_dir(cgroup.directory(other))
                    && error.kind() != io::ErrorKind::AlreadyExists
                {
                    cgroup.remove(setup);
                    return Err(error);
                }
            }
            return Ok(cgroup);
        }
        Err(Errno::AGAIN.into())
    }

    pub(crate) fn name(&self) -> String {
        self.index.to_string()
    }

    /// The host id that is uid and gid 0 inside.
    pub(crate) fn first_id(&self) -> u32 {
        FIRST_ID + self.index * STRIDE
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
    parent: OwnedFd,
    held: bool,
}

impl Entering {
    pub(crate) fn new(setup: &Setup) -> io::Result<Self> {
        let Some(first) = setup.hierarchies.first() else { return Err(io::Error::other("no cgroup hierarchy")) };
        Ok(Self { parent: open(first, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?, held: false })
    }

    /// From before a directory is made; waits for one who sweeps, which is short.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        if !self.held {
            rustix::io::retry_on_intr(|| flock(&self.parent, FlockOperation::LockShared))?;
            self.held = true;
        }
        Ok(())
    }

    /// Once every directory that was made is entered.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.held) {
            flock(&self.parent, FlockOperation::Unlock)?;
        }
        Ok(())
    }

    /// Sweeps unless somebody, this launcher included, is entering. Says whether it did.
    pub(crate) fn sweep(&self, setup: &Setup) -> io::Result<bool> {
        if self.held {
            return Ok(false);
        }
        match flock(&self.parent, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(false),
            result => result?,
        }
        sweep(setup);
        flock(&self.parent, FlockOperation::Unlock)?;
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
