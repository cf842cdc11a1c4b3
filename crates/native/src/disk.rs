//! Roots on disk: files with an ext4 of the asked-for size in them. They are sparse.
//!
//! Those that end with their sandbox have no name, and the kernel frees them with the last mount, whoever dies. Those that are kept are called
//! after their sandbox. The lock on a file (`flock(2)`) is held by everybody who has it open, the loop device behind a mount included: what is
//! still mounted somewhere is never mounted a second time.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, UNIX_EPOCH},
};

use caisson_core::{BackendError, Limits, SET_ASIDE_FOR, SandboxId};
use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, SeekFrom, flock, linkat, open, seek},
    io::Errno,
};

use crate::program;

const BLOCK: u64 = 4096;
const INODE: u64 = 256;
const MIB: u64 = 1 << 20;
/// The smallest that there is. What was cut off in the middle is made whole from it at the next mount.
const JOURNAL: u64 = 4 * MIB;
/// Where programs for administrators are.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// What names end with that stand for no sandbox any more.
const ASIDE: &str = "aside";
/// How long a file that is still mounted by whoever is ending is waited for.
const FREE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How many sizes are remembered as they are after formatting, and how large such a memory may be.
const REMEMBERED: usize = 8;
const MOST_REMEMBERED: u64 = 4 * MIB;

/// Makes and keeps them.
#[derive(Debug, Clone)]
pub(crate) struct Disks {
    /// For those without a name.
    directory: PathBuf,
    /// For those with one.
    kept: PathBuf,
    blanks: Arc<Mutex<Vec<Arc<Blank>>>>,
}

/// What `mkfs.ext4` wrote once for a size: the same for everybody who asks for it.
#[derive(Debug)]
struct Blank {
    size: u64,
    inodes: u64,
    is_kept: bool,
    pieces: Pieces,
}

impl Disks {
    pub(crate) fn in_directory(directory: PathBuf) -> Self {
        Self { kept: directory.join("disks"), directory, blanks: Arc::default() }
    }

    /// One with room for what `limits` say, which goes with its last user.
    pub(crate) async fn make(&self, limits: &Limits) -> Result<OwnedFd, BackendError> {
        let limits = *limits;
        self.blocking(move |disks| disks.make_in(&disks.directory, &limits, false)).await
    }

