//! The launch plan and the conversation between the native backend and the launcher.
//!
//! The launcher itself is the binary of this crate: a small single-threaded program, the only privileged one, which executes
//! plans that were fully computed elsewhere.

pub mod bundle;
pub mod host;
pub mod inside;
pub mod plan;
pub mod protocol;
