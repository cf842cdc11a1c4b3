//! Records behind [`caisson_core::Store`]. SQLite is the embedded default; each implementation is a folder of its own.

mod sqlite;

pub use sqlite::Sqlite;
