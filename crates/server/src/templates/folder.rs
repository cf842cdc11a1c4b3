//! The operator's templates: a directory of TOML files, read when somebody asks, as they are then.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::OFlags;

use super::{LARGEST, TemplateName, text};
use crate::native::types::RecipeBody;

/// What comes behind the name.
const EXTENSION: &str = ".toml";
/// Files that are looked at. Whoever has more has something else there.
const MOST: usize = 1000;
/// A file that was changed so recently is read each time: a further change might show in none of its times.
const SETTLED_AFTER: i64 = 2;

/// What has come of reading a template: the recipe, or why it cannot be used.
pub type Read = Result<Arc<RecipeBody>, String>;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Stamp {
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        self.changed.0.saturating_add(SETTLED_AFTER) < now
    }
}

#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    settled: bool,
    read: Read,
}

/// See the module. Cheap to clone; everything here blocks for as long as the disk takes.
#[derive(Debug, Clone)]
pub struct TemplateFolder {
    directory: Arc<PathBuf>,
    known: Arc<Mutex<BTreeMap<TemplateName, Known>>>,
}

impl TemplateFolder {
    /// The directory may come into being later.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory: Arc::new(directory), known: Arc::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The file of this template.
    #[must_use]
    pub fn file(&self, name: &TemplateName) -> PathBuf {
        self.directory.join(format!("{name}{EXTENSION}"))
    }

    /// Whether there is a file of this name, whatever is in it.
    #[must_use]
    pub fn has(&self, name: &TemplateName) -> bool {
        self.file(name).symlink_metadata().is_ok()
    }

    /// The template as it is now; `None` where there is none.
    #[must_use]
    pub fn get(&self, name: &TemplateName) -> Option<Read> {
        let file = self.file(name);
        let stamp = match fs::metadata(&file) {
            Ok(metadata) => Stamp::from(&metadata),
            Err(_) if !self.has(name) => {
                self.known().remove(name);
                return None;
            }
            Err(error) => return Some(Err(format!("it cannot be read: {error}"))),
        };
        let before = self.known().get(name).cloned();
        if let Some(known) = &before
            && known.settled
            && known.stamp == stamp
        {
            return Some(known.read.clone());
        }
        let read = read_file(&file).and_then(|text| text::read(&text).map(Arc::new).map_err(|error| error.to_string()));
        if let Err(why) = &read
            && before.is_none_or(|before| before.read.as_ref().err() != Some(why))
        {
            tracing::warn!("The template in {} cannot be used: {why}", file.display());
        }
        self.known().insert(name.clone(), Known { stamp, settled: stamp.is_settled(), read: read.clone() });
        Some(read)
    }

    /// All of them, in the order of their names. What is called as no template can be stands there with the reason.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Read)> {
        let mut files: Vec<String> = fs::read_dir(&*self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(EXTENSION).map(str::to_owned))
            .filter(|name| !name.starts_with('.'))
            .take(MOST)
            .collect();
        files.sort_unstable();
        let read = |name: String| match name.parse::<TemplateName>() {
            Ok(parsed) => self.get(&parsed).map(|read| (name, read)),
            Err(error) => Some((name, Err(format!("{error}; rename the file")))),
        };
        files.into_iter().filter_map(read).collect()
    }

    /// Those that cannot be used, each as a sentence.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        let shown = |name: &str| self.directory.join(format!("{name}{EXTENSION}")).display().to_string();
        self.all()
            .into_iter()
            .filter_map(|(name, read)| Some(format!("the template in {} cannot be used: {}", shown(&name), read.err()?)))
            .collect()
    }

    /// Writes a template: there is the old file or the new one, at all times. Returns whether there was none.
    pub fn put(&self, name: &TemplateName, text: &str) -> io::Result<bool> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&*self.directory)?;
        let file = self.file(name);
        let is_new = !self.has(name);
        let beside = self.directory.join(format!(".{name}.{}", std::process::id()));
        let written = (|| {
            let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            fs::rename(&beside, &file)?;
            File::open(&*self.directory)?.sync_all()
        })();
        if written.is_err() {
            // What is left is no template, and hidden.
            fs::remove_file(&beside).ok();
        }
        written.map(|()| is_new)
    }

    /// Removes a template's file. Returns whether there was one.
    pub fn remove(&self, name: &TemplateName) -> io::Result<bool> {
        match fs::remove_file(self.file(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<TemplateName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    // Whoever opens a pipe waits for somebody at its other end.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("it is no file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > LARGEST {
        return Err(format!("it is larger than {} KiB", LARGEST >> 10));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TemplateName {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_is_read_as_it_is_now() {
        let place = tempfile::tempdir().unwrap();
        let folder = TemplateFolder::new(place.path().join("templates"));
        assert!(folder.get(&name("a")).is_none() && folder.all().is_empty(), "there is no directory yet");
        assert!(folder.put(&name("a"), "description = \"one\"").unwrap());
        let described = || folder.get(&name("a")).unwrap().unwrap().description.clone();
        assert_eq!(described().as_deref(), Some("one"));
        assert!(!folder.put(&name("a"), "description = \"two\"").unwrap());
        assert_eq!(described().as_deref(), Some("two"));
        fs::write(folder.file(&name("a")), "description = \"six\"").unwrap();
        assert_eq!(described().as_deref(), Some("six"), "also in place, and of the same length");
        assert!(folder.remove(&name("a")).unwrap() && !folder.remove(&name("a")).unwrap());
        assert!(folder.get(&name("a")).is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_used_says_why_and_is_alone_with_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = TemplateFolder::new(place.path().to_owned());
        fs::write(place.path().join("good.toml"), "").unwrap();
        fs::write(place.path().join("bad.toml"), "image = 3").unwrap();
        fs::write(place.path().join("Upper.toml"), "").unwrap();
        fs::write(place.path().join("large.toml"), vec![b'#'; LARGEST + 1]).unwrap();
        fs::write(place.path().join("notes.txt"), "").unwrap();
        fs::write(place.path().join(".hidden.toml"), "=").unwrap();
        fs::create_dir(place.path().join("directory.toml")).unwrap();
        std::os::unix::fs::symlink("nowhere", place.path().join("link.toml")).unwrap();
        let all = folder.all();
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Upper", "bad", "directory", "good", "large", "link"]);
        let good: Vec<bool> = all.iter().map(|(_, read)| read.is_ok()).collect();
        assert_eq!(good, [false, false, false, true, false, false]);
        let broken = folder.broken();
        assert_eq!(broken.len(), 5);
        assert!(broken[1].contains("bad.toml") && broken[1].contains("`image`"), "{}", broken[1]);
        assert!(broken[0].contains("rename"), "{}", broken[0]);
    }
}
