//! What goes wrong with images, as HTTP.

use std::{error::Error as _, time::Duration};

use caisson_image::Error;
use http::StatusCode;

use crate::error::ApiError;

/// The one place that says which failure is which status. The registry's own fault is 502: what the client asked for may be right.
pub(crate) fn refused(error: &Error) -> ApiError {
    let (status, code) = match error {
        Error::Reference { .. } => (StatusCode::BAD_REQUEST, "invalid_image_name"),
        Error::Unknown { .. } => (StatusCode::NOT_FOUND, "unknown_image"),
        Error::InUse { .. } => (StatusCode::CONFLICT, "image_in_use"),
        Error::NotFound { .. } => (StatusCode::NOT_FOUND, "image_not_found"),
        Error::Denied { .. } => (StatusCode::FORBIDDEN, "registry_denied"),
        Error::RateLimited { .. } => (StatusCode::SERVICE_UNAVAILABLE, "registry_rate_limited"),
        Error::Unreachable { .. } => (StatusCode::BAD_GATEWAY, "registry_unreachable"),
        Error::Registry { .. } => (StatusCode::BAD_GATEWAY, "registry_failed"),
        Error::Forbidden { .. } => (StatusCode::BAD_REQUEST, "registry_not_allowed"),
        Error::Login { .. } => (StatusCode::BAD_REQUEST, "invalid_login"),
        Error::Digest { .. } => (StatusCode::BAD_GATEWAY, "digest_mismatch"),
        Error::Size { .. } => (StatusCode::BAD_GATEWAY, "size_mismatch"),
        Error::Manifest { .. } | Error::Layer { .. } | Error::Import { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_image"),
        Error::Platform { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "wrong_platform"),
        Error::TooBig { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "image_too_big"),
        Error::DiskFull { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
        Error::Impossible { .. } => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
        Error::Changes { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not_committed"),
        Error::GivenUp => (StatusCode::SERVICE_UNAVAILABLE, "given_up"),
        _ => {
            tracing::error!(error = %chain(error), "The store of images failed: {}", chain(error));
            return ApiError::internal();
        }
    };
    let answer = ApiError::new(status, code, chain(error));
    match error {
        Error::RateLimited { again, .. } => answer.after(again.unwrap_or(Duration::from_secs(60))),
        _ => answer,
    }
}

/// An error with its causes: what a registry or an archive did is for the client to know.
fn chain(error: &Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
