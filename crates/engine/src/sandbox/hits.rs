//! How often a sandbox has met limits of which the program alone would not say why it failed.

use caisson_core::Usage;

/// What the backend has counted for the whole sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hits {
    /// Processes that the kernel killed for want of memory.
    pub(crate) oom_kills: u64,
    /// Processes and threads that were not started because there were too many.
    pub(crate) refused_starts: u64,
}

impl Hits {
    /// What a backend that did not say in time has counted as far as anybody knows; nobody knows it of starts.
    pub(crate) const NONE_KNOWN: Self = Self { oom_kills: 0, refused_starts: u64::MAX };

    /// What has come since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            oom_kills: self.oom_kills.saturating_sub(before.oom_kills),
            refused_starts: self.refused_starts.saturating_sub(before.refused_starts),
        }
    }
}

impl From<Usage> for Hits {
    fn from(usage: Usage) -> Self {
        Self { oom_kills: usage.oom_kills, refused_starts: usage.refused_starts }
    }
}
