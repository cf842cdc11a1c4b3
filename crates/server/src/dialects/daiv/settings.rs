//! What the operator says of this dialect.

use std::{path::PathBuf, time::Duration};

use caisson_core::{Limits, Storage};

use super::PREFIX;

/// How sessions of daiv-sandbox's clients are.
#[derive(Debug, Clone)]
pub struct DaivSettings {
    /// Paths behind it are the same as without it. Begins with a slash, or is empty.
    pub prefix: String,
    /// Who commands are run as.
    pub uid: u32,
    pub gid: u32,
    /// For commands of requests that name no time.
    pub command_timeout: Option<Duration>,
    /// How long a request waits for a session that another one has.
    pub lock_wait: Duration,
    /// A session that nobody asks for is stopped after this long; where its files are in memory, it ends.
    pub idle: Option<Duration>,
    /// How often that is looked for.
    pub look_every: Duration,
    /// Names of folders that searches pass over, as patterns.
    pub prune: Vec<String>,
    /// What a session may use where its request says nothing.
    pub limits: Limits,
    /// Where its files are.
    /// What sessions are made by; the server's choice where it is empty.
    pub backend: String,
    pub storage: Storage,
    /// Where archives are while they come.
    pub spool: PathBuf,
}

/// What every language leaves behind.
const PRUNED: [&str; 29] = [
    ".git",
    ".hg",
    ".svn",
    ".idea",
    ".vs",
    "__pycache__",
    ".ruff_cache",
    ".mypy_cache",
    ".pytest_cache",
    ".pyre",
    ".pytype",
    ".hypothesis",
    ".ipynb_checkpoints",
    "*.egg-info",
    ".eggs",
    ".next",
    ".nuxt",
    ".svelte-kit",
    ".turbo",
    ".parcel-cache",
    ".angular",
    ".vite",
    ".astro",
    ".docusaurus",
    ".cache",
    ".phpunit.cache",
    ".gradle",
    "target",
    "obj",
];

const GIB: u64 = 1 << 30;

impl Default for DaivSettings {
    fn default() -> Self {
        Self {
            prefix: PREFIX.to_owned(),
            uid: 1000,
            gid: 1000,
            command_timeout: None,
            lock_wait: Duration::from_secs(1),
            idle: Some(Duration::from_secs(14_400)),
            look_every: Duration::from_secs(600),
            prune: PRUNED.map(str::to_owned).to_vec(),
            limits: Limits {
                memory_bytes: 4 * GIB,
                cpu_millis: 2000,
                pids: 1024,
                // Some is left for programs when it is full.
                disk_bytes: 4 * GIB / 100 * 75,
                disk_inodes: 500_000,
                ..Limits::default()
            },
            backend: String::new(),
            storage: Storage::Memory,
            spool: std::env::temp_dir(),
        }
    }
}
