//! Which runtimes there are, and how each is told what to do.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use caisson_core::{BackendError, Difference};
use caisson_launcher::bundle::STREAM_FD;

use crate::command;

/// A runtime that says nothing is asked no longer than this.
const VERSION_WITHIN: Duration = Duration::from_secs(5);
/// Where programs are looked for, whatever `PATH` says.
const DIRECTORIES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

const IDS: &str = "ids are those of gVisor's kernel, in whose user namespace the sandbox is";
const MOUNTS: &str = "mounts are gVisor's, which no flag is needed for: programs gain nothing by set-user-id bits (`no_new_privs`), and nobody can make devices";
const FIGURES: &str = "the files are gVisor's own and tell nothing of the host";
const DEVICES: &str = "the devices are gVisor's own and reach nothing of the host";
const AGENT: &str = "gVisor's /proc shows the agent, which runs as another user and is out of reach otherwise";

const SHARED: &str = "what is in /dev/shm is memory of the sandbox, whose limit holds";

const FIGURE_ALONE: &str = "gVisor takes the figure and does nothing by it; the host knows one process, with a priority of its own";

/// By runsc of 2026.
const OF_GVISOR: [Difference; 18] = [
    Difference { guarantee: "1.1", attempt: "ids of the host in ", why: IDS },
    Difference { guarantee: "1.2", attempt: "the set-user-id bit of ", why: MOUNTS },
    Difference { guarantee: "1.2", attempt: "nosuid on ", why: MOUNTS },
    Difference { guarantee: "1.2", attempt: "nodev on ", why: MOUNTS },
    Difference { guarantee: "2.1", attempt: "/dev/char", why: DEVICES },
    Difference { guarantee: "2.1", attempt: "/dev/fuse", why: DEVICES },
    Difference { guarantee: "2.1", attempt: "/dev/net", why: DEVICES },
    Difference { guarantee: "2.3", attempt: "/proc/cgroups", why: FIGURES },
    Difference { guarantee: "2.3", attempt: "/proc/devices", why: FIGURES },
    Difference { guarantee: "2.3", attempt: "/proc/cmdline", why: FIGURES },
    Difference { guarantee: "2.3", attempt: "/sys/class", why: FIGURES },
    Difference { guarantee: "2.7", attempt: "processes in /proc/loadavg", why: FIGURES },
    Difference { guarantee: "4.1", attempt: "going after the agent: ", why: FIGURE_ALONE },
    Difference { guarantee: "4.6", attempt: "nice -20", why: FIGURE_ALONE },
    Difference { guarantee: "4.4", attempt: "files without end in /dev/shm", why: SHARED },
    Difference { guarantee: "2.4", attempt: "processes of others in /proc", why: AGENT },
    Difference { guarantee: "2.4", attempt: "/proc/1/cmdline", why: AGENT },
    Difference { guarantee: "2.4", attempt: "/proc/1/ns/", why: AGENT },
];

/// A runtime that we know how to drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Runsc,
    Runc,
    Crun,
    Youki,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Runsc, Self::Runc, Self::Crun, Self::Youki];

    /// The program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Runsc => "runsc",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Youki => "youki",
        }
    }

    /// The backend's name.
    #[must_use]
    pub fn backend(self) -> &'static str {
        match self {
            Self::Runsc => "oci:runsc",
            Self::Runc => "oci:runc",
            Self::Crun => "oci:crun",
            Self::Youki => "oci:youki",
        }
    }

    /// By the backend's name.
    #[must_use]
    pub fn of_backend(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.backend() == name)
    }

    /// Whether programs have a kernel of their own instead of the host's.
    #[must_use]
    pub fn has_own_kernel(self) -> bool {
        self == Self::Runsc
    }

    /// Platforms to try, best first. Empty where there is no choice.
    pub(crate) fn platforms(self) -> &'static [&'static str] {
        match self {
            Self::Runsc => &["systrap", "kvm", "ptrace"],
            _ => &[],
        }
    }

    /// The oldest version that does what we need, as far as versions tell.
    fn oldest(self) -> Option<(u32, u32)> {
        match self {
            // Mounts whose source only the host's root may reach, in a user namespace.
            Self::Runc => Some((1, 1)),
            // Descriptors for the container, and the same.
            Self::Crun => Some((1, 8)),
            // gVisor has dates, and is tried.
            Self::Runsc | Self::Youki => None,
        }
    }

    /// What attacks find that its kernel shows of itself.
    pub(crate) fn differences(self) -> &'static [Difference] {
        if self.has_own_kernel() { &OF_GVISOR } else { &[] }
    }

    pub(crate) fn wall(self) -> &'static str {
        match self {
            Self::Runsc => {
                "gVisor's kernel, which runs in a process of the host in namespaces of its own under a filter; only what that asks for reaches the host's kernel"
            }
            Self::Runc | Self::Crun | Self::Youki => {
                "the host's kernel, behind the runtime's namespaces and a user namespace of the sandbox's own, dropped privileges, seccomp and Landlock"
            }
        }
    }
}

