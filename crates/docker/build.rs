//! The filter of containers, in the form that Docker takes: what programs and the agent may call, by their own tables, and what the launcher calls
//! before them.

use std::{env, error::Error, fs, path::Path};

use caisson_seccomp::{Architecture, Table};
use serde_json::json;

/// Of the launcher, which makes the root, enters it and a user namespace, and becomes the agent; and of whoever starts it.
const OF_LAUNCHER: [&str; 14] = [
    "chroot",
    "clone3",
    "execve",
    "fsconfig",
    "fsmount",
    "fsopen",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "setns",
    "umount2",
    "unshare",
];
/// `ENOSYS`: programs fall back to what they did before a call existed.
const UNKNOWN: u32 = 38;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../agent/seccomp");
    let name = env::var("CARGO_CFG_TARGET_ARCH")?;
    let architecture = Architecture::named(&name)?;
    let read = |name: &str| -> Result<Table, Box<dyn Error>> {
        Ok(Table::parse(&fs::read_to_string(format!("../agent/seccomp/{name}.toml"))?, architecture)?)
    };
    let mut calls = read("user")?.overridden_by(read("agent")?).allowed();
    calls.extend(OF_LAUNCHER);
    calls.sort_unstable();
    calls.dedup();
    // The second interface of the same processors is for the agent's filter to refuse, which does not kill whoever tries it.
    let also = (architecture == Architecture::X86_64).then_some("SCMP_ARCH_X32".to_owned());
    let architectures: Vec<String> = std::iter::once(format!("SCMP_ARCH_{}", name.to_uppercase())).chain(also).collect();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": UNKNOWN,
        "architectures": architectures,
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ALLOW"}],
    });
    fs::write(Path::new(&env::var("OUT_DIR")?).join("seccomp.json"), profile.to_string())?;
    Ok(())
}
