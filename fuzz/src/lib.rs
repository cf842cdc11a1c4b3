//! What the fuzz targets have in common: an engine without sandboxes, over agents that say what they are told to.

mod records;
pub mod script;
pub mod world;

pub use records::Records;
