//! A directory that becomes the lower layer of what is seen in its place, so that a checkpoint of it looks only at what changed.
//!
//! ```text
//! nothing is done in the sandbox, and nothing will be ─▶ the directory is opened ─▶ the launcher lays the upper one over it
//! ─▶ that is opened ─▶ the launcher lays over it what is made of both ─▶ it goes on
//! ```
//! Whoever had the directory before would write to it unseen, so there must be nobody: no program, no request, no watch. Otherwise nothing is done,
//! and checkpoints look at everything.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use caisson_sys::process::Identity;
use caisson_tree::Walk;
use caisson_wire::{Layered, Layering, LayeringStep, Refusal, RefusalCode, path};
use http::{Request, Response};
use hyper::body::Incoming;
use rustix::{
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, Stat, fstat, openat, readlink},
};
use tokio::sync::OwnedRwLockWriteGuard;

use super::{bytes, checkpoint::MAX_CHECKPOINTS, place};
use crate::{
    body::Answer,
    query::absolute,
    refusal::{of_errno, refuse},
    service::{json, read_json},
    setup::Agent,
    worker::Workers,
};

/// In a directory of fewer entries and bytes there is nothing to be gained: entries are looked at again by each checkpoint, and bytes are kept
/// once more by the first.
const LEAST: usize = 5_000;
const LEAST_BYTES: u64 = 32 << 20;
/// How long may be looked whether a directory is fit: everybody waits meanwhile.
const LOOKED_WITHIN: Duration = Duration::from_secs(3);
/// How often those that have ended are looked for again, which are there until they are reaped.
const LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// Those that there are, and the one that is being made.
#[derive(Debug, Default)]
pub(crate) struct AllLayers {
    pub(crate) made: Mutex<Vec<Arc<Layers>>>,
    making: Mutex<Option<Making>>,
    /// Large directories that cannot have any, which are not looked at again.
    unfit: Mutex<BTreeSet<Vec<u8>>>,
}

/// A directory whose upper one has what changed. Both are open, as there is no way to either any more.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) lower: OwnedFd,
    pub(crate) upper: OwnedFd,
    /// Device and inode of what is seen.
    merged: (u64, u64),
}

#[derive(Debug)]
struct Making {
    path: Vec<u8>,
    lower: OwnedFd,
    upper: Option<OwnedFd>,
    _alone: OwnedRwLockWriteGuard<()>,
}

impl AllLayers {
    /// Those of an open directory.
    pub(crate) fn of(&self, stat: &Stat) -> Option<Arc<Layers>> {
        lock(&self.made).iter().find(|layers| layers.merged == identity(stat)).cloned()
    }

    fn is_unfit(&self, path: Vec<u8>) {
        let mut unfit = lock(&self.unfit);
        // More than have a checkpoint need not be known.
        if unfit.len() >= MAX_CHECKPOINTS {
            unfit.clear();
        }
        unfit.insert(path);
    }
}

pub(crate) async fn layer(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let asked: Layering = read_json(request).await?;
    let layered = match asked.step {
        LayeringStep::Begin => begin(agent, &asked).await?,
        LayeringStep::Upper => upper(agent).await?,
        LayeringStep::End => Some(end(agent).await?),
    };
    Ok(json(&layered.unwrap_or(Layered { ready: false, path: String::new(), device: 0, inode: 0 })))
}

async fn begin(agent: &Agent, asked: &Layering) -> Result<Option<Layered>, Refusal> {
    let all = &agent.checkpoints.layers;
    if !agent.first || lock(&all.making).is_some() {
        return Ok(None);
    }
    let path = bytes(absolute(&asked.path, &agent.config.work_dir)?);
    let Ok(alone) = Arc::clone(&agent.going_on).try_write_owned() else { return Ok(None) };
    let (lower, path, stat) = agent.workers.run(move || open(&path)).await?;
    let is_known = is_mounted(&lower, &stat) || is_in_a_work_tree(&path) || lock(&all.unfit).contains(&path);
    if is_known || !is_a_place(&path, agent.config.uid, asked.again) || !nobody_is_left(&agent.workers).await {
        return Ok(None);
    }
    let (user, walked) = (agent.user(), lower.try_clone());
    match agent.workers.run(move || Ok(walked.map(|directory| fitness(directory, user)))).await? {
        Ok(Fitness::Fit) => {}
        Ok(Fitness::Small) | Err(_) => return Ok(None),
        Ok(Fitness::Unfit) => {
            all.is_unfit(path);
            return Ok(None);
        }
    }
    let layered = told(&path, &stat);
    *lock(&all.making) = Some(Making { path, lower, upper: None, _alone: alone });
    Ok(Some(layered))
}

