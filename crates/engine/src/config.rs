//! What the engine has to know of its surroundings.

use std::{path::PathBuf, time::Duration};

use crate::egress::EgressConfig;

/// Set once at the start; there is no other source of configuration.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where output logs are kept.
    pub data_dir: PathBuf,
    /// How much of each output stream a result carries itself, head and tail together.
    pub inline_output_bytes: usize,
    /// How much of each output stream is kept on disk, head and tail together.
    pub log_bytes: u64,
    /// How far each output stream of a program may be ahead of whoever reads it, in bytes; there the program waits. `None`: it never waits
    /// for readers, who come and go; what the log cannot keep is left out. Of use only where somebody reads all output as it comes.
    pub output_lead_bytes: Option<u64>,
    /// Sandboxes that exist at one time, those that are coming up and going down included.
    pub max_sandboxes: usize,
    /// How long a request waits for room where there are as many; zero refuses at once.
    pub queue_wait: Duration,
    /// Whether sandboxes are kept warm, for whoever asks next. Of use only to a server that goes on.
    pub pool: bool,
    /// Whether sandboxes on disk outlive the engine: they are stopped when it goes, and started when somebody uses them again. Of use only to a
    /// server, which comes back.
    pub keeps_disks: bool,
    /// How long a stopped sandbox is kept; `None`: as long as its own time limits say.
    pub stopped_grace: Option<Duration>,
    /// How many stopped sandboxes are kept; those that were stopped first go. `None`: as many as there are.
    pub max_stopped: Option<usize>,
    /// How often stopped sandboxes are looked at.
    pub reap_every: Duration,
    /// How long records and logs of ended sandboxes are kept.
    pub retention: Duration,
    /// How many ended sandboxes of each tenant are kept, with records and logs; those that ended first go. `None`: as many as there are.
    pub retention_sandboxes: Option<u64>,
    /// How sandboxes get out; `None`: none does.
    pub egress: Option<EgressConfig>,
}

impl EngineConfig {
    /// The defaults of a server.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            inline_output_bytes: 1 << 20,
            log_bytes: 64 << 20,
            output_lead_bytes: None,
            max_sandboxes: 2000,
            queue_wait: Duration::from_secs(30),
            pool: false,
            keeps_disks: false,
            stopped_grace: Some(Duration::from_secs(12 * 3600)),
            max_stopped: Some(50),
            reap_every: Duration::from_secs(10),
            retention: Duration::from_secs(7 * 24 * 3600),
            retention_sandboxes: None,
            egress: None,
        }
    }
}
