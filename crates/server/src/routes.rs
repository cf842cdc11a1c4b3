//! The route table: every path of the server, and who may use it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use utoipa::openapi::OpenApi;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter},
    routes,
};

use crate::{app::App, auth, dialects, error::ApiError, health, metrics, native, openapi};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    Public,
    /// Whoever has a key, for what is the tenant's own: to look (`GET`) a key of scope `read` is enough, for everything else it is `run`.
    Key,
    /// Whoever has an admin's key: for keys, quotas, and what concerns the server as a whole.
    Admin,
    /// Programs on this machine, and whoever has an admin's key.
    AdminUnlessLocal,
    /// Whoever the dialect of the path lets in by keys of its own.
    Own,
    /// Whoever has the address, which is a token for what it leads to.
    Link,
    /// Whoever has a key as for [`Access::Key`], or a token for the port that the request is about.
    Port,
}

/// One path with its methods.
pub(crate) struct Route {
    pub(crate) access: Access,
    /// Whether its POST makes something, and so may come with an `Idempotency-Key`.
    pub(crate) repeatable: bool,
    pub(crate) handlers: UtoipaMethodRouter<Arc<App>>,
}

/// Every route there is.
pub(crate) fn table() -> Vec<Route> {
    let route = |access, handlers| Route { access, repeatable: false, handlers };
    let makes = |access, handlers| Route { access, repeatable: true, handlers };
    let mut table = vec![
        route(Access::Public, routes!(health::healthz)),
        route(Access::Public, routes!(health::readyz)),
        route(Access::Public, routes!(health::health)),
        route(Access::Public, routes!(openapi::document)),
        route(Access::Public, routes!(openapi::page)),
        route(Access::AdminUnlessLocal, routes!(metrics::metrics)),
        route(Access::Admin, routes!(native::doctor::doctor)),
        route(Access::Key, routes!(native::backends::list)),
        makes(Access::Key, routes!(native::run::run)),
        makes(Access::Key, routes!(native::sandboxes::create, native::sandboxes::list)),
        route(Access::Key, routes!(native::sandboxes::get, native::sandboxes::update, native::sandboxes::delete)),
        route(Access::Key, routes!(native::sandboxes::stop)),
        makes(Access::Key, routes!(native::exec::exec)),
        makes(Access::Key, routes!(native::contexts::create, native::contexts::list)),
        route(Access::Key, routes!(native::contexts::get, native::contexts::delete)),
        makes(Access::Key, routes!(native::contexts::run)),
        route(Access::Key, routes!(native::contexts::interrupt)),
        route(Access::Key, routes!(native::contexts::restart)),
        route(Access::Key, routes!(native::files::read, native::files::write, native::files::delete)),
        route(Access::Key, routes!(native::files::stat)),
        route(Access::Key, routes!(native::files::list)),
        route(Access::Key, routes!(native::changes::mkdir)),
        route(Access::Key, routes!(native::changes::rename)),
        route(Access::Key, routes!(native::changes::copy)),
        route(Access::Key, routes!(native::archive::download, native::archive::upload)),
        route(Access::Key, routes!(native::search::glob)),
        route(Access::Key, routes!(native::search::grep)),
        route(Access::Key, routes!(native::watch::watch)),
        makes(Access::Key, routes!(native::patches::checkpoint)),
        route(Access::Key, routes!(native::patches::patch)),
        route(Access::Key, routes!(native::events::list)),
        route(Access::Key, routes!(native::executions::list)),
        route(Access::Key, routes!(native::executions::get)),
        route(Access::Key, routes!(native::executions::output)),
        route(Access::Key, routes!(native::executions::stdin)),
        route(Access::Key, routes!(native::executions::resize)),
        route(Access::Key, routes!(native::stream::stream)),
        route(Access::Key, routes!(native::stream::pty)),
        route(Access::Key, routes!(native::executions::signal)),
        route(Access::Key, routes!(native::executions::kill)),
        route(Access::Key, routes!(native::links::create)),
        route(Access::Key, routes!(native::egress::get)),
        route(Access::Port, native::ports::every_method()),
        route(Access::Key, routes!(native::workspaces::sync::pull)),
        route(Access::Key, routes!(native::workspaces::sync::push)),
        route(Access::Key, routes!(native::workspaces::list)),
        route(Access::Key, routes!(native::workspaces::delete)),
        route(Access::Key, routes!(native::workspaces::list_files)),
        route(Access::Key, routes!(native::workspaces::files::read, native::workspaces::files::write, native::workspaces::files::delete)),
        route(Access::Key, routes!(native::workspaces::links::create)),
        route(Access::Link, routes!(native::workspaces::links::read)),
        // What everybody may use, an admin changes, and the store has room for all together; and a pull lets the server ask a host that the caller names.
        route(Access::Key, routes!(native::images::list)),
        route(Access::Key, routes!(native::images::inspect)),
        route(Access::Key, routes!(native::images::export::export)),
        makes(Access::Admin, routes!(native::images::pull::pull)),
        makes(Access::Admin, routes!(native::images::commit::commit)),
        route(Access::Admin, routes!(native::images::import::import)),
        route(Access::Admin, routes!(native::images::gc)),
        route(Access::Admin, routes!(native::images::delete)),
        // Those of a tenant are its admin's to change.
        route(Access::Key, routes!(native::templates::list)),
        route(Access::Key, routes!(native::templates::get)),
        route(Access::Admin, routes!(native::templates::put, native::templates::delete)),
        route(Access::Admin, routes!(native::keys::create, native::keys::list)),
        route(Access::Admin, routes!(native::keys::delete)),
        route(Access::Admin, routes!(native::tenants::list)),
        route(Access::Admin, routes!(native::tenants::get, native::tenants::update)),
        route(Access::Key, routes!(native::tenants::whoami)),
        // A webhook lets the server send to an address that the caller names.
        makes(Access::Admin, routes!(native::webhooks::create, native::webhooks::list)),
        route(Access::Admin, routes!(native::webhooks::get, native::webhooks::delete)),
    ];
    table.extend(dialects::routes());
    table
}