async fn upper(agent: &Agent) -> Result<Option<Layered>, Refusal> {
    let Some(path) = lock(&agent.checkpoints.layers.making).as_ref().map(|making| making.path.clone()) else { return Ok(None) };
    let (upper, path, stat) = agent.workers.run(move || open(&path)).await?;
    let mut making = lock(&agent.checkpoints.layers.making);
    let Some(making) = making.as_mut() else { return Ok(None) };
    if fstat(&making.lower).is_ok_and(|lower| identity(&lower) == identity(&stat)) {
        return Ok(None);
    }
    making.upper = Some(upper);
    Ok(Some(told(&path, &stat)))
}

/// Whatever came of it, it goes on when this returns.
async fn end(agent: &Agent) -> Result<Layered, Refusal> {
    let nothing = || refuse(RefusalCode::Failed, "no layers are being made");
    let Making { path, lower, upper, _alone } = lock(&agent.checkpoints.layers.making).take().ok_or_else(nothing)?;
    let (_, path, stat) = agent.workers.run(move || open(&path)).await?;
    let is = |directory: &OwnedFd| fstat(directory).is_ok_and(|other| identity(&other) == identity(&stat));
    if upper.as_ref().is_some_and(is) {
        return Err(refuse(RefusalCode::Failed, "the upper directory is seen in the place of what it is of"));
    }
    let mut layered = Layered { ready: false, ..told(&path, &stat) };
    let Some(upper) = upper.filter(|_| !is(&lower)) else {
        agent.checkpoints.layers.is_unfit(path);
        return Ok(layered);
    };
    lock(&agent.checkpoints.layers.made).push(Arc::new(Layers { lower, upper, merged: identity(&stat) }));
    layered.ready = true;
    Ok(layered)
}

/// The directory, and its path without links; as the sandbox's user.
fn open(path: &[u8]) -> Result<(OwnedFd, Vec<u8>, Stat), Refusal> {
    use std::os::fd::AsRawFd;
    let refusal = |error| of_errno(error, path);
    let directory = place::open(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(refusal)?;
    let real = readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()), Vec::new()).map_err(refusal)?;
    let stat = fstat(&directory).map_err(refusal)?;
    Ok((directory, real.into_bytes(), stat))
}

/// Whether a directory may have layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Fit,
    Small,
    Unfit,
}

/// It may if it has many entries or bytes, all of which can be read, and none of which has another name: through that it would be written to, or be another
/// file from its first change on. There has to be room for all of it once more, as whatever is written to is copied first.
fn fitness(directory: OwnedFd, user: Identity) -> Fitness {
    let begun = Instant::now();
    let free = rustix::fs::fstatvfs(&directory).map_or(0, |room| room.f_bavail.saturating_mul(room.f_frsize));
    let (mut entries, mut taken) = (0, 0);
    let mut unfit = false;
    let Ok(mut walk) = Walk::new(directory) else { return Fitness::Small };
    let small = |entries: usize, taken: u64| entries < LEAST && taken < LEAST_BYTES;
    loop {
        match walk.next_entry() {
            Ok(Some(visit)) if visit.kind == FileType::Directory => unfit |= walk.descend(&visit).is_err(),
            Ok(Some(visit)) => match walk.stat(&visit) {
                Ok(stat) => {
                    taken += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                    unfit |= stat.st_nlink != 1 || !is_readable(&stat, user);
                }
                Err(_) => unfit = true,
            },
            Ok(None) if small(entries, taken) => return Fitness::Small,
            Ok(None) => return if unfit { Fitness::Unfit } else { Fitness::Fit },
            Err(_) => unfit = true,
        }
        entries += 1;
        unfit |= taken > free || begun.elapsed() > LOOKED_WITHIN;
        if unfit && !small(entries, taken) {
            return Fitness::Unfit;
        }
    }
}

