//! The agent as the tests start it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The agent, built once for all tests.
pub(crate) fn agent_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--locked", "-p", "caisson-agent"])
            .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        // Beside the directory that this test lies in.
        let binary = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("caisson-agent");
        if binary.exists() {
            return binary;
        }
        std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("release/caisson-agent")
    })
}
