//! The only unsafe code of the project, behind safe signatures that own their descriptors.

pub mod kernel;
pub mod message;
pub mod network;
pub mod process;
