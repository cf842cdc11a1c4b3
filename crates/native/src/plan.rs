//! From a spec to a launch plan. Pure: what the host has was found before.

use std::path::Path;

use caisson_core::{
    BUNDLE_VARIABLES, BackendError, CERTIFICATE_VARIABLES, Files, Image, Limits, NO_PROXY_VARIABLES, PROXY_VARIABLES, SandboxSpec, Storage,
};
use caisson_launcher::plan::{Kept, Layers, Plan, Root, Step, WaysOut, Weakness};
use caisson_wire::{
    AGENT_UID, OfImage, TRUSTED, TRUSTED_BUNDLE,
    egress::{ADDRESS, PROXY_PORT},
};

use crate::{
    cgroup::Cgroups,
    host_image::{self, HostImage},
    machine::Machine,
    names::Names,
    stored_image,
};

/// Parts of `/proc` that tell about the host and that nobody inside needs.
pub(crate) const MASKED: [&str; 43] = [
    "acpi",
    "allocinfo",
    "asound",
    "buddyinfo",
    "cgroups",
    "cmdline",
    "config.gz",
    "consoles",
    "devices",
    "diskstats",
    "driver",
    "dynamic_debug",
    "interrupts",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "locks",
    "mdstat",
    "misc",
    "modules",
    "mtrr",
    "pagetypeinfo",
    "partitions",
    "pressure",
    "sched_debug",
    "schedstat",
    "scsi",
    "slabinfo",
    "softirqs",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
    "tty",
    "vmallocinfo",
    "vmstat",
    "zoneinfo",
];
/// Parts of `/proc` that can be read but through which the host could be changed.
pub(crate) const SEALED: [&str; 4] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys"];

/// Of what is sealed, the counts of the whole host: they move when a neighbour does something, and so say that there is one.
pub(crate) const COUNTS: [&str; 7] =
    ["fs/aio-nr", "fs/dentry-state", "fs/file-nr", "fs/inode-nr", "fs/inode-state", "fs/quota", "kernel/pty/nr"];

/// `/dev/shm` holds at most this many bytes, or half of the memory limit.
pub(crate) const SHM_BYTES: u64 = 64 << 20;

/// The plan for `spec`.
pub(crate) fn plan(
    spec: &SandboxSpec,
    cgroups: &Cgroups,
    host: &HostImage,
    layers: &Path,
    (machine, names, ways): (&Machine, &Names, WaysOut),
    weakness: Option<Weakness>,
    files: Files,
) -> Result<Plan, BackendError> {
    let names = if spec.network.is_none() { names } else { &Names::Asked };
    let limits = &match weakness {
        Some(Weakness::Limits) => Limits { disk_bytes: 16 << 30, disk_inodes: 4 << 20, ..spec.limits },
        _ => spec.limits,
    };

    let (layers, mut steps) = root(spec, host, layers, names)?;
    steps.push(Step::Tmpfs { path: "dev".into(), mode: 0o755, bytes: 64 << 10, inodes: 64, devices: true });
    for (name, major, minor) in [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)] {
        steps.push(Step::Device { path: format!("dev/{name}"), major, minor });
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        steps.push(Step::Symlink { path: format!("dev/{name}"), target: target.to_owned() });
    }
    steps.push(Step::Devpts { path: "dev/pts".into() });
    let shm = SHM_BYTES.min(limits.memory_bytes / 2);
    steps.push(Step::Tmpfs { path: "dev/shm".into(), mode: 0o1777, bytes: shm, inodes: 4096, devices: false });
    steps.push(Step::Proc { path: "proc".into(), private: weakness != Some(Weakness::Sight) });
    steps.push(Step::Mask { paths: MASKED.into_iter().map(|name| format!("proc/{name}")).collect() });
    steps.extend(SEALED.into_iter().map(|path| Step::Seal { path: path.to_owned() }));
    // After the seals: a sealed copy would hide what covers a file below it.
    steps.push(Step::Mask { paths: COUNTS.into_iter().map(|name| format!("proc/sys/{name}")).collect() });
    steps.extend(machine.steps(limits));
    steps.push(Step::Seal { path: "dev".to_owned() });
    if layers.is_some() {
        steps.push(Step::Seal { path: "sys".to_owned() });
    }

    Ok(Plan {
        processors: machine.processors(limits),
        limits: cgroups.writes(limits),
        hostname: spec.hostname.clone(),
        root: match spec.storage {
            Storage::Memory => Root::Memory { bytes: limits.disk_bytes, inodes: limits.disk_inodes },
            Storage::Disk => Root::Disk(match files {
                Files::Passing => Kept::Never,
                Files::Kept => Kept::New,
                Files::Again => Kept::Again,
            }),
        },
        layers,
        steps,
        agent_id: AGENT_UID,
        ways_out: (!spec.network.is_none()).then_some(ways),
    })
}

/// What lies below the root, and what is made in it before anything of the kernel's is mounted there.
pub(crate) fn root(
    spec: &SandboxSpec,
    host: &HostImage,
    layers: &Path,
    names: &Names,
) -> Result<(Option<Layers>, Vec<Step>), BackendError> {
    match &spec.image {
        Image::Host => Ok((None, host_root(spec, host, names)?)),
        Image::Stored(image) => Ok((Some(stored_image::layers(image, layers)?), stored_image::steps(names, &spec.hostname))),
        Image::Named { name, .. } => {
            Err(BackendError::Failed(format!("image `{}` was not looked up before its launch", name.escape_default())))
        }
    }
}

