//! A host that has run out of something, for one server alone: a control group with a limit, or a small disk.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A control group without room for more processes: the launcher's on cgroup v1. On v2 processes are born into the group of their sandbox,
/// so there it is the one above all sandboxes, and what runs in them feels the shortage, too.
#[derive(Debug)]
pub struct Shortage {
    directory: PathBuf,
    /// Whether it is a group of our own.
    own: bool,
}

impl Shortage {
    /// To be made when there is a server.
    #[must_use]
    pub fn of_processes() -> Self {
        let pids = Path::new("/sys/fs/cgroup/pids");
        if !pids.is_dir() {
            return Self { directory: "/sys/fs/cgroup/caisson".into(), own: false };
        }
        let directory = pids.join(format!("shortage-{}", std::process::id()));
        fs::create_dir(&directory).expect("a control group can be made");
        Self { directory, own: true }
    }

    /// Who is to feel it: the launcher.
    pub fn take(&self, pid: u32) {
        if self.own {
            fs::write(self.directory.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
        }
    }

    /// No process can be made beyond those that there are.
    pub fn begin(&self) {
        let count = fs::read_to_string(self.directory.join("pids.current")).expect("a count can be read");
        fs::write(self.directory.join("pids.max"), count.trim()).expect("a limit can be set");
    }

    pub fn end(&self) {
        fs::write(self.directory.join("pids.max"), "max").expect("a limit can be lifted");
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        if !self.own {
            // A test that failed in the middle of it.
            drop(fs::write(self.directory.join("pids.max"), "max"));
            return;
        }
        let parent = self.directory.parent().expect("it is in another").join("cgroup.procs");
        for pid in fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default().lines() {
            // It may have ended meanwhile.
            drop(fs::write(&parent, pid));
        }
        if let Err(error) = fs::remove_dir(&self.directory) {
            eprintln!("{} is left: {error}", self.directory.display());
        }
    }
}

/// A disk of this size, in memory, unmounted at the end.
#[derive(Debug)]
pub struct SmallDisk {
    place: tempfile::TempDir,
}

impl SmallDisk {
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let place = tempfile::Builder::new().prefix("caisson-test-disk-").tempdir().expect("a temporary directory can be made");
        let options = std::ffi::CString::new(format!("size={bytes},mode=700")).expect("a number has no NUL");
        mount("tmpfs", place.path(), "tmpfs", MountFlags::NOSUID, options.as_c_str()).expect("a tmpfs can be mounted");
        Self { place }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all of its room.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::options().create(true).append(true).open(self.ballast()).expect("a file can be made");
        // In ever smaller pieces, so that nothing is left over.
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn empty(&self) {
        fs::remove_file(self.ballast()).expect("the ballast can be removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.path(), UnmountFlags::DETACH) {
            eprintln!("{} is still mounted: {error}", self.path().display());
        }
    }
}
