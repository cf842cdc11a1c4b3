//! What the fuzz targets have in common: an engine without sandboxes, over agents that say what they are told to; archives that mean harm.

pub mod members;
mod records;
pub mod script;
pub mod world;

pub use records::Records;
