//! The directory in which a server keeps everything, and the lock that gives it to one server at a time.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use caisson_core::ServerId;

const LOCK: &str = "lock";
/// Where it is for root.
const FOR_ROOT: &str = "/var/lib/caisson";

/// Where the images of a data directory are. Programs without its lock may use them too.
pub(crate) fn images(data_dir: &Path) -> PathBuf {
    data_dir.join("images")
}

/// Where the operator's templates are.
pub(crate) fn templates(data_dir: &Path) -> PathBuf {
    data_dir.join("templates")
}

/// The environment as far as it says where data goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) is_root: bool,
    pub(crate) xdg_data_home: Option<PathBuf>,
    pub(crate) home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn now() -> Self {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        Self { is_root: rustix::process::geteuid().is_root(), xdg_data_home: path("XDG_DATA_HOME"), home: path("HOME") }
    }

    /// The data directory when nobody names one. `None` for a user without a home.
    pub(crate) fn data_dir(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some(FOR_ROOT.into());
        }
        // Relative paths are to be ignored there, says the standard.
        let data_home = self.xdg_data_home.clone().filter(|path| path.is_absolute());
        let data_home = data_home.or_else(|| Some(self.home.clone().filter(|path| path.is_absolute())?.join(".local/share")));
        Some(data_home?.join("caisson"))
    }
}

/// Takes a lock that the kernel gives back when the file is closed. `taken` says what to do about whoever has it.
pub(crate) fn take_lock(path: &Path, taken: impl FnOnce(&str) -> String) -> Result<fs::File> {
    let shown = path.display();
    let mut lock = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {shown}"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The number is a courtesy.
            (&lock).take(20).read_to_string(&mut owner).ok();
            let owner = owner.trim().parse::<u32>().map(|pid| format!(" (process {pid})")).unwrap_or_default();
            bail!(taken(&owner));
        }
        Err(fs::TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {shown}")),
    }
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).with_context(|| format!("cannot write to {shown}"))?;
    Ok(lock)
}

/// A data directory that is ours as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Closing it gives the lock back.
    _lock: fs::File,
}

impl DataDir {
    /// Makes the directory (mode 0700) where it is missing, and takes its lock. Refused while another server has it.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let shown = path.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the data directory {shown}; choose another with --data-dir or CAISSON_DATA_DIR"))?;
        let mode = fs::metadata(path).with_context(|| format!("cannot read the data directory {shown}"))?.mode();
        if mode & 0o002 != 0 {
            bail!("everybody can write to the data directory {shown}; run `chmod o-w {shown}`, or choose another with --data-dir");
        }
        let lock = take_lock(&path.join(LOCK), |owner| {
            format!(
                "another `caisson serve`{owner} uses the data directory {shown}; stop it, or choose another directory with --data-dir \
                 or CAISSON_DATA_DIR"
            )
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where images are.
    pub(crate) fn images(&self) -> PathBuf {
        images(&self.path)
    }

    /// Where the operator's templates are.
    pub(crate) fn templates(&self) -> PathBuf {
        templates(&self.path)
    }

    /// Which server this is, among those that share a database or have had it. Made when there is none.
    pub(crate) fn server_id(&self) -> Result<ServerId> {
        let path = self.path.join("server-id");
        let shown = path.display();
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .with_context(|| format!("{shown} holds no id of a server; remove it, and this is a new one, or put back what was there")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = ServerId::random();
                // Under another name until it is whole.
                let new = path.with_extension("new");
                let written = fs::write(&new, format!("{id}\n")).and_then(|()| fs::rename(&new, &path));
                written.with_context(|| format!("cannot write {shown}"))?;
                Ok(id)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {shown}")),
        }
    }

    /// Where the records are.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("caisson.db")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_depends_on_who_asks() {
        let path = |text: &str| Some(PathBuf::from(text));
        let user = Surroundings { is_root: false, xdg_data_home: path("/xdg"), home: path("/home/u") };
        assert_eq!(user.data_dir(), path("/xdg/caisson"));
        assert_eq!(Surroundings { xdg_data_home: path("relative"), ..user.clone() }.data_dir(), path("/home/u/.local/share/caisson"));
        assert_eq!(Surroundings { is_root: true, ..user }.data_dir(), path("/var/lib/caisson"));
        assert_eq!(Surroundings::default().data_dir(), None);
    }

    #[test]
    fn a_directory_is_one_server_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let taken = DataDir::take(dir.path()).unwrap();
        let id = taken.server_id().unwrap();
        assert_eq!(taken.server_id().unwrap(), id);
        fs::write(dir.path().join("server-id"), "nonsense").unwrap();
        assert!(taken.server_id().unwrap_err().to_string().contains("remove it"));
    }

    #[test]
    fn one_server_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::take(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let message = DataDir::take(&path).unwrap_err().to_string();
        assert!(message.contains(&format!("(process {})", std::process::id())) && message.contains("--data-dir"), "{message}");
        drop(first);
        DataDir::take(&path).unwrap();
    }
}