/// The table as a router.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let mut router = OpenApiRouter::<Arc<App>>::new();
    for Route { access, repeatable, handlers: (schemas, paths, methods) } in table() {
        let guard = from_fn_with_state((Arc::clone(app), access, repeatable), auth::guard);
        if access == Access::Port {
            // Methods without a name of their own go to the fallback, which a layer of routes leaves out.
            let guarded = methods.layer(guard);
            router = native::ports::BARE.iter().fold(router, |router, path| router.route(path, guarded.clone()));
            router = router.routes((schemas, paths, guarded));
        } else {
            router = router.routes((schemas, paths, methods.route_layer(guard)));
        }
    }
    let (router, _) = router.split_for_parts();
    router.fallback(unknown_path).method_not_allowed_fallback(wrong_method).with_state(Arc::clone(app))
}

/// The table as an OpenAPI document.
pub(crate) fn document() -> OpenApi {
    let mut router = OpenApiRouter::<Arc<App>>::with_openapi(openapi::frame());
    for Route { access, repeatable, handlers: (schemas, mut paths, methods) } in table() {
        openapi::complete(&mut paths, access, repeatable);
        router = router.routes((schemas, paths, methods));
    }
    let mut document = router.into_openapi();
    // What the router calls the rest of a path is a parameter like any other here.
    document.paths.paths =
        std::mem::take(&mut document.paths.paths).into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    dialects::describe(&mut document);
    document
}

async fn unknown_path(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Some(answer) = dialects::nothing_there(&app, &request, StatusCode::NOT_FOUND) {
        return answer;
    }
    let message = format!("there is nothing at `{}`; `/openapi.json` lists what there is", request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message).into_response()
}

