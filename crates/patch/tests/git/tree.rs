//! Trees on disk and in memory, and git in them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use caisson_patch::{Directory, Entry, Id, Index, Kind, Options, Scan, Source, Summary, Tree, scan, write_patch};
use tempfile::TempDir;

/// A file or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    File { content: Vec<u8>, executable: bool },
    Link(Vec<u8>),
}

/// What has which path.
pub(crate) type Nodes = BTreeMap<Vec<u8>, Node>;

/// Contents by their names.
#[derive(Debug, Default)]
pub(crate) struct Contents(BTreeMap<Id, Vec<u8>>);

impl Source for Contents {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn io::Read + '_>> {
        let content = self.0.get(&entry.id).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(content.as_slice()))
    }
}

impl Node {
    pub(crate) fn content(&self) -> &[u8] {
        match self {
            Self::File { content, .. } | Self::Link(content) => content,
        }
    }
}

pub(crate) fn file(content: impl AsRef<[u8]>) -> Node {
    Node::File { content: content.as_ref().to_vec(), executable: false }
}

/// The tree and its contents.
pub(crate) fn in_memory(nodes: &Nodes) -> (Tree, Contents) {
    let mut contents = Contents::default();
    let entry = |(path, node): (&Vec<u8>, &Node)| {
        let id = Id::of(node.content());
        contents.0.insert(id, node.content().to_vec());
        let kind = match node {
            Node::File { executable, .. } => Kind::File { executable: *executable },
            Node::Link(_) => Kind::Link,
        };
        Entry { path: path.clone(), kind, size: node.content().len() as u64, id }
    };
    let entries = nodes.iter().map(entry).collect();
    (Tree::new(entries).unwrap(), contents)
}

/// From one to the other, out of memory.
pub(crate) fn patch(old: &Nodes, new: &Nodes, options: &Options) -> (Vec<u8>, Summary) {
    let ((old, old_contents), (new, new_contents)) = (in_memory(old), in_memory(new));
    let mut patch = Vec::new();
    let summary = write_patch(&old, &new, &old_contents, &new_contents, options, &mut patch).unwrap();
    assert_eq!(summary.bytes, patch.len() as u64);
    (patch, summary)
}

/// A directory of its own, in memory where that can be.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn at(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path))
}

pub(crate) fn write(root: &Path, nodes: &Nodes) {
    for (path, node) in nodes {
        let path = at(root, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match node {
            Node::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            Node::File { content, executable } => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(if *executable { 0o755 } else { 0o644 })).unwrap();
            }
        }
    }
}

/// What is there, `.git` at the top aside.
pub(crate) fn read(root: &Path) -> Nodes {
    let mut nodes = Nodes::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                if below != b".git" {
                    directories.push(path);
                }
            } else if metadata.is_symlink() {
                nodes.insert(below, Node::Link(fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()));
            } else {
                let executable = metadata.permissions().mode() & 0o100 != 0;
                nodes.insert(below, Node::File { content: fs::read(&path).unwrap(), executable });
            }
        }
    }
    nodes
}

pub(crate) fn open(root: &Path) -> std::os::fd::OwnedFd {
    fs::File::open(root).unwrap().into()
}

pub(crate) fn scanned(root: &Path) -> Index {
    scan(open(root), &Scan::default()).unwrap().index
}

pub(crate) fn on_disk(root: &Path) -> Directory {
    Directory::new(open(root))
}

/// Runs git with nothing of this machine's settings, and gives what it printed.
pub(crate) fn git(root: &Path, arguments: &[&str]) -> Vec<u8> {
    run(root, arguments, b"").unwrap_or_else(|said| panic!("git {arguments:?}: {said}"))
}

fn run(root: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut child = Command::new("git")
        .current_dir(root)
        .args(["-c", "core.fileMode=true", "-c", "core.autocrlf=false", "-c", "core.safecrlf=false", "-c", "gc.auto=0"])
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CEILING_DIRECTORIES", root.parent().unwrap())
        .env("HOME", root)
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a"), ("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("git is there");
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // One that says no before it has read all leaves the rest.
        scope.spawn(move || drop(io::Write::write_all(&mut stdin, input)));
        child.wait_with_output().unwrap()
    });
    if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Adds the old tree to a repository, applies the patch to it and its index, compares with the new one to the byte, and takes it back.
pub(crate) fn apply(old: &Nodes, patch: &[u8], new: &Nodes) -> Result<(), String> {
    let directory = directory();
    let root = directory.path();
    write(root, old);
    git(root, &["init", "-q", "--template="]);
    git(root, &["add", "-Af"]);
    if patch.is_empty() {
        return if old == new { Ok(()) } else { Err("nothing is said to have changed".to_owned()) };
    }
    let compare = |expect: &Nodes, what: &str| {
        let read = read(root);
        if read == *expect {
            return Ok(());
        }
        let differ = expect.keys().chain(read.keys()).find(|path| expect.get(*path) != read.get(*path)).unwrap();
        Err(format!("{what}: {:?} is {:?}, not {:?}", differ.escape_ascii().to_string(), read.get(differ), expect.get(differ)))
    };
    run(root, &["apply", "--index", "--whitespace=nowarn", "-"], patch)?;
    compare(new, "applied")?;
    if run(root, &["diff-files", "--quiet"], b"").is_err() {
        return Err("the index is another than the tree".to_owned());
    }
    run(root, &["apply", "-R", "--index", "--whitespace=nowarn", "-"], patch).map_err(|said| format!("taken back: {said}"))?;
    compare(old, "taken back")
}
