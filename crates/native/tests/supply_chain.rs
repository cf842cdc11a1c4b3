//! 7.7 of the security requirements, as far as it concerns the programs that this crate embeds: what runs inside a sandbox or privileged is made
//! of few crates, known by number. What licences, advisories and sources are concerned with is in `deny.toml`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Whoever adds a crate to one of these changes the figure here, and says in the commit why what is privileged, or inside, needs it.
const DEPENDENCIES: [(&str, usize); 2] = [("caisson-agent", 55), ("caisson-launcher", 12)];

/// Those of them whose code is in the program: neither procedural macros nor what only builds it.
fn dependencies(package: &str) -> BTreeSet<String> {
    let output = cargo()
        .args(["tree", "--locked", "--offline", "--quiet", "--package", package, "--edges", "normal,no-proc-macro"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names are text");
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    text.lines().filter(|line| !line.starts_with(package)).map(name).collect()
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    cargo
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn r7_7_what_is_inside_or_privileged_is_made_of_few_crates() {
    for (package, pinned) in DEPENDENCIES {
        let found = dependencies(package);
        assert_eq!(found.len(), pinned, "{package} is made of {found:#?}");
    }
}

#[test]
fn r7_7_every_crate_is_the_one_in_the_committed_lock_file() {
    // Fails when the manifests ask for anything that the lock file does not have.
    let metadata = cargo().args(["metadata", "--locked", "--offline", "--format-version", "1"]).output().expect("cargo runs");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    if root().join(".git").exists() {
        let listed =
            Command::new("git").arg("-C").arg(root()).args(["ls-files", "--error-unmatch", "Cargo.lock"]).output().expect("git runs");
        assert!(listed.status.success(), "Cargo.lock is not committed: {}", String::from_utf8_lossy(&listed.stderr));
    }
    let lock = read("Cargo.lock");
    let (mut ours, mut theirs) = (0, 0);
    for package in lock.split("[[package]]").skip(1) {
        match package.lines().find_map(|line| line.strip_prefix("source = ")) {
            None => ours += 1,
            Some(source) => {
                theirs += 1;
                assert!(source.contains("crates.io-index") && package.contains("\nchecksum = \""), "{package}");
            }
        }
    }
    assert!(ours > 10 && theirs > 50, "{ours} and {theirs} packages");
}

#[test]
fn r7_7_nothing_is_built_beside_the_lock_file() {
    let mut builds = 0;
    for file in ["Makefile", "fuzz/run", "tests/run", "tests/vm/run.sh", "crates/native/build.rs", "crates/engine/tests/support/mod.rs"] {
        let mut text = read(file).replace("\\\n", " ");
        // A selection that many builds share.
        for name in ["PROGRAMS", "SELECTED"] {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} := "))).map(str::to_owned);
            text = value.map_or_else(|| text.clone(), |value| text.replace(&format!("$({name})"), &value));
        }
        let end = if file.ends_with(".rs") { ';' } else { '\n' };
        // Every build names its profile.
        for build in text.split(end).filter(|command| command.contains("--release") || command.contains("--profile")) {
            builds += 1;
            assert!(build.contains("--locked"), "{file}: {build}");
        }
    }
    assert!(builds >= 12, "only {builds} builds were found; is this still where to look?");
}
