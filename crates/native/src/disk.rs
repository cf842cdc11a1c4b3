//! Roots on disk: files without a name, with an ext4 of the asked-for size in them. They are sparse, and the kernel frees them with the last
//! mount, so that nothing can be left behind, whoever dies.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use caisson_core::{BackendError, Limits};
use rustix::fs::{Mode, OFlags, open};

use crate::program;

const BLOCK: u64 = 4096;
const INODE: u64 = 256;
const MIB: u64 = 1 << 20;
/// Where programs for administrators are.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Makes them.
#[derive(Debug)]
pub(crate) struct Disks {
    directory: PathBuf,
}

impl Disks {
    pub(crate) fn in_directory(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// One with room for what `limits` say.
    pub(crate) async fn make(&self, limits: &Limits) -> Result<OwnedFd, BackendError> {
        let (directory, limits) = (self.directory.clone(), *limits);
        let made = tokio::task::spawn_blocking(move || make(&directory, &limits)).await;
        made.unwrap_or_else(|error| Err(BackendError::Failed(format!("making the disk of the sandbox failed: {error}"))))
    }
}

fn make(directory: &Path, limits: &Limits) -> Result<OwnedFd, BackendError> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| BackendError::Failed(format!("cannot {what} in {}: {error}", directory.display()));
    let size = size(limits);
    let about = rustix::fs::statvfs(directory).map_err(|error| failed("look for room", &error))?;
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    if free < limits.disk_bytes {
        return Err(BackendError::Exhausted(format!(
            "a sandbox with {} MiB on disk does not fit: {} has {} MiB free; ask for less in `limits.disk_bytes`, or make room",
            limits.disk_bytes / MIB,
            directory.display(),
            free / MIB
        )));
    }
    let image = match open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            return Err(BackendError::Unsupported(format!(
                "the file system of {} cannot keep files without a name (O_TMPFILE), which storage `disk` needs; choose a data directory \
                 on ext4, XFS or Btrfs, or use storage `memory`",
                directory.display()
            )));
        }
        result => result.map_err(|error| failed("make the disk of the sandbox", &error))?,
    };
    rustix::fs::ftruncate(&image, size).map_err(|error| failed("make the disk of the sandbox", &error))?;
    format(&image, limits.disk_inodes)?;
    Ok(image)
}

/// So large that, beside what ext4 needs for itself, there is room for what was asked for. Errs on the large side by a few percent.
fn size(limits: &Limits) -> u64 {
    let inodes = limits.disk_inodes * INODE;
    // Two per cent, 16 MiB at most, are kept back for delayed allocation; bitmaps and descriptors take less than one.
    let reserve = (limits.disk_bytes / 50).min(16 * MIB) + (limits.disk_bytes + inodes) / 128 + MIB;
    (limits.disk_bytes + inodes + reserve).next_multiple_of(BLOCK)
}

fn format(image: &OwnedFd, inodes: u64) -> Result<(), BackendError> {
    let program = program::find(&DIRECTORIES, "mkfs.ext4").ok_or_else(|| {
        BackendError::Unsupported("storage `disk` needs `mkfs.ext4`; install the package e2fsprogs, or use storage `memory`".to_owned())
    })?;
    let failed = |why: String| BackendError::Failed(format!("mkfs.ext4 failed: {why}"));
    let stdin = image.try_clone().map(File::from).map_err(|error: io::Error| failed(error.to_string()))?;
    let mut format = Command::new(program);
    format
        // No journal: nobody mounts it again after a crash.
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-O", "^has_journal,^resize_inode", "-E"])
        .args(["lazy_itable_init=1,nodiscard,root_owner=0:0", "-N", &inodes.to_string(), "/proc/self/fd/0"])
        .stdin(Stdio::from(stdin));
    program::run(&mut format).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_fits() {
        for (bytes, inodes) in [(MIB, 256), (512 * MIB, 65_536), (64 << 30, 1_000_000)] {
            let size = size(&Limits { disk_bytes: bytes, disk_inodes: inodes, ..Limits::default() });
            assert!(size >= bytes + inodes * INODE && size.is_multiple_of(BLOCK), "{size}");
            assert!(size - inodes * INODE <= bytes + bytes / 20 + 4 * MIB, "{size} for {bytes}");
        }
    }

    #[test]
    fn a_directory_that_does_not_do_is_named() {
        let BackendError::Failed(message) = make(Path::new("/nowhere"), &Limits::default()).unwrap_err() else { panic!("another error") };
        assert!(message.contains("/nowhere"), "{message}");
    }
}