async fn wrong_method(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Some(answer) = dialects::nothing_there(&app, &request, StatusCode::METHOD_NOT_ALLOWED) {
        return answer;
    }
    let message = format!("`{}` does not take {}; the `Allow` header lists what it takes", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body;
    use utoipa::openapi::path::PathItem;

    use super::*;
    use crate::testing::Bench;

    fn methods(item: &PathItem) -> Vec<&'static str> {
        let operations = [("GET", &item.get), ("PUT", &item.put), ("POST", &item.post), ("DELETE", &item.delete), ("PATCH", &item.patch)];
        operations.into_iter().filter(|(_, operation)| operation.is_some()).map(|(name, _)| name).collect()
    }

    #[tokio::test]
    async fn r6_1_every_route_but_the_public_ones_needs_a_key() {
        let bench = Bench::new().await;
        let (mut keyed, mut public) = (0, Vec::new());
        for Route { access, handlers: (_, paths, _), .. } in table() {
            // Those of dialects have their own test there.
            for (path, item) in paths.paths.iter().filter(|(path, _)| dialects::of(path).is_none()) {
                let target = path
                    .replace("{id}", "sbx0000000000000000000000000")
                    .replace("{context_id}", "ctx0000000000000000000000000")
                    .replace("{port}", "80")
                    .replace("{*rest}", "x")
                    .replace("{*path}", "x");
                for method in methods(item) {
                    for (name, value) in [("x-nothing", ""), ("x-api-key", "wrong"), ("authorization", "Bearer wrong")] {
                        let request = Request::builder().method(method).uri(&target).header(name, value).body(Body::empty()).unwrap();
                        let answer = bench.send(request).await;
                        if access == Access::Link {
                            assert_eq!(
                                (answer.status, answer.code().as_str()),
                                (401, "invalid_token"),
                                "{method} {path} without its token"
                            );
                            continue;
                        }
                        if access == Access::Public {
                            assert_eq!(answer.status, 200, "{method} {path}");
                            continue;
                        }
                        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{method} {path} with {name}");
                        assert_eq!(answer.headers["www-authenticate"], "Bearer");
                        keyed += 1;
                    }
                    let with_key = bench.ask(method, &target, "").await;
                    assert!(
                        access == Access::Link || ![401, 405].contains(&with_key.status),
                        "{method} {path} with the key: {}",
                        with_key.status
                    );
                    if access == Access::Public {
                        public.push(path.clone());
                    }
                }
            }
        }
        assert_eq!(public, ["/healthz", "/readyz", "/health", "/openapi.json", "/docs"], "a new public route has to be meant");
        assert!(keyed >= 50);
    }

    /// What is put into the router beside the table has no guard, and stands in no document.
    #[tokio::test]
    async fn r6_1_the_router_has_the_routes_of_the_table_and_no_others() {
        // Under these two names axum keeps what answers for all other paths.
        let fallback = |path: &String| path == "/" || path.contains("__private");
        let routed: BTreeSet<String> = Bench::new().await.paths().into_iter().filter(|path| !fallback(path)).collect();
        let in_table: BTreeSet<String> = table().iter().flat_map(|route| route.handlers.1.paths.keys().cloned()).collect();
        let documented: BTreeSet<String> = document().paths.paths.into_keys().collect();
        assert_eq!(documented, in_table.iter().map(|path| path.replace("{*", "{")).collect());
        let with_bare: BTreeSet<String> = in_table.into_iter().chain(native::ports::BARE.map(str::to_owned)).collect();
        assert_eq!(routed, with_bare);
    }

    /// There are more methods than have a place in a route.
    #[tokio::test]
    async fn r6_1_ports_need_a_key_whatever_the_method() {
        let bench = Bench::new().await;
        for path in ["", "/", "/x/y", "/~user/", "?caisson_token=", "/?caisson_token=ct_x", "/~ct_x/", "/~ct_x"] {
            for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X"] {
                let target = format!("/v1/sandboxes/sbx0000000000000000000000000/ports/80{path}");
                let request = Request::builder().method(method).uri(&target).header("x-api-key", "wrong").body(Body::empty()).unwrap();
                let answer = bench.send(request).await;
                let code = if path.contains("token=") || path.contains("ct_") { "invalid_token" } else { "unauthorized" };
                assert_eq!(answer.status, 401, "{method} {target}");
                if method != "HEAD" {
                    assert_eq!(answer.code(), code, "{method} {target}");
                }
                let with_key = bench.ask(method, &target, "").await;
                assert_eq!(with_key.status, if method == "CONNECT" { 405 } else { 404 }, "{method} {target}");
            }
        }
        for (port, code) in
            [("0", "invalid_port"), ("65536", "invalid_port"), ("abc", "invalid_port"), ("+80", "invalid_port"), ("80", "not_found")]
        {
            let answer = bench.ask("GET", &format!("/v1/sandboxes/sbx0000000000000000000000000/ports/{port}/"), "").await;
            assert_eq!(answer.code(), code, "{port}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_in_one_style() {
        let bench = Bench::new().await;
        for target in ["/", "/v1", "/v2/run", "/v1/sandboxes/x/y", "/v1/run/"] {
            let answer = bench.ask("GET", target, "").await;
            assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{target}");
        }
        for (method, target) in [("GET", "/v1/run"), ("POST", "/healthz"), ("PUT", "/v1/sandboxes")] {
            let answer = bench.ask(method, target, "").await;
            assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method} {target}");
            assert!(answer.headers.contains_key("allow"), "{method} {target}");
        }
    }

    #[tokio::test]
    async fn unknown_ids_are_all_alike() {
        let bench = Bench::new().await;
        for id in ["sbx0000000000000000000000000", "exe0000000000000000000000000", "x", "%00", "%ff", "a%2fb"] {
            for rest in [
                "",
                "/executions",
                "/contexts",
                "/contexts/ctx0000000000000000000000000",
                "/files?path=/a",
                "/files/stat?path=/a",
                "/files/list?path=/a",
                "/files/archive?path=/a",
                "/files/glob?pattern=a",
                "/files/grep?pattern=a",
                "/files/watch?path=/a",
                "/patch",
            ] {
                let answer = bench.ask("GET", &format!("/v1/sandboxes/{id}{rest}"), "").await;
                assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{id}{rest}: {}", answer.text);
            }
            for rest in ["", "/output", "/output?follow=true"] {
                let answer = bench.ask("GET", &format!("/v1/executions/{id}{rest}"), "").await;
                assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{id}{rest}: {}", answer.text);
            }
        }
    }

    #[tokio::test]
    async fn r6_3_bad_requests_get_nowhere() {
        let bench = Bench::new().await;
        let id = "sbx0000000000000000000000000";
        for (method, target, body, status, code) in [
            ("POST", "/v1/run".to_owned(), "{".to_owned(), 400, "invalid_json"),
            ("POST", "/v1/run".to_owned(), "{}".to_owned(), 400, "invalid_request"),
            ("POST", "/v1/run".to_owned(), r#"{"shell": "a", "nope": 1}"#.to_owned(), 400, "invalid_request"),
            ("POST", "/v1/run".to_owned(), format!("{{\"shell\": \"{}\"}}", "a".repeat(1000)), 413, "body_too_large"),
            ("POST", "/v1/run".to_owned(), r#"{"shell": "a", "image": "x"}"#.to_owned(), 400, "unknown_image"),
            ("POST", "/v1/sandboxes".to_owned(), r#"{"limits": {"pids": -1}}"#.to_owned(), 400, "limit_out_of_range"),
            ("POST", format!("/v1/sandboxes/{id}/links"), r#"{"port": 0}"#.to_owned(), 400, "invalid_port"),
            ("POST", format!("/v1/sandboxes/{id}/links"), r#"{"port": 1, "expires_in_s": 604801}"#.to_owned(), 400, "limit_out_of_range"),
            ("POST", format!("/v1/sandboxes/{id}/links"), r#"{"port": 1, "expires": 1}"#.to_owned(), 400, "invalid_request"),
            ("POST", format!("/v1/sandboxes/{id}/links"), r#"{"port": 1}"#.to_owned(), 404, "not_found"),
            ("GET", "/v1/sandboxes?limit=0".to_owned(), String::new(), 400, "invalid_parameter"),
            ("GET", "/v1/sandboxes?state=dead".to_owned(), String::new(), 400, "invalid_parameter"),
            ("GET", "/v1/sandboxes?cursor=nonsense".to_owned(), String::new(), 400, "invalid_cursor"),
            ("GET", format!("/v1/sandboxes?cursor={}", "ab".repeat(36)), String::new(), 400, "invalid_cursor"),
            ("GET", "/v1/keys?cursor=nonsense".to_owned(), String::new(), 400, "invalid_cursor"),
            ("GET", "/v1/tenants?cursor=nonsense".to_owned(), String::new(), 400, "invalid_cursor"),
            ("GET", "/v1/keys?tenant=A%20B".to_owned(), String::new(), 400, "invalid_tenant"),
            ("POST", "/v1/keys".to_owned(), r#"{"tenant": "../x"}"#.to_owned(), 400, "invalid_tenant"),
            ("POST", "/v1/keys".to_owned(), r#"{"scope": "root"}"#.to_owned(), 400, "invalid_scope"),
            ("POST", "/v1/keys".to_owned(), r#"{"expires_in_s": 0}"#.to_owned(), 400, "limit_out_of_range"),
            ("PATCH", "/v1/tenants/x".to_owned(), r#"{"sandboxes": -1}"#.to_owned(), 400, "limit_out_of_range"),
            ("PATCH", "/v1/tenants/x".to_owned(), r#"{"pids": 1}"#.to_owned(), 400, "invalid_request"),
            ("POST", "/v1/webhooks".to_owned(), "{}".to_owned(), 400, "invalid_request"),
            ("POST", "/v1/webhooks".to_owned(), r#"{"url": "file:///etc/passwd"}"#.to_owned(), 400, "invalid_url"),
            ("POST", "/v1/webhooks".to_owned(), r#"{"url": "https://a:b@example.com/"}"#.to_owned(), 400, "invalid_url"),
            ("POST", "/v1/webhooks".to_owned(), r#"{"url": "https://example.com/", "types": ["all"]}"#.to_owned(), 400, "invalid_type"),
            ("POST", "/v1/webhooks".to_owned(), r#"{"url": "https://example.com/", "secret": "x"}"#.to_owned(), 400, "invalid_request"),
            ("POST", "/v1/webhooks".to_owned(), r#"{"url": "https://example.com/", "tenant": "nobody"}"#.to_owned(), 404, "not_found"),
            ("GET", "/v1/webhooks?tenant=A%20B".to_owned(), String::new(), 400, "invalid_tenant"),
            ("GET", "/v1/webhooks/whk0000000000000000000000000".to_owned(), String::new(), 404, "not_found"),
            ("GET", "/v1/tenants/nobody".to_owned(), String::new(), 404, "not_found"),
            ("GET", "/v1/sandboxes?nope=1".to_owned(), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/files"), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/pty"), String::new(), 400, "websocket_required"),
            ("GET", format!("/v1/executions/{}/stream", id.replace("sbx", "exe")), String::new(), 400, "websocket_required"),
            ("GET", format!("/v1/executions/{}/stream?offset=1", id.replace("sbx", "exe")), String::new(), 400, "invalid_parameter"),
            ("POST", format!("/v1/executions/{}/stdin?close=maybe", id.replace("sbx", "exe")), String::new(), 400, "invalid_parameter"),
            ("POST", format!("/v1/executions/{}/resize", id.replace("sbx", "exe")), r#"{"cols": 1}"#.to_owned(), 400, "invalid_request"),
            (
                "POST",
                format!("/v1/executions/{}/resize", id.replace("sbx", "exe")),
                r#"{"cols": 1, "rows": 0}"#.to_owned(),
                400,
                "limit_out_of_range",
            ),
            ("POST", format!("/v1/sandboxes/{id}/contexts"), "{}".to_owned(), 400, "invalid_request"),
            ("POST", format!("/v1/sandboxes/{id}/contexts"), r#"{"language": "../sh"}"#.to_owned(), 400, "unknown_language"),
            ("POST", format!("/v1/sandboxes/{id}/contexts"), r#"{"language": "bash", "driver": "x"}"#.to_owned(), 400, "invalid_driver"),
            ("POST", format!("/v1/sandboxes/{id}/contexts"), r#"{"language": "bash", "cwd": ""}"#.to_owned(), 400, "invalid_path"),
            ("POST", format!("/v1/sandboxes/{id}/contexts/x/run"), r#"{"code": "1"}"#.to_owned(), 404, "not_found"),
            (
                "POST",
                format!("/v1/sandboxes/{id}/contexts/{}/run", id.replace("sbx", "ctx")),
                r#"{"code": "a\u0000"}"#.to_owned(),
                400,
                "invalid_code",
            ),
            ("PUT", format!("/v1/sandboxes/{id}/files?path=a&mode=9"), String::new(), 400, "invalid_parameter"),
            ("PUT", format!("/v1/sandboxes/{id}/files?path=a&modified_at=now"), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/files/list?path=a&cursor=%21"), String::new(), 400, "invalid_parameter"),
            ("POST", format!("/v1/sandboxes/{id}/files/mkdir"), String::new(), 400, "invalid_parameter"),
            ("POST", format!("/v1/sandboxes/{id}/files/move?from=a"), String::new(), 400, "invalid_parameter"),
            ("POST", format!("/v1/sandboxes/{id}/files/copy?from=a&to=b&force=true"), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/files/archive?path=a&format=zip"), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/files/glob"), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/files/glob?pattern="), String::new(), 400, "invalid_pattern"),
            ("GET", format!("/v1/sandboxes/{id}/files/grep?pattern=a&max_seconds=nan"), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/files/grep?pattern=a&context=21"), String::new(), 400, "limit_out_of_range"),
            ("GET", format!("/v1/sandboxes/{id}/files/watch?path=a&recursive=1"), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/patch?gitignore=1"), String::new(), 400, "invalid_parameter"),
            ("GET", format!("/v1/sandboxes/{id}/patch?path="), String::new(), 400, "invalid_path"),
            ("GET", format!("/v1/sandboxes/{id}/patch?utf8=true"), String::new(), 400, "invalid_parameter"),
            ("POST", format!("/v1/sandboxes/{id}/checkpoint"), r#"{"patch": 1}"#.to_owned(), 400, "invalid_request"),
            ("POST", format!("/v1/sandboxes/{id}/checkpoint"), r#"{"utf8": true}"#.to_owned(), 400, "invalid_request"),
            ("POST", format!("/v1/sandboxes/{id}/checkpoint"), "{}".to_owned(), 404, "not_found"),
            ("GET", format!("/v1/executions/{}/output?stream=both", id.replace("sbx", "exe")), String::new(), 400, "invalid_parameter"),
        ] {
            let answer = bench.ask(method, &target, &body).await;
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {target} {body:.80}: {}", answer.text);
        }
        let list = bench.ask("GET", "/v1/sandboxes", "").await;
        assert_eq!((list.status, list.text.as_str()), (200, r#"{"data":[],"next_cursor":null}"#));
    }

    #[tokio::test]
    async fn answers_carry_the_requests_id() {
        let bench = Bench::new().await;
        let request = |id: &str| Request::builder().uri("/healthz").header("x-request-id", id).body(Body::empty()).unwrap();
        assert_eq!(bench.send(request("mine-1")).await.headers["x-request-id"], "mine-1");
        let made = bench.send(request("not well formed")).await.headers["x-request-id"].clone();
        assert!(made.as_bytes().starts_with(b"req-"), "{made:?}");
    }

    #[tokio::test]
    async fn figures_are_told_to_prometheus() {
        let bench = Bench::new().await;
        bench.ask("GET", "/v1/sandboxes", "").await;
        let answer = bench.ask("GET", "/metrics", "").await;
        assert_eq!(answer.status, 200);
        for line in [
            "caisson_http_requests_total{route=\"/v1/sandboxes\",status=\"200\"} 1",
            "caisson_launches_total 0",
            "caisson_sandboxes{state=\"running\"} 0",
            "caisson_executions_finished_total{status=\"timed_out\"} 0",
            "caisson_launch_duration_seconds_bucket{le=\"+Inf\"} 0",
            "# EOF",
        ] {
            assert!(answer.text.lines().any(|have| have == line), "no `{line}` in\n{}", answer.text);
        }
    }
}
