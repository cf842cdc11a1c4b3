//! Programs of others: a registry, what fills it, and mounts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use caisson_image::{Options, Registry};
pub(crate) use caisson_tests::{DockerRegistry, Ended, run_tool as run, skopeo};
use tempfile::TempDir;

/// Something mounted on a directory of its own, for as long as this lives.
pub(crate) struct Mounted {
    directory: TempDir,
}

impl Mounted {
    pub(crate) fn tmpfs(size: &str) -> Self {
        Self::of(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
    }

    /// The uppermost layer comes first.
    pub(crate) fn layers(layers: &[PathBuf]) -> Self {
        let lower: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        Self::of(&["-t", "overlay", "-o", &format!("ro,lowerdir={}", lower.join(":")), "overlay"])
    }

    fn of(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run("mount", &[arguments, &[directory.path().to_str().unwrap()]].concat());
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[self.directory.path().to_str().unwrap()]);
    }
}

/// What a store needs to ask a registry.
pub(crate) trait Known {
    fn options(&self) -> Options;
}

impl Known for DockerRegistry {
    fn options(&self) -> Options {
        insecure(&self.host)
    }
}

pub(crate) fn insecure(host: &str) -> Options {
    let mut options = Options::default();
    options.registries.add(host, Registry { insecure: true, mirrors: Vec::new() }).unwrap();
    options
}

/// Every entry below a directory with what it is, for comparing two trees.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    fn walk(root: &Path, directory: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display();
            let content = if metadata.is_file() { crate::fixture::digest(&fs::read(&path).unwrap()).hex() } else { String::new() };
            let link = fs::read_link(&path).map(|link| link.display().to_string()).unwrap_or_default();
            let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
            let (mode, owner) = (metadata.mode(), (metadata.uid(), metadata.gid()));
            let time = if metadata.is_dir() { 0 } else { metadata.mtime() };
            all.push(format!("{name} {mode:o} {owner:?} {links} {time} {content}{link}"));
            if metadata.is_dir() {
                walk(root, &path, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(root, root, &mut all);
    all.sort();
    all
}
