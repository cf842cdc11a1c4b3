//! The files of one container on the host, and how all of it is taken away.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use caisson_launcher::bundle::{CGROUP_FILE, FIGURES, NAMESPACE, ROOT, ROOT_OF_IMAGE};
use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{command, config::cgroup_path, runtime::Kind};

/// How long a runtime may take to forget a container.
const DELETED_WITHIN: Duration = Duration::from_secs(2);
/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(3);
/// Which program drives it, for whoever finds it.
const RUNTIME_FILE: &str = "runtime";
/// What the runtime notes.
const STATE: &str = "state";

/// Where it is, and what it is.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) directory: PathBuf,
    /// The agent's program on the host.
    pub(crate) agent: PathBuf,
    pub(crate) is_of_image: bool,
    /// Whether control groups are those of cgroup v2, and whether they limit swap.
    pub(crate) is_unified: bool,
    pub(crate) limits_swap: bool,
    /// Names in `/proc`, and what is to be read there.
    pub(crate) figures: Vec<(String, String)>,
}

impl Container {
    /// Where its root is, seen by the runtime.
    pub(crate) fn root(&self) -> String {
        let below = if self.is_of_image { ROOT_OF_IMAGE } else { ROOT };
        format!("{}/{below}", self.directory.display())
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join(STATE)
    }

    pub(crate) fn order(&self) -> PathBuf {
        self.directory.join("order")
    }

    /// Files that cover others: names in `/proc`, and where they are.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&str, String)> {
        let directory = format!("{}/{FIGURES}", self.directory.display());
        self.figures.iter().map(move |(name, _)| (name.as_str(), format!("{directory}/{name}")))
    }

    /// The name of the control group that the runtime makes.
    fn own_cgroup(&self) -> String {
        if self.is_unified { "container".to_owned() } else { format!("caisson-{}", self.id) }
    }

    pub(crate) fn cgroup_path(&self) -> String {
        cgroup_path(self.is_unified, &self.own_cgroup())
    }

    /// The control group that the sandbox's programs are in, below the parent of all; `None` before there is one.
    pub(crate) fn cgroup(&self) -> Option<String> {
        let (name, _) = cgroup(&self.directory)?;
        Some(if self.kind.has_own_kernel() { name } else { format!("{name}/{}", self.own_cgroup()) })
    }

    /// Makes the directory and what the launcher and the runtime find in it.
    pub(crate) fn make(&self, order: &[u8], program: &Path) -> io::Result<()> {
        // Root of the container's user namespace goes through it.
        make_passable(&self.directory, 0o711)?;
        for name in [ROOT, FIGURES] {
            fs::DirBuilder::new().mode(0o755).create(self.directory.join(name))?;
        }
        fs::DirBuilder::new().mode(0o700).create(self.state())?;
        write_new(&self.directory.join(NAMESPACE), 0o600, b"")?;
        write_new(&self.directory.join(RUNTIME_FILE), 0o600, program.as_os_str().as_encoded_bytes())?;
        write_new(&self.order(), 0o600, order)
    }
}

/// A directory with this mode, whatever the umask is.
pub(crate) fn make_passable(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A file that is not there yet, and that nobody else may change, whatever the umask is: root does what it says.
pub(crate) fn write_new(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, content)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// The name of its control group, and the inode that it has in the first hierarchy.
fn cgroup(directory: &Path) -> Option<(String, u64)> {
    let text = fs::read_to_string(directory.join(CGROUP_FILE)).ok()?;
    let (name, inode) = text.split_once(' ')?;
    Some((name.parse::<u32>().ok()?.to_string(), inode.parse().ok()?))
}

/// Has the runtime forget a container that it may still know.
async fn delete(directory: &Path) -> Result<(), String> {
    use std::os::unix::ffi::OsStringExt;
    let state = directory.join(STATE);
    let Some(id) = directory.file_name() else { return Ok(()) };
    // A runtime that has ended in order leaves nothing. gVisor leaves files beside each other.
    let is_known = fs::read_dir(&state).is_ok_and(|mut entries| entries.next().is_some());
    if !is_known {
        return Ok(());
    }
    let program = fs::read(directory.join(RUNTIME_FILE)).map_err(|error| error.to_string())?;
    let program = PathBuf::from(std::ffi::OsString::from_vec(program));
    let arguments = ["--root".as_ref(), state.as_os_str(), "delete".as_ref(), "--force".as_ref(), id];
    command::output(&program, &arguments, DELETED_WITHIN).await.map(drop)
}

/// Takes away all that there is of a container whose runtime has ended or does not answer: its processes, control groups and files.
pub(crate) async fn remove(directory: &Path, hierarchies: &[String]) -> Result<(), String> {
    if let Some((name, inode)) = cgroup(directory)
        && let Some(first) = hierarchies.first()
    {
        let deadline = Instant::now() + GONE_WITHIN;
        // Of this name there may be another's by now. The first goes last, so as long as it is there the others are its own as well.
        let is_its_own = || fs::metadata(Path::new(first).join(&name)).is_ok_and(|group| group.ino() == inode);
        while is_its_own() && !hierarchies.iter().rev().all(|hierarchy| remove_cgroup(&Path::new(hierarchy).join(&name))) {
            if Instant::now() > deadline {
                return Err(format!("processes of the control group {name} do not end"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // In hierarchies that are none of ours, the runtime alone knows of what it made.
    if let Err(error) = delete(directory).await {
        tracing::warn!(%error, "A runtime did not forget the container in {}", directory.display());
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("cannot remove {}: {error}", directory.display())),
        _ => Ok(()),
    }
}

/// Kills what is in a control group and those below it, and removes them. Says whether they are gone.
pub(crate) fn remove_cgroup(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return true };
    let are_gone =
        entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).all(|entry| remove_cgroup(&entry.path()));
    kill_all(directory);
    are_gone && fs::remove_dir(directory).is_ok()
}

/// Kills every process of a control group, and none that has got the number of one that is gone.
fn kill_all(directory: &Path) {
    // There is such a file with cgroup v2.
    if fs::File::options()
        .write(true)
        .open(directory.join("cgroup.kill"))
        .and_then(|mut file| io::Write::write_all(&mut file, b"1"))
        .is_ok()
    {
        return;
    }
    let members = || -> Vec<Pid> {
        let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        listed.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    };
    let handles: Vec<(Pid, OwnedFd)> =
        members().into_iter().filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?))).collect();
    let still = members();
    for (_, handle) in handles.iter().filter(|(pid, _)| still.contains(pid)) {
        // It has ended in this moment.
        pidfd_send_signal(handle, Signal::KILL).ok();
    }
}
