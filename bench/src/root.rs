//! What the peers run on: the host's programs, bound into a root of their own, in a mount namespace that ends with the benchmark.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// In the environment of the second start: the namespace that was left.
const ENTERED: &str = "CAISSON_BENCH_ENTERED";

pub(crate) fn in_a_mount_namespace_of_our_own() -> Result<bool> {
    let own = fs::read_link("/proc/self/ns/mnt")?;
    match std::env::var_os(ENTERED) {
        Some(left) if left == own.as_os_str() => bail!("cannot get a mount namespace; run as root"),
        left => Ok(left.is_some()),
    }
}

/// Starts over in a mount namespace of its own. Returns only errors.
pub(crate) fn enter_one() -> Result<()> {
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(ENTERED, fs::read_link("/proc/self/ns/mnt")?)
        .exec();
    Err(error).context("cannot start unshare (package util-linux)")
}

/// A root directory with the host's programs.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    /// A place for what a peer needs beside it.
    pub(crate) scratch: PathBuf,
}

impl Root {
    pub(crate) fn make(directory: &Path) -> Result<Self> {
        let path = directory.join("root");
        for name in ["usr", "proc", "dev", "tmp", "etc", "sys"] {
            fs::create_dir_all(path.join(name))?;
        }
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
                symlink(target, path.join(name))?;
            }
        }
        let status = Command::new("mount").args(["--bind", "-o", "ro", "/usr"]).arg(path.join("usr")).status()?;
        if !status.success() {
            bail!("mount --bind /usr failed ({status})");
        }
        Ok(Self { path, scratch: directory.to_owned() })
    }
}
