//! Images: named, pulled from registries, imported, unpacked into layers that overlayfs can put one above the other, exported, and removed when
//! nobody needs them any more. Knows nothing of servers and sandboxes.
//!
//! Everything that comes from outside may mean harm: every digest is verified before anything is kept under it, sizes that are announced
//! count as much as those that come, and layers are unpacked by `caisson-tree`, which acts through handles alone.

mod commit;
mod compression;
mod config;
pub mod documents;
mod error;
mod export;
mod image_store;
mod import;
mod login;
mod manifest;
mod port;
mod progress;
mod pull;
mod reference;
mod registry;
mod store;

pub use commit::{Changes, Commit, ConfigChange};
pub use error::Error;
pub use image_store::{ImageStore, Inspected, InspectedLayer, Listed, Options, Pull, Turn};
pub use import::Source;
pub use login::{Login, Logins};
pub use progress::{LayerProgress, Phase, Progress};
pub use reference::{Reference, Version};
pub use registry::{Registries, Registry};
pub use store::{Collected, Lease, Limits};
