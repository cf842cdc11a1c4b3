//! Ports of sandboxes under a path of the API.

use std::sync::Arc;

use axum::{extract::Request, response::Response};
use utoipa_axum::{router::UtoipaMethodRouter, routes};

use crate::{
    app::App,
    ports::{self, Visit},
};

/// The same without a path behind the port. They stand in no description of their own: one would say the same three times.
pub(crate) const BARE: [&str; 2] = ["/v1/sandboxes/{id}/ports/{port}", "/v1/sandboxes/{id}/ports/{port}/"];

/// All methods, of which OpenAPI can describe only some; one stands for all.
pub(crate) fn every_method() -> UtoipaMethodRouter<Arc<App>> {
    let (schemas, paths, methods) = routes!(open);
    (schemas, paths, methods.fallback(open))
}

/// Asks what listens on a port of the sandbox. Takes every method, and WebSockets.
///
/// Method, path behind the port, query, headers and body go in as they are, and the answer comes out, both as streams of any length.
/// `X-Forwarded-For`, `-Host`, `-Proto` and `-Prefix` say who asks and for what; keys do not go in. Without a key, a token opens the port
/// (`create_link`): in the path in front of the rest (`…/ports/8000/~TOKEN/…`), so that a page's relative links keep it, or as `caisson_token`
/// in the query. Pages have no origin here and so no cookies of scripts, no storage and no service workers; where the server has a public
/// domain, ports have names and origins of their own. The sandbox is in use for as long as a request or a WebSocket goes on.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/ports/{port}/{*rest}", operation_id = "open_port", tag = "ports",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("port" = u16, Path, description = "1 to 65535, of its own loopback interface"),
        ("rest" = String, Path, description = "What the program is asked for; may have slashes, and may be empty"),
        ("caisson_token" = Option<String>, Query, description = "A token in place of a key; all other parameters are the program's"),
    ),
    responses(
        (status = 200, description = "The program's answer, whatever it is", content_type = "application/octet-stream"),
        (status = 502, description = "`port_not_listening`: nothing listens there yet; or `bad_answer`: what listens does not speak HTTP", body = crate::ErrorBody),
    ))]
pub(crate) async fn open(visit: Visit, request: Request) -> Response {
    ports::answer(visit, request).await
}