/// A runtime that is there.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    pub(crate) platform: Option<&'static str>,
}

impl Runtime {
    /// Finds it and asks for its version. `program` is what the operator says.
    pub(crate) async fn find(kind: Kind, program: Option<PathBuf>) -> Result<Self, BackendError> {
        let name = kind.program();
        let Some(program) =
            program.or_else(|| DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists()))
        else {
            return Err(BackendError::Unsupported(format!(
                "there is no `{name}` on this machine: install it, or say where it is with CAISSON_OCI_RUNTIMES={name}=/path"
            )));
        };
        let shown = program.display().to_string();
        let said = command::output(&program, &["--version".as_ref()], VERSION_WITHIN)
            .await
            .map_err(|error| BackendError::Unsupported(format!("`{shown} --version` failed: {error}")))?;
        let version = said.lines().next().unwrap_or_default().trim().to_owned();
        if !version.starts_with(name) {
            let said: String = version.escape_default().take(200).collect();
            return Err(BackendError::Unsupported(format!("`{shown}` is no `{name}`: asked for its version, it says `{said}`")));
        }
        let number = version.rsplit(' ').next().unwrap_or_default().to_owned();
        if let Some((major, minor)) = kind.oldest()
            && numbers(&number).is_none_or(|numbers| numbers < (major, minor))
        {
            return Err(BackendError::Unsupported(format!(
                "`{shown}` is {name} {number}, and {major}.{minor} or later is needed; update it"
            )));
        }
        Ok(Self { kind, program, version: number, platform: None })
    }

    /// What runs the container `id` of the bundle and stays until it has ended.
    pub(crate) fn run(&self, id: &str, bundle: &Path, state: &Path) -> Result<Vec<String>, BackendError> {
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| BackendError::Unsupported(format!("{} is no UTF-8", path.display())))
        };
        let mut argv = vec![text(&self.program)?, "--root".to_owned(), text(state)?];
        let bundle = text(bundle)?;
        match self.kind {
            Kind::Runsc => {
                // No network but the loopback interface, writes into the mounts as they are, which have limits, a control group that is
                // ours, and one of its own kernel's.
                let flags =
                    ["--network=none", "--overlay2=none", "--file-access-mounts=exclusive", "--ignore-cgroups", "--in-sandbox-cgroup=v2"];
                argv.extend(flags.map(str::to_owned));
                argv.extend(self.platform.map(|platform| format!("--platform={platform}")));
                let stream = format!("{STREAM_FD}:{}", caisson_wire::STREAM_FD);
                argv.extend(["run".to_owned(), "--bundle".to_owned(), bundle, "--pass-fd".to_owned(), stream]);
            }
            Kind::Runc | Kind::Crun | Kind::Youki => {
                argv.extend(["run".to_owned(), "--bundle".to_owned(), bundle, "--preserve-fds".to_owned(), "1".to_owned()]);
            }
        }
        argv.push(id.to_owned());
        Ok(argv)
    }
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_two_numbers() {
        assert_eq!(numbers("1.1.5+ds1"), Some((1, 1)));
        assert_eq!(numbers("1.12"), Some((1, 12)));
        for bad in ["", "release-20260101.0", "1", "x.y"] {
            assert_eq!(numbers(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_those_of_the_programs() {
        for kind in Kind::ALL {
            assert_eq!(kind.backend(), format!("oci:{}", kind.program()));
            assert_eq!(Kind::of_backend(kind.backend()), Some(kind));
        }
        assert_eq!(Kind::of_backend("oci:docker"), None);
    }
}
