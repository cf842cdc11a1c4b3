//! The store on disk. All of it blocks; whoever is asynchronous asks from a thread that may wait.

mod collect;
mod disk;
mod locks;
mod name;
mod names;
mod unpack;

pub use collect::Collected;
pub(crate) use disk::{Disk, Temporary, digest_of, verify};
pub(crate) use locks::Held;
pub use locks::Lease;
pub(crate) use name::Name;
pub(crate) use names::{LayerRecord, Record};
pub use unpack::Limits;
pub(crate) use unpack::{Budget, GiveUp, Unpacked};

use caisson_core::Tenant;

use crate::{Error, Reference};

impl Disk {
    /// A lease on an image, and what is behind its name for this tenant.
    pub(crate) fn lease(&self, reference: &Reference, tenant: Option<&Tenant>) -> Result<(Record, Lease), Error> {
        let _shared = self.locks.shared()?;
        let (_, record) = self.record(reference, tenant)?;
        let lease = self.locks.lease(record.id())?;
        Ok((record, lease))
    }

    /// Whoever makes an image of layers, some of which are there already, holds this until it has its name.
    pub(crate) fn pulling(&self) -> Result<Held, Error> {
        self.locks.pulling()
    }
}
