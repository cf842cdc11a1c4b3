//! Builds the launcher, the agent and the probe static and size-optimised (profile `guest`) and puts them into this crate, so that one program
//! is all there is to install. A build of its own is needed because Cargo has one panic strategy, one set of optimisations and one
//! linkage per build.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    for watched in [
        "Cargo.toml",
        "Cargo.lock",
        "crates/agent",
        "crates/launcher",
        "crates/patch",
        "crates/probe",
        "crates/seccomp",
        "crates/sys",
        "crates/tree",
        "crates/wire",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    let target = env::var("TARGET")?;
    let directory = guest_directory(&root)?;
    let mut build = Command::new(env::var("CARGO")?);
    build
        .current_dir(&root)
        .args([
            "build",
            "--profile",
            "guest",
            "--locked",
            "-p",
            "caisson-agent",
            "-p",
            "caisson-launcher",
            "-p",
            "caisson-probe",
            "--target",
            &target,
        ])
        .arg("--target-dir")
        .arg(&directory)
        // A target of its own keeps these flags away from build scripts and procedural macros.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    for inherited in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTFLAGS", "CLIPPY_ARGS", "CARGO_BUILD_TARGET"] {
        build.env_remove(inherited);
    }
    let status = build.status()?;
    if !status.success() {
        return Err(format!("building the launcher, the agent and the probe failed ({status})").into());
    }
    for (name, variable) in [
        ("caisson-launcher", "CAISSON_LAUNCHER_BINARY"),
        ("caisson-agent", "CAISSON_AGENT_BINARY"),
        ("caisson-probe", "CAISSON_PROBE_BINARY"),
    ] {
        println!("cargo::rustc-env={variable}={}", directory.join(&target).join("guest").join(name).display());
    }
    Ok(())
}

/// `guest` inside the target directory in use, found from `OUT_DIR`, so that a change elsewhere never builds it twice.
fn guest_directory(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target = out.ancestors().find(|path| path.join("CACHEDIR.TAG").exists()).map_or_else(|| root.join("target"), Path::to_path_buf);
    Ok(target.join("guest"))
}
