//! What the operator says of this dialect.

use std::time::Duration;

use caisson_core::{Image, Limits, Storage};
use tokio::sync::watch;

/// How executions of boxbox's clients are run.
#[derive(Debug, Clone)]
pub struct BoxboxSettings {
    /// For programs whose requests name no time.
    pub timeout: Duration,
    /// Executions at one time.
    pub slots: usize,
    /// How long a request waits for a slot.
    pub wait: Duration,
    /// Larger files are not copied out.
    pub max_file_bytes: u64,
    /// What each sandbox may use.
    pub limits: Limits,
    /// Where its files are.
    pub storage: Storage,
    /// What sandboxes are made of. It may become another while the server runs, when one has been built.
    pub image: watch::Receiver<Image>,
}

impl Default for BoxboxSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            slots: 10,
            wait: Duration::from_secs(30),
            max_file_bytes: 100 << 20,
            limits: Limits { disk_bytes: Limits::default().memory_bytes / 100 * 75, ..Limits::default() },
            storage: Storage::Memory,
            image: watch::Sender::new(Image::Host).subscribe(),
        }
    }
}
