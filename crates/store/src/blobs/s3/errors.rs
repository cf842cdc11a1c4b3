//! What goes wrong with a store of objects, as the port has it.

use std::time::Duration;

use caisson_core::BlobError;

/// A request within its time.
pub(super) async fn in_time<T>(within: Duration, request: impl Future<Output = object_store::Result<T>>) -> Result<T, BlobError> {
    match tokio::time::timeout(within, request).await {
        Ok(answer) => answer.map_err(blob_error),
        Err(_) => Err(unavailable(&format!("it did not answer within {} s", within.as_secs()))),
    }
}

pub(super) fn unavailable(what: &str) -> BlobError {
    BlobError::Unavailable(what.into())
}

pub(super) fn blob_error(error: object_store::Error) -> BlobError {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => BlobError::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => BlobError::Changed,
        E::InvalidPath { source } => BlobError::Refused(format!("it cannot be in a store of objects: {source}")),
        E::NotSupported { .. } | E::NotImplemented { .. } => BlobError::Refused("the store of objects cannot do that".to_owned()),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => BlobError::Denied(Box::new(error)),
        other => BlobError::Unavailable(Box::new(other)),
    }
}
