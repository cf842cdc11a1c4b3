//! What the operator says of this dialect.

use std::{ops::RangeInclusive, time::Duration};

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
    /// Files of one execution on their way at one time.
    pub files_at_once: usize,
    /// Sandboxes that are kept ready: whether anybody asks or not, and at most.
    pub warm: RangeInclusive<u32>,
    /// So many stay though fewer would do, until they are too old.
    pub warm_stay: u32,
    /// How old one that is kept ready may become.
    pub warm_age: Duration,
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
            files_at_once: 5,
            warm: 0..=50,
            warm_stay: 0,
            warm_age: Duration::from_secs(3600),
            max_file_bytes: 100 << 20,
            limits: Limits { disk_bytes: Limits::default().memory_bytes / 100 * 75, ..Limits::default() },
            storage: Storage::Memory,
            image: watch::Sender::new(Image::Host).subscribe(),
        }
    }
}
