//! The directories of a sandbox in the cgroup hierarchies (`cgroups(7)`).

use std::{fs, io, path::PathBuf};

use caisson_launcher::plan::Setup;

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
        Err(io::Error::from_raw_os_error(rustix::io::Errno::AGAIN.raw_os_error()))
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

/// Removes what launchers that are gone have left: every directory without a process. One that a living launcher has made but not
/// yet entered may go with them; that launcher then takes another.
pub(crate) fn sweep(setup: &Setup) {
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
