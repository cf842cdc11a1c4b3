//! What was not taken along, and why: a bounded list that counts on when it is full.

/// One thing that was left out, or not taken as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Below the root.
    pub path: Vec<u8>,
    pub why: String,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOuts {
    named: Vec<LeftOut>,
    bytes: usize,
    total: u64,
}

impl LeftOuts {
    /// Those that are named, at most.
    const MAX_NAMED: usize = 100;
    /// Characters of a reason.
    const MAX_REASON: usize = 200;
    /// Bytes of a path, with its end (`PATH_MAX`).
    const MAX_PATH: usize = 4096;
    /// Their names together.
    const MAX_BYTES: usize = 32 << 10;

    /// A path that is too long for a name of a file is counted alone.
    pub fn add(&mut self, path: &[u8], why: impl Into<String>) {
        self.total += 1;
        if path.len() < Self::MAX_PATH && self.named.len() < Self::MAX_NAMED && self.bytes + path.len() <= Self::MAX_BYTES {
            self.bytes += path.len();
            // A reason may come out of an archive.
            self.named.push(LeftOut { path: path.to_vec(), why: why.into().chars().take(Self::MAX_REASON).collect() });
        }
    }

    /// The first of them.
    #[must_use]
    pub fn named(&self) -> &[LeftOut] {
        &self.named
    }

    /// How many there are in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}
