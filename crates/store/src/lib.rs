//! Records behind [`caisson_core::Store`], and files of workspaces behind [`caisson_core::Blobs`]. SQLite and a directory are the embedded
//! defaults; each implementation is a folder of its own.

mod blobs;
mod doomed;
mod location;
mod postgres;
mod rows;
mod sqlite;

use caisson_core::StoreError;

pub use blobs::{InvalidS3, LocalBlobs, S3Blobs, S3Config, S3Secret};
pub use location::{BadUrl, Location};
pub use postgres::{Membership, OpenError, Postgres, Sharing};
pub use sqlite::Sqlite;

/// Sandboxes, answers or events removed at a time, so that a purge never keeps writers waiting for long.
const PURGE_BATCH: u32 = 500;

fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(cause.into())
}