    /// The same, to be kept under this id.
    pub(crate) async fn make_kept(&self, id: SandboxId, limits: &Limits) -> Result<OwnedFd, BackendError> {
        let limits = *limits;
        self.blocking(move |disks| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&disks.kept);
            made.map_err(|error| failed("make the directory of kept disks", &disks.kept, &error))?;
            let image = disks.make_in(&disks.kept, &limits, true)?;
            // Nobody else has it yet.
            flock(&image, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed("lock a new disk", &disks.kept, &error))?;
            let path = disks.path(id);
            linkat(&image, "", CWD, &path, AtFlags::EMPTY_PATH).map_err(|error| failed("name a new disk", &path, &error))?;
            Ok(image)
        })
        .await
    }

    /// That which is kept under this id, looked over, once nobody else has it mounted any more.
    pub(crate) async fn take_up(&self, id: SandboxId) -> Result<OwnedFd, BackendError> {
        self.blocking(move |disks| {
            let path = disks.path(id);
            let image = open_own(&path)?;
            let until = Instant::now() + FREE_WITHIN;
            while let Err(error) = flock(&image, FlockOperation::NonBlockingLockExclusive) {
                if error != Errno::WOULDBLOCK || Instant::now() >= until {
                    return Err(BackendError::Exhausted(format!("{} is still in use: {error}; try again", path.display())));
                }
                std::thread::sleep(LOOK_AGAIN);
            }
            check(&image)?;
            Ok(image)
        })
        .await
    }

    /// Removes that which is kept under this id, if there is one. Its space is free once it is not mounted any more.
    pub(crate) async fn discard(&self, id: SandboxId) -> Result<(), BackendError> {
        self.blocking(move |disks| {
            let path = disks.path(id);
            match rustix::fs::unlink(&path) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(failed("remove a disk", &path, &error)),
            }
        })
        .await
    }

    /// Gives it a name that is no id.
    pub(crate) async fn set_aside(&self, id: SandboxId) -> Result<(), BackendError> {
        self.blocking(move |disks| {
            let path = disks.path(id);
            // The time of its change is that of its new name.
            rustix::fs::rename(&path, path.with_extension(ASIDE)).map_err(|error| failed("set a disk aside", &path, &error))
        })
        .await
    }

    /// Under which ids there is one. Those that were set aside for long enough go.
    pub(crate) async fn kept(&self) -> Result<Vec<SandboxId>, BackendError> {
        self.blocking(|disks| {
            let entries = match std::fs::read_dir(&disks.kept) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries.map_err(|error| failed("look for kept disks", &disks.kept, &error))?,
            };
            let mut kept = Vec::new();
            for entry in entries {
                let path = entry.map_err(|error| failed("look for kept disks", &disks.kept, &error))?.path();
                if path.extension().is_some_and(|extension| extension == ASIDE) {
                    let changed = rustix::fs::lstat(&path).map(|about| about.st_ctime).unwrap_or(i64::MAX);
                    let since = UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs() as i64).saturating_sub(changed);
                    if since > SET_ASIDE_FOR.as_secs() as i64 {
                        rustix::fs::unlink(&path).map_err(|error| failed("remove a disk", &path, &error))?;
                    }
                }
                kept.extend(path.file_name().and_then(|name| name.to_str()?.parse::<SandboxId>().ok()));
            }
            Ok(kept)
        })
        .await
    }

    fn path(&self, id: SandboxId) -> PathBuf {
        self.kept.join(id.to_string())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let disks = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&disks)).await;
        done.unwrap_or_else(|error| Err(BackendError::Failed(format!("the disk of the sandbox could not be seen to: {error}"))))
    }

    fn make_in(&self, directory: &Path, limits: &Limits, is_kept: bool) -> Result<OwnedFd, BackendError> {
        let size = size(limits, is_kept);
        let about = rustix::fs::statvfs(directory).map_err(|error| failed("look for room", directory, &error))?;
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
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                return Err(BackendError::Unsupported(format!(
                    "the file system of {} cannot keep files without a name (O_TMPFILE), which storage `disk` needs; choose a data directory \
                     on ext4, XFS or Btrfs, or use storage `memory`",
                    directory.display()
                )));
            }
            result => result.map_err(|error| failed("make the disk of the sandbox", directory, &error))?,
        };
        let cannot = |error: io::Error| failed("make the disk of the sandbox", directory, &error);
        rustix::fs::ftruncate(&image, size).map_err(|error| cannot(error.into()))?;
        let inodes = limits.disk_inodes;
        let known = self.blanks().iter().find(|blank| (blank.size, blank.inodes, blank.is_kept) == (size, inodes, is_kept)).cloned();
        let file = File::from(image);
        if let Some(blank) = known {
            for (at, bytes) in &blank.pieces {
                file.write_all_at(bytes, *at).map_err(cannot)?;
            }
        } else {
            format(&file, inodes, is_kept)?;
            if let Some(pieces) = pieces(&file).map_err(cannot)? {
                let mut blanks = self.blanks();
                blanks.truncate(REMEMBERED - 1);
                blanks.insert(0, Arc::new(Blank { size, inodes, is_kept, pieces }));
            }
        }
        Ok(file.into())
    }

    fn blanks(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Blank>>> {
        self.blanks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(what: &str, at: &Path, error: &dyn std::fmt::Display) -> BackendError {
    BackendError::Failed(format!("cannot {what} in {}: {error}", at.display()))
}

/// What stands in a file, and where.
type Pieces = Vec<(u64, Vec<u8>)>;

/// Everything in a file that is more than a hole; `None` where that is much.
fn pieces(file: &File) -> io::Result<Option<Pieces>> {
    let (mut pieces, mut total, mut at) = (Vec::new(), 0, 0);
    loop {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(Some(pieces)),
            begin => begin?,
        };
        at = seek(file, SeekFrom::Hole(begin))?;
        total += at - begin;
        if total > MOST_REMEMBERED {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(at - begin).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, begin)?;
        // What is all zero is as good as a hole.
        for (number, block) in bytes.chunks(usize::try_from(BLOCK).map_err(io::Error::other)?).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                pieces.push((begin + number as u64 * BLOCK, block.to_vec()));
            }
        }
    }
}

