//! The `native` backend: sandboxes from Linux primitives, no daemon, no virtual machine.
//!
//! It computes launch plans ([`plan`]) and talks to the launcher ([`link`]), which alone is privileged. Everything that is done
//! inside a sandbox goes through the agent's stream and is no business of this crate.

mod backend;
mod cgroup;
mod changes;
mod disk;
mod explain;
mod host_image;
mod layers;
mod link;
mod machine;
mod names;
pub mod parts;
mod plan;
mod program;
mod rootless;
mod stored_image;

pub use backend::{Native, NativeConfig};
#[doc(hidden)]
pub use caisson_launcher::{
    plan::{Effect, Fault, Weakness},
    protocol::Stage,
};
pub use explain::explain;
