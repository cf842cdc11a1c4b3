//! How far a pull has come.

use caisson_core::Digest;
use tokio::sync::watch;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Empty until it is known which layers there are; the lowest first.
    pub layers: Vec<LayerProgress>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Of the layer as the registry has it.
    pub digest: Digest,
    /// Its bytes, as announced.
    pub size: u64,
    pub phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Waiting,
    /// So many bytes have come.
    Downloading(u64),
    /// So many bytes have been taken out of the compression.
    Unpacking(u64),
    Done,
}

impl Progress {
    /// Bytes that have come, and those that are to come in all.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let came = self.layers.iter().map(|layer| match layer.phase {
            Phase::Waiting => 0,
            Phase::Downloading(came) => came,
            Phase::Unpacking(_) | Phase::Done => layer.size,
        });
        (came.sum(), self.layers.iter().map(|layer| layer.size).sum())
    }
}

/// Who tells of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) layer: usize,
}

impl Teller {
    pub(crate) fn tell(&self, phase: Phase) {
        self.progress.send_modify(|progress| {
            if let Some(layer) = progress.layers.get_mut(self.layer) {
                layer.phase = phase;
            }
        });
    }
}