/// Whether something is mounted there: layers, of which no others can be made, or what is not the sandbox's own.
fn is_mounted(directory: &OwnedFd, stat: &Stat) -> bool {
    let above = openat(directory, c"..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).and_then(fstat);
    above.map_or(true, |above| above.st_dev != stat.st_dev)
}

/// Whether git would look for its repository above: it does not look beyond a mount (`GIT_DISCOVERY_ACROSS_FILESYSTEM`).
fn is_in_a_work_tree(path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let mut directories = std::path::Path::new(std::ffi::OsStr::from_bytes(path)).ancestors();
    let has = |directory: &std::path::Path| directory.join(".git").symlink_metadata().is_ok();
    !directories.next().is_some_and(has) && directories.any(has)
}

fn is_readable(stat: &Stat, user: Identity) -> bool {
    let class = if stat.st_uid == user.uid {
        0o400
    } else if stat.st_gid == user.gid {
        0o040
    } else {
        0o004
    };
    user.uid == 0 || stat.st_mode & class != 0 || FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// Whether it stays where it is. What is mounted cannot be moved or removed, but a directory above it can; nobody but root moves those in `/`. And
/// for other users Landlock does not see what it allows below a top directory, if something else is mounted there.
fn is_a_place(path: &[u8], uid: u32, again: bool) -> bool {
    let depth = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
    let least = if uid == 0 { 1 } else { 2 };
    depth == least || depth > least && !again
}

/// Whether there is no process but this one, and nothing that it does.
async fn nobody_is_left(workers: &Workers) -> bool {
    for _ in 0..LOOKS {
        let others = others();
        if others.is_empty() && workers.are_idle() {
            return true;
        }
        if others.iter().any(|(_, ended)| !ended) {
            return false;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    false
}

/// Their numbers, and whether they have ended.
fn others() -> Vec<(i32, bool)> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| *pid != own);
    pids.map(|pid| (pid, has_ended(pid))).collect()
}

fn has_ended(pid: i32) -> bool {
    // The name before it may have anything in it (`proc_pid_stat(5)`).
    let text = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = text.iter().rposition(|byte| *byte == b')').and_then(|end| text.get(end + 2));
    state.is_none_or(|state| b"ZXx".contains(state))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn told(path: &[u8], stat: &Stat) -> Layered {
    Layered { ready: true, path: path::encode(path), device: stat.st_dev, inode: stat.st_ino }
}

fn lock<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_stays_where_it_is() {
        for (path, uid, again, expect) in [
            ("/", 0, false, false),
            ("/repo", 0, true, true),
            ("/workspace/repo", 0, true, false),
            ("/workspace/repo", 0, false, true),
            ("/repo", 1000, false, false),
            ("/workspace/repo", 1000, true, true),
            ("/home/user/repo", 1000, true, false),
            ("/home/user/repo", 1000, false, true),
        ] {
            assert_eq!(is_a_place(path.as_bytes(), uid, again), expect, "{path} {uid} {again}");
        }
    }

    #[test]
    fn a_fit_directory_has_much_in_files_of_one_name_that_can_be_read() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let found = || {
            let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            fitness(fs::File::open(directory.path()).unwrap().into(), Identity { uid: uid.max(1), gid })
        };
        for n in 0..LEAST - 1 {
            fs::write(at(&n.to_string()), "").unwrap();
        }
        assert_eq!(found(), Fitness::Small);
        fs::create_dir(at("d")).unwrap();
        assert_eq!(found(), Fitness::Fit);
        fs::hard_link(at("1"), at("d/1")).unwrap();
        assert_eq!(found(), Fitness::Unfit);
        fs::remove_file(at("d/1")).unwrap();
        assert_eq!(found(), Fitness::Fit);
        fs::set_permissions(at("1"), fs::Permissions::from_mode(0o200)).unwrap();
        assert_eq!(found(), Fitness::Unfit);
        fs::remove_file(at("1")).unwrap();
        fs::remove_file(at("2")).unwrap();
        assert_eq!(found(), Fitness::Small);
        fs::write(at("large"), vec![1; usize::try_from(LEAST_BYTES).unwrap() / 2]).unwrap();
        assert_eq!(found(), Fitness::Small);
        fs::write(at("large"), vec![1; usize::try_from(LEAST_BYTES).unwrap()]).unwrap();
        assert_eq!(found(), Fitness::Fit, "few and large");
    }
}
