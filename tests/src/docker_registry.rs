//! A registry of images, and what fills it.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Runs a program to its end, and returns what it has said.
#[track_caller]
pub fn run_tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tools/setup installs it"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// Whatever it copies, it trusts.
#[track_caller]
pub fn skopeo(arguments: &[&str]) -> String {
    run_tool("skopeo", &[&["--insecure-policy", "--tmpdir", "/tmp"], arguments].concat())
}

/// A process that is ended when this is dropped.
#[derive(Debug)]
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Debian's registry, with its content in a directory of its own.
#[derive(Debug)]
pub struct DockerRegistry {
    _process: Ended,
    directory: TempDir,
    /// As it stands in names of images.
    pub host: String,
}

impl DockerRegistry {
    #[must_use]
    pub fn start() -> Self {
        Self::with("")
    }

    /// With the user `user` and the password `secret`.
    #[must_use]
    pub fn with_login() -> Self {
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
        Self { _process: process, directory, host }
    }

    /// The name of an image that is there.
    #[must_use]
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    /// Puts an image of a layout there.
    #[track_caller]
    pub fn fill(&self, layout: &Path, rest: &str, more: &[&str]) {
        let (from, to) = (format!("oci:{}", layout.display()), format!("docker://{}", self.name(rest)));
        skopeo(&[&["copy", "--quiet", "--dest-tls-verify=false"], more, &[&from, &to]].concat());
    }

    /// What it has of this digest becomes other bytes, as many as before.
    #[track_caller]
    pub fn spoil(&self, digest: &str) {
        let path = self.blob(digest);
        let size = fs::metadata(&path).expect("it is there").len();
        fs::write(&path, vec![b'x'; size.try_into().expect("it fits")]).expect("it can be changed");
    }

    /// What it has of this digest goes.
    #[track_caller]
    pub fn lose(&self, digest: &str) {
        fs::remove_file(self.blob(digest)).expect("it is there");
    }

    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("it is a digest");
        self.directory.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}