/// A kept file: a plain one that is ours alone. Nothing is followed to get there.
fn open_own(path: &Path) -> Result<OwnedFd, BackendError> {
    let image = match open(path, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Err(BackendError::Broken(format!("its disk {} is not there any more", path.display()))),
        Err(Errno::LOOP) => return Err(BackendError::Broken(format!("its disk {} is a link", path.display()))),
        image => File::from(image.map_err(|error| failed("open a disk", path, &error))?),
    };
    let about = image.metadata().map_err(|error| failed("look at a disk", path, &error))?;
    let own = about.is_file() && about.nlink() == 1 && about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o077 == 0;
    if !own {
        return Err(BackendError::Broken(format!(
            "its disk {} is not as it was made: a file of this user's alone, with one name and mode 0600",
            path.display()
        )));
    }
    Ok(image.into())
}

/// What the last mount left unfinished is finished, and what is broken is found. The content was written by strangers, through a file system.
fn check(image: &OwnedFd) -> Result<(), BackendError> {
    let program = find("e2fsck")?;
    let broken = |why: String| BackendError::Broken(format!("the file system of its disk is broken: {why}"));
    let stdin = image.try_clone().map(File::from).map_err(|error| broken(error.to_string()))?;
    let mut check = Command::new(program);
    check.args(["-p", "/proc/self/fd/0"]).stdin(Stdio::from(stdin));
    let output = check.env_clear().output().map_err(|error| BackendError::Failed(format!("e2fsck could not be started: {error}")))?;
    match output.status.code() {
        // Nothing, or nothing that is left, is wrong (`e2fsck(8)`).
        Some(0 | 1) => Ok(()),
        _ => {
            let mut said = String::from_utf8_lossy(&output.stdout).trim().replace("/proc/self/fd/0", "it");
            io::Cursor::new(&output.stderr).read_to_string(&mut said).ok();
            Err(broken(said.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect::<Vec<_>>().join("; ")))
        }
    }
}

fn find(name: &str) -> Result<PathBuf, BackendError> {
    program::find(&DIRECTORIES, name).ok_or_else(|| {
        BackendError::Unsupported(format!("storage `disk` needs `{name}`; install the package e2fsprogs, or use storage `memory`"))
    })
}

/// So large that, beside what ext4 needs for itself, there is room for what was asked for. Errs on the large side by a few percent.
fn size(limits: &Limits, is_kept: bool) -> u64 {
    let inodes = limits.disk_inodes * INODE;
    // Two per cent, 16 MiB at most, are kept back for delayed allocation; bitmaps and descriptors take less than one.
    let reserve = (limits.disk_bytes / 50).min(16 * MIB) + (limits.disk_bytes + inodes) / 128 + MIB;
    let whole = limits.disk_bytes + inodes + reserve;
    // A journal takes no more than half of a file system.
    let whole = if is_kept { (whole + JOURNAL).max(3 * JOURNAL) } else { whole };
    whole.next_multiple_of(BLOCK)
}

