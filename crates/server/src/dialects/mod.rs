//! Foreign APIs, each translated onto the engine in a folder of its own. A dialect goes by removing its folder, its `mod` and its place in
//! [`ALL`].
//!
//! What they share with the native API is the route table, the door ([`crate::auth`]) and the engine. What is their own is how keys are
//! shown, and in which words a request is refused.

mod boxed;

use std::sync::Arc;

use axum::{extract::Request, response::Response};
use http::{StatusCode, header};
use utoipa::openapi::OpenApi;

use crate::{app::App, auth, error::ApiError, routes::Access, routes::Route};

const ALL: &[&Dialect] = &[&boxed::DIALECT];

/// A foreign API.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// As in [`crate::Config::dialect_keys`].
    pub(crate) name: &'static str,
    /// This path and all below it are the dialect's.
    prefix: &'static str,
    routes: fn() -> Vec<Route>,
    /// The key that a request shows.
    pub(crate) key: fn(&Request) -> Option<Vec<u8>>,
    /// A refusal in the dialect's words.
    refuse: fn(&ApiError) -> Response,
    /// Adds to the API's description what the dialect's routes have in common.
    describe: fn(&mut OpenApi),
}

/// The routes of all dialects.
pub(crate) fn routes() -> Vec<Route> {
    ALL.iter().flat_map(|dialect| (dialect.routes)()).collect()
}

/// Whose path it is, where it is no native one.
pub(crate) fn of(path: &str) -> Option<&'static Dialect> {
    let holds = |dialect: &&&Dialect| path.strip_prefix(dialect.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    ALL.iter().filter(holds).max_by_key(|dialect| dialect.prefix.len()).copied()
}

/// The answer as the dialect gives it.
pub(crate) fn in_its_words(dialect: Option<&Dialect>, mut answer: Response) -> Response {
    let Some(dialect) = dialect else { return answer };
    let Some(error) = answer.extensions_mut().remove::<ApiError>() else { return answer };
    let mut told = (dialect.refuse)(&error);
    if let Some(after) = answer.headers_mut().remove(header::RETRY_AFTER) {
        told.headers_mut().insert(header::RETRY_AFTER, after);
    }
    *told.extensions_mut() = std::mem::take(answer.extensions_mut());
    told
}

/// The answer where a dialect has no such path or method. Who asks is looked at first, as with every other path of it.
pub(crate) fn nothing_there(app: &Arc<App>, request: &Request, status: StatusCode) -> Option<Response> {
    let dialect = of(request.uri().path())?;
    let error = match auth::admit(app, Access::Key, request) {
        Ok(_) => ApiError::new(status, "not_routed", status.canonical_reason().unwrap_or_default()),
        Err(refusal) => refusal,
    };
    Some((dialect.refuse)(&error))
}

/// Lets every dialect describe itself.
pub(crate) fn describe(document: &mut OpenApi) {
    ALL.iter().for_each(|dialect| (dialect.describe)(document));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_dialects_by_whole_segments() {
        for path in ["/v1/sandbox", "/v1/sandbox/", "/v1/sandbox/x/y"] {
            assert_eq!(of(path).map(|dialect| dialect.name), Some("boxed"), "{path}");
        }
        for path in ["/v1/sandboxes", "/v1/sandboxes/x", "/v1", "/", "/v1/sandbo", "/V1/sandbox"] {
            assert!(of(path).is_none(), "{path}");
        }
    }

    #[test]
    fn every_route_of_a_dialect_is_below_its_prefix_and_needs_a_key() {
        for dialect in ALL {
            for Route { access, handlers: (_, paths, _), .. } in (dialect.routes)() {
                assert_eq!(access, Access::Key);
                assert!(paths.paths.keys().all(|path| of(path).is_some_and(|of| of.name == dialect.name)), "{:?}", paths.paths.keys());
            }
        }
    }
}
