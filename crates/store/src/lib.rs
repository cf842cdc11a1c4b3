//! Records behind [`caisson_core::Store`]. SQLite is the embedded default; each implementation is a folder of its own.

mod doomed;
mod location;
mod postgres;
mod rows;
mod sqlite;

use caisson_core::StoreError;

pub use location::{BadUrl, Location};
pub use postgres::{OpenError, Postgres};
pub use sqlite::Sqlite;

/// Sandboxes, answers or events removed at a time, so that a purge never keeps writers waiting for long.
const PURGE_BATCH: u32 = 500;

fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(cause.into())
}
