//! Who is compared: each prints `hello` by Python, in a fresh place of its own.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    root::Root,
    server::{Connection, Server},
};

pub(crate) const CODE: &str = "print('hello')";

/// One way to run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Chroot,
    Bubblewrap,
    Runc,
    Caisson,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chroot => "chroot",
            Self::Bubblewrap => "bwrap --unshare-all",
            Self::Runc => "runc run",
            Self::Caisson => "caisson, over HTTP",
        }
    }
}

/// Those that this machine has.
#[derive(Debug)]
pub(crate) struct Peers<'a> {
    root: &'a Root,
    server: &'a Server,
    pub(crate) all: Vec<Peer>,
    bundle: PathBuf,
    next: AtomicU64,
}

thread_local! {
    static CONNECTION: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

impl<'a> Peers<'a> {
    pub(crate) fn find(root: &'a Root, server: &'a Server) -> Result<Self> {
        let bundle = root.scratch.join("bundle");
        let mut peers = Self { root, server, all: vec![Peer::Chroot], bundle, next: AtomicU64::new(0) };
        for (peer, program, package) in [(Peer::Bubblewrap, "bwrap", "bubblewrap"), (Peer::Runc, "runc", "runc")] {
            if Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success()) {
                peers.all.push(peer);
            } else {
                println!("{} is not compared: {program} is missing (package {package})", peer.name());
            }
        }
        if peers.all.contains(&Peer::Runc) {
            make_bundle(&peers.bundle, root)?;
        }
        peers.all.push(Peer::Caisson);
        Ok(peers)
    }

    /// Runs it once and checks what it says.
    pub(crate) fn run(&self, peer: Peer) -> Result<()> {
        let said = match peer {
            Peer::Caisson => self.over_http()?,
            _ => {
                let output = self.command(peer).output().with_context(|| format!("cannot start {}", peer.name()))?;
                if !output.status.success() {
                    bail!("{} failed: {}", peer.name(), String::from_utf8_lossy(&output.stderr));
                }
                String::from_utf8_lossy(&output.stdout).into_owned()
            }
        };
        if said == "hello\n" { Ok(()) } else { bail!("{} said {said:?}", peer.name()) }
    }

    fn command(&self, peer: Peer) -> Command {
        let python = ["/usr/bin/python3", "-c", CODE];
        match peer {
            Peer::Bubblewrap => {
                let mut command = Command::new("bwrap");
                command.args(["--unshare-all", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
                for name in ["bin", "sbin", "lib", "lib64"] {
                    command.args(["--symlink", &format!("usr/{name}"), &format!("/{name}")]);
                }
                command.args(python);
                command
            }
            Peer::Runc => {
                let id = format!("caisson-bench-{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
                let mut command = Command::new("runc");
                command.arg("--root").arg(self.root.scratch.join("runc")).args(["run", "--bundle"]).arg(&self.bundle).arg(id);
                command
            }
            Peer::Chroot | Peer::Caisson => {
                let mut command = Command::new("chroot");
                command.arg(&self.root.path).args(python);
                command
            }
        }
    }

    fn over_http(&self) -> Result<String> {
        CONNECTION.with_borrow_mut(|connection| {
            let connection = match connection {
                Some(connection) => connection,
                none => none.insert(self.server.connect()?),
            };
            let result = connection.ask("POST", "/v1/run", &json!({"language": "python", "code": CODE}))?;
            Ok(result["stdout"].as_str().context("there is output")?.to_owned())
        })
    }
}

/// runc's own defaults, with our root and program.
pub(crate) fn make_bundle(directory: &Path, root: &Root) -> Result<()> {
    fs::create_dir_all(directory)?;
    let status = Command::new("runc").arg("spec").current_dir(directory).status().context("cannot start runc")?;
    if !status.success() {
        bail!("runc spec failed ({status})");
    }
    let file = directory.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    config["root"] = json!({"path": root.path, "readonly": true});
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/usr/bin/python3", "-c", CODE]);
    Ok(fs::write(&file, serde_json::to_vec(&config)?)?)
}
