//! The directory that a build may copy from.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{ffi::OsStrExt, fs::MetadataExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use caisson_dockerfile::{Ignore, Pattern};
use caisson_tree::tar::Kind;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use sha2::{Digest, Sha256};

use super::parcel::{Content, Entry};

/// The longest ignore file, and the longest Dockerfile.
pub(super) const MAX_FILE: u64 = 4 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Context {
    root: PathBuf,
    ignore: Ignore,
}

/// Something of the context that is copied.
#[derive(Debug)]
pub(super) struct Found {
    /// Whether it is a directory, of which the content is copied.
    pub(super) is_directory: bool,
    /// What it is called.
    pub(super) name: Vec<u8>,
    /// Itself, by no name if it is a directory, and all below it.
    pub(super) entries: Vec<Entry>,
}

impl Context {
    /// Opens a directory as a context; `dockerfile` may have an ignore file of its own.
    pub(super) fn open(root: &Path, dockerfile: Option<&Path>) -> Result<Self> {
        let shown = root.display();
        let root = fs::canonicalize(root).with_context(|| format!("cannot read the context {shown}"))?;
        if !root.is_dir() {
            bail!("the context {shown} is no directory");
        }
        let own = dockerfile.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        let mut ignore = Ignore::default();
        for path in own.into_iter().chain([root.join(".dockerignore")]) {
            if let Some(text) = read_text(&path)? {
                ignore = Ignore::parse(&text).map_err(|problem| anyhow::anyhow!("{}, {problem}", path.display()))?;
                break;
            }
        }
        Ok(Self { root, ignore })
    }

    /// What a source of `COPY` means, in order. Links on the way and at its end are followed within the context.
    pub(super) fn find(&self, source: &str) -> Result<Vec<Found>> {
        let clean = super::config::absolute("/", source);
        let parts: Vec<&str> = clean.split('/').filter(|part| !part.is_empty()).collect();
        let mut paths = Vec::new();
        self.expand(PathBuf::new(), &parts, &mut paths)?;
        let mut found = Vec::new();
        for path in paths {
            if let Some(one) = self.one(&path)? {
                found.push(one);
            }
        }
        if found.is_empty() {
            bail!("`{source}` is not in the context {}, or an ignore file leaves it out", self.root.display());
        }
        Ok(found)
    }

    /// Paths that parts with patterns in them mean.
    fn expand(&self, path: PathBuf, parts: &[&str], paths: &mut Vec<PathBuf>) -> Result<()> {
        let Some((part, rest)) = parts.split_first() else {
            paths.push(path);
            return Ok(());
        };
        if !Pattern::is_wild(part) && !part.contains('\\') {
            return self.expand(path.join(part), rest, paths);
        }
        let pattern = Pattern::new(part).map_err(anyhow::Error::msg)?;
        let Some(directory) = self.real(&path)? else { return Ok(()) };
        let Ok(entries) = fs::read_dir(self.root.join(directory)) else { return Ok(()) };
        let mut names = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        for name in names.iter().filter(|name| pattern.matches(&name.to_string_lossy())) {
            self.expand(path.join(name), rest, paths)?;
        }
        Ok(())
    }