/// The host's programs, and the directories that every sandbox of them has.
fn host_root(spec: &SandboxSpec, host: &HostImage, names: &Names) -> Result<Vec<Step>, BackendError> {
    let user = &spec.user;
    let mut steps = host.steps(names, &spec.hostname, user);
    let mut directory = |path: &str, mode, owner| steps.push(Step::Directory { path: path.to_owned(), mode, owner });
    directory("tmp", 0o1777, 0);
    directory("var", 0o755, 0);
    directory("var/tmp", 0o1777, 0);
    directory("run", 0o755, 0);
    directory("home", 0o755, 0);
    directory("root", 0o700, 0);
    for path in [&user.home, &spec.work_dir] {
        for (path, last) in with_parents(path)? {
            if !steps.iter().any(|step| matches!(step, Step::Directory { path: made, .. } if *made == path)) {
                let (mode, owner) = if last { (0o755, user.uid) } else { (0o755, 0) };
                steps.push(Step::Directory { path, mode, owner });
            }
        }
    }
    Ok(steps)
}

/// The environment of user code before a request adds to it. What depends on who user code is, in an image the agent adds.
pub(crate) fn environment(spec: &SandboxSpec) -> Vec<(String, String)> {
    let mut variables =
        std::collections::BTreeMap::from([("HOSTNAME".to_owned(), spec.hostname.clone()), ("LANG".to_owned(), "C.UTF-8".to_owned())]);
    if let Image::Stored(image) = &spec.image {
        variables.insert("PATH".to_owned(), stored_image::PATH.to_owned());
        variables.extend(image.config.env.iter().cloned());
    } else {
        variables.extend([
            ("HOME".to_owned(), spec.user.home.clone()),
            ("LOGNAME".to_owned(), spec.user.name.clone()),
            ("PATH".to_owned(), host_image::PATH.to_owned()),
            ("SHELL".to_owned(), "/bin/bash".to_owned()),
            ("USER".to_owned(), spec.user.name.clone()),
        ]);
    }
    if !spec.network.is_none() {
        let proxy = format!("http://{ADDRESS}:{PROXY_PORT}");
        let beside = format!("localhost,127.0.0.1,::1,{}", spec.hostname);
        variables.extend(PROXY_VARIABLES.map(|name| (name.to_owned(), proxy.clone())));
        variables.extend(NO_PROXY_VARIABLES.map(|name| (name.to_owned(), beside.clone())));
        if spec.certificate.is_some() {
            variables.extend(BUNDLE_VARIABLES.map(|name| (name.to_owned(), TRUSTED_BUNDLE.to_owned())));
            variables.extend(CERTIFICATE_VARIABLES.map(|name| (name.to_owned(), TRUSTED.to_owned())));
        }
    }
    variables.extend(spec.env.clone());
    variables.into_iter().collect()
}

/// What is to be settled inside, where the root is made of an image.
pub(crate) fn left_to_agent(spec: &SandboxSpec) -> Option<OfImage> {
    let Image::Stored(image) = &spec.image else { return None };
    Some(OfImage { user: image.config.user.clone().filter(|_| spec.left_to_image.user) })
}

/// The directories on the way to an absolute path, relative to the root, and whether each is the last.
fn with_parents(path: &str) -> Result<Vec<(String, bool)>, BackendError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if !path.starts_with('/') || parts.is_empty() || parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(BackendError::Unsupported(format!(
            "`{}` cannot be a directory of the sandbox; give an absolute path",
            path.escape_default()
        )));
    }
    Ok((1..=parts.len()).map(|n| (parts[..n].join("/"), n == parts.len())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Plan {
        let cgroups = Cgroups::Unified { root: "/sys/fs/cgroup".to_owned() };
        let found = (&Machine::find().unwrap(), &Names::Own, WaysOut::Redirected);
        plan(&SandboxSpec::default(), &cgroups, &HostImage::find(), Path::new("/layers"), found, None, Files::Passing).unwrap()
    }

    #[test]
    fn every_mount_point_is_made_inside_the_root_and_devices_are_sealed() {
        let plan = example();
        for step in &plan.steps {
            if let Step::Mask { paths } = step {
                assert!(paths.iter().all(|path| path.starts_with("proc/")));
                continue;
            }
            let (Step::Directory { path, .. }
            | Step::File { path, .. }
            | Step::Symlink { path, .. }
            | Step::Device { path, .. }
            | Step::Bind { path, .. }
            | Step::Tmpfs { path, .. }
            | Step::Devpts { path }
            | Step::Proc { path, .. }
            | Step::Cover { path, .. }
            | Step::Seal { path }) = step
            else {
                unreachable!("every other step has one path")
            };
            assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".."), "{path}");
            if let Step::Tmpfs { path, devices: true, .. } = step {
                assert!(plan.steps.iter().any(|s| matches!(s, Step::Seal { path: sealed } if sealed == path)), "{path} is not sealed");
            }
        }
    }

    #[test]
    fn the_user_owns_home_and_work_dir_alone() {
        let owned: Vec<_> = example()
            .steps
            .iter()
            .filter_map(|s| match s {
                Step::Directory { path, owner: 1000, .. } => Some(path.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(owned, ["home/user", "workspace"]);
    }

    #[test]
    fn impossible_directories_are_refused() {
        for bad in ["", "/", "relative", "/a/../b"] {
            assert!(with_parents(bad).is_err(), "{bad}");
        }
    }
}
