//! Programs of others: a registry, what fills it, and mounts.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use caisson_image::{Options, Registry};
use tempfile::TempDir;

/// Runs a program to its end, and returns what it has said.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tools/setup installs it"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

#[track_caller]
pub(crate) fn skopeo(arguments: &[&str]) -> String {
    run("skopeo", &[&["--insecure-policy", "--tmpdir", "/tmp"], arguments].concat())
}

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

/// A process that is ended when this is dropped.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Debian's registry, with its content in a directory of its own.
pub(crate) struct DockerRegistry {
    _process: Ended,
    _directory: TempDir,
    pub(crate) host: String,
}

impl DockerRegistry {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With the user `user` and the password `secret`.
    pub(crate) fn with_login() -> Self {
        Self::with("auth:\n  htpasswd:\n    realm: test\n    path: PLACE/users\n")
    }

    fn with(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let place = directory.path().display();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {place}/data\nhttp:\n  addr: {host}\n  secret: s\n{}",
            more.replace("PLACE", &place.to_string())
        );
        fs::write(directory.path().join("users"), "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n").unwrap();
        let path = directory.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let process = Command::new("docker-registry").arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut process = Ended(process.unwrap_or_else(|error| panic!("docker-registry: {error}; tools/setup installs it")));
        let begun = Instant::now();
        while TcpStream::connect(&host).is_err() {
            if let Some(status) = process.0.try_wait().unwrap() {
                let mut said = String::new();
                process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("the registry has ended, {status}: {said}");
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "the registry does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        // So that it never waits for somebody who reads what it says. The thread ends with it.
        let errors = BufReader::new(process.0.stderr.take().unwrap());
        std::thread::spawn(move || errors.lines().map_while(Result::ok).for_each(drop));
        Self { _process: process, _directory: directory, host }
    }

    /// The name of an image that is there.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    pub(crate) fn options(&self) -> Options {
        insecure(&self.host)
    }

    /// Puts an image of a layout there.
    #[track_caller]
    pub(crate) fn fill(&self, layout: &Path, rest: &str, more: &[&str]) {
        let (from, to) = (format!("oci:{}", layout.display()), format!("docker://{}", self.name(rest)));
        skopeo(&[&["copy", "--quiet", "--dest-tls-verify=false"], more, &[&from, &to]].concat());
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
