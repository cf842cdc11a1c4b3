//! What a container is to be like, and how it is taken away.

use std::collections::HashMap;

use bollard::{
    models::{
        ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions, MountType,
    },
    query_parameters::RemoveContainerOptionsBuilder,
};
use caisson_core::Limits;
use caisson_launcher::{
    inside::{HOST, LAUNCHER, PROGRAMS},
    plan::Step,
};

use crate::daemon::{Daemon, Failed};

/// What the launcher needs of the host's privileges, before the sandbox is a user namespace of its own. The agent has none of them.
const CAPABILITIES: [&str; 10] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "MKNOD", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_PTRACE"];
/// And to look at the host as if it were its own.
const OF_SURVEY: &str = "SYS_CHROOT";
/// In place of a volume.
const VOLUME_BYTES: u32 = 4096;
/// Before the rest of the host, and after user code.
const OOM_SCORE: i64 = 900;
/// The filter, as the build has made it of the tables.
const FILTER: &str = include_str!(concat!(env!("OUT_DIR"), "/seccomp.json"));

/// What all containers of a server have in common.
#[derive(Debug)]
pub(crate) struct Mould {
    pub(crate) runtime: Option<String>,
    pub(crate) labels: HashMap<String, String>,
    /// The volume with launcher and agent.
    pub(crate) programs: String,
    /// The image of those that bring none.
    pub(crate) empty: String,
    /// Of the daemon's host.
    pub(crate) processors: u32,
    /// What the daemon does with containers by itself.
    pub(crate) has_apparmor: bool,
    pub(crate) maps_users: bool,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Cast<'a> {
    /// What the launcher is to do.
    pub(crate) command: &'a str,
    pub(crate) image: Option<String>,
    pub(crate) limits: Limits,
    /// For people who look at the daemon.
    pub(crate) name: Option<String>,
    pub(crate) hostname: String,
    /// What is lent, by its path on the host.
    pub(crate) lent: Vec<String>,
    /// Where its image wants volumes, which the daemon would make on its disk.
    pub(crate) volumes: Vec<String>,
    pub(crate) is_survey: bool,
}

impl Mould {
    /// The daemon takes no more than it has processors for.
    pub(crate) fn nano_cpus(&self, limits: &Limits) -> i64 {
        i64::from(limits.cpu_millis.min(self.processors.saturating_mul(1000))) * 1_000_000
    }

    pub(crate) fn cast(&self, cast: Cast<'_>) -> ContainerCreateBody {
        let mut mounts = vec![Mount {
            target: Some(PROGRAMS.to_owned()),
            source: Some(self.programs.clone()),
            typ: Some(MountType::VOLUME),
            read_only: Some(true),
            ..Mount::default()
        }];
        mounts.extend(cast.lent.iter().map(|path| Mount {
            target: Some(format!("{HOST}{path}").trim_end_matches('/').to_owned()),
            source: Some(path.clone()),
            typ: Some(MountType::BIND),
            read_only: Some(true),
            // What is mounted below what is lent is not lent.
            bind_options: Some(MountBindOptions { non_recursive: Some(!cast.is_survey), ..MountBindOptions::default() }),
            ..Mount::default()
        }));
        let mut capabilities = CAPABILITIES.map(str::to_owned).to_vec();
        capabilities.extend(cast.is_survey.then(|| OF_SURVEY.to_owned()));
        let mut security = vec!["no-new-privileges".to_owned(), format!("seccomp={FILTER}")];
        // Its profile denies the launcher to mount.
        security.extend(self.has_apparmor.then(|| "apparmor=unconfined".to_owned()));
        let (memory, pids) = (number(cast.limits.memory_bytes), i64::from(cast.limits.pids));
        ContainerCreateBody {
            hostname: Some(cast.hostname),
            user: Some("0:0".to_owned()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            // The end of the server is the end of the agent's stream.
            stdin_once: Some(true),
            image: Some(cast.image.unwrap_or_else(|| self.empty.clone())),
            working_dir: Some("/".to_owned()),
            entrypoint: Some(vec![format!("{PROGRAMS}/{LAUNCHER}"), cast.command.to_owned()]),
            // One of an image would be run by the daemon with the privileges of the launcher, among the sandbox's files.
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
            labels: Some(self.labels.clone()),
            // Nothing inside has anything to do before its end.
            stop_signal: Some("SIGKILL".to_owned()),
            host_config: Some(HostConfig {
                auto_remove: Some(true),
                cap_add: Some(capabilities),
                cap_drop: Some(vec!["ALL".to_owned()]),
                cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
                ipc_mode: Some("private".to_owned()),
                // What the agent says is nobody's to keep.
                log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), ..HostConfigLogConfig::default() }),
                memory: Some(memory),
                memory_swap: Some(memory),
                mounts: Some(mounts),
                nano_cpus: Some(self.nano_cpus(&cast.limits)),
                // Nothing is seen of them: the root is copied without what is mounted in it.
                tmpfs: Some(cast.volumes.into_iter().map(|path| (path, format!("size={VOLUME_BYTES},nr_inodes=1"))).collect()),
                network_mode: Some("none".to_owned()),
                oom_score_adj: Some(OOM_SCORE),
                pids_limit: Some(pids),
                readonly_rootfs: Some(true),
                runtime: self.runtime.clone(),
                security_opt: Some(security),
                sysctls: Some(HashMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())])),
                userns_mode: self.maps_users.then(|| "host".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

/// As the API has it, which knows no more than that.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What the host lends by these steps, which then find it where it is in the container.
pub(crate) fn lend(steps: &mut [Step]) -> Vec<String> {
    let mut lent = Vec::new();
    for step in steps {
        if let Step::Bind { source, .. } = step {
            lent.push(source.clone());
            *source = format!("{HOST}{source}");
        }
    }
    lent
}

/// Ends all of it and takes it away. One that is not there is fine.
pub(crate) async fn remove(daemon: &Daemon, id: &str) -> Result<(), Failed> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match daemon.call("remove a container", daemon.docker.remove_container(id, Some(options))).await {
        // It is being removed by itself.
        Err(Failed::NotFound(_) | Failed::Conflict(_)) => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_has_what_programs_and_the_launcher_need_and_nothing_of_the_kernels_own() {
        let filter: serde_json::Value = serde_json::from_str(FILTER).unwrap();
        let calls = filter["syscalls"][0]["names"].as_array().unwrap();
        let has = |name: &str| calls.iter().any(|call| call == name);
        for name in ["read", "socket", "clone", "pivot_root", "mount_setattr", "seccomp"] {
            assert!(has(name), "{name}");
        }
        for name in ["bpf", "init_module", "kexec_load", "keyctl", "open_by_handle_at", "reboot", "io_uring_setup", "userfaultfd"] {
            assert!(!has(name), "{name}");
        }
    }

    #[test]
    fn what_is_lent_is_found_below_a_directory_of_its_own() {
        let mut steps = [
            Step::Bind { source: "/usr".to_owned(), path: "usr".to_owned(), file: false },
            Step::Symlink { path: "bin".to_owned(), target: "usr/bin".to_owned() },
        ];
        assert_eq!(lend(&mut steps), ["/usr"]);
        assert!(matches!(&steps[0], Step::Bind { source, path, .. } if source == "/dev/host/usr" && path == "usr"));
    }
}