    /// Where a path of the context really is, links followed within the context. `None` where nothing is.
    fn real(&self, path: &Path) -> Result<Option<PathBuf>> {
        let unreadable = || format!("cannot read {} of the context", path.display());
        let root = open(&self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).with_context(unreadable)?;
        let wanted = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let handle = match openat2(root.as_fd(), wanted, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error).with_context(unreadable),
        };
        let real = fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd())).with_context(unreadable)?;
        match real.strip_prefix(&self.root) {
            Ok(real) => Ok(Some(real.to_owned())),
            Err(_) => bail!("{} is not in the context any more", path.display()),
        }
    }

    fn one(&self, path: &Path) -> Result<Option<Found>> {
        let Some(real) = self.real(path)? else { return Ok(None) };
        let hidden = |path: &Path| !path.as_os_str().is_empty() && self.ignore.ignores(&path.to_string_lossy());
        let ignored = hidden(path) || hidden(&real);
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let metadata = fs::metadata(self.root.join(&real)).with_context(|| format!("cannot read {}", path.display()))?;
        if !metadata.is_dir() {
            if ignored {
                return Ok(None);
            }
            let entries = self.entry(&real, name.clone(), &metadata)?.into_iter().collect();
            return Ok(Some(Found { is_directory: false, name, entries }));
        }
        let mut entries = self.entry(&real, Vec::new(), &metadata)?.into_iter().collect::<Vec<_>>();
        self.walk(&real, b"", &mut entries)?;
        Ok((!ignored || entries.len() > 1).then_some(Found { is_directory: true, name, entries }))
    }

    /// Everything in a directory that is not ignored, by its names below `prefix`.
    fn walk(&self, directory: &Path, prefix: &[u8], entries: &mut Vec<Entry>) -> Result<()> {
        let unreadable = || format!("cannot read {} of the context", directory.display());
        let listed = fs::read_dir(self.root.join(directory)).with_context(unreadable)?;
        let mut names =
            listed.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>().with_context(unreadable)?;
        names.sort();
        for name in names {
            let path = directory.join(&name);
            let below = [prefix, name.as_bytes()].concat();
            let metadata = fs::symlink_metadata(self.root.join(&path)).with_context(|| format!("cannot read {}", path.display()))?;
            let ignored = self.ignore.ignores(&path.to_string_lossy());
            if !metadata.is_dir() {
                if !ignored {
                    entries.extend(self.entry(&path, below, &metadata)?);
                }
                continue;
            }
            if ignored && !self.ignore.has_exceptions() {
                continue;
            }
            let mut inside = Vec::new();
            self.walk(&path, &[&below, &b"/"[..]].concat(), &mut inside)?;
            if !ignored || !inside.is_empty() {
                entries.extend(self.entry(&path, below, &metadata)?);
                entries.append(&mut inside);
            }
        }
        Ok(())
    }

    /// What there is at a real path. Sockets and the like are not copied.
    fn entry(&self, path: &Path, name: Vec<u8>, metadata: &fs::Metadata) -> Result<Option<Entry>> {
        let path = self.root.join(path);
        let (kind, content) = if metadata.is_dir() {
            (Kind::Directory, Content::Nothing)
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).with_context(|| format!("cannot read {}", path.display()))?;
            (Kind::Symlink, Content::Link(target.into_os_string().into_encoded_bytes()))
        } else if metadata.is_file() {
            let digest = digest(&path).with_context(|| format!("cannot read {}", path.display()))?;
            (Kind::File, Content::File { path, digest })
        } else {
            return Ok(None);
        };
        Ok(Some(Entry { name, kind, mode: metadata.mode() & 0o7777, modified: metadata.mtime(), content }))
    }
}

/// A file's bytes; a link that has taken its place is none.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)
}

fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let (mut file, mut hash) = (open_file(path)?, Sha256::new());
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A text of reasonable length; `None` where there is no file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    text(file, &path.display().to_string()).map(Some)
}

/// All that there is to read, which has to be text.
pub(super) fn text(from: impl Read, shown: &str) -> Result<String> {
    let mut text = String::new();
    from.take(MAX_FILE + 1).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    if text.len() as u64 > MAX_FILE {
        bail!("{shown} is larger than {} MiB", MAX_FILE >> 20);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn context(ignore: &str) -> (tempfile::TempDir, Context) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("src/deep")).unwrap();
        for name in ["a.txt", "b.txt", "c.md", "src/main.c", "src/deep/x.c", "src/deep/x.o"] {
            fs::write(at(name), name).unwrap();
        }
        symlink("src/deep", at("link")).unwrap();
        symlink("/etc", at("out")).unwrap();
        symlink("../a.txt", at("src/up")).unwrap();
        fs::write(at(".dockerignore"), ignore).unwrap();
        let context = Context::open(directory.path(), None).unwrap();
        (directory, context)
    }

    fn names(context: &Context, source: &str) -> Vec<String> {
        let found = context.find(source).unwrap();
        found.iter().flat_map(|found| &found.entries).map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect()
    }

    #[test]
    fn sources_are_found_within_the_context() {
        let (_directory, context) = context("*.o\n**/*.o\n.dockerignore\n");
        assert_eq!(names(&context, "a.txt"), ["a.txt"]);
        assert_eq!(names(&context, "/a.txt"), ["a.txt"]);
        assert_eq!(names(&context, "../../a.txt"), ["a.txt"]);
        assert_eq!(names(&context, "*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(names(&context, "s*/ma?n.c"), ["main.c"]);
        assert_eq!(names(&context, "src"), ["", "deep", "deep/x.c", "main.c", "up"]);
        assert_eq!(names(&context, "link/x.c"), ["x.c"]);
        assert_eq!(names(&context, "link"), ["", "x.c"]);
        assert_eq!(names(&context, "src/up"), ["up"], "a file that a link leads to");
        assert_eq!(context.find("src/up").unwrap()[0].entries[0].kind, Kind::File);
        assert!(names(&context, ".").starts_with(&["".to_owned(), "a.txt".to_owned()]));
        for missing in ["nothing", "*.none", "src/deep/x.o", "out/passwd", ".dockerignore"] {
            assert!(context.find(missing).unwrap_err().to_string().contains(missing), "{missing}");
        }
    }

    #[test]
    fn exceptions_bring_back_what_is_in_ignored_directories() {
        let (_directory, context) = context("*\n!src/deep/x.c\n");
        assert_eq!(names(&context, "."), ["", "src", "src/deep", "src/deep/x.c"]);
        assert_eq!(names(&context, "src/deep"), ["", "x.c"]);
        assert!(context.find("a.txt").is_err());
    }
}
