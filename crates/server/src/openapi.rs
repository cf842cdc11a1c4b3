//! The API's description, made from the handlers and checked in beside them.

mod bounds;
mod page;

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use utoipa::{
    OpenApi as _, PartialSchema, ToSchema,
    openapi::{
        Object, OpenApi, Ref, RefOr, ResponseBuilder, Schema, SecurityRequirement,
        path::{Parameter, ParameterIn, Paths},
        schema::{SchemaType, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{
    error::{ErrorBody, ErrorDetail},
    idempotency,
    routes::{self, Access},
};

/// What the document says beside the routes.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Caisson",
        description = "Runs code that nobody has read yet in isolated Linux sandboxes.\n\n\
            Errors are `{\"error\": {\"code\", \"message\", \"details\"}}`. Times are RFC 3339, durations are seconds, `null` means no limit of its own. \
            Unknown fields and parameters are refused.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ErrorBody, ErrorDetail)),
    tags(
        (name = "run", description = "One-shots: a fresh sandbox, a program, its result"),
        (name = "sandboxes", description = "Sandboxes that stay"),
        (name = "executions", description = "Programs and their output"),
        (name = "contexts", description = "Interpreters that live in a sandbox"),
        (name = "files", description = "Files inside a sandbox"),
        (name = "ports", description = "What listens inside a sandbox"),
        (name = "images", description = "What sandboxes are made of"),
        (name = "templates", description = "Named recipes for sandboxes"),
        (name = "workspaces", description = "Files that outlive sandboxes"),
        (name = "events", description = "What happens to sandboxes and executions"),
        (name = "webhooks", description = "Addresses that are told what happens"),
        (name = "keys", description = "Keys, tenants and their quotas"),
        (name = "server", description = "The server itself")
    )
)]
struct Frame;

/// Bytes as they are, of which OpenAPI 3.1 says nothing.
pub(crate) struct Octets;

impl PartialSchema for Octets {
    fn schema() -> RefOr<Schema> {
        Object::with_type(SchemaType::AnyValue).into()
    }
}

impl ToSchema for Octets {}

/// The document without routes.
pub(crate) fn frame() -> OpenApi {
    let mut frame = Frame::openapi();
    let components = frame.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
    frame
}

/// Adds what all operations of a route have in common.
pub(crate) fn complete(paths: &mut Paths, access: Access, repeatable: bool) {
    let failure = ResponseBuilder::new()
        .description("What went wrong")
        .content("application/json", utoipa::openapi::Content::new(Some(RefOr::Ref(Ref::from_schema_name("ErrorBody")))))
        .build();
    for item in paths.paths.values_mut() {
        if repeatable && let Some(post) = &mut item.post {
            post.parameters.get_or_insert_default().push(idempotency_key().into());
        }
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            operation.responses.responses.insert("default".into(), failure.clone().into());
            let none: [&str; 0] = [];
            let either = vec![SecurityRequirement::new("bearer", none), SecurityRequirement::new("api_key", none)];
            operation.security = match access {
                Access::Public | Access::Link => None,
                Access::Key | Access::Own | Access::Admin => Some(either),
                // Or a token in the address, which is no scheme of OpenAPI's.
                Access::Port => Some(either),
                // Whether it is needed depends on where the request comes from, which OpenAPI can only call optional.
                Access::AdminUnlessLocal => Some([either, vec![SecurityRequirement::default()]].concat()),
            };
        }
    }
}

fn idempotency_key() -> Parameter {
    let about = "A name of the client's for this request, such as a UUID: repeated with the same key and body within 24 h, it is answered as the \
                 first time (with `Idempotent-Replayed: true`) and not carried out again. Not for event streams.";
    let key =
        Object::builder().schema_type(Type::String).min_length(Some(1)).max_length(Some(idempotency::MAX_KEY)).pattern(Some("^[ -~]+$"));
    Parameter::builder().name("Idempotency-Key").parameter_in(ParameterIn::Header).description(Some(about)).schema(Some(key)).build()
}

fn text() -> String {
    let mut document = routes::document();
    bounds::tell(&mut document);
    let mut text = document.to_pretty_json().expect("the document is made of text and figures");
    text.push('\n');
    text
}

static DOCUMENT: LazyLock<String> = LazyLock::new(text);

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "server", responses((status = 200, description = "This document", content_type = "application/json")))]
pub(crate) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// Nothing is loaded, and nothing runs.
const AS_IT_IS: HeaderValue = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");

/// This document as a page for people.
#[utoipa::path(get, path = "/docs", tag = "server", responses((status = 200, description = "This document as a page", content_type = "text/html")))]
pub(crate) async fn page() -> Response {
    static PAGE: LazyLock<String> = LazyLock::new(|| page::page(&serde_json::from_str(&DOCUMENT).expect("the document is JSON")));
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")), (header::CONTENT_SECURITY_POLICY, AS_IT_IS)],
        PAGE.as_str(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_document_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let now = text();
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(path, &now).expect("the document can be written");
        }
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == now,
            "crates/server/openapi.json is out of date; run `UPDATE_OPENAPI=1 cargo test --release -p caisson-server openapi`"
        );
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let document: serde_json::Value = serde_json::from_str(&text()).expect("the document is JSON");
        let paths = document["paths"].as_object().expect("there are paths");
        let operations = paths.values().flat_map(|item| item.as_object().expect("an object").values());
        let mut names: Vec<_> = operations.map(|operation| operation["operationId"].as_str().expect("a name").to_owned()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }
}
