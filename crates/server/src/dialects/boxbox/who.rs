//! Whose request it is: headers that name a user and a chat, and how many requests a user may make.

use std::{sync::Arc, time::Instant};

use axum::{extract::FromRequestParts, http::request::Parts};
use http::{HeaderMap, StatusCode};

use super::{
    answer::{bad_request, invalid},
    rate::REFILL,
};
use crate::{
    caller::View,
    error::{ApiError, ApiResult},
};

/// Characters of an id.
const LONGEST: usize = 255;

/// A user's chat. What its client says is believed, as it is whoever has the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    pub(super) user: String,
    pub(super) chat: String,
}

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        let user = named(&parts.headers, "X-User-ID")?;
        let chat = named(&parts.headers, "X-Chat-ID")?;
        let Some(view) = parts.extensions.get::<Arc<View>>() else { return Err(ApiError::internal()) };
        if !view.boxbox.rates.admits(view.engine.tenant(), &user, Instant::now()) {
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "too many requests").after(REFILL));
        }
        Ok(Self { user: checked("X-User-ID", user)?, chat: checked("X-Chat-ID", chat)? })
    }
}

fn named(headers: &HeaderMap, name: &'static str) -> ApiResult<String> {
    // What is no UTF-8 is not empty, and is no id either.
    let value = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    value.filter(|value| !value.is_empty()).ok_or_else(|| bad_request(format!("{name} header is required")))
}

/// What may be a part of an object's name, in a store as well as in a directory.
fn checked(name: &str, value: String) -> ApiResult<String> {
    let refused = |what: &str| Err(invalid(format!("{name} {what}")));
    if value.chars().count() > LONGEST {
        return refused("is longer than 255 characters");
    }
    if value.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
        return refused("has control characters, or is not UTF-8");
    }
    // With a slash in it, one user's files would be below another's.
    if value.contains('/') || matches!(value.as_str(), "." | "..") {
        return refused("has a slash, or is `.` or `..`");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_can_be_a_part_of_a_name() {
        for fine in ["u", "user@example.com", "auth0|1", "ä 1", "..a", "a..", "%2e%2e", &"ü".repeat(255)] {
            assert_eq!(checked("X-User-ID", fine.to_owned()).as_deref().ok(), Some(fine));
        }
        for bad in ["..", ".", "../x", "a/b", "/", "a\tb", "\u{fffd}", "\u{85}", &"x".repeat(256)] {
            let error = checked("X-Chat-ID", bad.to_owned()).unwrap_err();
            let (status, code, message) = error.parts();
            assert_eq!((status, code), (400, "invalid_request"), "{bad}");
            assert!(message.starts_with("X-Chat-ID "), "{message}");
        }
    }
}