fn format(image: &File, inodes: u64, is_kept: bool) -> Result<(), BackendError> {
    let program = find("mkfs.ext4")?;
    let failed = |why: String| BackendError::Failed(format!("mkfs.ext4 failed: {why}"));
    let stdin = image.as_fd().try_clone_to_owned().map_err(|error| failed(error.to_string()))?;
    let mut format = Command::new(program);
    format.args(["-q", "-F", "-b", "4096", "-I", "256", "-m", "0"]);
    if is_kept {
        format.args(["-J", &format!("size={}", JOURNAL / MIB), "-O", "has_journal,metadata_csum,^resize_inode"]);
    } else {
        // No journal: nobody mounts it again after a crash.
        format.args(["-O", "^has_journal,^resize_inode"]);
    }
    format
        // The file was a hole, so nothing has to be overwritten by zeros.
        .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", "-N", &inodes.to_string(), "/proc/self/fd/0"])
        .stdin(Stdio::from(stdin));
    program::run(&mut format).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_fits() {
        for (bytes, inodes) in [(MIB, 256), (512 * MIB, 65_536), (64 << 30, 1_000_000)] {
            let limits = Limits { disk_bytes: bytes, disk_inodes: inodes, ..Limits::default() };
            assert!(size(&limits, true) >= size(&limits, false) + JOURNAL);
            let size = size(&limits, false);
            assert!(size >= bytes + inodes * INODE && size.is_multiple_of(BLOCK), "{size}");
            assert!(size - inodes * INODE <= bytes + bytes / 20 + 4 * MIB, "{size} for {bytes}");
        }
    }

    #[test]
    fn a_directory_that_does_not_do_is_named() {
        let BackendError::Failed(message) =
            Disks::in_directory("/nowhere".into()).make_in(Path::new("/nowhere"), &Limits::default(), false).unwrap_err()
        else {
            panic!("another error")
        };
        assert!(message.contains("/nowhere"), "{message}");
    }

    fn id() -> SandboxId {
        SandboxId::random()
    }

    #[tokio::test]
    async fn what_is_kept_is_there_again_once_it_is_free_and_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let disks = Disks::in_directory(directory.path().to_owned());
        let limits = Limits { disk_bytes: 16 * MIB, disk_inodes: 256, ..Limits::default() };
        let (first, second) = (id(), id());
        let image = disks.make_kept(first, &limits).await.unwrap();
        let made = disks.make_kept(second, &limits).await.unwrap();
        let again = disks.clone();
        let waiting = tokio::spawn(async move { again.take_up(first).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished(), "it is in use");
        drop(image);
        waiting.await.unwrap().unwrap();
        let mut kept = disks.kept().await.unwrap();
        kept.sort();
        let mut all = [first, second];
        all.sort();
        assert_eq!(kept, all);
        drop(made);
        let path = disks.path(second);
        File::options().write(true).open(&path).unwrap().write_all_at(&[0xa5; 8192], 0).unwrap();
        assert!(matches!(disks.take_up(second).await, Err(BackendError::Broken(what)) if what.contains("broken")));
        disks.discard(second).await.unwrap();
        disks.discard(second).await.unwrap();
        assert!(matches!(disks.take_up(second).await, Err(BackendError::Broken(what)) if what.contains("not there")));
        std::os::unix::fs::symlink(disks.path(first), &path).unwrap();
        assert!(matches!(disks.take_up(second).await, Err(BackendError::Broken(what)) if what.contains("link")));
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(disks.path(first), &path).unwrap();
        assert!(matches!(disks.take_up(second).await, Err(BackendError::Broken(what)) if what.contains("0600")));
    }

    #[test]
    fn a_size_is_formatted_once() {
        let directory = tempfile::tempdir().unwrap();
        let disks = Disks::in_directory(directory.path().to_owned());
        let limits = Limits { disk_bytes: 64 * MIB, disk_inodes: 1024, ..Limits::default() };
        let read = |image: OwnedFd| pieces(&File::from(image)).unwrap().unwrap();
        let first = read(disks.make_in(directory.path(), &limits, true).unwrap());
        let again = disks.make_in(directory.path(), &limits, true).unwrap();
        check(&again).unwrap();
        assert_eq!((read(again), disks.blanks().len()), (first, 1));
        drop(disks.make_in(directory.path(), &limits, false).unwrap());
        assert_eq!(disks.blanks().len(), 2);
    }
}
