//! Which files an execution made or changed: a snapshot before, a look after.

use std::{
    collections::HashMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use caisson_wire::{FileStat, Reported};

use crate::files::describe_path;

/// Entries looked at; beyond it the answer says that there may be more.
const MAX_ENTRIES: usize = 20_000;
const MAX_DEPTH: usize = 32;
/// Files named.
const MAX_CHANGES: usize = 2_000;
/// What their names may come to as they are told, and what a file costs beyond its name: they go in one frame, which has its limit.
const MAX_NAMES: usize = caisson_wire::frame::MAX_EXIT / 2;
const FILE: usize = 200;

/// What a file looked like: modification and status change in nanoseconds, size, inode.
type Look = (i128, i128, u64, u64);

/// A directory before the execution.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    files: HashMap<PathBuf, Look>,
    truncated: bool,
}

/// What is new or changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) files: Vec<FileStat>,
    pub(crate) truncated: bool,
}

/// Whether there is nothing in the directory, which needs no walk.
pub(crate) fn is_empty(directory: &str) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

impl Snapshot {
    pub(crate) fn take(directory: &Reported) -> Self {
        let mut files = HashMap::new();
        let truncated = walk(directory, |path, metadata| {
            files.insert(path.to_owned(), look(metadata));
        });
        Self { files, truncated }
    }

    /// What is different now, `except` left out.
    pub(crate) fn compare(&self, directory: &Reported, except: Option<&str>) -> Changes {
        let mut changes = Changes { files: Vec::new(), truncated: self.truncated };
        let walked = walk(directory, |path, metadata| {
            if self.files.get(path) != Some(&look(metadata)) && except.is_none_or(|except| path != Path::new(except)) {
                // What has gone meanwhile is not there.
                changes.files.extend(describe_path(path.as_os_str().as_bytes()).ok());
            }
        });
        changes.truncated |= walked;
        changes
    }
}

impl Changes {
    /// Those of another directory as well.
    pub(crate) fn add(&mut self, other: Self) {
        self.files.extend(other.files);
        self.truncated |= other.truncated;
    }

    /// Puts them in order, each once, and keeps as many as a frame takes.
    pub(crate) fn bound(&mut self) {
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.files.dedup_by(|a, b| a.path == b.path);
        let (found, mut bytes) = (self.files.len(), 0);
        self.files.truncate(MAX_CHANGES);
        self.files.retain(|file| {
            bytes += FILE + file.path.len() + file.target.as_ref().map_or(0, String::len);
            bytes <= MAX_NAMES
        });
        self.truncated |= self.files.len() < found;
    }
}

fn look(metadata: &fs::Metadata) -> Look {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    (
        nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        metadata.size(),
        metadata.ino(),
    )
}

/// Calls `see` for every regular file; follows no link. Says whether it stopped early.
fn walk(root: &Reported, mut see: impl FnMut(&Path, &fs::Metadata)) -> bool {
    let mut seen = 0;
    let mut truncated = false;
    let mut directories = vec![(PathBuf::from(&root.path), 0)];
    while let Some((directory, depth)) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            seen += 1;
            if seen > MAX_ENTRIES {
                return true;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() {
                see(&entry.path(), &metadata);
            } else if metadata.is_dir() && root.deep {
                if depth < MAX_DEPTH {
                    directories.push((entry.path(), depth + 1));
                } else {
                    truncated = true;
                }
            }
        }
    }
    truncated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(directory: &Path) -> Reported {
        Reported { path: directory.to_str().unwrap().to_owned(), deep: true }
    }

    fn names(changes: &Changes) -> Vec<String> {
        changes.files.iter().map(|file| format!("{:?}", file.path)).collect()
    }

    #[test]
    fn new_and_changed_files_are_named_and_untouched_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        for name in ["same", "grown", "gone", "deep/same"] {
            fs::write(at(name), "before").unwrap();
        }
        let root = &whole(directory.path());
        let before = Snapshot::take(root);
        assert!(before.compare(root, None).files.is_empty());
        fs::write(at("grown"), "before and after").unwrap();
        fs::write(at("deep/new"), "").unwrap();
        fs::write(at("code.py"), "").unwrap();
        fs::remove_file(at("gone")).unwrap();
        std::os::unix::fs::symlink("/etc", at("link")).unwrap();
        let mut changes = before.compare(root, at("code.py").to_str());
        assert_eq!(changes.files.len(), 2, "{:?}", names(&changes));
        assert!(!changes.truncated);
        let flat = Reported { deep: false, ..root.clone() };
        let own = before.compare(&flat, at("code.py").to_str());
        assert_eq!(own.files.len(), 1, "{:?}", names(&own));
        changes.add(own);
        changes.bound();
        assert_eq!(changes.files.len(), 2, "each once: {:?}", names(&changes));
    }

    #[test]
    fn long_names_are_as_many_as_a_frame_takes() {
        let directory = tempfile::tempdir().unwrap();
        // Every byte of these becomes three.
        let deep = directory.path().join(format!("{}/", "\u{e4}".repeat(125)).repeat(13));
        fs::create_dir_all(&deep).unwrap();
        for index in 0..1000 {
            fs::write(deep.join(format!("{index:0>4}{}", "\u{e4}".repeat(120))), "").unwrap();
        }
        let mut changes = Snapshot::default().compare(&whole(directory.path()), None);
        changes.bound();
        let told = serde_json::to_vec(&changes.files).unwrap().len();
        assert!(told > MAX_NAMES / 2 && told < MAX_NAMES + MAX_NAMES / 4, "{told}");
        assert!(changes.truncated);
        assert!(changes.files.is_sorted_by(|a, b| a.path < b.path) && changes.files[0].path.contains("/0000"), "the first ones");
    }

    #[test]
    fn more_than_can_be_looked_at_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut deep = directory.path().to_owned();
        for _ in 0..=MAX_DEPTH + 1 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("unseen"), "").unwrap();
        let root = whole(directory.path());
        let changes = Snapshot::default().compare(&root, None);
        assert!(changes.files.is_empty() && changes.truncated);
        assert!(!is_empty(&root.path));
        assert!(is_empty(tempfile::tempdir().unwrap().path().to_str().unwrap()));
    }
}
