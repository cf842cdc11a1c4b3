//! `config.json` of a bundle, as the OCI runtime specification has it (version 1.0.2).

use caisson_core::SandboxSpec;
use caisson_launcher::{
    bundle::{CGROUP, FIRST_ID, NAMESPACE, ROOT, ROOT_OF_IMAGE},
    plan::ID_COUNT,
};
use caisson_native::parts;
use caisson_wire::AGENT_UID;
use serde_json::{Value, json};

use crate::{container::Container, runtime::Kind};

/// Where the agent is, until it takes that away.
pub(crate) const AGENT: &str = "/caisson-agent";
/// The period over which processor time is measured out, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Directories and devices.
const DEV_BYTES: u64 = 64 << 10;

/// What the agent may do, in the container's user namespace: see the launcher's own list.
const CAPABILITIES: [&str; 11] = [
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETFCAP",
    "CAP_KILL",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_ADMIN",
];

/// All of it but the ids, which the launcher writes into it.
pub(crate) fn config(container: &Container, spec: &SandboxSpec, arguments: &[&str]) -> String {
    let argv: Vec<String> = std::iter::once(AGENT.to_owned()).chain(arguments.iter().map(|word| (*word).to_owned())).collect();
    let capabilities: serde_json::Map<String, Value> = ["bounding", "effective", "permitted", "inheritable", "ambient"]
        .map(|set| (set.to_owned(), json!(CAPABILITIES)))
        .into_iter()
        .collect();
    let limit = |name: &str, value: u64| json!({"type": name, "hard": value, "soft": value});
    let ids = json!([{"containerID": 0, "hostID": first_id(), "size": ID_COUNT}]);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": AGENT_UID, "gid": AGENT_UID},
            "args": argv,
            "env": [],
            "cwd": "/",
            "capabilities": capabilities,
            "noNewPrivileges": true,
            // Before the rest of the host, and after user code.
            "oomScoreAdj": 900,
        },
        "root": {"path": if container.is_of_image { ROOT_OF_IMAGE } else { ROOT }, "readonly": false},
        "hostname": spec.hostname,
        "mounts": mounts(container, spec),
        "linux": {
            "namespaces": namespaces(container),
            "uidMappings": ids.clone(),
            "gidMappings": ids,
            "resources": resources(container, spec),
        },
    });
    if container.kind.has_own_kernel() {
        config["process"]["rlimits"] = json!([
            limit("RLIMIT_CORE", 0),
            limit("RLIMIT_NICE", 0),
            limit("RLIMIT_RTPRIO", 0),
            limit("RLIMIT_MEMLOCK", 64 << 10),
            limit("RLIMIT_SIGPENDING", 16_384),
        ]);
    } else {
        // The limits of processes are the launcher's, which the runtime inherits.
        let linux = &mut config["linux"];
        linux["cgroupsPath"] = json!(container.cgroup_path());
        linux["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "0"});
        linux["maskedPaths"] = parts::masked().chain(["/proc/sys/kernel/random/boot_id".to_owned()]).collect();
        linux["readonlyPaths"] = parts::sealed().collect();
    }
    config.to_string()
}

fn namespaces(container: &Container) -> Vec<Value> {
    let mut namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount"].map(|name| json!({"type": name})).into();
    if container.kind.has_own_kernel() {
        namespaces.push(json!({"type": "user"}));
    } else {
        // Made by the launcher: what the kernel counts for its owner is then not counted for root, and so for all sandboxes together.
        namespaces.extend([json!({"type": "user", "path": container.directory.join(NAMESPACE)}), json!({"type": "cgroup"})]);
    }
    namespaces
}

/// What stands for the first id, without the quotes that it has in the text.
fn first_id() -> &'static str {
    FIRST_ID.trim_matches('"')
}

fn mounts(container: &Container, spec: &SandboxSpec) -> Value {
    let shared = parts::shared_memory(&spec.limits);
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": options(container.kind, &["nosuid", "nodev", "noexec"], &["hidepid=2"])}),
        json!({
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": options(container.kind, &["nosuid", "noexec", "mode=755", &format!("size={DEV_BYTES}")], &["nr_inodes=64"]),
        }),
        json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": options(container.kind, &["nosuid", "noexec"], &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "max=64"]),
        }),
        json!({
            "destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs",
            "options": options(container.kind, &["nosuid", "nodev", "noexec", "mode=1777", &format!("size={shared}")], &["nr_inodes=4096"]),
        }),
    ];
    let lent = |destination: String, source: String, exec: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "ro", "nosuid", "nodev", exec]});
    mounts.push(lent(AGENT.to_owned(), container.agent.display().to_string(), "exec"));
    mounts.extend(container.figures().map(|(name, path)| lent(format!("/proc/{name}"), path, "noexec")));
    if container.kind.has_own_kernel() {
        // Otherwise it would have one there without the limit on the disk.
        let source = format!("{}/tmp", container.root());
        mounts.push(json!({"destination": "/tmp", "type": "bind", "source": source, "options": ["bind", "rw", "nosuid", "nodev"]}));
        // The group that its kernel counts all of the sandbox in. The agent takes it away.
        mounts
            .push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "nodev", "noexec"]}));
    }
    Value::Array(mounts)
}

/// Those that every kernel takes, and those of Linux.
fn options<'a>(kind: Kind, all: &[&'a str], of_linux: &[&'a str]) -> Vec<&'a str> {
    let more = if kind.has_own_kernel() { &[] } else { of_linux };
    all.iter().chain(more).copied().collect()
}

/// Of a runtime whose kernel is its own they are figures that it shows inside; they are enforced by the control group that it is in.
fn resources(container: &Container, spec: &SandboxSpec) -> Value {
    let limits = &spec.limits;
    let quota = u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000;
    let mut resources = json!({
        "memory": {"limit": limits.memory_bytes},
        "cpu": {"quota": quota, "period": CPU_PERIOD_US},
    });
    if !container.kind.has_own_kernel() {
        resources["pids"] = json!({"limit": limits.pids});
        if !container.is_unified {
            // Buffers of TCP, which v1 counts apart.
            resources["memory"]["kernelTCP"] = json!(limits.memory_bytes / 8);
        }
        if container.limits_swap {
            resources["memory"]["swap"] = json!(limits.memory_bytes);
        }
    }
    resources
}

/// The control group that a runtime makes below the sandbox's own, by how it takes paths: relative ones are below its own in cgroup v1 and beside
/// it in v2.
pub(crate) fn cgroup_path(is_unified: bool, child: &str) -> String {
    if is_unified { format!("/caisson/{CGROUP}/{child}") } else { child.to_owned() }
}
