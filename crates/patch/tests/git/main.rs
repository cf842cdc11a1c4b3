//! Patches and scans beside the real git: it applies the patches, and says what its `.gitignore` files ignore.

mod edits;
mod ignored;
mod large;
mod layered;
mod real;
mod scanned;
mod tree;
