//! Files of workspaces behind [`caisson_core::Blobs`]: in a directory, or in a store of objects that speaks S3.

mod local;
mod s3;

pub use self::{
    local::LocalBlobs,
    s3::{InvalidS3, S3Blobs, S3Config, S3Secret},
};
